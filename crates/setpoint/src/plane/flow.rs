//! One flow control for both fronts and the way to a cluster: one receive budget, one list of connections.

use setpoint_flow::Flow;
use setpoint_telemetry::Metrics;

use super::{Engine, PlaneError, PlaneOptions};

/// Gives both fronts, and the engine if it is elsewhere, the same one.
pub(super) fn apply(options: &mut PlaneOptions, metrics: &Metrics) -> Result<(), PlaneError> {
    let flow = Flow::new(options.flow);
    flow.register_metrics(metrics)
        .map_err(|error| PlaneError::Ended {
            part: "the metrics of connections",
            detail: error.to_string(),
        })?;
    if let Engine::Cluster(cluster) = &mut options.engine {
        cluster.flow = Some(flow.clone());
    }
    options.etcd.flow = flow.clone();
    options.api.flow = Some(flow.clone());
    options.api_front.flow = flow;
    Ok(())
}
