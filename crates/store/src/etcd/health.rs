//! `grpc.health.v1.Health`: whether this server takes calls. It answers for the whole server, whose name is empty.

use bytes::Bytes;
use tonic::Status;

use super::call::Call;
use super::wire::Reply;

/// `status` (field 1) = SERVING (1), after the five bytes of the frame.
const SERVING: Bytes = Bytes::from_static(&[0, 0, 0, 0, 2, 0x08, 0x01]);
/// `status` (field 1) = SERVICE_UNKNOWN (3).
const UNKNOWN: Bytes = Bytes::from_static(&[0, 0, 0, 0, 2, 0x08, 0x03]);

#[derive(prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

fn service(request: Bytes) -> Result<String, Status> {
    super::convert::decode::<HealthCheckRequest>(request).map(|request| request.service)
}

/// Check: SERVING for the server, NOT_FOUND for a service by name, as in etcd.
pub(super) fn check(request: Bytes) -> Result<Reply, Status> {
    if service(request)?.is_empty() {
        Ok(Reply::Whole(SERVING))
    } else {
        Err(Status::not_found("unknown service"))
    }
}

/// Watch: the state now. It changes only with the end of the server, and so of the stream.
pub(super) async fn watch(call: &mut Call) -> Result<(), Status> {
    let request = call.inbound.message().await?;
    let request = request.ok_or_else(|| Status::internal("unexpected EOF"))?;
    let state = if service(request)?.is_empty() {
        SERVING
    } else {
        UNKNOWN
    };
    if call.outbound.send(state).await.is_ok() {
        call.outbound.reset().await;
    }
    Err(Status::cancelled("Stream has ended."))
}
