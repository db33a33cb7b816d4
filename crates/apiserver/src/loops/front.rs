//! Single calls to the server from within.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;
use setpoint_apimachinery::Status;
use tower::Service;

use crate::service::ApiService;

/// Time for one call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer read, in bytes: a page of 500 objects' metadata fits.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Lists of metadata, which need not be decoded by the server.
pub(super) const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
/// A JSON merge patch.
pub(super) const MERGE: &str = "application/merge-patch+json";

/// The front door, without a network.
#[derive(Clone)]
pub(super) struct Front(ApiService);

impl Front {
    pub(super) fn new(service: ApiService) -> Self {
        Self(service)
    }

    /// Reads a path.
    ///
    /// # Errors
    /// The server's own, or 504 after [`TIMEOUT`].
    pub(super) async fn get(&self, path: &str, accept: &str) -> Result<Value, Status> {
        self.call(Method::GET, path, accept, "application/json", None)
            .await
    }

    /// Sends a body, or none.
    ///
    /// # Errors
    /// As of [`Front::get`].
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value, Status> {
        self.call(method, path, "application/json", content_type, body)
            .await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value, Status> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::USER_AGENT, "setpoint-controllers")
            .body(Full::new(bytes))
            .map_err(Status::internal)?;
        let mut service = self.0.clone();
        let answer = async {
            let Ok(response) = service.call(request).await;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(Status::internal)?;
            Ok((parts.status, body.to_bytes()))
        };
        let answer: Result<_, Status> = tokio::time::timeout(TIMEOUT, answer)
            .await
            .unwrap_or_else(|_| Err(Status::timeout("no answer from within")));
        let (code, body) = answer?;
        if code.is_success() {
            return serde_json::from_slice(&body).map_err(Status::internal);
        }
        Err(Status::parse(&body)
            .unwrap_or_else(|| Status::from_http(code.as_u16(), &String::from_utf8_lossy(&body))))
    }
}
