//! Requests to the API server of this process, without a socket.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use setpoint_apiserver::{ApiBody, ApiService};
use setpoint_base::TraceContext;
use tower::Service;

/// How long a request that is not a watch may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest watch line, in bytes: an object is at most 3 MiB, JSON may escape it.
const LINE_BYTES_MAX: usize = 16 << 20;

/// The content type of a JSON merge patch (RFC 7386).
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";

/// A request was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The HTTP code; 0 when there was no answer.
    pub(crate) code: u16,
    /// The server's words.
    pub(crate) message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Refusal {
    fn other(message: impl Into<String>) -> Self {
        Self {
            code: 0,
            message: message.into(),
        }
    }

    pub(crate) fn is(&self, code: StatusCode) -> bool {
        self.code == code.as_u16()
    }
}

/// A client without a network. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Loopback(ApiService);

impl Loopback {
    pub(crate) fn new(service: ApiService) -> Self {
        Self(service)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Refusal> {
        self.call(Method::GET, path, None, None).await
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
        trace: Option<TraceContext>,
    ) -> Result<Value, Refusal> {
        let work = async {
            let response = self.send(method, path, body, trace).await?;
            let status = response.status();
            let bytes = response.into_body().collect().await;
            let bytes = bytes.map_err(|error| Refusal::other(format!("read the answer: {error}")))?;
            let value = serde_json::from_slice(&bytes.to_bytes()).unwrap_or(Value::Null);
            if status.is_success() {
                Ok(value)
            } else {
                Err(refusal(status, &value))
            }
        };
        tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| {
            Err(Refusal::other(format!(
                "no answer within {} s",
                TIMEOUT.as_secs()
            )))
        })
    }

    /// Opens a watch; its lines carry the trace of each change.
    pub(crate) async fn watch(&self, path: &str) -> Result<Lines, Refusal> {
        let opened = tokio::time::timeout(TIMEOUT, self.send(Method::GET, path, None, None)).await;
        let response = opened.map_err(|_| Refusal::other("the watch did not open"))??;
        let status = response.status();
        if status.is_success() {
            return Ok(Lines {
                body: response.into_body(),
                buffer: BytesMut::new(),
            });
        }
        let bytes = tokio::time::timeout(TIMEOUT, response.into_body().collect()).await;
        let value = match bytes {
            Ok(Ok(bytes)) => serde_json::from_slice(&bytes.to_bytes()).unwrap_or(Value::Null),
            _ => Value::Null,
        };
        Err(refusal(status, &value))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
        trace: Option<TraceContext>,
    ) -> Result<Response<ApiBody>, Refusal> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", "application/json")
            .header("user-agent", concat!("setpoint/", env!("CARGO_PKG_VERSION")))
            .header("setpoint-trace", "1");
        if let Some(trace) = trace {
            request = request.header("traceparent", trace.to_string());
        }
        let mut bytes = Bytes::new();
        if let Some((content_type, value)) = body {
            request = request.header("content-type", content_type);
            bytes = value.to_string().into();
        }
        let request = request
            .body(Full::new(bytes))
            .map_err(|error| Refusal::other(format!("{path} is not a path: {error}")))?;
        let mut service = self.0.clone();
        let answer: Result<_, Infallible> = service.call(request).await;
        match answer {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}

fn refusal(status: StatusCode, value: &Value) -> Refusal {
    let message = value.get("message").and_then(Value::as_str);
    Refusal {
        code: status.as_u16(),
        message: message.map_or_else(|| format!("the API server answered {status}"), str::to_owned),
    }
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: ApiBody,
    buffer: BytesMut,
}

impl Lines {
    /// The next line, decoded; `None` at the end of the watch. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(searched + at + 1);
                return serde_json::from_slice(&line).ok();
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES_MAX || self.body.is_end_stream() {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
