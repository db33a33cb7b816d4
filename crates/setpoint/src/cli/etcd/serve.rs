//! A member's life, told in the lines that those who start etcd wait for.

use setpoint_base::Chain;
use setpoint_store::etcd::Serves;
use tokio::signal::unix::{SignalKind, signal};

use super::settings::Settings;
use super::systemd;
use crate::cli::start;
use crate::plane::{Place, PlaneError, PlaneOptions, StoreOnly, is_etcds};

/// How it ended: by itself, or by this signal.
pub(super) type Signal = i32;

/// Serves until a signal or a failure.
///
/// # Errors
/// Why it did not start, or ended.
pub(super) async fn serve(settings: &Settings) -> Result<Signal, String> {
    let plane = &settings.plane;
    // Installed first: a signal during a long recovery is not lost.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| told(&error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| told(&error))?;
    prepare(plane)?;
    let mut options = plane.clone();
    options.etcd.command_line = start::command_line();
    let member = StoreOnly::start(options).await.map_err(|error| started(&error))?;
    announce(settings, &member);
    let ended = tokio::select! {
        _ = interrupt.recv() => Ok(SignalKind::interrupt()),
        _ = terminate.recv() => Ok(SignalKind::terminate()),
        error = member.failed() => Err(told(&error)),
    };
    if let Ok(kind) = ended {
        let signal = if kind == SignalKind::interrupt() {
            "interrupt"
        } else {
            "terminated"
        };
        tracing::info!(signal, "received signal; shutting down");
    }
    let left = member.stop().await;
    if left > 0 {
        tracing::warn!(tasks = left, "did not end in time");
    }
    tracing::info!(
        name = settings.name,
        "data-dir" = %plane.data_dir.display(),
        "closed etcd server"
    );
    ended.map(|kind| kind.as_raw_value())
}

fn told(error: &dyn std::error::Error) -> String {
    Chain(error).to_string()
}

/// Go's words for an address that is taken, which scripts look for, and ours behind them.
fn started(error: &PlaneError) -> String {
    let ours = told(error).replace("--etcd-listen", "--listen-client-urls");
    match error {
        PlaneError::InUse { addr, .. } => format!("listen tcp {addr}: bind: address already in use ({ours})"),
        PlaneError::Listen { addr, cause, .. } => format!("listen tcp {addr}: bind: {cause} ({ours})"),
        PlaneError::DataDir { .. } => format!("cannot access data directory: {ours}"),
        _ => ours,
    }
}

/// Looks whose the data directory is. It is made once everything else that can be wrong is known to be right.
fn prepare(plane: &PlaneOptions) -> Result<(), String> {
    let dir = &plane.data_dir;
    if is_etcds(dir) {
        return Err(PlaneError::EtcdsOwn { dir: dir.clone() }.to_string());
    }
    let (kind, message) = if plane.store.dir.exists() {
        ("member", "server has already been initialized")
    } else {
        ("empty", "Initialize and start etcd server")
    };
    tracing::info!("data-dir" = %dir.display(), "dir-type" = kind, "{message}");
    Ok(())
}

/// Says where clients are served, as etcd says it, and that it is ready.
fn announce(settings: &Settings, member: &StoreOnly) {
    let plane = &settings.plane;
    let secure = plane.etcd.tls.is_some() || plane.etcd_auto_tls;
    for on in member.listens() {
        let address = match &on.place {
            Place::Tcp(addr) => addr.to_string(),
            Place::Unix(path) => path.display().to_string(),
        };
        if on.serves == Serves::Metrics {
            tracing::info!(address, "serving metrics");
            continue;
        }
        let traffic = on.traffic();
        tracing::info!("ready to serve client requests");
        if secure && !on.plain {
            tracing::info!(traffic, address, "serving client traffic securely");
        } else {
            tracing::info!(
                traffic,
                address,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
    }
    notify_systemd();
}

fn notify_systemd() {
    let Some(socket) = start::var("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    match systemd::ready(&socket) {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(%error, "failed to notify systemd for readiness"),
    }
}
