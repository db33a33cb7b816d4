//! The name of an object within its resource: what queues hold and reconcilers receive.

use std::fmt;
use std::sync::Arc;

/// Namespace and name of an object; the namespace of a cluster-scoped one is empty.
///
/// One allocation shared by every copy, so that queues, indexes and events can hold it freely.
///
/// ```
/// let key = setpoint_runtime::ObjectKey::new("default", "web");
/// assert_eq!((key.namespace(), key.name()), ("default", "web"));
/// assert_eq!(key.to_string(), "default/web");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// `namespace/name`: neither part may hold a slash (Kubernetes' path segment rule).
    text: Arc<str>,
}

/// What a reconciler is asked to look at: an object by name, never an event, so that a reconciler can
/// only act on the present state (controller-runtime `reconcile.Request`).
pub type Request = ObjectKey;

impl ObjectKey {
    /// The key of `name` in `namespace`; an empty namespace means cluster-scoped.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        let mut text = String::with_capacity(namespace.len() + 1 + name.len());
        text.push_str(namespace);
        text.push('/');
        text.push_str(name);
        Self { text: text.into() }
    }

    /// The namespace, empty for a cluster-scoped object.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.text.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text.split_once('/').map_or(&*self.text, |(_, name)| name)
    }
}

impl fmt::Display for ObjectKey {
    /// `namespace/name`, or just `name` for a cluster-scoped object (client-go `MetaNamespaceKeyFunc`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.strip_prefix('/').unwrap_or(&self.text))
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_scoped_key_has_no_namespace() {
        let key = ObjectKey::new("", "node-1");
        assert_eq!((key.namespace(), key.name()), ("", "node-1"));
        assert_eq!(key.to_string(), "node-1");
    }
}
