//! The store role alone: the log and its etcd front, and no key that anyone else owns. It is an etcd.

use setpoint_base::{Chain, Stop, TaskGroup};
use setpoint_store::Store;
use setpoint_store::etcd::{Front, FrontOptions};
use setpoint_telemetry::Metrics;
use tokio::sync::watch;

use super::front::{advertised, bind_etcd, tls, warn_of_open_front};
use super::{
    ListenOn, PlaneError, PlaneOptions, STOP_GRACE, blocking, flow, limits, make_dir, profiler, run,
};
use crate::ready::{Listening, Ready};

/// A running store. Call [`StoreOnly::stop`] at the end: dropping it ends its tasks without waiting.
pub struct StoreOnly {
    options: PlaneOptions,
    store: Store,
    url: String,
    listening: Vec<Listening>,
    listens: Vec<ListenOn>,
    front: TaskGroup,
    ended: watch::Receiver<Option<(&'static str, String)>>,
}

impl StoreOnly {
    /// Starts the store and its front; of the options, those of the API server are not used.
    ///
    /// # Errors
    /// An address or a directory that cannot be used, a damaged store: each with its remedy.
    pub async fn start(mut options: PlaneOptions) -> Result<Self, PlaneError> {
        let bound = bind_etcd(&options).await?;
        warn_of_open_front(&options, &bound.bound);
        let (listens, opening) = (bound.bound.clone(), options.clone());
        let (store, tls) = blocking("the store", move || {
            make_dir(&opening.data_dir)?;
            let store = super::store::open(&opening)?;
            Ok((store, tls(&opening, &listens)?))
        })
        .await?;
        let metrics = Metrics::new();
        let front = TaskGroup::new(&Stop::new());
        limits::apply(&mut options, &metrics, &front)?;
        flow::apply(&mut options, &metrics)?;
        let front_options = FrontOptions {
            read_only_prefix: None,
            client_urls: advertised(&options, &bound.urls),
            tls,
            metrics: Some(metrics),
            profiler: profiler(&options),
            ..options.etcd.clone()
        };
        let served = Front::new(store.clone(), front_options);
        super::store::compact(&options, &store, &front);
        let (report, ended) = watch::channel(None);
        let stop = front.stop().clone();
        run(&front, "the etcd front", report, async move {
            let _sockets = bound.sockets;
            let served = served.serve_all(bound.listeners, stop).await;
            served.map_err(|error| Chain(&error).to_string())
        });
        Ok(Self {
            options,
            store,
            listens: bound.bound,
            listening: bound.listening,
            url: bound.urls.into_iter().next().unwrap_or_default(),
            front,
            ended,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn listens(&self) -> &[ListenOn] {
        &self.listens
    }

    /// What scripts need to know; there is no API and no kubeconfig.
    #[must_use]
    pub fn ready(&self) -> Ready {
        Ready {
            etcd: self.url.clone(),
            etcd_listeners: self.listening.clone(),
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
