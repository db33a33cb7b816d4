//! The store role alone: the log and its etcd front, and no key that anyone else owns. It is an etcd.

use std::net::SocketAddr;
use std::sync::Arc;

use setpoint_base::{Chain, FsDisk, Stop, SystemClock, TaskGroup};
use setpoint_store::Store;
use setpoint_store::etcd::{Front, FrontOptions};
use setpoint_telemetry::Metrics;
use tokio::sync::watch;

use super::{PlaneError, PlaneOptions, STOP_GRACE, bind, blocking, reachable, run, warn_of_open_fronts};
use crate::ready::Ready;

/// A running store. Call [`StoreOnly::stop`] at the end: dropping it ends its tasks without waiting.
pub struct StoreOnly {
    options: PlaneOptions,
    store: Store,
    addr: SocketAddr,
    front: TaskGroup,
    ended: watch::Receiver<Option<(&'static str, String)>>,
}

impl StoreOnly {
    /// Starts the store and its front; of the options, those of the API server are not used.
    ///
    /// # Errors
    /// An address or a directory that cannot be used, a damaged store: each with its remedy.
    pub async fn start(options: PlaneOptions) -> Result<Self, PlaneError> {
        let listener = bind(options.etcd_listen, "etcd-listen").await?;
        let addr = listener
            .local_addr()
            .map_err(|cause| PlaneError::listen(options.etcd_listen, "etcd-listen", cause))?;
        warn_of_open_fronts(addr);
        let store_options = options.store.clone();
        let store = blocking("the store", move || {
            Ok(Store::open(
                store_options,
                Arc::new(FsDisk),
                SystemClock::shared(),
            )?)
        })
        .await?;
        let front_options = FrontOptions {
            read_only_prefix: None,
            client_urls: vec![format!("http://{}", reachable(addr))],
            metrics: Some(Metrics::new()),
            ..options.etcd.clone()
        };
        let served = Front::new(store.clone(), front_options);
        let front = TaskGroup::new(&Stop::new());
        let (report, ended) = watch::channel(None);
        let stop = front.stop().clone();
        run(&front, "the etcd front", report, async move {
            let served = served.serve(listener, stop).await;
            served.map_err(|error| Chain(&error).to_string())
        });
        Ok(Self {
            options,
            store,
            addr,
            front,
            ended,
        })
    }

    /// What scripts need to know; there is no API and no kubeconfig.
    #[must_use]
    pub fn ready(&self) -> Ready {
        Ready {
            etcd: format!("http://{}", reachable(self.addr)),
            api: String::new(),
            kubeconfig: String::new(),
            data_dir: self.options.data_dir.display().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Waits until the front ends by itself. A healthy one waits forever.
    pub async fn failed(&self) -> PlaneError {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some((part, detail))) => PlaneError::Ended {
                part,
                detail: detail.clone(),
            },
            _ => std::future::pending().await,
        }
    }

    /// Stops the front, then the store. Returns how many tasks did not end in time: 0 is a clean stop.
    pub async fn stop(self) -> usize {
        let left = self.front.shutdown(STOP_GRACE).await;
        match tokio::time::timeout(STOP_GRACE, self.store.close()).await {
            Ok(Ok(())) => left,
            Ok(Err(error)) => {
                tracing::error!(error = %Chain(&error), "close the store");
                left
            }
            Err(_) => {
                tracing::error!("the store did not close within {} s", STOP_GRACE.as_secs());
                left + 1
            }
        }
    }
}

impl Drop for StoreOnly {
    fn drop(&mut self) {
        self.front.stop().cancel();
    }
}
