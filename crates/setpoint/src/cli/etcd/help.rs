//! `--help` and `--version`, in the shape of etcd's.

use std::fmt::Write as _;

use setpoint_store::etcd::ETCD_VERSION;

use super::flags::{Effect, FLAGS, Kind};

/// How the program is called; printed with every error about flags.
pub(super) const USAGE: &str = "Usage:

  etcd [flags]
    Start a server that speaks etcd's API.

  etcd --version
    Show the version.

  etcd -h | --help
    Show all flags.

  etcd --config-file FILE
    Take all settings from a YAML or JSON file; other flags and variables are then ignored. Times are nanoseconds
    there, or have a unit.
";

/// All flags by section.
pub(super) fn flags() -> String {
    let mut out = String::new();
    let mut section = "";
    for flag in FLAGS.iter().filter(|flag| flag.kind != Kind::Ignored) {
        // Writing to a string does not fail.
        if flag.section != section {
            section = flag.section;
            let _ = writeln!(out, "\n{section}:");
        }
        let _ = writeln!(out, "  --{} '{}'\n    {}", flag.name, flag.default, flag.about);
        let _ = match flag.effect {
            Effect::Works => Ok(()),
            Effect::Nothing(why) => writeln!(out, "    Accepted without effect: {why}."),
            Effect::Refused(why) => writeln!(out, "    Only the default is accepted: {why}."),
        };
    }
    out.push_str(
        "\nEvery flag is also a variable: --max-txn-ops is ETCD_MAX_TXN_OPS. This is Setpoint, one member; what it does \
         with each flag is in docs/ops/drop-in.md.\n",
    );
    out
}

/// etcd's lines, and ours.
pub(super) fn version() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        arch => arch,
    };
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: setpoint-{ours}\nGo Version: none, Rust {rust}\nGo OS/Arch: {os}/{arch}\n\
         Setpoint Version: {ours}\n",
        ours = env!("CARGO_PKG_VERSION"),
        rust = env!("CARGO_PKG_RUST_VERSION"),
        os = std::env::consts::OS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_where_scripts_look_for_it() {
        let text = version();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("etcd Version: {ETCD_VERSION}"));
        for (line, begins) in lines[1..]
            .iter()
            .zip(["Git SHA: ", "Go Version: ", "Go OS/Arch: "])
        {
            assert!(line.starts_with(begins), "{line}");
        }
    }

    #[test]
    fn every_flag_is_explained() {
        let text = flags();
        for flag in FLAGS.iter().filter(|flag| flag.kind != Kind::Ignored) {
            assert!(text.contains(&format!("\n  --{} '", flag.name)), "{}", flag.name);
            assert!(!flag.about.is_empty(), "{}", flag.name);
            assert!(
                flag.kind.check(flag.default).is_ok() || flag.default.is_empty(),
                "{}",
                flag.name
            );
        }
    }
}
