//! The HTTPS front as clients see it.

use std::fs;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use jiff::Timestamp;
use rcgen::{Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use setpoint_base::{FixedClock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::certs::issue::{self, Issued};
use crate::request::Identity;
use crate::testing::TempDir;

/// What is shown, certificate, `Authorization`; code, part of the body.
type Row<'a> = (&'a str, Option<&'a Issued>, Option<&'a str>, u16, &'a str);

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Runs what clients need to have run.
#[derive(Clone)]
struct Streams(TaskGroup);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

/// A front on port 0 whose service answers who it thinks is asking; `/slow` takes 300 ms.
struct World {
    dir: TempDir,
    pki: Pki,
    addr: SocketAddr,
    stop: Stop,
    tasks: TaskGroup,
    served: tokio::task::JoinHandle<usize>,
}

impl World {
    async fn start(clock: Arc<dyn WallClock>, options: ServeOptions) -> Self {
        let dir = TempDir::new();
        let pki = Pki::load_or_create(dir.path(), &[], &SystemClock).unwrap();
        let tls = Tls::new(&pki, clock).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, tasks) = (Stop::new(), TaskGroup::new(&Stop::new()));
        let service = tower::service_fn(|request: Request<RequestBody>| async move {
            if request.uri().path() == "/slow" {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            let who = request.extensions().get::<Identity>();
            let who = who.map_or_else(
                || "nobody".to_owned(),
                |id| format!("{} {:?}", id.user, id.groups),
            );
            Ok::<_, Infallible>(Response::new(ApiBody::full(who)))
        });
        let served = tasks.spawn(serve(listener, tls, service, options, stop.clone()));
        Self {
            dir,
            pki,
            addr,
            stop,
            tasks,
            served,
        }
    }

    /// A client certificate signed by this plane's CA.
    fn client(&self, user: &str, now: Timestamp, life: Duration) -> Issued {
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap();
        let key = KeyPair::from_pem(&read("ca.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), key).unwrap();
        issue::client(&issuer, user, "crew", now, life).unwrap()
    }

    async fn connect(
        &self,
        cert: Option<&Issued>,
        alpn: &[u8],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pki.ca_pem().as_bytes()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match cert {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        stream
    }

    /// One request on a connection of its own: code and body.
    async fn get(&self, cert: Option<&Issued>, alpn: &[u8], path: &str, auth: Option<&str>) -> (u16, String) {
        let stream = TokioIo::new(self.connect(cert, alpn).await);
        let uri = if alpn == b"h2" {
            format!("https://localhost{path}")
        } else {
            path.to_owned()
        };
        let mut request = Request::get(uri).header("host", "localhost");
        if let Some(auth) = auth {
            request = request.header("authorization", auth);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = if alpn == b"h2" {
            let (mut send, connection) = http2::handshake(Streams(self.tasks.clone()), stream)
                .await
                .unwrap();
            self.tasks.spawn(connection);
            send.send_request(request).await.unwrap()
        } else {
            let (mut send, connection) = http1::handshake(stream).await.unwrap();
            self.tasks.spawn(connection);
            send.send_request(request).await.unwrap()
        };
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn identities_come_from_client_certificates_and_bad_ones_get_a_401_status() {
    let world = World::start(SystemClock::shared(), ServeOptions::default()).await;
    let now = SystemClock.now();
    let good = world.client("ann", now, YEAR);
    let expired = world.client("bob", now - YEAR, Duration::from_secs(3600));
    let early = world.client("eve", now + YEAR, YEAR);
    let nameless = world.client("", now, YEAR);
    let foreign = {
        let ca = issue::authority(now).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&ca.cert, KeyPair::from_pem(&ca.key).unwrap()).unwrap();
        issue::client(&issuer, "setpoint-admin", "system:masters", now, YEAR).unwrap()
    };
    let serving = Issued {
        cert: fs::read_to_string(world.dir.path().join("server.crt")).unwrap(),
        key: fs::read_to_string(world.dir.path().join("server.key")).unwrap(),
    };
    let rows: [Row<'_>; 8] = [
        ("none", None, None, 200, "nobody"),
        ("good", Some(&good), None, 200, "ann [\"crew\"]"),
        (
            "good with a token",
            Some(&good),
            Some("Bearer x"),
            200,
            "ann [\"crew\"]",
        ),
        (
            "a token alone",
            None,
            Some("Bearer x"),
            401,
            "\"reason\":\"Unauthorized\"",
        ),
        (
            "expired",
            Some(&expired),
            None,
            401,
            "\"message\":\"Unauthorized\"",
        ),
        ("not valid yet", Some(&early), None, 401, "\"code\":401"),
        ("without a name", Some(&nameless), None, 401, "\"code\":401"),
        ("of another CA", Some(&foreign), None, 401, "\"kind\":\"Status\""),
    ];
    for alpn in [&b"h2"[..], b"http/1.1"] {
        for (what, cert, auth, code, body) in &rows {
            let (got, text) = world.get(*cert, alpn, "/", *auth).await;
            assert_eq!(got, *code, "{what}: {text}");
            assert!(text.contains(body), "{what}: {text}");
        }
    }
    let (code, text) = world.get(Some(&serving), b"h2", "/", None).await;
    assert_eq!(
        code, 401,
        "a serving certificate is no client certificate: {text}"
    );
}

#[tokio::test]
async fn a_certificate_that_expires_while_its_connection_lives_stops_working() {
    let now = SystemClock.now();
    let world = World::start(Arc::new(FixedClock(now)), ServeOptions::default()).await;
    let cert = world.client("ann", now, Duration::from_secs(60));
    let certs = |clock: Timestamp| {
        let provider = Arc::new(ring::default_provider());
        ClientCerts::new(world.pki.roots().unwrap(), provider, Arc::new(FixedClock(clock))).unwrap()
    };
    let chain = [CertificateDer::from_pem_slice(cert.cert.as_bytes()).unwrap()];
    let peer = certs(now).accept(Some(&chain));
    let later =
        |seconds: u64| certs(now + Duration::from_secs(seconds)).identify(&peer, &http::HeaderMap::new());
    assert!(later(30).unwrap().is_some());
    assert!(later(90).is_err());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_tcp_has_measured_of_a_connection_is_shown() {
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let flow = Flow::default();
        let options = ServeOptions {
            flow: flow.clone(),
            ..ServeOptions::default()
        };
        let world = World::start(SystemClock::shared(), options).await;
        let _connection = world.connect(None, alpn).await;
        let seen = timeout(Duration::from_secs(60), async {
            loop {
                let tcp = flow.snapshot().connections.pop().and_then(|seen| seen.tcp);
                if let Some(tcp) = tcp {
                    return tcp;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let tcp = seen.await.unwrap();
        let rtt = tcp.rtt_seconds;
        assert!(rtt.is_some_and(|rtt| rtt > 0.0 && rtt < 60.0), "{tcp:?}");
    }
}

#[tokio::test]
async fn a_stop_finishes_open_requests_and_refuses_new_connections() {
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let world = World::start(SystemClock::shared(), ServeOptions::default()).await;
        let stopper = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            world.stop.cancel();
        };
        let ((code, _), ()) = tokio::join!(world.get(None, alpn, "/slow", None), stopper);
        assert_eq!(code, 200);
        assert_eq!(
            timeout(Duration::from_secs(5), world.served)
                .await
                .unwrap()
                .unwrap(),
            0
        );
        assert!(TcpStream::connect(world.addr).await.is_err());
    }
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_is_cut() {
    let options = ServeOptions {
        grace: Duration::from_millis(50),
        ..ServeOptions::default()
    };
    let world = World::start(SystemClock::shared(), options).await;
    // A handshake that never ends.
    let silent = TcpStream::connect(world.addr).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.stop.cancel();
    assert_eq!(
        timeout(Duration::from_secs(5), world.served)
            .await
            .unwrap()
            .unwrap(),
        1
    );
    drop(silent);
}

#[tokio::test]
async fn a_silent_client_is_dropped_and_frees_its_place_for_one_that_waits() {
    let options = ServeOptions {
        connections_max: 1,
        handshake_timeout: Duration::from_millis(100),
        ..ServeOptions::default()
    };
    let world = World::start(SystemClock::shared(), options).await;
    let _silent = TcpStream::connect(world.addr).await.unwrap();
    let answered = timeout(Duration::from_secs(5), world.get(None, b"h2", "/", None)).await;
    assert_eq!(answered.unwrap().0, 200);
}

/// Whether an unauthorized request is answered and left to send its body.
async fn takes_the_rest(world: &World) -> bool {
    let stream = world.connect(None, b"h2").await;
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    world.tasks.spawn(connection);
    let request = Request::post("https://localhost/").header("authorization", "Bearer x");
    let (response, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 401);
    let mut body = response.into_body();
    while body.data().await.is_some() {}
    let sent = stream.send_data(Bytes::from_static(b"{}"), true).is_ok();
    // What was said before this is known when it has its answer.
    let again = Request::get("https://localhost/").body(()).unwrap();
    client.send_request(again, true).unwrap().0.await.unwrap();
    let reset = std::future::poll_fn(|cx| std::task::Poll::Ready(stream.poll_reset(cx))).await;
    sent && reset.is_pending()
}

/// Whether who sends all of a request over HTTP/1.1 before it looks for the answer has it.
async fn answers_who_looks_late(world: &World) -> std::io::Result<bool> {
    let body = vec![b' '; 5_000_000];
    let mut stream = world.connect(None, b"http/1.1").await;
    let head = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 401");
    // And its connection is as good as before.
    let again = b"GET / HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\nconnection: close\r\n\r\n";
    stream.write_all(again).await?;
    let mut rest = Vec::new();
    // A server may close without TLS's farewell.
    let _ = stream.read_to_end(&mut rest).await;
    Ok(String::from_utf8_lossy(&rest).contains("HTTP/1.1 401"))
}

#[tokio::test]
async fn who_sends_all_before_it_looks_has_the_answer_of_what_is_refused_unread() {
    let world = World::start(SystemClock::shared(), ServeOptions::default()).await;
    for _ in 0..20 {
        if answers_who_looks_late(&world).await.unwrap_or(false) {
            return;
        }
    }
    panic!("its connection was broken every time");
}

/// Curl 7.88 forgets an answer that comes together with RST_STREAM.
#[tokio::test]
async fn a_request_that_is_answered_unread_is_not_reset_at_once() {
    let world = World::start(SystemClock::shared(), ServeOptions::default()).await;
    // On a busy machine the client may be later than the server waits.
    for _ in 0..20 {
        if takes_the_rest(&world).await {
            return;
        }
    }
    panic!("every request was reset");
}
