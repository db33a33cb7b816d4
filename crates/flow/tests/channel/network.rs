//! Channels over the machine's own network: TCP, its sockets, TLS, names, and what breaks there.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::channel::{ChannelError, ChannelOptions, ChannelTls};
use setpoint_flow::impair::Proxy;
use setpoint_flow::{Channel, Flow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tonic::Code;

use super::peer::{Peer, PeerOptions, answering, range};

/// Nothing here takes so long on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn listen(count: i64) -> (Peer, std::net::SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (Peer::listen(listener, answering(count, Duration::ZERO)), address)
}

#[tokio::test]
async fn names_and_addresses_are_found() {
    let (_peer, address) = listen(3).await;
    for target in [
        format!("http://{address}"),
        format!("http://localhost:{}", address.port()),
        format!("dns:///localhost:{}", address.port()),
        format!("static:localhost:{}", address.port()),
    ] {
        let channel = Channel::to(&target).build().unwrap();
        assert_eq!(
            timeout(PATIENCE, range(&channel)).await.unwrap().unwrap(),
            3,
            "{target}"
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_tcp_has_measured_of_a_connection_is_shown() {
    let (_peer, address) = listen(3).await;
    let flow = Flow::default();
    let target = format!("http://{address}");
    let channel = Channel::to(target).flow(&flow).build().unwrap();
    timeout(PATIENCE, range(&channel)).await.unwrap().unwrap();
    let seen = flow.snapshot().connections;
    let rtt = seen[0].tcp.and_then(|tcp| tcp.rtt_seconds);
    assert!(rtt.is_some_and(|rtt| rtt > 0.0 && rtt < 60.0), "{seen:?}");
}

/// A connection may come up between a caller's look for one and its look at why there was none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_who_come_together_share_the_first_connection() {
    let (peer, address) = listen(3).await;
    let tasks = TaskGroup::new(&Stop::new());
    for channels in 1..=200 {
        let channel = Channel::to(format!("http://{address}")).build().unwrap();
        let callers = (0..32).map(|_| {
            let channel = channel.clone();
            tasks.spawn(async move { range(&channel).await })
        });
        for answer in timeout(PATIENCE, join_all(callers)).await.unwrap() {
            assert_eq!(answer.unwrap().unwrap(), 3);
        }
        assert_eq!(peer.accepted(), channels);
    }
}

#[tokio::test]
async fn a_socket_of_this_machine_is_dialled() {
    let directory = std::env::temp_dir().join(format!("flow-channel-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("kv.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let peer = Peer::new(PeerOptions::default(), answering(4, Duration::ZERO), "", None);
    let flow = Flow::default();
    let target = format!("unix:{}", path.display());
    let channel = Channel::to(target).flow(&flow).build().unwrap();
    let serve = async { peer.serve_on(listener.accept().await.unwrap().0) };
    let (answer, ()) = tokio::join!(range(&channel), serve);
    assert_eq!(answer.unwrap(), 4);
    let seen = flow.snapshot().connections;
    assert!(seen.len() == 1 && seen[0].tcp.is_none(), "{seen:?}");
    std::fs::remove_dir_all(&directory).unwrap();
}

/// An authority's certificate, and a server's configuration signed by it.
fn certificates(name: &str, alpn: &[u8]) -> (Vec<u8>, rustls::ServerConfig) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    (ca.into_bytes(), config)
}

#[tokio::test]
async fn tls_is_spoken_and_only_with_whom_it_should_be() {
    for (name, alpn, expect) in [
        ("localhost", b"h2".as_slice(), None),
        ("elsewhere", b"h2".as_slice(), Some("certificate")),
        ("localhost", b"http/1.1".as_slice(), Some("")),
    ] {
        let (ca, config) = certificates(name, alpn);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let peer = Peer::new(PeerOptions::default(), answering(5, Duration::ZERO), "", None);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let options = ChannelOptions {
            tls: Some(ChannelTls::Pem {
                ca,
                identity: None,
                server_name: None,
            }),
            ..ChannelOptions::default()
        };
        let builder = Channel::to(format!("https://localhost:{port}")).options(options);
        let channel = builder.build().unwrap();
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                peer.serve_on(stream);
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = timeout(PATIENCE, range(&channel)) => answer.unwrap(),
            () = serve => unreachable!("it serves for ever"),
        };
        match expect {
            None => assert_eq!(answer.unwrap(), 5),
            Some(why) => {
                let status = answer.unwrap_err();
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                assert!(status.message().contains(why), "{status:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_behind_a_passphrase_is_named_as_one() {
    let (ca, _) = certificates("localhost", b"h2");
    let key = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let options = ChannelOptions {
        tls: Some(ChannelTls::Pem {
            identity: Some((ca.clone(), key.into())),
            ca,
            server_name: None,
        }),
        ..ChannelOptions::default()
    };
    let refused = Channel::to("https://localhost:1").options(options).check();
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("own key: the private key is encrypted"), "{said}");
}

#[tokio::test]
async fn each_address_of_a_list_has_its_own_name_in_its_certificate() {
    let (ca, config) = certificates("127.0.0.1", b"h2");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = Peer::new(PeerOptions::default(), answering(5, Duration::ZERO), "", None);
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                peer.serve_on(stream);
            }
        }
    };
    let options = ChannelOptions {
        tls: Some(ChannelTls::Pem {
            ca,
            identity: None,
            server_name: None,
        }),
        ..ChannelOptions::default()
    };
    // The same peer by its name, for which it has no certificate, and by its address.
    let target = format!("static:localhost:{port},127.0.0.1:{port}");
    let channel = Channel::to(target).options(options).build().unwrap();
    let calls = async {
        while !channel
            .snapshot()
            .endpoints
            .iter()
            .any(|endpoint| endpoint.failure.is_some())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while range(&channel).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        channel.snapshot()
    };
    let snapshot = tokio::select! {
        snapshot = timeout(PATIENCE, calls) => snapshot.unwrap(),
        () = serve => unreachable!("it serves for ever"),
    };
    let [named, numbered] = snapshot.endpoints.as_slice() else {
        panic!("{snapshot:?}")
    };
    let (named, numbered) = if named.connections > 0 {
        (numbered, named)
    } else {
        (named, numbered)
    };
    assert_eq!((named.connections, numbered.connections), (0, 1), "{snapshot:?}");
    assert!(named.address.starts_with("localhost"), "{snapshot:?}");
    assert!(
        named.failure.as_ref().unwrap().contains("certificate"),
        "{named:?}"
    );
}

#[tokio::test]
async fn https_without_an_authority_is_refused_when_built() {
    let error = Channel::to("https://localhost:1").build().unwrap_err();
    assert!(error.to_string().contains("authority"), "{error}");
    let error = Channel::to("localhost:1").build().unwrap_err();
    assert!(error.to_string().contains("names no way"), "{error}");
}

#[tokio::test]
async fn a_cut_connection_is_made_again() {
    let (_peer, address) = listen(6).await;
    let proxy = Proxy::start(address).await.unwrap();
    let channel = Channel::to(format!("http://{}", proxy.addr())).build().unwrap();
    for _ in 0..5 {
        let patient = async {
            while range(&channel).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, patient).await.unwrap();
        proxy.cut();
    }
    proxy.stop().await;
}

/// A peer that answers the handshake, waits for the first call and then does something rude.
fn rude(work: impl FnOnce(std::net::TcpStream) + Send + 'static) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            work(stream);
        }
    });
    address
}

/// SETTINGS, their acknowledgement, and the answer to the first PING, by hand; returns after the first HEADERS.
fn greet(stream: &mut std::net::TcpStream) {
    use std::io::Read;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).unwrap();
        match (head[3], head[4]) {
            (4, 0) => stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).unwrap(),
            (6, 0) => {
                stream.write_all(&[0, 0, 8, 6, 1, 0, 0, 0, 0]).unwrap();
                stream.write_all(&payload).unwrap();
            }
            (1, _) => return,
            _ => (),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_ends_in_the_middle_of_its_headers_or_half_closes_is_answered_for() {
    let half_headers: &[u8] = &[0, 0, 20, 1, 4, 0, 0, 0, 1, 0x88];
    for (bytes, half_closed) in [(half_headers, false), (&[][..], true), (&[][..], false)] {
        let address = rude(move |mut stream| {
            greet(&mut stream);
            stream.write_all(bytes).unwrap();
            if half_closed {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                // The other half stays.
                std::thread::sleep(Duration::from_secs(2));
            }
        });
        let channel = Channel::to(format!("http://{address}")).build().unwrap();
        let status = timeout(PATIENCE, range(&channel)).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(
            ChannelError::of(&status).unwrap().may_have_happened(),
            "{status:?}"
        );
    }
}

#[tokio::test]
async fn what_is_no_http2_is_no_peer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let rude = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read(&mut [0; 64]).await;
        }
    };
    let channel = Channel::to(format!("http://{address}")).build().unwrap();
    let status = tokio::select! {
        () = rude => unreachable!("it serves for ever"),
        answer = timeout(PATIENCE, range(&channel)) => answer.unwrap().unwrap_err(),
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}
