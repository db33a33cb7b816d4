//! What to try next.

use std::collections::BTreeMap;

use super::apply::Resource;
use super::terminal::{Line, Terminal};
use super::view::Subject;
use crate::plane::Plane;

/// Shows the commands that lead on from here.
pub(super) async fn show(
    plane: &Plane,
    resources: &BTreeMap<String, Resource>,
    urls: &BTreeMap<Subject, String>,
    terminal: &Terminal,
) {
    let hint = |about: &str, command: String| {
        terminal.show(Line::Hint {
            about: about.to_owned(),
            command,
        })
    };
    terminal
        .note("try next (Ctrl-C stops everything; starting again resumes from disk)")
        .await;
    for (subject, url) in urls {
        hint(
            &format!("{} {}", subject.kind, subject.name),
            format!("curl {url}"),
        )
        .await;
    }
    let kubeconfig = plane.kubeconfig().display();
    // Custom resources are what the project is about.
    let custom = resources.values().find(|resource| {
        resource.base.matches('/').count() > 2
            && resource.status
            && !resource.base.contains("apiextensions.k8s.io")
    });
    let plural = custom.map_or("namespaces", |resource| resource.plural.as_str());
    hint(
        "any Kubernetes client",
        format!("kubectl --kubeconfig {kubeconfig} get {plural}"),
    )
    .await;
    if let Some(subject) = urls.keys().next() {
        let (namespace, name) = subject.name.split_once('/').unwrap_or(("default", &subject.name));
        hint(
            "change something and watch it happen here",
            format!(
                "kubectl --kubeconfig {kubeconfig} -n {namespace} edit {}/{name}",
                subject.kind.to_lowercase()
            ),
        )
        .await;
    }
    let endpoint = plane.etcd_url();
    hint(
        "any etcd client",
        format!("etcdctl --endpoints {endpoint} get /registry/ --prefix --keys-only"),
    )
    .await;
}
