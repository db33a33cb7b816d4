//! A client that speaks bytes: objects come as [`Encoded`](setpoint_apimachinery::Encoded) and are decoded
//! only on demand.
//!
//! Connection, TLS and credentials are kube-client's. Every call has a deadline; retries are left to those
//! who know whether a repetition is safe (the reflector, the work queue).

mod api;
mod error;
mod lines;
mod params;
mod resource;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube_client::client::Body;
use kube_client::config::{KubeConfigOptions, Kubeconfig};
use setpoint_apimachinery::Status;
use tokio::time::Instant;

pub use self::api::{Api, List, decode};
pub use self::error::{Error, Failure};
pub use self::params::{DeleteParams, ListParams, PatchKind, Preconditions, WatchParams};
pub use self::resource::Resource;
pub use self::watch::{WatchEvent, WatchStream};
use crate::trace;

/// What our own server sends traces for: each watch line then carries `traceparent`. Others ignore it.
const TRACE_HEADER: &str = "setpoint-trace";

/// Limits of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Deadline of every call but lists and watches. Default 30 s.
    pub call_timeout: Duration,
    /// Deadline of one list or page. Default 60 s.
    pub list_timeout: Duration,
    /// Deadline of the first byte of a watch. Default 30 s.
    pub watch_open_timeout: Duration,
    /// Largest answer of a call, in bytes. Default 16 MiB.
    pub answer_bytes_max: usize,
    /// Largest list or page, in bytes. Default 1 GiB.
    pub list_bytes_max: usize,
    /// Longest line of a watch, in bytes. Default 16 MiB.
    pub line_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(30),
            list_timeout: Duration::from_secs(60),
            watch_open_timeout: Duration::from_secs(30),
            answer_bytes_max: 16 << 20,
            list_bytes_max: 1 << 30,
            line_bytes_max: 16 << 20,
        }
    }
}

/// A connection to an API server. Clones share it.
#[derive(Clone)]
pub struct Client {
    inner: kube_client::Client,
    options: Arc<ClientOptions>,
}

impl Client {
    /// A client as a kubeconfig file describes; `context` overrides the file's current one.
    ///
    /// # Errors
    /// [`Error::Config`] when the file cannot be read or used.
    pub async fn from_kubeconfig_file(path: impl AsRef<Path>, context: Option<&str>) -> Result<Self, Error> {
        let path = path.as_ref();
        let problem = |source: Box<dyn std::error::Error + Send + Sync>| Error::Config {
            from: format!("kubeconfig {}", path.display()),
            source,
        };
        let file = Kubeconfig::read_from(path).map_err(|error| problem(Box::new(error)))?;
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let config = kube_client::Config::from_custom_kubeconfig(file, &options)
            .await
            .map_err(|error| problem(Box::new(error)))?;
        Self::from_config(config).map_err(|error| problem(Box::new(error)))
    }

    /// A client as `KUBECONFIG`, `~/.kube/config` or the pod's service account describe, in this order.
    ///
    /// # Errors
    /// [`Error::Config`] when none of them can be used.
    pub async fn infer() -> Result<Self, Error> {
        let problem = |source: Box<dyn std::error::Error + Send + Sync>| Error::Config {
            from: "KUBECONFIG, ~/.kube/config or the pod's service account".to_owned(),
            source,
        };
        let config = kube_client::Config::infer()
            .await
            .map_err(|error| problem(Box::new(error)))?;
        Self::from_config(config).map_err(|error| problem(Box::new(error)))
    }

    /// A client over any service, for example an API server in the same process. The service sees paths
    /// without scheme and host, and can tell who calls by what it adds to the request's extensions.
    ///
    /// Call it within a tokio runtime.
    pub fn from_service<S, B>(service: S) -> Self
    where
        S: tower::Service<Request<Body>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<tower::BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        Self::from_kube(kube_client::Client::new(service, "default"))
    }

    /// A client over one of kube-client's, however it was made.
    #[must_use]
    pub fn from_kube(inner: kube_client::Client) -> Self {
        Self {
            inner,
            options: Arc::default(),
        }
    }

    /// The same connection with other limits.
    #[must_use]
    pub fn with_options(mut self, options: ClientOptions) -> Self {
        self.options = Arc::new(options);
        self
    }

    /// The limits.
    #[must_use]
    pub fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// The kube-client underneath, for what is not offered here.
    #[must_use]
    pub fn kube(&self) -> &kube_client::Client {
        &self.inner
    }

    /// Calls on a resource, in all namespaces until [`Api::namespace`] narrows it.
    #[must_use]
    pub fn api(&self, resource: &Resource) -> Api {
        Api::new(self.clone(), resource.clone())
    }

    /// Any GET, for example `/version`.
    ///
    /// # Errors
    /// As every call: see [`Error`].
    pub async fn get_raw(&self, path: &str) -> Result<Bytes, Error> {
        self.call(Call::new(Method::GET, path.to_owned())).await
    }

    fn from_config(mut config: kube_client::Config) -> Result<Self, kube_client::Error> {
        // Retries belong to the reflector and the work queue, which count them.
        config.default_retry = false;
        Ok(Self::from_kube(kube_client::Client::try_from(config)?))
    }

    /// Sends a call and collects its answer.
    async fn call(&self, call: Call) -> Result<Bytes, Error> {
        let (after, bytes_max) = if call.list {
            (self.options.list_timeout, self.options.list_bytes_max)
        } else {
            (self.options.call_timeout, self.options.answer_bytes_max)
        };
        let name = call.to_string();
        let answer = async {
            let response = self.send(call, &name).await?;
            collect(response.into_body(), bytes_max, &name).await
        };
        tokio::time::timeout(after, answer)
            .await
            .unwrap_or(Err(Error::Timeout {
                call: name.clone(),
                after,
            }))
    }

    /// Sends a call and hands out the answer as it comes.
    async fn open(&self, call: Call, timeout: Duration) -> Result<WatchStream, Error> {
        let after = self.options.watch_open_timeout;
        let name = call.to_string();
        let response = tokio::time::timeout(after, self.send(call, &name))
            .await
            .unwrap_or(Err(Error::Timeout {
                call: name.clone(),
                after,
            }))?;
        // The server ends the watch by itself. Half a minute later the connection must be dead.
        let deadline = Instant::now() + timeout + Duration::from_secs(30);
        Ok(WatchStream::new(
            response.into_body(),
            name,
            deadline,
            self.options.line_bytes_max,
        ))
    }

    async fn send(&self, call: Call, name: &str) -> Result<Response<Body>, Error> {
        let transport = |source: Box<dyn std::error::Error + Send + Sync>| Error::Transport {
            call: name.to_owned(),
            source,
        };
        let request = call.into_request().map_err(|error| transport(Box::new(error)))?;
        let response = self
            .inner
            .send(request)
            .await
            .map_err(|error| transport(Box::new(error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status();
        let body = collect(response.into_body(), self.options.answer_bytes_max, name).await?;
        Err(refusal(name, code, &body))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// One request, before it is sent.
struct Call {
    method: Method,
    path: String,
    query: String,
    content_type: &'static str,
    body: Bytes,
    list: bool,
}

impl Call {
    fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            query: String::new(),
            content_type: "application/json",
            body: Bytes::new(),
            list: false,
        }
    }

    fn into_request(self) -> Result<Request<Body>, http::Error> {
        let uri = if self.query.is_empty() {
            self.path
        } else {
            format!("{}?{}", self.path, self.query)
        };
        let mut request = Request::builder()
            .method(self.method)
            .uri(uri)
            .header(header::ACCEPT, "application/json")
            // A compressed watch would be flushed per event or not at all, depending on the server.
            .header(header::ACCEPT_ENCODING, "identity")
            .header(
                header::USER_AGENT,
                concat!("setpoint-runtime/", env!("CARGO_PKG_VERSION")),
            )
            .header(TRACE_HEADER, "1");
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, self.content_type);
        }
        if let Some(context) = trace::current() {
            request = request.header("traceparent", context.to_string());
        }
        request.body(Body::from(self.body))
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

async fn collect(body: Body, bytes_max: usize, name: &str) -> Result<Bytes, Error> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLong {
            call: name.to_owned(),
            bytes_max,
        }),
        Err(source) => Err(Error::Transport {
            call: name.to_owned(),
            source,
        }),
    }
}

fn refusal(name: &str, code: StatusCode, body: &[u8]) -> Error {
    match Status::parse(body) {
        Some(status) => Error::Status {
            call: name.to_owned(),
            status: Box::new(status),
        },
        None => Error::Foreign {
            call: name.to_owned(),
            code: code.as_u16(),
            body: String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
        },
    }
}
