//! Limits as layers: in front of tonic's server and hyper's, and under tonic's client.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::layer::{Accepted, Connection};
use setpoint_flow::{Channel, Concurrency, Find, Limits, Per, Rule, Rules};
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::{RangeRequest, RangeResponse};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, Service, ServiceExt, service_fn};

const RANGE: &str = "/etcdserverpb.KV/Range";

fn limits(rules: Vec<Rule>, concurrency: Vec<Concurrency>) -> Limits {
    Limits::of(&Rules {
        rules,
        concurrency,
        ..Rules::default()
    })
    .unwrap()
}

/// A service of tonic's that answers when it is let.
#[derive(Clone)]
struct Kv {
    go: Arc<Semaphore>,
    came: Arc<Notify>,
}

impl Kv {
    fn ready() -> Self {
        Self {
            go: Arc::new(Semaphore::new(1_000_000)),
            came: Arc::default(),
        }
    }
}

impl NamedService for Kv {
    const NAME: &'static str = "etcdserverpb.KV";
}

type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl UnaryService<RangeRequest> for Kv {
    type Response = RangeResponse;
    type Future = Answering<tonic::Response<RangeResponse>, Status>;

    fn call(&mut self, _: tonic::Request<RangeRequest>) -> Self::Future {
        let kv = self.clone();
        Box::pin(async move {
            kv.came.notify_one();
            kv.go.acquire().await.expect("it stays open").forget();
            Ok(tonic::Response::new(RangeResponse::default()))
        })
    }
}

impl Service<Request<Body>> for Kv {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let kv = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
            Ok(grpc.unary(kv, request).await)
        })
    }
}

/// A stranger's server, of tonic's own make, until the tasks end.
async fn serve(kv: Kv, limits: &Limits, tasks: &TaskGroup) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = TcpListenerStream::new(listener).map(|socket| {
        let socket = socket?;
        let connection = Connection::from_address(socket.peer_addr()?);
        std::io::Result::Ok(Accepted::new(socket, connection))
    });
    let router = Server::builder().layer(limits.layer()).add_service(kv);
    let stop = tasks.stop().clone();
    tasks.spawn(async move {
        let stopped = async { stop.cancelled().await };
        router
            .serve_with_incoming_shutdown(accepted, stopped)
            .await
            .unwrap();
    });
    format!("http://{address}")
}

async fn connect(address: &str) -> tonic::transport::Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(address.to_owned()).unwrap();
    endpoint.connect().await.unwrap()
}

async fn range<S>(client: &mut KvClient<S>) -> Result<(), Status>
where
    S: tonic::client::GrpcService<Body>,
    S::Error: Into<tonic::codegen::StdError>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    client.range(RangeRequest::default()).await.map(drop)
}

/// What was taken stays taken under a new rate, but soon there is more.
async fn again<S>(client: &mut KvClient<S>)
where
    S: tonic::client::GrpcService<Body>,
    S::Error: Into<tonic::codegen::StdError>,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let answered = async { while range(client).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(60), answered)
        .await
        .expect("more permits soon");
}

#[track_caller]
fn refused(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let told = status
        .get_error_details()
        .retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    let pushback: u128 = pushback.to_str().unwrap().parse().unwrap();
    assert!(
        pushback >= told.as_millis() && pushback > 0,
        "{pushback} {told:?}"
    );
}

#[tokio::test]
async fn tonics_server_refuses_the_noisy_connection_and_serves_the_others() {
    let limits = limits(
        vec![Rule::new("each", "1/h").burst(2).per(Per::Connection)],
        vec![],
    );
    let tasks = TaskGroup::new(&Stop::new());
    let address = serve(Kv::ready(), &limits, &tasks).await;
    let mut noisy = KvClient::new(connect(&address).await);
    for n in 0..6 {
        match range(&mut noisy).await {
            Ok(()) => assert!(n < 2),
            Err(status) => {
                assert!(n >= 2);
                refused(&status);
                assert!(status.message().contains("each"), "{status:?}");
            }
        }
    }
    let mut quiet = KvClient::new(connect(&address).await);
    assert!(range(&mut quiet).await.is_ok());
    assert!(range(&mut quiet).await.is_ok());
    // More, while all of them are connected.
    limits.update("each", "1000000/s").unwrap();
    again(&mut noisy).await;
    drop((noisy, quiet));
    tasks.shutdown(Duration::from_secs(5)).await;
}

/// hyper#3559: the call that could give the place back must get through although others are refused beside it.
#[tokio::test]
async fn tonics_server_answers_calls_beyond_a_limit_of_one_while_that_one_is_served() {
    let limits = limits(vec![], vec![Concurrency::new("one", Find::fixed(1))]);
    let kv = Kv {
        go: Arc::new(Semaphore::new(0)),
        came: Arc::default(),
    };
    let tasks = TaskGroup::new(&Stop::new());
    let address = serve(kv.clone(), &limits, &tasks).await;
    let client = KvClient::new(connect(&address).await);
    let mut first = client.clone();
    let first = tasks.spawn(async move { range(&mut first).await });
    kv.came.notified().await;
    for _ in 0..20 {
        refused(&range(&mut client.clone()).await.unwrap_err());
    }
    kv.go.add_permits(2);
    assert!(first.await.unwrap().is_ok());
    assert!(
        range(&mut client.clone()).await.is_ok(),
        "its place is free again"
    );
    drop(client);
    tasks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_call_that_its_client_gives_up_gives_its_place_back() {
    let limits = limits(vec![], vec![Concurrency::new("one", Find::fixed(1))]);
    let never = limits.layer().layer(service_fn(|_: Request<()>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    }));
    let mut given_up = Box::pin(never.oneshot(Request::new(())));
    assert!(futures_util::poll!(&mut given_up).is_pending());
    let quick = || {
        limits.layer().layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        }))
    };
    let beside = quick().oneshot(Request::new(())).await.unwrap();
    assert_eq!(beside.status(), StatusCode::TOO_MANY_REQUESTS);
    drop(given_up);
    let after = quick().oneshot(Request::new(())).await.unwrap();
    assert_eq!(after.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_refuses_before_anything_is_sent_and_learns_new_rates() {
    let kv = Kv::ready();
    let tasks = TaskGroup::new(&Stop::new());
    let address = serve(kv.clone(), &Limits::new(), &tasks).await;
    let rules = vec![Rule::new("out", "1/h").burst(1).methods([RANGE]).per(Per::Method)];
    let limits = limits(rules, vec![Concurrency::new("calls", Find::default())]);
    let ours = Channel::to(&*address).build().unwrap();
    let theirs = connect(&address).await;
    let mut ours = KvClient::new(limits.layer().layer(ours));
    let mut theirs = KvClient::new(limits.layer().layer(theirs));
    assert!(range(&mut ours).await.is_ok());
    refused(&range(&mut ours).await.unwrap_err());
    refused(&range(&mut theirs).await.unwrap_err());
    assert_eq!(kv.go.available_permits(), 999_999, "one call arrived");
    limits.update(RANGE, "1000000/s").unwrap();
    again(&mut ours).await;
    again(&mut theirs).await;
    drop((ours, theirs));
    tasks.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn plain_http_is_told_429_and_when_to_come_again() {
    let limits = limits(
        vec![
            Rule::new("items", "1/10s").burst(1).methods(["GET /items*"]),
            Rule::new("users", "1/10s")
                .burst(1)
                .methods(["POST *"])
                .per(Per::Peer),
        ],
        vec![],
    );
    let layer = limits.layer().peer_by(|head| {
        let user = head.headers.get("user");
        user.map(|user| String::from_utf8_lossy(user.as_bytes()).into_owned())
            .unwrap_or_default()
    });
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("it"))))
    }));
    let ask = |method: &str, path: &str, user: &str| {
        let request = Request::builder().method(method).uri(path).header("user", user);
        service.clone().oneshot(request.body(()).unwrap())
    };
    for (method, path, user, status) in [
        ("GET", "/items/1", "a", 200),
        ("GET", "/items/2", "b", 429),
        ("GET", "/other", "b", 200),
        ("POST", "/items", "a", 200),
        ("POST", "/items", "a", 429),
        ("POST", "/items", "b", 200),
    ] {
        let answer = ask(method, path, user).await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path} {user}");
        let after = answer
            .headers()
            .get("retry-after")
            .map(|after| after.to_str().unwrap());
        assert_eq!(after, (status == 429).then_some("10"));
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(ask("GET", "/items/1", "a").await.unwrap().status(), 200);
}

#[test]
fn updates_name_a_rule_or_its_methods_and_wrong_ones_change_nothing() {
    let limits = limits(vec![Rule::new("kv", "1/s").methods([RANGE])], vec![]);
    for (rule, rate, problem) in [
        ("vk", "2/s", "there is no rule \"vk\", only [\"kv\"]"),
        ("kv", "fast", "rules[0].rate: \"fast\" is no rate"),
    ] {
        let problems = limits.update(rule, rate).unwrap_err();
        assert!(problems[0].starts_with(problem), "{problems:?}");
    }
    assert_eq!(limits.update("kv", "2/s"), Ok(()));
    assert_eq!(limits.update(RANGE, "3/s"), Ok(()));
}

/// A service whose permission to be called is the clone's that was asked.
#[tokio::test]
async fn the_service_that_was_found_ready_is_the_one_that_is_called() {
    #[derive(Default)]
    struct Careful(bool);
    impl Clone for Careful {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl Service<Request<()>> for Careful {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = true;
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            assert!(std::mem::take(&mut self.0), "asked first");
            std::future::ready(Ok(Response::new(Full::default())))
        }
    }
    let limits = limits(vec![], vec![Concurrency::new("c", Find::fixed(3))]);
    let mut service = limits.layer().layer(Careful::default());
    for _ in 0..5 {
        let answer = service.ready().await.unwrap().call(Request::new(())).await;
        assert_eq!(answer.unwrap().status(), 200);
    }
}
