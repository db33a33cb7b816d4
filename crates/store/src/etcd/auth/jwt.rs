//! Signed tokens: what they say can be believed by whoever has the key, and nothing is remembered.
//!
//! A token speaks of one auth revision: every change of users or roles makes those before it too old, and clients
//! fetch another one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use setpoint_base::{SystemClock, WallClock};

use super::error::AuthError;
use super::key::{KeyError, Keys, Method};

/// Signs and verifies tokens. Its keys are not shown.
#[derive(Clone)]
pub struct Jwt(Arc<Inner>);

struct Inner {
    method: Method,
    keys: Keys,
    ttl: Duration,
    clock: Arc<dyn WallClock>,
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwt({}, {:?})", self.0.method.name, self.0.ttl)
    }
}

impl Jwt {
    /// Tokens signed by `method` (`RS256`, `PS256`, `ES256`, `EdDSA`, `HS256` and their larger sisters) that are
    /// good for `ttl`. Keys are the contents of PEM files; HMAC's is `private`, as it is. With a public key alone,
    /// tokens are verified, and none are given out.
    ///
    /// # Errors
    /// [`KeyError`]: no such method, no key, not the right one.
    pub fn new(
        method: &str,
        private: Option<&[u8]>,
        public: Option<&[u8]>,
        ttl: Duration,
    ) -> Result<Self, KeyError> {
        let method = Method::of(method)?;
        Ok(Self(Arc::new(Inner {
            method,
            keys: Keys::new(method, private, public)?,
            ttl,
            clock: SystemClock::shared(),
        })))
    }

    fn now(&self) -> i64 {
        self.0.clock.now().as_second()
    }

    pub(super) fn assign(&self, user: &str, revision: u64) -> Result<String, AuthError> {
        if !self.0.keys.can_sign() {
            return Err(AuthError::VerifyOnly);
        }
        let ttl = i64::try_from(self.0.ttl.as_secs()).unwrap_or(i64::MAX);
        let header = json!({ "alg": self.0.method.name, "typ": "JWT" });
        let claims = json!({
            "username": user,
            "revision": revision,
            "exp": self.now().saturating_add(ttl),
        });
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.0.keys.sign(message.as_bytes());
        let signature = signature.ok_or(AuthError::Crypto("the key does not sign"))?;
        Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whose token it is, and the auth revision it speaks of; `None` for one that is not good, or not any more.
    pub(super) fn user(&self, token: &str) -> Option<(Arc<str>, u64)> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        // The method is ours to choose, not the token's.
        if parse(header)?.get("alg")?.as_str()? != self.0.method.name {
            return None;
        }
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        if !self.0.keys.verify(message.as_bytes(), &signature) {
            return None;
        }
        let claims = parse(claims)?;
        let now = self.now() as f64;
        let time = |name: &str, or: f64| match claims.get(name) {
            Some(time) => time.as_f64(),
            None => Some(or),
        };
        if now >= time("exp", f64::INFINITY)? || now < time("nbf", f64::NEG_INFINITY)? {
            return None;
        }
        let user = claims.get("username")?.as_str()?;
        let revision = claims.get("revision")?.as_f64()?;
        Some((user.into(), revision as u64))
    }
}

/// Reads a text as a token, as it comes and signed, for fuzzers.
pub(in crate::etcd) fn reads_token(text: &str) {
    let Ok(jwt) = Jwt::new("HS256", Some(b"secret"), None, Duration::from_secs(60)) else {
        return;
    };
    let _ = jwt.user(text);
    if let Some(signature) = jwt.0.keys.sign(text.as_bytes()) {
        let _ = jwt.user(&format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)));
    }
    // Claims are any bytes, as a key's owner may have written them.
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(text));
    if let Some(signature) = jwt.0.keys.sign(message.as_bytes()) {
        let _ = jwt.user(&format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)));
    }
}

fn parse(part: &str) -> Option<Value> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use jiff::Timestamp;
    use setpoint_base::FixedClock;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn made(method: &str, private: Option<&[u8]>, public: Option<&[u8]>) -> Result<Jwt, KeyError> {
        let jwt = Jwt::new(method, private, public, Duration::from_secs(60))?;
        Ok(at(jwt, NOW))
    }

    fn at(jwt: Jwt, second: i64) -> Jwt {
        let inner = Arc::into_inner(jwt.0).unwrap();
        let clock = Arc::new(FixedClock(Timestamp::from_second(second).unwrap()));
        Jwt(Arc::new(Inner { clock, ..inner }))
    }

    /// What openssl makes of these arguments; `None` without openssl.
    fn openssl(arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        use std::io::Write as _;
        use std::process::Stdio;
        let mut command = Command::new("openssl");
        command.args(arguments).stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(input).ok()?;
        let output = child.wait_with_output().ok()?;
        assert!(output.status.success(), "{arguments:?}");
        Some(output.stdout)
    }

    #[track_caller]
    fn check(method: &str, private: &[u8], public: &[u8]) {
        let both = made(method, Some(private), Some(public)).unwrap();
        let token = both.assign("alice", 7).unwrap();
        for verifier in [
            both,
            made(method, Some(private), None).unwrap(),
            made(method, None, Some(public)).unwrap(),
        ] {
            let (user, revision) = verifier.user(&token).unwrap();
            assert_eq!((&*user, revision), ("alice", 7));
            for at in 0..token.len() {
                let mut bytes = token.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(bytes).unwrap();
                // The last letter of a part may have bits that say nothing, and must be zero.
                assert!(verifier.user(&changed).is_none(), "{method}: letter {at}");
            }
        }
        let verifier = made(method, None, Some(public)).unwrap();
        assert!(matches!(verifier.assign("alice", 7), Err(AuthError::VerifyOnly)));
    }

    #[test]
    fn tokens_of_all_methods_are_signed_and_verified_with_keys_of_openssl() {
        let rsa = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let Some(rsa) = openssl(&rsa, b"") else {
            println!("skipped: openssl is not installed");
            return;
        };
        let run = |arguments: &[&str], input: &[u8]| openssl(arguments, input).unwrap();
        let public = |private: &[u8]| run(&["pkey", "-pubout"], private);
        for method in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
            check(method, &rsa, &public(&rsa));
        }
        let pkcs1 = run(&["rsa", "-traditional"], &rsa);
        assert!(pkcs1.starts_with(b"-----BEGIN RSA PRIVATE KEY"));
        check("RS256", &pkcs1, &run(&["rsa", "-RSAPublicKey_out"], &rsa));
        for (method, curve) in [
            ("ES256", "prime256v1"),
            ("ES384", "secp384r1"),
            ("ES512", "secp521r1"),
        ] {
            let sec1 = run(&["ecparam", "-name", curve, "-genkey"], b"");
            check(method, &sec1, &public(&sec1));
            check(
                method,
                &run(&["pkcs8", "-topk8", "-nocrypt"], &sec1),
                &public(&sec1),
            );
        }
        let ed = run(&["genpkey", "-algorithm", "ED25519"], b"");
        check("EdDSA", &ed, &public(&ed));
        let other = run(&["genpkey", "-algorithm", "ED25519"], b"");
        let mismatch = made("EdDSA", Some(&ed), Some(&public(&other))).unwrap_err();
        assert!(matches!(mismatch, KeyError::Mismatch), "{mismatch}");
        let wrong = made("RS256", Some(&ed), None).unwrap_err();
        assert!(
            matches!(wrong, KeyError::Rejected(_) | KeyError::NotAKey(..)),
            "{wrong}"
        );
    }

    #[test]
    fn keys_of_p521_come_as_certificates_and_no_other_curve_or_key_is_taken_for_them() {
        let make = |curve| openssl(&["ecparam", "-name", curve, "-genkey"], b"");
        let (Some(key), Some(other), Some(p384)) = (make("secp521r1"), make("secp521r1"), make("secp384r1"))
        else {
            println!("skipped: openssl is not installed");
            return;
        };
        let run = |arguments: &[&str], input: &[u8]| openssl(arguments, input).unwrap();
        let public = |private: &[u8]| run(&["pkey", "-pubout"], private);
        let topk8 = |private: &[u8]| run(&["pkcs8", "-topk8", "-nocrypt"], private);
        let certificate = run(
            &["req", "-x509", "-new", "-key", "/dev/stdin", "-subj", "/CN=a"],
            &key,
        );
        let jwt = made("ES512", Some(&key), Some(&certificate)).unwrap();
        let token = jwt.assign("alice", 7).unwrap();
        let signature = token.rsplit_once('.').unwrap().1;
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap().len(), 132);
        let verifier = made("ES512", None, Some(&certificate)).unwrap();
        assert!(verifier.user(&token).is_some());
        let stranger = made("ES512", None, Some(&public(&other))).unwrap();
        assert!(stranger.user(&token).is_none());
        let mismatch = made("ES512", Some(&key), Some(&public(&other))).unwrap_err();
        assert!(matches!(mismatch, KeyError::Mismatch), "{mismatch}");
        for (private, public, which) in [
            (Some(p384.clone()), None, "private"),
            (Some(topk8(&p384)), None, "private"),
            (Some(public(&key)), None, "private"),
            (None, Some(public(&p384)), "public"),
            (None, Some(key.clone()), "public"),
        ] {
            let error = made("ES512", private.as_deref(), public.as_deref()).unwrap_err();
            assert!(
                matches!(error, KeyError::NotAKey(side, "ES512") if side == which),
                "{error}"
            );
        }
        for private in [key.clone(), topk8(&key)] {
            let error = made("ES384", Some(&private), None).unwrap_err();
            assert!(matches!(error, KeyError::Rejected(_)), "{error}");
        }
    }

    #[test]
    fn the_worked_example_of_the_standard_verifies() {
        // RFC 7515, A.1: HMAC with SHA-256; its claims name no user, so the signature is all that is compared.
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let key = BASE64_URL_SAFE_NO_PAD.decode(key).unwrap();
        let message = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let keys = Keys::new(Method::of("HS256").unwrap(), Some(&key), None).unwrap();
        let signature = keys.sign(message.as_bytes()).unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
        assert_eq!(signature, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    }

    #[test]
    fn a_token_is_good_for_its_time_and_for_its_own_method() {
        let jwt = made("HS256", Some(b"secret"), None).unwrap();
        let token = jwt.assign("alice", 7).unwrap();
        let at = |second| at(made("HS256", Some(b"secret"), None).unwrap(), second);
        assert!(at(NOW + 59).user(&token).is_some());
        assert!(at(NOW + 60).user(&token).is_none());
        let hs512 = made("HS512", Some(b"secret"), None).unwrap();
        assert!(hs512.user(&token).is_none());
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let signed = |header: &str, claims: &str| {
            let message = format!("{}.{}", encode(header), encode(claims));
            let signature = jwt.0.keys.sign(message.as_bytes()).unwrap();
            format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
        };
        let header = r#"{"alg":"HS256"}"#;
        for (claims, good) in [
            (r#"{"username":"a","revision":7}"#, true),
            (r#"{"username":"a","revision":7,"nbf":1800000001}"#, false),
            (r#"{"username":"a","revision":7,"exp":"never"}"#, false),
            (r#"{"username":"a","revision":"7"}"#, false),
            (r#"{"username":5,"revision":7}"#, false),
            (r#"{"revision":7}"#, false),
            (r#"{"username":"a"}"#, false),
            ("[]", false),
            ("", false),
        ] {
            assert_eq!(jwt.user(&signed(header, claims)).is_some(), good, "{claims}");
        }
        let claims = r#"{"username":"root","revision":7}"#;
        assert!(jwt.user(&signed(r#"{"alg":"none"}"#, claims)).is_none());
        let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims));
        for token in [unsigned.as_str(), "", ".", "..", "a.b.c", "\u{e9}.."] {
            assert!(jwt.user(token).is_none(), "{token}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name_and_nothing_shows_a_key() {
        for method in ["ES521", "none", "rs256", ""] {
            let error = made(method, Some(b"x"), None).unwrap_err();
            assert!(
                matches!(&error, KeyError::Method(name) if name == method),
                "{error}"
            );
        }
        for (method, private, public) in [("RS256", None, None), ("HS256", None, Some(&b"x"[..]))] {
            let error = made(method, private, public).unwrap_err();
            assert!(matches!(error, KeyError::Missing), "{error}");
        }
        let error = made("ES256", Some(b"not a key"), None).unwrap_err();
        assert!(error.to_string().contains("private key"), "{error}");
        let shown = format!("{:?}", made("HS256", Some(b"geheim"), None).unwrap());
        assert_eq!(shown, "Jwt(HS256, 60s)");
    }
}
