//! A whole control plane in this process: store, etcd front, API server, their listeners.
//!
//! Started bottom up, stopped top down: first no new connections and drained old ones, then the API server's loops,
//! then the etcd front, last the store, whose end makes everything acknowledged durable (it already is) and the next
//! start fast.

mod error;
mod flow;
mod front;
pub(crate) mod holder;
mod limits;
mod listen;
mod options;
pub(crate) mod shared_ca;
mod store;
mod store_only;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use setpoint_apiserver::{ApiServer, Pki, Tls};
use setpoint_base::{Chain, Stop, SystemClock, TaskGroup};
use setpoint_store::etcd::{Front, FrontOptions, Profiler, TlsOptions};
use setpoint_store::{Log, Store};
use setpoint_telemetry::Metrics;
use tokio::sync::watch;

pub use error::PlaneError;
pub use front::{ListenOn, Place};
pub use options::{Engine, PlaneOptions};
pub(crate) use store::{UNFINISHED, is_etcds};
pub use store_only::StoreOnly;

use crate::loopback::Loopback;
use crate::migrate;
use crate::profile::CpuProfiler;
use crate::ready::{Listening, Ready};

/// How long connections, loops and the store each may take to end.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Keys of the API server, read-only for etcd clients unless the options say otherwise.
const REGISTRY_PREFIX: &[u8] = b"/registry/";

/// A running plane. Call [`Plane::stop`] at the end: dropping it ends its tasks without waiting.
pub struct Plane {
    options: PlaneOptions,
    log: Log,
    api: ApiServer,
    etcd_url: String,
    etcd_listening: Vec<Listening>,
    api_addr: SocketAddr,
    kubeconfig: PathBuf,
    kubeconfig_text: String,
    metrics: Metrics,
    /// Stopped in this order.
    api_front: TaskGroup,
    api_loops: TaskGroup,
    etcd_front: TaskGroup,
    ended: watch::Receiver<Option<(&'static str, String)>>,
}

impl Plane {
    /// Starts a plane; when it returns, both fronts serve.
    ///
    /// # Errors
    /// An address or a directory that cannot be used, a damaged store, broken certificates: each with its remedy.
    pub async fn start(mut options: PlaneOptions) -> Result<Self, PlaneError> {
        // Listeners first: the cheapest thing to fail, and early clients wait in the backlog instead of failing.
        let etcd = match &options.engine {
            Engine::Embedded => Some(front::bind_etcd(&options).await?),
            Engine::Cluster(_) => None,
        };
        let api_listener = listen::bind(options.api_listen, "api-listen", false)?;
        let api_addr = api_listener
            .local_addr()
            .map_err(|cause| PlaneError::listen(options.api_listen, "api-listen", cause))?;
        if let Some(etcd) = &etcd {
            front::warn_of_open_front(&options, &etcd.bound);
        }

        let etcd_url = match (&options.engine, &etcd) {
            (Engine::Cluster(cluster), _) => cluster.endpoints.join(","),
            (_, etcd) => etcd
                .iter()
                .find_map(|etcd| etcd.urls.first().cloned())
                .unwrap_or_default(),
        };
        let etcd_listening = etcd.iter().flat_map(|etcd| etcd.listening.clone()).collect();
        let metrics = Metrics::new();
        flow::apply(&mut options, &metrics)?;
        let (log, store) = open_log(&options, &metrics).await?;
        let Certificates {
            etcd_tls,
            pki,
            kubeconfig,
            kubeconfig_text,
        } = {
            let (options, listens) = (options.clone(), etcd.as_ref().map(|etcd| etcd.bound.clone()));
            blocking("the certificates", move || {
                certificates(&options, listens.as_deref(), api_addr)
            })
            .await?
        };

        let (etcd_front, api_loops, api_front) = (
            TaskGroup::new(&Stop::new()),
            TaskGroup::new(&Stop::new()),
            TaskGroup::new(&Stop::new()),
        );
        limits::apply(&mut options, &metrics, &etcd_front)?;
        let (report, ended) = watch::channel(None);
        let api_options = setpoint_apiserver::Options {
            root_ca: Some(pki.ca_pem().into()),
            metrics: metrics.clone(),
            ..options.api.clone()
        };
        let api = ApiServer::open(log.clone(), api_options, SystemClock::shared(), &api_loops).await?;
        let tls = Tls::new(&pki, SystemClock::shared())?;
        if let (Some(store), Some(etcd)) = (store, etcd) {
            store::compact(&options, &store, &etcd_front);
            let front = Front::new(store, front_options(&options, &etcd.urls, etcd_tls, &metrics));
            let stop = etcd_front.stop().clone();
            run(&etcd_front, "the etcd front", report.clone(), async move {
                let _sockets = etcd.sockets;
                front
                    .serve_all(etcd.listeners, stop)
                    .await
                    .map_err(|error| Chain(&error).to_string())
            });
        }
        let (service, stop) = (api.service(), api_front.stop().clone());
        let serve_options = options.api_front.clone();
        run(&api_front, "the API front", report, async move {
            let cut = setpoint_apiserver::serve(api_listener, tls, service, serve_options, stop).await;
            if cut > 0 {
                tracing::warn!(connections = cut, "cut at the end of the grace");
            }
            Ok(())
        });
        Ok(Self {
            options,
            log,
            api,
            etcd_url,
            etcd_listening,
            api_addr,
            kubeconfig,
            kubeconfig_text,
            metrics,
            api_front,
            api_loops,
            etcd_front,
            ended,
        })
    }

    /// `http://…` or, with TLS, `https://…`, for etcd clients; with a cluster its endpoints, with commas between.
    #[must_use]
    pub fn etcd_url(&self) -> String {
        self.etcd_url.clone()
    }

    /// `https://…`, for Kubernetes clients.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("https://{}", reachable(self.api_addr))
    }

    /// The administrator's kubeconfig, a file in the data directory.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The administrator's kubeconfig as text.
    #[must_use]
    pub fn kubeconfig_text(&self) -> &str {
        &self.kubeconfig_text
    }

    /// Where everything is kept.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// The log, for callers that live in this process.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The connections of both fronts.
    #[must_use]
    pub fn flow(&self) -> &setpoint_flow::Flow {
        &self.options.etcd.flow
    }

    /// The API server, for callers that live in this process.
    #[must_use]
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// The metrics of this plane.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn loopback(&self) -> Loopback {
        Loopback::new(self.api.loopback())
    }

    /// What scripts need to know.
    #[must_use]
    pub fn ready(&self) -> Ready {
        Ready {
            etcd: self.etcd_url(),
            etcd_listeners: self.etcd_listening.clone(),
            api: self.api_url(),
            kubeconfig: self.kubeconfig.display().to_string(),
            data_dir: self.options.data_dir.display().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Waits until a part of the plane ends by itself. A healthy plane waits forever.
    pub async fn failed(&self) -> PlaneError {
        let mut ended = self.ended.clone();
        loop {
            if let Some((part, detail)) = ended.borrow_and_update().clone() {
                return PlaneError::Ended { part, detail };
            }
            if ended.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops everything in order. Returns how many tasks did not end in time: 0 is a clean stop.
    pub async fn stop(self) -> usize {
        self.api.drain();
        let mut left = self.api_front.shutdown(STOP_GRACE).await;
        left += self.api_loops.shutdown(STOP_GRACE).await;
        left += self.etcd_front.shutdown(STOP_GRACE).await;
        match tokio::time::timeout(STOP_GRACE, self.log.close()).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "close the log"),
            Err(_) => {
                tracing::error!("the log did not close within {} s", STOP_GRACE.as_secs());
                left += 1;
            }
        }
        left
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        for group in [&self.api_front, &self.api_loops, &self.etcd_front] {
            group.stop().cancel();
        }
    }
}

/// The log, and the store that it is when it is embedded.
async fn open_log(options: &PlaneOptions, metrics: &Metrics) -> Result<(Log, Option<Store>), PlaneError> {
    let dir = options.data_dir.clone();
    match &options.engine {
        Engine::Embedded => {
            let opening = options.clone();
            let store = blocking("the store", move || {
                make_dir(&dir)?;
                store::open(&opening)
            })
            .await?;
            let log = Log::from(store.clone());
            whole(&log, || options.data_dir.display().to_string()).await?;
            Ok((log, Some(store)))
        }
        Engine::Cluster(cluster) => {
            let log = Log::cluster(cluster).map_err(PlaneError::Cluster)?;
            // The registry is the plane's own, and new.
            log.register_metrics(metrics)
                .expect("no other cluster is in this registry");
            let pki = dir.join("pki");
            blocking("the data directory", move || make_dir(&dir)).await?;
            whole(&log, || "the cluster".to_owned()).await?;
            shared_ca::install(&log, &pki).await?;
            Ok((log, None))
        }
    }
}

/// Half of a plane would be served as if the rest had been deleted.
async fn whole(log: &Log, place: impl FnOnce() -> String) -> Result<(), PlaneError> {
    match migrate::is_unfinished(log).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(PlaneError::HalfMigrated { place: place() }),
        Err(error) => Err(PlaneError::Log(error)),
    }
}

/// The certificates, and how clients get in.
struct Certificates {
    etcd_tls: Option<TlsOptions>,
    pki: Pki,
    kubeconfig: PathBuf,
    kubeconfig_text: String,
}

fn make_dir(dir: &Path) -> Result<(), PlaneError> {
    // Private: the log holds Secrets.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|cause| PlaneError::DataDir {
            step: "create data directory",
            path: dir.to_owned(),
            cause,
        })
}

/// Comes after the log: its lock keeps two planes on one directory from touching each other's certificates.
fn certificates(
    options: &PlaneOptions,
    etcd_listens: Option<&[ListenOn]>,
    api_addr: SocketAddr,
) -> Result<Certificates, PlaneError> {
    let dir = &options.data_dir;
    let etcd_tls = match etcd_listens {
        Some(listens) => front::tls(options, listens)?,
        None => None,
    };
    let names: Vec<String> = match api_addr.ip() {
        ip if ip.is_loopback() || ip.is_unspecified() => Vec::new(),
        ip => vec![ip.to_string()],
    };
    let pki = Pki::load_or_create(&dir.join("pki"), &names, &SystemClock)?;
    let url = format!("https://{}", reachable(api_addr));
    let kubeconfig = dir.join("admin.kubeconfig");
    pki.write_admin_kubeconfig(&kubeconfig, &url)?;
    let kubeconfig_text = pki.admin_kubeconfig(&url);
    Ok(Certificates {
        etcd_tls,
        pki,
        kubeconfig,
        kubeconfig_text,
    })
}

fn front_options(
    options: &PlaneOptions,
    urls: &[String],
    tls: Option<TlsOptions>,
    metrics: &Metrics,
) -> FrontOptions {
    FrontOptions {
        read_only_prefix: (!options.etcd_writes_registry).then(|| Bytes::from_static(REGISTRY_PREFIX)),
        client_urls: front::advertised(options, urls),
        tls,
        metrics: Some(metrics.clone()),
        profiler: profiler(options),
        ..options.etcd.clone()
    }
}

/// What takes profiles for the etcd front, if that is wanted.
fn profiler(options: &PlaneOptions) -> Option<Arc<dyn Profiler>> {
    let profiler: Arc<dyn Profiler> = Arc::new(CpuProfiler::default());
    options.etcd_pprof.then_some(profiler)
}

/// An address that clients on this machine can use: a listener on all addresses is reached on loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

async fn blocking<T: Send + 'static>(
    part: &'static str,
    work: impl FnOnce() -> Result<T, PlaneError> + Send + 'static,
) -> Result<T, PlaneError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(PlaneError::Ended {
            part,
            detail: panic.to_string(),
        })
    })
}

/// Runs a part of the plane and reports its end, unless it was asked for.
fn run(
    group: &TaskGroup,
    part: &'static str,
    report: watch::Sender<Option<(&'static str, String)>>,
    work: impl Future<Output = Result<(), String>> + Send + 'static,
) {
    let stop = group.stop().clone();
    group.spawn(async move {
        let result = work.await;
        if !stop.is_cancelled() {
            let detail = result.err().unwrap_or_else(|| "without an error".to_owned());
            tracing::error!(part, detail, "part of the plane ended by itself");
            report.send_replace(Some((part, detail)));
        }
    });
}
