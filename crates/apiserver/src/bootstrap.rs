//! What every cluster has from its first moment.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use setpoint_apimachinery::Status;
use tower::ServiceExt as _;

use crate::error::OpenError;
use crate::service::ApiService;

/// Namespaces that exist without being asked for (kubernetes `pkg/controlplane/controller/systemnamespaces`).
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates the namespaces that are not there yet.
///
/// # Errors
/// When the server refuses one.
pub(crate) async fn namespaces(service: ApiService) -> Result<(), OpenError> {
    for name in NAMESPACES {
        let failed = |message: String| OpenError::Bootstrap {
            what: format!("namespace {name}"),
            message,
        };
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        let request = Request::builder()
            .method(Method::POST)
            .uri("/api/v1/namespaces")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| failed(error.to_string()))?;
        let answered = service.clone().oneshot(request).await;
        let Ok(response) = answered;
        if matches!(response.status(), StatusCode::CREATED | StatusCode::CONFLICT) {
            continue;
        }
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| failed(error.to_string()))?;
        let status = Status::parse(&body.to_bytes());
        return Err(failed(
            status.map_or_else(|| "no Status in the answer".to_owned(), |s| s.message),
        ));
    }
    Ok(())
}
