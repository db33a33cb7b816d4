//! ECDSA over P-521 with SHA-512: ES512 (RFC 7518, 3.4), over the `p521` crate, because ring has no such curve.

use p521::ecdsa::signature::{Signer as _, Verifier as _};
use p521::ecdsa::{Signature, SigningKey, VerifyingKey};
use p521::pkcs8::DecodePrivateKey as _;

/// A private key. It is wiped when dropped.
pub(super) struct Private(SigningKey);

impl Private {
    /// From `PRIVATE KEY` (RFC 5208); `None` when it is not of this curve.
    pub(super) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let key = p521::SecretKey::from_pkcs8_der(der).ok()?;
        Some(Self(key.into()))
    }

    /// From `EC PRIVATE KEY` (RFC 5915); `None` when it is not of this curve.
    pub(super) fn from_sec1(der: &[u8]) -> Option<Self> {
        let key = p521::SecretKey::from_sec1_der(der).ok()?;
        Some(Self(key.into()))
    }

    pub(super) fn public(&self) -> Public {
        Public(*self.0.verifying_key())
    }

    /// r and s, 66 bytes each. The nonce comes from key and message (RFC 6979), so no randomness can fail.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signature: Signature = self.0.try_sign(message).ok()?;
        Some(signature.to_bytes().to_vec())
    }
}

/// A public key.
#[derive(PartialEq, Eq)]
pub(super) struct Public(VerifyingKey);

impl Public {
    /// From a point as SEC 1 writes it; `None` when it is not on this curve.
    pub(super) fn from_point(point: &[u8]) -> Option<Self> {
        VerifyingKey::from_sec1_bytes(point).ok().map(Self)
    }

    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.0.verify(message, &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;

    fn decoded(text: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    #[test]
    fn the_worked_example_of_the_standard_verifies_and_nothing_near_it() {
        // RFC 7515, A.4.
        let x = "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk";
        let y = "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2";
        let message = b"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA";
        let signature = decoded(
            "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
        );
        let point = [vec![4], decoded(x), decoded(y)].concat();
        let key = Public::from_point(&point).unwrap();
        assert_eq!(signature.len(), 132);
        assert!(key.verify(message, &signature));
        assert!(!key.verify(b"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZB", &signature));
        let swapped = [&signature[66..], &signature[..66]].concat();
        let longer = [&signature[..], &[0]].concat();
        for bad in [&swapped, &longer, &signature[1..], &[], &[0; 132], &[0xff; 132]] {
            assert!(!key.verify(message, bad), "{} bytes", bad.len());
        }
        let off = [vec![4], decoded(y), decoded(x)].concat();
        for bad in [&off[..], &point[1..], &[4], &[0], &[]] {
            assert!(Public::from_point(bad).is_none(), "{} bytes", bad.len());
        }
    }

    #[test]
    fn a_signature_is_the_one_that_the_standard_has_for_key_and_message() {
        // RFC 6979, A.2.7; the key as RFC 5915 wraps it.
        let key = "APrQbapiujsl0vtAEz2nVyBd5n9bsAGP7oyG4baMfnXKqJbrMvH0fHCFWDam0W_MFGb22PvsZ9uJ7AwIsOmWuDU4";
        let key = decoded(key);
        let sec1 = [&[0x30, 0x47, 0x02, 0x01, 0x01, 0x04, 0x42], &key[..]].concat();
        let key = Private::from_sec1(&sec1).unwrap();
        let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(b"sample").unwrap());
        assert_eq!(
            signature,
            "AMMo-vy9ed13hQNwxGMl2YfLUlVp-2PF07xTlQ5tTF8XTiWh7pAXtdRQYGrdFStTSTHX1OhFXMkfmxW_Bew243f6AGF8znz1BkgGxGf2eNO0CA1vHMUK8myiCUFzCCgbaK8oJiPqpj5bXAcj2LjDf_B3exog-Myx3MxDmX8e4ORNpKZ6"
        );
    }
}
