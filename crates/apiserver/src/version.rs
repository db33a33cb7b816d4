//! `/version`: which Kubernetes this server speaks.

use bytes::Bytes;
use serde_json::json;

/// The minor version whose API machinery is served: that of the tables in `apimachinery`.
const MINOR: &str = "37";

/// `k8s.io/apimachinery/pkg/version.Info`. Numbers are bare: clients compare them.
///
/// `gitVersion` is a semantic version with us as build metadata, so that version ranges (Helm's `kubeVersion`) hold.
pub(crate) fn document() -> Bytes {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let info = json!({
        "major": "1",
        "minor": MINOR,
        "emulationMajor": "1",
        "emulationMinor": MINOR,
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+setpoint-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        // Builds are reproducible: they do not know when they are made.
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{architecture}", std::env::consts::OS),
    });
    info.to_string().into()
}
