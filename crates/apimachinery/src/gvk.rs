//! Names of kinds and resources: group, version, kind, plural.

use std::fmt;

/// A kind in a version of a group: `apps/v1, Kind=Deployment`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// The API group; empty for the core group.
    pub group: Box<str>,
    /// The version, such as `v1`.
    pub version: Box<str>,
    /// The kind, such as `ConfigMap`.
    pub kind: Box<str>,
}

impl Gvk {
    /// A kind from its three names.
    #[must_use]
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// Splits an `apiVersion` (`v1`, `apps/v1`) as apimachinery's `FromAPIVersionAndKind` does: without a slash
    /// the text is the version of the core group; with more than one slash the version is empty, which no
    /// resource has.
    #[must_use]
    pub fn from_api_version(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        Self::new(group, version, kind)
    }

    /// The `apiVersion` field of objects of this kind.
    #[must_use]
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }
}

/// Prints as Go's `schema.GroupVersionKind.String`: `apps/v1, Kind=Deployment`.
impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// A resource (the plural in the URL) in a version of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvr {
    /// The API group; empty for the core group.
    pub group: Box<str>,
    /// The version, such as `v1`.
    pub version: Box<str>,
    /// The lower-case plural, such as `configmaps`.
    pub resource: Box<str>,
}

impl Gvr {
    /// A resource from its three names.
    #[must_use]
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
        }
    }

    /// The `apiVersion` field of objects of this resource.
    #[must_use]
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }

    /// The resource without its version.
    #[must_use]
    pub fn group_resource(&self) -> GroupResource {
        GroupResource {
            group: self.group.clone(),
            resource: self.resource.clone(),
        }
    }
}

/// Prints as Go's `schema.GroupVersionResource.String`: `apps/v1, Resource=deployments`.
impl fmt::Display for Gvr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Resource={}", self.group, self.version, self.resource)
    }
}

/// A resource whatever its version; error texts name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupResource {
    /// The API group; empty for the core group.
    pub group: Box<str>,
    /// The lower-case plural, such as `configmaps`.
    pub resource: Box<str>,
}

impl GroupResource {
    /// A resource from its two names.
    #[must_use]
    pub fn new(group: &str, resource: &str) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
        }
    }
}

/// Prints as Go's `schema.GroupResource.String`: `deployments.apps`, or `configmaps` in the core group.
impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_qualified(f, &self.resource, &self.group)
    }
}

/// Writes `name.group`, or `name` in the core group.
pub(crate) fn write_qualified(f: &mut dyn fmt::Write, name: &str, group: &str) -> fmt::Result {
    f.write_str(name)?;
    if !group.is_empty() {
        write!(f, ".{group}")?;
    }
    Ok(())
}

/// `("apps", "v1")` from `apps/v1`; `("", "v1")` from `v1`.
#[must_use]
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    match api_version.split_once('/') {
        None => ("", api_version),
        Some((_, rest)) if rest.contains('/') => ("", ""),
        Some(parts) => parts,
    }
}

/// `apps/v1`, or `v1` in the core group.
#[must_use]
pub fn join_api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_version_splits_and_joins() {
        for (text, group, version) in [
            ("v1", "", "v1"),
            ("apps/v1", "apps", "v1"),
            ("a.b/v1beta1", "a.b", "v1beta1"),
            ("", "", ""),
        ] {
            let gvk = Gvk::from_api_version(text, "K");
            assert_eq!((&*gvk.group, &*gvk.version), (group, version));
            assert_eq!(gvk.api_version(), text);
        }
        assert_eq!(split_api_version("a/b/c"), ("", ""));
    }

    #[test]
    fn names_print_as_upstream_prints_them() {
        assert_eq!(
            GroupResource::new("apps", "deployments").to_string(),
            "deployments.apps"
        );
        assert_eq!(GroupResource::new("", "pods").to_string(), "pods");
        assert_eq!(
            Gvk::new("apps", "v1", "Deployment").to_string(),
            "apps/v1, Kind=Deployment"
        );
        assert_eq!(Gvr::new("", "v1", "pods").to_string(), "/v1, Resource=pods");
    }
}
