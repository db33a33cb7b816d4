//! Who may do what. Until roles are served: `system:masters` everything, other authenticated users
//! discovery, anonymous callers health and version. Everything else is denied.

use setpoint_apimachinery::{GroupResource, Status};

use crate::request::{Identity, ResourcePath};
use crate::server::Head;

/// Paths that everybody may read (the `system:public-info-viewer` role).
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];
/// Paths that authenticated users may read (the `system:discovery` role).
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi"];

fn below(path: &str, roots: &[&str]) -> bool {
    roots.iter().any(|root| {
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn master(identity: &Identity) -> bool {
    identity.in_group("system:masters")
}

/// Allows or refuses a path that is not about a resource.
///
/// # Errors
/// 403 with upstream's text.
pub(crate) fn path(head: &Head) -> Result<(), Status> {
    let reads = matches!(head.method, http::Method::GET | http::Method::HEAD);
    let identity = &head.identity;
    let allowed = master(identity)
        || (reads && below(&head.path, PUBLIC))
        || (reads && !identity.is_anonymous() && below(&head.path, DISCOVERY));
    if allowed {
        return Ok(());
    }
    let verb = head.method.as_str().to_ascii_lowercase();
    let why = format!("User {:?} cannot {verb} path {:?}", identity.user, head.path);
    Err(Status::forbidden(&GroupResource::new("", ""), "", &why))
}

/// Allows or refuses a resource request.
///
/// # Errors
/// 403 with upstream's text (apiserver `pkg/endpoints/handlers/responsewriters/errors.go`).
pub(crate) fn resource(identity: &Identity, path: &ResourcePath, verb: &str) -> Result<(), Status> {
    if master(identity) {
        return Ok(());
    }
    let slash = if path.subresource.is_empty() { "" } else { "/" };
    let resource = format!("{}{slash}{}", path.resource, path.subresource);
    let scope = if path.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", path.namespace)
    };
    let why = format!(
        "User {:?} cannot {verb} resource {resource:?} in API group {:?} {scope}",
        identity.user, path.group
    );
    Err(Status::forbidden(
        &GroupResource::new(&path.group, &path.resource),
        &path.name,
        &why,
    ))
}
