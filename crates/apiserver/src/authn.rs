//! Who a connection and a request are from: client certificates of our CA, nothing else yet.
//!
//! The TLS handshake checks only that the client holds the key of what it shows. Whether the certificate is ours and
//! still valid is decided per request: a client with an expired or foreign certificate gets the `401 Unauthorized`
//! Status that kube-apiserver sends rather than a TLS alert that no client can explain, and a certificate that expires
//! while its connection lives stops working then.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use setpoint_base::WallClock;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::request::Identity;

/// Most certificates looked at in what a client shows, beside its own.
const CHAIN_MAX: usize = 8;

/// Credentials were shown and are not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unauthenticated(String);

/// Decides whose a client certificate is.
#[derive(Clone, Debug)]
pub(crate) struct ClientCerts {
    verifier: Arc<dyn ClientCertVerifier>,
    clock: Arc<dyn WallClock>,
}

impl ClientCerts {
    /// Accepts certificates signed by these roots for client authentication.
    pub(crate) fn new(
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { verifier, clock })
    }

    /// The verifier for the handshake, which leaves the verdict to [`ClientCerts::accept`].
    pub(crate) fn handshake(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(KeyHolder(Arc::clone(&self.verifier)))
    }

    /// What the certificates shown in one handshake are good for.
    pub(crate) fn accept(&self, chain: Option<&[CertificateDer<'_>]>) -> Peer {
        let Some((own, rest)) = chain.and_then(<[_]>::split_first) else {
            return Peer::Nobody;
        };
        let now = self.clock.now();
        let since =
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
        let rest = &rest[..rest.len().min(CHAIN_MAX)];
        if let Err(error) = self.verifier.verify_client_cert(own, rest, since) {
            return Peer::Refused(Unauthenticated(format!("client certificate refused: {error}")));
        }
        match subject(own) {
            Some((identity, not_after)) => Peer::Known { identity, not_after },
            None => Peer::Refused(Unauthenticated(
                "client certificate without a common name".to_owned(),
            )),
        }
    }

    /// Who sends this request; `None` when it shows no credentials.
    ///
    /// # Errors
    /// When it shows some that are not good: a refused or meanwhile expired certificate, or any `Authorization` header,
    /// since tokens and passwords are not accepted.
    pub(crate) fn identify(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Option<Identity>, Unauthenticated> {
        match peer {
            Peer::Known { not_after, .. } if *not_after < self.clock.now() => Err(Unauthenticated(format!(
                "client certificate expired at {not_after}"
            ))),
            Peer::Known { identity, .. } => Ok(Some(identity.clone())),
            Peer::Refused(why) => Err(why.clone()),
            Peer::Nobody if headers.contains_key(AUTHORIZATION) => Err(Unauthenticated(
                "no authenticator for the Authorization header".to_owned(),
            )),
            Peer::Nobody => Ok(None),
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// It showed no certificate.
    Nobody,
    /// It showed a good one.
    Known {
        /// Whose.
        identity: Identity,
        /// The last second it is valid.
        not_after: Timestamp,
    },
    /// It showed one that is not good.
    Refused(Unauthenticated),
}

/// User and groups as Kubernetes reads them: common name and organisations
/// (apiserver `pkg/authentication/request/x509/x509.go`).
fn subject(cert: &CertificateDer<'_>) -> Option<(Identity, Timestamp)> {
    let (_, cert) = X509Certificate::from_der(cert).ok()?;
    let name = cert.subject();
    let user = name
        .iter_common_name()
        .next()?
        .as_str()
        .ok()
        .filter(|user| !user.is_empty())?;
    let groups = name.iter_organization().filter_map(|group| group.as_str().ok());
    let identity = Identity {
        user: user.to_owned(),
        groups: groups.map(str::to_owned).collect(),
    };
    Some((
        identity,
        Timestamp::from_second(cert.validity().not_after.timestamp()).ok()?,
    ))
}

/// Accepts any certificate whose key the client proves to hold.
#[derive(Debug)]
struct KeyHolder(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for KeyHolder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
