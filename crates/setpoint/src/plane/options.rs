//! How a plane behaves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use setpoint_apiserver::ServeOptions;
use setpoint_flow::FlowOptions;
use setpoint_store::etcd::FrontOptions;
use setpoint_store::{AutoCompaction, ClusterOptions};

use super::front::ListenOn;

/// How long requests in flight may take at a stop. Clients of a plane on one machine retry; Ctrl-C should not wait.
const API_GRACE: Duration = Duration::from_secs(4);

/// Where the plane's log is.
#[derive(Clone, Debug, Default)]
pub enum Engine {
    /// In the data directory.
    #[default]
    Embedded,
    /// In an etcd cluster; the plane then serves the API alone, and keeps nothing but certificates.
    Cluster(Box<ClusterOptions>),
}

/// Options of a plane.
#[derive(Clone, Debug)]
pub struct PlaneOptions {
    /// Where everything is kept; made if absent, private to its owner.
    pub data_dir: PathBuf,
    /// Where the log is (embedded).
    pub engine: Engine,
    /// Where etcd clients connect (127.0.0.1:2379), at least one place; port 0 takes a free one. Clients are sent to
    /// the first address that serves gRPC, or else to a socket that does. Not used with a cluster.
    pub etcd_listen: Vec<ListenOn>,
    /// Whether a certificate is made for the etcd front, where its options name none (no).
    pub etcd_auto_tls: bool,
    /// Whether the etcd front serves CPU profiles under `/debug/pprof/` (no).
    pub etcd_pprof: bool,
    /// Whether other processes may listen on the etcd front's ports too (no): `SO_REUSEPORT`.
    pub etcd_reuse_port: bool,
    /// History that is forgotten by itself (none).
    pub auto_compaction: Option<AutoCompaction>,
    /// Whether writes are not synced (no): a crash of the machine may then lose anything. For tests.
    pub unsafe_no_fsync: bool,
    /// Where Kubernetes clients connect (127.0.0.1:6443); port 0 takes a free one.
    pub api_listen: SocketAddr,
    /// File with rate limits, read again whenever it changes (none).
    pub limits_file: Option<PathBuf>,
    /// The windows of connections to both fronts, and their receive budget.
    pub flow: FlowOptions,
    /// Whether etcd clients may write the API server's keys under `/registry/` (no): such writes pass by
    /// authentication, validation and admission.
    pub etcd_writes_registry: bool,
    /// The store's options; its directory is `<data_dir>/store`.
    pub store: setpoint_store::Options,
    /// The etcd front's options. Prefix and metrics are set by the plane, and URLs if there are none.
    pub etcd: FrontOptions,
    /// The API server's options.
    pub api: setpoint_apiserver::Options,
    /// The options of its HTTPS front.
    pub api_front: ServeOptions,
}

impl PlaneOptions {
    /// The defaults, on `data_dir`.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            store: setpoint_store::Options::new(data_dir.join("store")),
            data_dir,
            engine: Engine::Embedded,
            etcd_listen: vec![ListenOn::tcp(SocketAddr::from(([127, 0, 0, 1], 2379)))],
            etcd_auto_tls: false,
            etcd_pprof: false,
            etcd_reuse_port: false,
            auto_compaction: None,
            unsafe_no_fsync: false,
            api_listen: SocketAddr::from(([127, 0, 0, 1], 6443)),
            limits_file: None,
            flow: FlowOptions::default(),
            etcd_writes_registry: false,
            etcd: FrontOptions::default(),
            api: setpoint_apiserver::Options::default(),
            api_front: ServeOptions {
                grace: API_GRACE,
                ..ServeOptions::default()
            },
        }
    }

    /// Sets the largest request of an etcd client in bytes, and makes room for it in the log.
    ///
    /// # Errors
    /// What is wrong with it, to follow a flag's name.
    pub fn request_bytes_max(&mut self, max: usize) -> Result<(), String> {
        const MOST: usize = u32::MAX as usize / 4;
        if !(1..=MOST).contains(&max) {
            return Err(format!(
                "is {max}: give 1 to {MOST} bytes, since a segment of the log holds four requests and is smaller than 4 GiB"
            ));
        }
        (self.store.request_bytes_max, self.etcd.request_bytes_max) = (max, max);
        // A segment holds a few of the largest requests.
        self.store.segment_bytes = self.store.segment_bytes.max((max as u64).saturating_mul(4));
        Ok(())
    }

    /// For tests: free ports, one thread a front, small files.
    #[must_use]
    pub fn small(data_dir: impl Into<PathBuf>) -> Self {
        let mut options = Self::new(data_dir);
        options.etcd_listen = vec![ListenOn::tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
        options.api_listen.set_port(0);
        options.etcd.workers = 1;
        options.store.segment_bytes = 8 << 20;
        options.store.hot_bytes = 4 << 20;
        options.store.prefill = false;
        options
    }
}
