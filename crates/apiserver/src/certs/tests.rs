//! What the PKI does with the directory it finds.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use setpoint_base::FixedClock;

use super::*;
use crate::testing::TempDir;

const START: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn load_at(dir: &Path, day: i64, extra: &[&str]) -> Result<Pki, PkiError> {
    let clock = FixedClock(Timestamp::from_second(START + day * DAY).unwrap());
    let extra: Vec<String> = extra.iter().map(|&name| name.to_owned()).collect();
    Pki::load_or_create(dir, &extra, &clock)
}

fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_first_start_makes_everything_private_and_a_second_changes_nothing() {
    let temp = TempDir::new();
    let dir = temp.path().join("data/pki");
    let first = load_at(&dir, 0, &[]).unwrap();
    assert_eq!(mode(&dir), 0o700);
    for name in ["ca.key", "server.key", "admin.key"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    let second = load_at(&dir, 1, &[]).unwrap();
    assert_eq!(first.admin_kubeconfig("u"), second.admin_kubeconfig("u"));
    assert_eq!(first.server.cert, second.server.cert);
}

#[test]
fn leaves_are_issued_anew_when_near_their_end_or_without_a_wanted_name() {
    let rows: [(i64, &[&str], bool, bool); 5] = [
        (300, &[], false, false),
        (340, &[], true, true),
        (400, &[], true, true),
        (1, &["setpoint.example"], true, false),
        (1, &["10.1.2.3", "fd00::7", "localhost"], true, false),
    ];
    for (day, extra, new_server, new_admin) in rows {
        let temp = TempDir::new();
        let before = load_at(temp.path(), 0, &[]).unwrap();
        let after = load_at(temp.path(), day, extra).unwrap();
        assert_eq!(before.ca, after.ca);
        assert_eq!(
            before.server.cert != after.server.cert,
            new_server,
            "day {day} {extra:?}"
        );
        assert_eq!(
            before.admin.cert != after.admin.cert,
            new_admin,
            "day {day} {extra:?}"
        );
        // What was asked for is there now: nothing is issued a second time.
        assert_eq!(
            load_at(temp.path(), day, extra).unwrap().server.cert,
            after.server.cert
        );
    }
}

/// Damages a good directory, expects an error that names `file` and says `what`.
#[track_caller]
fn refused(damage: impl FnOnce(&Path), day: i64, file: &str, what: &str) {
    let temp = TempDir::new();
    load_at(temp.path(), 0, &[]).unwrap();
    damage(temp.path());
    match load_at(temp.path(), day, &[]) {
        Err(error @ PkiError::Unusable { .. }) => {
            let message = error.to_string();
            assert!(
                message.contains(&format!("/{file}: ")) && message.contains(what),
                "{message}"
            );
            assert!(message.contains("remove"), "{message} names no remedy");
        }
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn broken_and_foreign_files_are_refused_with_the_remedy() {
    let put =
        |name: &'static str, text: &'static str| move |dir: &Path| fs::write(dir.join(name), text).unwrap();
    refused(put("ca.crt", "hello"), 0, "ca.crt", "not a PEM certificate");
    refused(put("ca.key", ""), 0, "ca.key", "not a PEM private key");
    refused(
        put(
            "ca.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ),
        0,
        "ca.key",
        "without one, with `openssl pkey",
    );
    refused(
        put(
            "server.crt",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ),
        0,
        "server.crt",
        "not",
    );
    refused(
        |dir| fs::remove_file(dir.join("ca.key")).unwrap(),
        0,
        "ca.key",
        "missing",
    );
    refused(
        |dir| fs::remove_file(dir.join("ca.crt")).unwrap(),
        0,
        "ca.crt",
        "missing",
    );
    refused(|_| (), 3651, "ca.crt", "expired");
    let swap = |from: &'static str, to: &'static str| {
        move |dir: &Path| {
            fs::copy(dir.join(from), dir.join(to)).unwrap();
        }
    };
    refused(swap("admin.key", "server.key"), 0, "server.key", "not the key");
    refused(
        |dir| {
            for ending in ["crt", "key"] {
                fs::copy(
                    dir.join(format!("server.{ending}")),
                    dir.join(format!("ca.{ending}")),
                )
                .unwrap();
            }
        },
        0,
        "ca.crt",
        "not a CA",
    );
    refused(
        |dir| {
            let other = TempDir::new();
            load_at(other.path(), 0, &[]).unwrap();
            for name in ["admin.crt", "admin.key"] {
                fs::copy(other.path().join(name), dir.join(name)).unwrap();
            }
        },
        0,
        "admin.crt",
        "not signed by the CA",
    );
}

#[test]
fn what_a_crash_during_issuing_leaves_is_mended() {
    for missing in [
        &["ca.crt", "server.crt", "server.key", "admin.crt", "admin.key"][..],
        &["server.crt"],
        &["admin.key"],
    ] {
        let temp = TempDir::new();
        load_at(temp.path(), 0, &[]).unwrap();
        for name in missing {
            fs::remove_file(temp.path().join(name)).unwrap();
        }
        load_at(temp.path(), 0, &[]).unwrap_or_else(|error| panic!("without {missing:?}: {error}"));
    }
}

#[test]
fn a_key_that_others_can_read_is_made_private() {
    let temp = TempDir::new();
    load_at(temp.path(), 0, &[]).unwrap();
    let key = temp.path().join("ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    load_at(temp.path(), 0, &[]).unwrap();
    assert_eq!(mode(&key), 0o600);
}

#[test]
fn a_bad_extra_name_is_refused_by_its_name() {
    let temp = TempDir::new();
    let error = load_at(temp.path(), 0, &["ümlaut"]).err().unwrap();
    assert!(
        matches!(error, PkiError::Issue { ref subject, .. } if subject == "server"),
        "{error:?}"
    );
}

#[test]
fn the_kubeconfig_is_private_and_embeds_what_a_client_needs() {
    let temp = TempDir::new();
    let pki = load_at(&temp.path().join("pki"), 0, &[]).unwrap();
    let path = temp.path().join("admin.kubeconfig");
    pki.write_admin_kubeconfig(&path, "https://127.0.0.1:6443")
        .unwrap();
    assert_eq!(mode(&path), 0o600);
    let yaml: serde_json::Value = serde_saphyr::from_str(&text(temp.path(), "admin.kubeconfig")).unwrap();
    assert_eq!(yaml["current-context"], "setpoint");
    assert_eq!(yaml["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    let ca = STANDARD
        .decode(
            yaml["clusters"][0]["cluster"]["certificate-authority-data"]
                .as_str()
                .unwrap(),
        )
        .unwrap();
    assert_eq!(ca, pki.ca_pem().as_bytes());
    let key = STANDARD
        .decode(yaml["users"][0]["user"]["client-key-data"].as_str().unwrap())
        .unwrap();
    assert_eq!(
        String::from_utf8(key).unwrap(),
        text(&temp.path().join("pki"), "admin.key")
    );
}
