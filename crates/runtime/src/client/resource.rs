//! Which collection of objects a call is about.

use std::borrow::Cow;
use std::fmt;

/// A kind of object as the server serves it.
///
/// ```
/// use setpoint_runtime::Resource;
///
/// const SITES: Resource = Resource::namespaced("demo.setpoint.dev", "v1", "Site", "sites");
/// assert_eq!(SITES.path(Some("default"), Some("web")), "/apis/demo.setpoint.dev/v1/namespaces/default/sites/web");
/// let config_maps = Resource::of::<k8s_openapi::api::core::v1::ConfigMap>();
/// assert_eq!(config_maps.path(None, None), "/api/v1/configmaps");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    group: Cow<'static, str>,
    version: Cow<'static, str>,
    kind: Cow<'static, str>,
    plural: Cow<'static, str>,
    namespaced: bool,
}

impl Resource {
    /// A resource whose objects live in namespaces. The core group is the empty string.
    #[must_use]
    pub const fn namespaced(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            kind: Cow::Borrowed(kind),
            plural: Cow::Borrowed(plural),
            namespaced: true,
        }
    }

    /// A resource whose objects have no namespace.
    #[must_use]
    pub const fn cluster(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
    ) -> Self {
        let mut resource = Self::namespaced(group, version, kind, plural);
        resource.namespaced = false;
        resource
    }

    /// A resource whose names are known at run time only, for example from discovery.
    #[must_use]
    pub fn dynamic(group: &str, version: &str, kind: &str, plural: &str, namespaced: bool) -> Self {
        Self {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            kind: kind.to_owned().into(),
            plural: plural.to_owned().into(),
            namespaced,
        }
    }

    /// The resource of a generated type.
    #[must_use]
    pub fn of<K: k8s_openapi::Resource<Scope: 'static>>() -> Self {
        use std::any::TypeId;
        let namespaced = TypeId::of::<K::Scope>() == TypeId::of::<k8s_openapi::NamespaceResourceScope>();
        Self {
            namespaced,
            ..Self::namespaced(K::GROUP, K::VERSION, K::KIND, K::URL_PATH_SEGMENT)
        }
    }

    /// The API group, empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The version within the group.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The kind of one object.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The collection's name in paths.
    #[must_use]
    pub fn plural(&self) -> &str {
        &self.plural
    }

    /// Whether its objects live in namespaces.
    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.namespaced
    }

    /// `group/version`, or just the version in the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection, of its part in a namespace, or of one object.
    #[must_use]
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = String::from(if self.group.is_empty() { "/api" } else { "/apis" });
        let mut push = |segment: &str| {
            path.push('/');
            path.push_str(segment);
        };
        if !self.group.is_empty() {
            push(&self.group);
        }
        push(&self.version);
        if let Some(namespace) = namespace.filter(|namespace| self.namespaced && !namespace.is_empty()) {
            push("namespaces");
            push(namespace);
        }
        push(&self.plural);
        if let Some(name) = name {
            path.push('/');
            encode(name, &mut path);
        }
        path
    }
}

impl fmt::Display for Resource {
    /// `plural.group`, as kubectl writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plural)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/{}", self.version)
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub(crate) fn encode(text: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.push(char::from(HEX[usize::from(byte >> 4)]));
            into.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_scoped_resource_ignores_the_namespace() {
        let crds = Resource::cluster(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        );
        assert_eq!(
            crds.path(Some("default"), Some("sites.demo")),
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/sites.demo"
        );
        assert_eq!(crds.to_string(), "customresourcedefinitions.apiextensions.k8s.io");
    }

    #[test]
    fn a_name_cannot_leave_its_path_segment() {
        let maps = Resource::namespaced("", "v1", "ConfigMap", "configmaps");
        assert_eq!(
            maps.path(Some("a"), Some("../b?c")),
            "/api/v1/namespaces/a/configmaps/..%2Fb%3Fc"
        );
    }
}
