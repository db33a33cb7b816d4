//! Private keys behind a passphrase: a server that starts by itself has nobody to ask for one.

/// What is wrong with a PEM text whose private key is encrypted, and the remedy; `None` when there is no such key in it.
/// Readers of PEM pass by what they do not know, and would say that there is no key.
#[must_use]
pub fn sealed_key(pem: &[u8]) -> Option<&'static str> {
    let has = |mark: &[u8]| pem.windows(mark.len()).any(|part| part == mark);
    // PKCS #8, and what OpenSSL wrote before it.
    let is_sealed = has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED");
    is_sealed.then_some(
        "the private key is encrypted and nobody is asked for its passphrase: write it without one, with \
         `openssl pkey -in FILE -out NEW`, readable by its owner alone",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_behind_a_passphrase_is_told_from_an_open_one() {
        for (pem, sealed) in [
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII", true),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n",
                true,
            ),
            ("-----BEGIN PRIVATE KEY-----\nMII", false),
            ("", false),
        ] {
            assert_eq!(sealed_key(pem.as_bytes()).is_some(), sealed, "{pem}");
        }
    }
}
