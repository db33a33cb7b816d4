//! The quickstart's operator: serves each `Site` on its own port, as its spec and its ConfigMap say.
//!
//! An ordinary program: it finds the plane through `KUBECONFIG` and would work as well against any Kubernetes cluster
//! that has the definition in `crd.yaml`. Reading order: `reconcile`, `serve`, `page`.

mod page;
mod reconcile;
mod serve;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use setpoint_base::{Stop, TaskGroup};
use setpoint_runtime::controller::spec_changed;
use setpoint_runtime::{Client, Controller};
use setpoint_telemetry::{Format, Otlp, Setup};
use tokio::signal::unix::{SignalKind, signal};

use reconcile::{CONFIG_MAPS, Operator, SITES};

/// One variable; a program reads its environment in one place.
#[allow(
    clippy::disallowed_methods,
    reason = "this is a program, and this is the one place"
)]
fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let _telemetry = telemetry()?;
    let stop = Stop::new();
    let tasks = TaskGroup::new(&stop);
    stop_on_signals(&tasks, stop.clone())?;

    let client = Client::infer()
        .await
        .context("find the API server: set KUBECONFIG")?;
    let operator = Arc::new(Operator::default());
    let users = Arc::clone(&operator);
    let reconciler = Arc::clone(&operator);
    let result = Controller::builder("site-operator", &client, &SITES)
        .filter(spec_changed)
        .watches(&CONFIG_MAPS, move |config_map| users.using(config_map))
        .workers(4)
        .run(
            move |request, context| {
                let operator = Arc::clone(&reconciler);
                async move { operator.reconcile(request, context).await }
            },
            stop,
        )
        .await;
    operator.close().await;
    result.context("run the controller")
}

fn telemetry() -> Result<setpoint_telemetry::Guard> {
    let setup = Setup {
        format: match var("SETPOINT_LOG_FORMAT").as_deref() {
            Some("json") => Format::Json,
            _ => Format::Text,
        },
        filter: var("RUST_LOG").unwrap_or_default(),
        color: false,
        outputs: Vec::new(),
        otlp: Otlp::from_vars("site-operator", var)
            .map_err(|problems| anyhow::anyhow!(problems.join("; ")))?,
    };
    setup.install().context("set up logs and traces")
}

fn stop_on_signals(tasks: &TaskGroup, stop: Stop) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tasks.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        stop.cancel();
    });
    Ok(())
}
