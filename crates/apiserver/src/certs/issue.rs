//! What our certificates say.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

const DAY: Duration = Duration::from_secs(86_400);

/// Life of the CA: ten years. Replacing it means a new kubeconfig for everybody.
const CA_LIFE: Duration = Duration::from_secs(3650 * 86_400);
/// Life of the serving and the admin certificate: one year.
pub(super) const LEAF_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// A leaf with less than this left is issued anew.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);
/// Certificates are valid from a day ago, for clients whose clock is behind.
const BACKDATE: Duration = DAY;

/// Names that every serving certificate has: this machine, and what in-cluster clients call an API server.
pub(super) const SERVER_NAMES: &[&str] = &[
    "localhost",
    "127.0.0.1",
    "::1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A certificate and its key, as PEM.
pub(crate) struct Issued {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// A new certificate authority.
pub(crate) fn authority(now: Timestamp) -> Result<Issued, rcgen::Error> {
    let mut params = CertificateParams::default();
    valid(&mut params, now, CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    // A name of its own, so that verifiers which look issuers up by name never try another plane's CA.
    params.distinguished_name = name(&format!("setpoint-ca-{:08x}", fastrand::u32(..)), None);
    let key = KeyPair::generate()?;
    Ok(Issued {
        cert: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

/// A serving certificate for these names and addresses.
pub(super) fn server(
    ca: &Issuer<'_, KeyPair>,
    names: &[String],
    now: Timestamp,
) -> Result<Issued, rcgen::Error> {
    let mut params = leaf("setpoint", None, now);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = alt_names(names)?;
    sign(&params, ca)
}

/// A serving certificate for these names and addresses that only vouches for itself.
pub(super) fn self_signed(names: &[String], now: Timestamp) -> Result<Issued, rcgen::Error> {
    let mut params = leaf("setpoint", None, now);
    params.use_authority_key_identifier_extension = false;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = alt_names(names)?;
    let key = KeyPair::generate()?;
    Ok(Issued {
        cert: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

fn alt_names(names: &[String]) -> Result<Vec<SanType>, rcgen::Error> {
    let name = |text: &String| {
        Ok(match text.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(text.as_str().try_into()?),
        })
    };
    names.iter().map(name).collect()
}

/// A client certificate for a user in one group.
pub(crate) fn client(
    ca: &Issuer<'_, KeyPair>,
    user: &str,
    group: &str,
    now: Timestamp,
    life: Duration,
) -> Result<Issued, rcgen::Error> {
    let mut params = leaf(user, Some(group), now);
    valid(&mut params, now, life);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign(&params, ca)
}

fn leaf(user: &str, group: Option<&str>, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    valid(&mut params, now, LEAF_LIFE);
    params.distinguished_name = name(user, group);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    // Strict verifiers (OpenSSL's X509_STRICT, the default of Python 3.13) want to know the signing key.
    params.use_authority_key_identifier_extension = true;
    params
}

fn sign(params: &CertificateParams, ca: &Issuer<'_, KeyPair>) -> Result<Issued, rcgen::Error> {
    let key = KeyPair::generate()?;
    Ok(Issued {
        cert: params.signed_by(&key, ca)?.pem(),
        key: key.serialize_pem(),
    })
}

fn valid(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
}

/// Kubernetes reads the common name as the user and an organisation as a group.
fn name(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}
