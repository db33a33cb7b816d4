//! Keys that sign and verify tokens (RFC 7518), over ring; the curve that ring has not is in `p521`.
//!
//! Written here and not taken from a library of tokens: those of today bring another provider of cryptography with
//! them, or an RSA that leaks its key by its timing; the part that is not cryptography is this file.

use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use ring::{error::KeyRejected, hmac};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use setpoint_base::sealed_key;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::p521;

/// A way to sign, by its name in a token's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hmac,
    Rsa,
    Ec,
    P521,
    Ed,
}

const METHODS: [Method; 13] = [
    method("HS256", Kind::Hmac),
    method("HS384", Kind::Hmac),
    method("HS512", Kind::Hmac),
    method("RS256", Kind::Rsa),
    method("RS384", Kind::Rsa),
    method("RS512", Kind::Rsa),
    method("PS256", Kind::Rsa),
    method("PS384", Kind::Rsa),
    method("PS512", Kind::Rsa),
    method("ES256", Kind::Ec),
    method("ES384", Kind::Ec),
    method("ES512", Kind::P521),
    method("EdDSA", Kind::Ed),
];

const fn method(name: &'static str, kind: Kind) -> Method {
    Method { name, kind }
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no such method, or not here.
    #[error(
        "sign-method {0:?} is not one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
         ES384, ES512 and EdDSA"
    )]
    Method(String),
    /// Neither key was given, or the one that a method needs.
    #[error("a key is missing: give priv-key to sign tokens, or pub-key to verify those that others sign")]
    Missing,
    /// The keys do not belong together.
    #[error("the public key is not that of the private key")]
    Mismatch,
    /// A file is empty.
    #[error("the file is empty: the {0} key belongs in it")]
    Empty(&'static str),
    /// A key is behind a passphrase; what to do about it.
    #[error("{0}")]
    Sealed(&'static str),
    /// A file holds no key of the method's kind.
    #[error("the {0} key is not one for {1}, in PEM")]
    NotAKey(&'static str, &'static str),
    /// A key was refused.
    #[error("the private key cannot be used: {0}")]
    Rejected(KeyRejected),
}

impl KeyError {
    /// The option whose file is at fault, if it is a file.
    pub(super) fn option(&self) -> Option<&'static str> {
        match self {
            Self::Empty("public") | Self::NotAKey("public", _) => Some("pub-key"),
            Self::Empty(_) | Self::NotAKey(..) | Self::Sealed(_) | Self::Rejected(_) => Some("priv-key"),
            Self::Method(_) | Self::Missing | Self::Mismatch => None,
        }
    }
}

impl Method {
    pub(super) fn of(name: &str) -> Result<Self, KeyError> {
        let known = METHODS.iter().find(|method| method.name == name);
        known.copied().ok_or_else(|| KeyError::Method(name.to_owned()))
    }

    fn hmac(self) -> hmac::Algorithm {
        match self.name {
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        }
    }

    fn ecdsa(self) -> &'static EcdsaSigningAlgorithm {
        match self.name {
            "ES384" => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            _ => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        }
    }

    fn rsa(self) -> &'static dyn RsaEncoding {
        match self.name {
            "RS384" => &signature::RSA_PKCS1_SHA384,
            "RS512" => &signature::RSA_PKCS1_SHA512,
            "PS256" => &signature::RSA_PSS_SHA256,
            "PS384" => &signature::RSA_PSS_SHA384,
            "PS512" => &signature::RSA_PSS_SHA512,
            _ => &signature::RSA_PKCS1_SHA256,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self.name {
            "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
            "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
            "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
            "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
            "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
            "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
            "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
            "ES384" => &signature::ECDSA_P384_SHA384_FIXED,
            _ => &signature::ED25519,
        }
    }
}

/// A method with its keys.
pub(super) enum Keys {
    /// One key for both.
    Hmac(hmac::Key),
    /// The private key may be elsewhere.
    Pair(Option<Private>, Public),
}

pub(super) enum Private {
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    P521(Box<p521::Private>),
    Ed(Ed25519KeyPair),
}

/// A public key, with the way in which it verifies.
pub(super) enum Public {
    Ring(UnparsedPublicKey<Vec<u8>>),
    P521(Box<p521::Public>),
}

impl Keys {
    /// From files' contents, in PEM; HMAC takes the private key's as it is.
    pub(super) fn new(
        method: Method,
        private: Option<&[u8]>,
        public: Option<&[u8]>,
    ) -> Result<Self, KeyError> {
        for (file, which) in [(private, "private"), (public, "public")] {
            if file.is_some_and(<[u8]>::is_empty) {
                return Err(KeyError::Empty(which));
            }
        }
        if method.kind == Kind::Hmac {
            let private = private.ok_or(KeyError::Missing)?;
            return Ok(Self::Hmac(hmac::Key::new(method.hmac(), private)));
        }
        let private = private.map(|pem| Private::new(method, pem)).transpose()?;
        let public = public.map(|pem| Public::new(method, pem)).transpose()?;
        let public = match (&private, public) {
            (Some(private), Some(public)) if !private.public(method).is(&public) => {
                return Err(KeyError::Mismatch);
            }
            (_, Some(public)) => public,
            (Some(private), None) => private.public(method),
            (None, None) => return Err(KeyError::Missing),
        };
        Ok(Self::Pair(private, public))
    }

    /// A signature; `None` when there is no key for it, or no randomness.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Pair(private, _) => match private.as_ref()? {
                Private::Rsa(pair, encoding) => {
                    let mut signature = vec![0; pair.public().modulus_len()];
                    pair.sign(*encoding, &random, message, &mut signature).ok()?;
                    Some(signature)
                }
                Private::Ec(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
                Private::P521(key) => key.sign(message),
                Private::Ed(pair) => Some(pair.sign(message).as_ref().to_vec()),
            },
        }
    }

    pub(super) fn can_sign(&self) -> bool {
        !matches!(self, Self::Pair(None, _))
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Pair(_, Public::Ring(public)) => public.verify(message, signature).is_ok(),
            Self::Pair(_, Public::P521(public)) => public.verify(message, signature),
        }
    }
}

impl Private {
    fn new(method: Method, pem: &[u8]) -> Result<Self, KeyError> {
        let none = || KeyError::NotAKey("private", method.name);
        let p521 = |key: Option<p521::Private>| key.map(|key| Self::P521(Box::new(key))).ok_or_else(none);
        let sealed = || sealed_key(pem).map_or_else(none, KeyError::Sealed);
        let (kind, der) = section(pem).ok_or_else(sealed)?;
        let key = match (method.kind, kind) {
            (Kind::Rsa, SectionKind::RsaPrivateKey) => {
                RsaKeyPair::from_der(&der).map(|pair| Self::Rsa(Box::new(pair), method.rsa()))
            }
            (Kind::Rsa, SectionKind::PrivateKey) => {
                RsaKeyPair::from_pkcs8(&der).map(|pair| Self::Rsa(Box::new(pair), method.rsa()))
            }
            (Kind::Ec, SectionKind::PrivateKey) => {
                EcdsaKeyPair::from_pkcs8(method.ecdsa(), &der, &SystemRandom::new()).map(Self::Ec)
            }
            (Kind::Ec, SectionKind::EcPrivateKey) => {
                let der = pkcs8(method, &der);
                EcdsaKeyPair::from_pkcs8(method.ecdsa(), &der, &SystemRandom::new()).map(Self::Ec)
            }
            (Kind::Ed, SectionKind::PrivateKey) => {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self::Ed)
            }
            (Kind::P521, SectionKind::PrivateKey) => return p521(p521::Private::from_pkcs8(&der)),
            (Kind::P521, SectionKind::EcPrivateKey) => return p521(p521::Private::from_sec1(&der)),
            _ => return Err(none()),
        };
        key.map_err(KeyError::Rejected)
    }

    fn public(&self, method: Method) -> Public {
        let bytes = match self {
            Self::Rsa(pair, _) => pair.public_key().as_ref(),
            Self::Ec(pair) => pair.public_key().as_ref(),
            Self::P521(key) => return Public::P521(Box::new(key.public())),
            Self::Ed(pair) => pair.public_key().as_ref(),
        };
        Public::Ring(UnparsedPublicKey::new(method.verification(), bytes.to_vec()))
    }
}

impl Public {
    /// From `PUBLIC KEY`, `RSA PUBLIC KEY` or `CERTIFICATE`.
    fn new(method: Method, pem: &[u8]) -> Result<Self, KeyError> {
        let bytes = public_key(method, pem)?;
        if method.kind != Kind::P521 {
            return Ok(Self::Ring(UnparsedPublicKey::new(method.verification(), bytes)));
        }
        let key = p521::Public::from_point(&bytes).ok_or(KeyError::NotAKey("public", method.name))?;
        Ok(Self::P521(Box::new(key)))
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ring(one), Self::Ring(other)) => one.as_ref() == other.as_ref(),
            (Self::P521(one), Self::P521(other)) => one == other,
            _ => false,
        }
    }
}

/// The first section of a PEM file that is a key or a certificate; those with an EC key may begin with parameters.
fn section(pem: &[u8]) -> Option<(SectionKind, Vec<u8>)> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).find_map(Result::ok)
}

/// The bits of the key in a public key's file.
fn public_key(method: Method, pem: &[u8]) -> Result<Vec<u8>, KeyError> {
    let none = || KeyError::NotAKey("public", method.name);
    let bits = |info: &SubjectPublicKeyInfo<'_>| info.subject_public_key.data.to_vec();
    let (kind, der) = section(pem).or_else(|| pkcs1(pem)).ok_or_else(none)?;
    match kind {
        SectionKind::PublicKey => {
            let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|_| none())?;
            Ok(bits(&info))
        }
        SectionKind::Certificate => {
            let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| none())?;
            Ok(bits(certificate.public_key()))
        }
        SectionKind::RsaPrivateKey if method.kind == Kind::Rsa => Ok(der),
        _ => Err(none()),
    }
}

/// `RSA PUBLIC KEY`, which the PEM reader does not know; it is read under the name of its private sister.
fn pkcs1(pem: &[u8]) -> Option<(SectionKind, Vec<u8>)> {
    let text = std::str::from_utf8(pem).ok()?;
    if !text.contains("BEGIN RSA PUBLIC KEY") {
        return None;
    }
    section(text.replace("RSA PUBLIC KEY", "RSA PRIVATE KEY").as_bytes())
}

/// An EC key as `EC PRIVATE KEY` has it (RFC 5915), in the envelope that ring opens (RFC 5208).
fn pkcs8(method: Method, sec1: &[u8]) -> Vec<u8> {
    const P256: [u8; 21] = [
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
        0x3d, 0x03, 0x01, 0x07,
    ];
    const P384: [u8; 18] = [
        0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
        0x22,
    ];
    let curve: &[u8] = if method.name == "ES384" { &P384 } else { &P256 };
    let mut inner = vec![0x02, 0x01, 0x00];
    inner.extend_from_slice(curve);
    inner.extend(der(0x04, sec1));
    der(0x30, &inner)
}

/// Tag, length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut bytes = match len {
        0..0x80 => vec![tag, len as u8],
        0x80..0x100 => vec![tag, 0x81, len as u8],
        _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
    };
    bytes.extend_from_slice(content);
    bytes
}
