//! Makes byte streams: TCP, sockets of this machine, TLS on top.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use setpoint_base::sealed_key;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::options::{ChannelOptions, ChannelTls};
use super::target::{Address, Place, Security, Target};
use crate::tcp::{Tcp, TcpInfo};

/// A byte stream to a peer.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A byte stream that will be.
pub type Dialled<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send + 'a>>;

/// Makes byte streams to peers. Channels have one for TCP and the machine's own sockets; another is for transports of
/// one's own and for tests.
pub trait Dialer: Send + Sync + 'static {
    /// Makes a stream to this address.
    fn dial<'a>(&'a self, address: &'a Address) -> Dialled<'a>;

    /// Makes a stream to this address, and says whom to ask what TCP knows of it, where it is over TCP and that is known.
    fn dial_and_tell<'a>(&'a self, address: &'a Address, _tcp: &'a OnceLock<TcpInfo>) -> Dialled<'a> {
        self.dial(address)
    }
}

/// The machine's own network.
pub(super) struct Network;

impl Dialer for Network {
    fn dial<'a>(&'a self, address: &'a Address) -> Dialled<'a> {
        Box::pin(async move { self.dial_and_tell(address, &OnceLock::new()).await })
    }

    fn dial_and_tell<'a>(&'a self, address: &'a Address, told: &'a OnceLock<TcpInfo>) -> Dialled<'a> {
        Box::pin(async move {
            let tcp = match address {
                Address::Socket(address) => TcpStream::connect(address).await?,
                Address::Host(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
                Address::Unix(path) => {
                    return Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn ByteStream>);
                }
            };
            tcp.set_nodelay(true)?;
            let tcp = Tcp::new(tcp);
            let _ = told.set(tcp.info());
            Ok(Box::new(tcp) as Box<dyn ByteStream>)
        })
    }
}

/// TLS, made ready.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    /// The name in every peer's certificate; none: each has that of its address.
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS to {:?}", self.name)
    }
}

impl Tls {
    /// What the target and the options ask for together.
    pub(super) fn of(target: &Target, options: &ChannelOptions) -> Result<Option<Self>, String> {
        let tls = match (target.security, &options.tls) {
            (Security::Plain, _) | (Security::AsOptions, None) => return Ok(None),
            (Security::Tls, None) => {
                return Err(
                    "https needs the certificate of the authority that signed the server's".to_owned(),
                );
            }
            (Security::Tls | Security::AsOptions, Some(tls)) => tls,
        };
        let name = match (tls.server_name(), &target.place) {
            (Some(name), _) => Some(server_name(name)?),
            (None, Place::Name(host, _)) => Some(server_name(host)?),
            (None, Place::Fixed(addresses)) => {
                for address in addresses {
                    name_of(address)?;
                }
                None
            }
        };
        let mut config = match tls {
            ChannelTls::Config { config, .. } => ClientConfig::clone(config),
            ChannelTls::Pem { ca, identity, .. } => from_pem(ca, identity.as_ref())?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Some(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        }))
    }

    /// Speaks TLS to the peer at this address.
    pub(super) async fn wrap(
        &self,
        plain: Box<dyn ByteStream>,
        address: &Address,
    ) -> io::Result<Box<dyn ByteStream>> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => name_of(address).map_err(io::Error::other)?,
        };
        let stream = self.connector.connect(name, plain).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other(
                "the peer does not speak HTTP/2: it did not choose h2 by ALPN",
            ));
        }
        Ok(Box::new(stream))
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|error| format!("server name {name:?}: {error}"))
}

/// The name that the certificate of a peer at this address has.
fn name_of(address: &Address) -> Result<ServerName<'static>, String> {
    match address {
        Address::Socket(address) => Ok(ServerName::IpAddress(address.ip().into())),
        Address::Host(host, _) => server_name(host),
        Address::Unix(_) => server_name("localhost"),
    }
}

fn from_pem(ca: &[u8], identity: Option<&(Vec<u8>, Vec<u8>)>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|error| format!("authority's certificate: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("authority's certificate: {error}"))?;
    }
    if roots.is_empty() {
        return Err("authority's certificate: there is none in the text".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS versions: {error}"))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("own certificate: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
        let sealed = sealed_key(key).map(str::to_owned);
        format!("own key: {}", sealed.unwrap_or_else(|| error.to_string()))
    })?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("own certificate: {error}"))
}

/// When something was last read from a stream.
#[derive(Clone, Debug)]
pub(super) struct LastRead {
    began: Instant,
    micros: Arc<AtomicU64>,
}

impl LastRead {
    pub(super) fn at(&self) -> Instant {
        self.began + Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    fn now(&self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros.store(micros, Ordering::Relaxed);
    }
}

/// A stream that notes when it was read from.
pub(super) struct Watched {
    inner: Box<dyn ByteStream>,
    last_read: LastRead,
}

impl Watched {
    pub(super) fn new(inner: Box<dyn ByteStream>) -> (Self, LastRead) {
        let last_read = LastRead {
            began: Instant::now(),
            micros: Arc::default(),
        };
        let watched = Self {
            inner,
            last_read: last_read.clone(),
        };
        (watched, last_read)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.last_read.now();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
