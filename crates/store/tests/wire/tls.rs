//! TLS in front of gRPC and HTTP: who may come in, and certificates that change while serving.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use setpoint_store::etcd::{Listener, Serves, TlsOptions};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// An authority and the files it signs.
struct Ca {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let dir = TempDir::new();
        std::fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs a certificate for a name, for servers and clients alike.
    fn sign(&self, name: &str, serial: u64) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec![name.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let (crt, pem) = (
            self.file(&format!("{name}.crt")),
            self.file(&format!("{name}.key")),
        );
        std::fs::write(&crt, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&pem, key.serialize_pem()).unwrap();
        (crt, pem)
    }

    fn options(&self) -> TlsOptions {
        let (cert, key) = self.sign("server", 1);
        TlsOptions {
            reload_interval: Duration::from_millis(20),
            ..TlsOptions::new(cert, key)
        }
    }

    fn strict(&self) -> TlsOptions {
        TlsOptions {
            trusted_ca: Some(self.file("ca.crt")),
            client_cert_auth: true,
            ..self.options()
        }
    }
}

fn certs(path: &Path) -> Vec<CertificateDer<'static>> {
    let certs = CertificateDer::pem_file_iter(path).unwrap();
    certs.collect::<Result<_, _>>().unwrap()
}

fn config(trusted: &Path, identity: Option<(PathBuf, PathBuf)>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(certs(trusted));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some((cert, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(certs(&cert), key).unwrap()
        }
        None => builder.with_no_client_auth(),
    }
}

async fn connect(
    server: &Server,
    config: rustls::ClientConfig,
    alpn: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    handshake(TcpStream::connect(server.addr).await?, config, alpn).await
}

async fn handshake<S>(
    socket: S,
    mut config: rustls::ClientConfig,
    alpn: &str,
) -> std::io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    config.alpn_protocols = vec![alpn.into()];
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

/// One Put over the stream.
async fn put_over<S>(stream: S) -> Result<i64, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("one connection only")) }
    });
    let endpoint = Channel::from_static("http://etcd");
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let mut kv = KvClient::new(channel);
    let answer = kv.put(put("a", "1")).await.map_err(|error| error.to_string())?;
    Ok(answer.into_inner().header.unwrap().revision)
}

async fn put_securely(server: &Server, config: rustls::ClientConfig) -> Result<i64, String> {
    let stream = connect(server, config, "h2")
        .await
        .map_err(|error| error.to_string())?;
    put_over(stream).await
}

/// One HTTP/1 request; the whole answer.
async fn get_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn secure(tls: TlsOptions) -> Server {
    Server::start(|options| options.tls = Some(tls)).await
}

#[tokio::test]
async fn grpc_and_http_share_a_secure_port() {
    let ca = Ca::new("one");
    let server = secure(ca.options()).await;
    let client = || config(&ca.file("ca.crt"), None);
    assert_eq!(put_securely(&server, client()).await, Ok(2));
    let stream = connect(&server, client(), "http/1.1").await.unwrap();
    assert!(
        get_over(stream, "/health")
            .await
            .ends_with(r#"{"health":"true","reason":""}"#)
    );
    server.stop().await;
}

#[tokio::test]
async fn an_answer_larger_than_a_tls_buffer_arrives_whole() {
    let ca = Ca::new("one");
    let server = secure(ca.options()).await;
    let value = Bytes::from(vec![7; 1_200_000]);
    let put = setpoint_store::types::Put {
        key: "large".into(),
        value: Some(value),
        lease: setpoint_store::types::PutLease::Set(None),
        prev_kv: false,
    };
    server.store.put(put, None).await.unwrap();
    let stream = connect(&server, config(&ca.file("ca.crt"), None), "h2")
        .await
        .unwrap();
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("one connection only")) }
    });
    let channel = Channel::from_static("http://etcd")
        .connect_with_connector(connector)
        .await
        .unwrap();
    let mut kv = KvClient::new(channel);
    let answer = kv.range(get("large", "")).await.unwrap().into_inner();
    assert_eq!(answer.kvs[0].value.len(), 1_200_000);
    server.stop().await;
}

#[tokio::test]
async fn with_a_trusted_ca_only_its_clients_come_in() {
    let (ca, other) = (Ca::new("one"), Ca::new("other"));
    let server = secure(ca.strict()).await;
    let trusted = ca.file("ca.crt");
    assert_eq!(
        put_securely(&server, config(&trusted, Some(ca.sign("ann", 7)))).await,
        Ok(2)
    );
    for identity in [None, Some(other.sign("ann", 7))] {
        let refused = put_securely(&server, config(&trusted, identity)).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    // Nor without TLS at all: the socket is closed, and clients with a certificate go on.
    let mut plain = TcpStream::connect(server.addr).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(
        put_securely(&server, config(&trusted, Some(ca.sign("ann", 7)))).await,
        Ok(3)
    );
    server.stop().await;
}

#[tokio::test]
async fn with_authentication_on_the_common_name_is_the_user() {
    use prost::Message as _;
    use setpoint_proto::authpb;
    use setpoint_store::types::{MetaTxn, MetaWrite, Table};
    let ca = Ca::new("one");
    let server = secure(ca.strict()).await;
    let write = authpb::Permission {
        perm_type: authpb::permission::Type::Write as i32,
        key: "a".into(),
        range_end: "".into(),
    };
    let role = authpb::Role {
        name: "writer".into(),
        key_permission: vec![write],
    };
    let user = authpb::User {
        name: "ann".into(),
        roles: vec!["writer".to_owned()],
        ..authpb::User::default()
    };
    let writes = vec![
        MetaWrite::put(Table::AUTH, "authEnabled", vec![1]),
        MetaWrite::put(Table::AUTH_USERS, "ann", user.encode_to_vec()),
        MetaWrite::put(Table::AUTH_ROLES, "writer", role.encode_to_vec()),
    ];
    assert_eq!(server.store.meta_write(MetaTxn::new(writes)).await, Ok(true));
    let trusted = ca.file("ca.crt");
    let put_as = async |name: &str| put_securely(&server, config(&trusted, Some(ca.sign(name, 7)))).await;
    assert_eq!(put_as("ann").await, Ok(2));
    let refused = put_as("bob").await.unwrap_err();
    assert!(refused.contains("etcdserver: permission denied"), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_certificate_and_one_without_an_allowed_name_are_refused() {
    let ca = Ca::new("one");
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(9),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2999, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = ca.file("crl.pem");
    std::fs::write(&crl, list.signed_by(&ca.issuer).unwrap().pem().unwrap()).unwrap();
    let server = secure(TlsOptions {
        crl: Some(crl),
        allowed_hostnames: vec!["ann".to_owned(), "bob".to_owned()],
        ..ca.strict()
    })
    .await;
    let put = async |name: &str, serial| {
        put_securely(&server, config(&ca.file("ca.crt"), Some(ca.sign(name, serial)))).await
    };
    assert_eq!(put("ann", 7).await, Ok(2));
    assert!(put("bob", 9).await.is_err(), "revoked");
    assert!(put("eve", 8).await.is_err(), "not allowed");
    server.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let (ca, renewed) = (Ca::new("one"), Ca::new("two"));
    let options = ca.options();
    let server = secure(options.clone()).await;
    let stream = connect(&server, config(&ca.file("ca.crt"), None), "h2")
        .await
        .unwrap();
    // A broken file changes nothing.
    std::fs::write(&options.key, "not a key").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        put_securely(&server, config(&ca.file("ca.crt"), None)).await,
        Ok(2)
    );
    let (cert, key) = renewed.sign("server", 2);
    std::fs::copy(cert, &options.cert).unwrap();
    std::fs::copy(key, &options.key).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while put_securely(&server, config(&renewed.file("ca.crt"), None))
        .await
        .is_err()
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the new certificate never came"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Connections of before live on.
    put_over(stream).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn half_a_handshake_is_cut_and_harms_nobody() {
    let ca = Ca::new("one");
    let server = Server::start(|options| {
        options.tls = Some(ca.options());
        options.hello_timeout = Duration::from_millis(200);
    })
    .await;
    let mut silent = Vec::new();
    for start in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(start).await.unwrap();
        silent.push(socket);
    }
    assert_eq!(
        put_securely(&server, config(&ca.file("ca.crt"), None)).await,
        Ok(2)
    );
    for mut socket in silent {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest));
        let _ = end.await.expect("it is closed");
    }
    // A handshake and then nothing is cut as well.
    let mut idle = connect(&server, config(&ca.file("ca.crt"), None), "h2")
        .await
        .unwrap();
    let mut byte = [0; 1];
    let end = tokio::time::timeout(Duration::from_secs(5), idle.read(&mut byte)).await;
    assert!(matches!(end.expect("it is closed"), Ok(0) | Err(_)));
    server.stop().await;
}

#[tokio::test]
async fn mistakes_are_named_before_anything_is_served() {
    let ca = Ca::new("one");
    let good = ca.options();
    let broken = ca.file("broken.pem");
    std::fs::write(&broken, "no pem").unwrap();
    // As OpenSSL writes them today, and as it did.
    let (sealed, old) = (ca.file("sealed.pem"), ca.file("old.pem"));
    let section = |name: &str, text: &str| format!("-----BEGIN {name}-----\n{text}\n-----END {name}-----\n");
    std::fs::write(&sealed, section("ENCRYPTED PRIVATE KEY", "MAA=")).unwrap();
    let old_text = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAA=";
    std::fs::write(&old, section("RSA PRIVATE KEY", old_text)).unwrap();
    let (other, _) = Ca::new("two").sign("server", 1);
    let message = |options: TlsOptions| {
        let error = options.check().unwrap_err();
        setpoint_base::Chain(&error).to_string()
    };
    for (options, expected) in [
        (
            TlsOptions {
                cert: broken.clone(),
                ..good.clone()
            },
            "broken.pem: no certificate in PEM",
        ),
        (
            TlsOptions {
                key: broken.clone(),
                ..good.clone()
            },
            "broken.pem: no private key in PEM",
        ),
        (
            TlsOptions {
                key: sealed,
                ..good.clone()
            },
            "sealed.pem: the private key is encrypted and nobody is asked for its passphrase: write it without one",
        ),
        (
            TlsOptions {
                key: old,
                ..good.clone()
            },
            "old.pem: the private key is encrypted",
        ),
        (
            TlsOptions {
                key: "/nowhere/key.pem".into(),
                ..good.clone()
            },
            "read /nowhere/key.pem: No such file",
        ),
        (
            TlsOptions {
                cert: other,
                ..good.clone()
            },
            "server.crt: ",
        ),
        (
            TlsOptions {
                client_cert_auth: true,
                ..good.clone()
            },
            "client certificates need an authority",
        ),
        (
            TlsOptions {
                trusted_ca: Some(broken),
                ..good
            },
            "broken.pem: no certificate in PEM",
        ),
    ] {
        let message = message(options);
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn a_front_serves_several_listeners_each_in_its_own_way() {
    let ca = Ca::new("one");
    let (secure, plain) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let (plain_addr, path) = (plain.local_addr().unwrap(), ca.file("etcd.sock"));
    let local = tokio::net::UnixListener::bind(&path).unwrap();
    let secret = tokio::net::UnixListener::bind(ca.file("secret.sock")).unwrap();
    let server = Server::start_on(
        secure.local_addr().unwrap(),
        |options| options.tls = Some(ca.options()),
        vec![
            Listener::tcp(secure).only(Serves::Grpc),
            Listener::tcp(plain).plain().only(Serves::Metrics),
            Listener::unix(local).plain(),
            Listener::unix(secret),
        ],
    )
    .await;
    assert_eq!(
        put_securely(&server, config(&ca.file("ca.crt"), None)).await,
        Ok(2)
    );
    let stream = connect(&server, config(&ca.file("ca.crt"), None), "http/1.1")
        .await
        .unwrap();
    assert_eq!(get_over(stream, "/health").await, "");
    let plain = || TcpStream::connect(plain_addr);
    assert!(get_over(plain().await.unwrap(), "/health").await.contains("true"));
    assert!(get_over(plain().await.unwrap(), "/version").await.contains("404"));
    assert!(put_over(plain().await.unwrap()).await.is_err());
    let local = || tokio::net::UnixStream::connect(&path);
    assert_eq!(put_over(local().await.unwrap()).await, Ok(3));
    assert!(
        get_over(local().await.unwrap(), "/version")
            .await
            .contains("etcdserver")
    );
    // `unixs`: a socket of this machine on which TLS is spoken.
    let secret = || tokio::net::UnixStream::connect(ca.file("secret.sock"));
    assert!(put_over(secret().await.unwrap()).await.is_err());
    let stream = handshake(secret().await.unwrap(), config(&ca.file("ca.crt"), None), "h2")
        .await
        .unwrap();
    assert_eq!(put_over(stream).await, Ok(4));
    server.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_tcp_has_measured_is_shown_of_plain_and_secure_connections_and_of_no_others() {
    let ca = Ca::new("one");
    let (secure, plain) = (
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let (plain_addr, path) = (plain.local_addr().unwrap(), ca.file("etcd.sock"));
    let local = tokio::net::UnixListener::bind(&path).unwrap();
    let flow = setpoint_flow::Flow::default();
    let server = Server::start_on(
        secure.local_addr().unwrap(),
        |options| (options.tls, options.flow) = (Some(ca.options()), flow.clone()),
        vec![
            Listener::tcp(secure),
            Listener::tcp(plain).plain(),
            Listener::unix(local).plain(),
        ],
    )
    .await;
    // Each has said how it begins, and is not answered yet.
    let begin = b"GET /health HTTP/1.1\r\n";
    let mut secure = connect(&server, config(&ca.file("ca.crt"), None), "http/1.1")
        .await
        .unwrap();
    secure.write_all(begin).await.unwrap();
    let mut plain = TcpStream::connect(plain_addr).await.unwrap();
    plain.write_all(begin).await.unwrap();
    let mut local = tokio::net::UnixStream::connect(&path).await.unwrap();
    local.write_all(begin).await.unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let seen = flow.snapshot().connections;
            if seen.len() == 3 && seen.iter().filter(|it| it.tcp.is_some()).count() == 2 {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for connection in seen.await.unwrap() {
        let rtt = connection.tcp.and_then(|tcp| tcp.rtt_seconds);
        let plausible = rtt.is_some_and(|rtt| rtt > 0.0 && rtt < 60.0);
        assert_eq!(plausible, connection.peer != "unix", "{connection:?}");
        assert_eq!(
            connection.tcp.is_none(),
            connection.peer == "unix",
            "{connection:?}"
        );
    }
    server.stop().await;
}
