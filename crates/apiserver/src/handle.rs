//! The handle that the binary holds.

use std::sync::Arc;

use setpoint_base::{TaskGroup, WallClock};
use setpoint_store::Log;

use crate::crd::control::{Controller, Definitions};
use crate::discovery::Discovery;
use crate::error::OpenError;
use crate::event_ttl::EventLeases;
use crate::inflight::Inflight;
use crate::loops;
use crate::metrics::ApiMetrics;
use crate::openapi::OpenApi;
use crate::options::Options;
use crate::request::Identity;
use crate::resources::Resources;
use crate::server::Server;
use crate::service::ApiService;
use crate::{bootstrap, builtin};

/// An API server over a log. Cloning is cheap; all clones are the same server.
#[derive(Clone)]
pub struct ApiServer(Arc<Server>);

impl ApiServer {
    /// Reads what the store has, fills in what a new cluster needs, and starts the server's loops in `tasks`.
    ///
    /// # Errors
    /// When the store cannot be read or written, or holds a definition that cannot be understood.
    pub async fn open(
        store: impl Into<Log>,
        options: Options,
        clock: Arc<dyn WallClock>,
        tasks: &TaskGroup,
    ) -> Result<Self, OpenError> {
        let stop = tasks.stop().child_token();
        let builtins = builtin::resources(tasks.stop());
        let home = |group: &str, plural: &str| {
            let info = builtins.iter().find(|info| info.is(group, plural));
            info.map(|info| Arc::clone(&info.home))
                .ok_or(OpenError::NoResource {
                    plural: plural.to_owned(),
                })
        };
        let definitions = home("apiextensions.k8s.io", "customresourcedefinitions")?;
        let server = Server {
            definitions: Definitions::new(),
            event_leases: EventLeases::default(),
            namespaces: home("", "namespaces")?,
            inflight: Inflight::new(&options),
            metrics: ApiMetrics::new(&options.metrics),
            store: store.into(),
            options,
            clock,
            resources: Resources::new(builtins.clone()),
            discovery: Discovery::default(),
            openapi: OpenApi::default(),
            tasks: tasks.clone(),
            stop,
        };
        let this = Self(Arc::new(server));
        let mut controller = Controller::new(Arc::clone(&this.0), definitions, builtins);
        controller.apply().await;
        tasks.spawn(controller.run());
        bootstrap::namespaces(this.loopback()).await?;
        loops::start(&this.0);
        Ok(this)
    }

    /// The service for fronts: a request without [`Identity`] is anonymous.
    #[must_use]
    pub fn service(&self) -> ApiService {
        ApiService::new(Arc::clone(&self.0), Identity::anonymous())
    }

    /// The service for the plane's own loops: a request without [`Identity`] may do everything.
    #[must_use]
    pub fn loopback(&self) -> ApiService {
        ApiService::new(Arc::clone(&self.0), Identity::loopback())
    }

    /// Ends all watches and refuses new ones, so that connections can drain. Other requests go on.
    pub fn drain(&self) {
        self.0.stop.cancel();
    }
}
