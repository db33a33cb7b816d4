//! What a call may ask for besides its object.

use std::time::Duration;

use serde::Serialize;

use super::resource::encode;

/// A list, or one page of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListParams {
    /// Only objects with these labels, in kubectl's notation.
    pub label_selector: String,
    /// Only objects with these fields, for example `metadata.name=web`.
    pub field_selector: String,
    /// At most this many objects; 0 for all.
    pub limit: u32,
    /// Where the last page ended. Excludes `resource_version`.
    pub continue_token: String,
    /// `None`: the newest (a quorum read). `Some(0)`: whatever the server has at hand. `Some(n)`: not older.
    pub resource_version: Option<u64>,
}

impl ListParams {
    pub(crate) fn query(&self) -> String {
        let mut query = Query::default();
        query.text("labelSelector", &self.label_selector);
        query.text("fieldSelector", &self.field_selector);
        if self.limit > 0 {
            query.number("limit", self.limit.into());
        }
        if self.continue_token.is_empty() {
            if let Some(version) = self.resource_version {
                query.number("resourceVersion", version);
            }
        } else {
            query.text("continue", &self.continue_token);
        }
        query.0
    }
}

/// A watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchParams {
    /// Only objects with these labels, in kubectl's notation.
    pub label_selector: String,
    /// Only objects with these fields.
    pub field_selector: String,
    /// Changes after this version; `None`: the present state as additions, then changes.
    pub resource_version: Option<u64>,
    /// Begin with all objects, then a bookmark annotated `k8s.io/initial-events-end` (watch-list).
    pub send_initial_events: bool,
    /// The server ends the watch after this long, in whole seconds. Default 5 minutes.
    pub timeout: Duration,
}

impl Default for WatchParams {
    fn default() -> Self {
        Self {
            label_selector: String::new(),
            field_selector: String::new(),
            resource_version: None,
            send_initial_events: false,
            timeout: Duration::from_secs(300),
        }
    }
}

impl WatchParams {
    pub(crate) fn query(&self) -> String {
        let mut query = Query::default();
        query.text("watch", "true");
        query.text("allowWatchBookmarks", "true");
        query.text("labelSelector", &self.label_selector);
        query.text("fieldSelector", &self.field_selector);
        if let Some(version) = self.resource_version {
            query.number("resourceVersion", version);
        }
        if self.send_initial_events {
            query.text("sendInitialEvents", "true");
            query.text("resourceVersionMatch", "NotOlderThan");
        }
        query.number("timeoutSeconds", self.timeout.as_secs().max(1));
        query.0
    }
}

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902, a list of operations.
    Json,
    /// RFC 7386, the changed fields; `null` removes.
    Merge,
    /// Merge with Kubernetes' rules for lists; built-in kinds only.
    Strategic,
    /// Server-side apply; needs a field manager.
    Apply,
}

impl PatchKind {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// How a deletion goes about it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteParams {
    /// Seconds until the object goes; `None` leaves it to its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<u32>,
    /// What becomes of its dependents: `Orphan`, `Background` or `Foreground`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<&'static str>,
    /// Only this very object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

/// What must hold for a deletion to happen.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// It has this UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// It has this resource version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// A query string under construction.
#[derive(Default)]
pub(crate) struct Query(pub(crate) String);

impl Query {
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        encode(value, &mut self.0);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.text(name, &value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continued_list_does_not_repeat_its_version() {
        let params = ListParams {
            label_selector: "app in (a,b)".to_owned(),
            limit: 500,
            continue_token: "abc==".to_owned(),
            resource_version: Some(0),
            ..ListParams::default()
        };
        assert_eq!(
            params.query(),
            "labelSelector=app%20in%20%28a%2Cb%29&limit=500&continue=abc%3D%3D"
        );
    }

    #[test]
    fn a_watch_list_asks_for_initial_events_not_older_than_its_version() {
        let params = WatchParams {
            resource_version: Some(7),
            send_initial_events: true,
            ..WatchParams::default()
        };
        assert_eq!(
            params.query(),
            "watch=true&allowWatchBookmarks=true&resourceVersion=7&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=300"
        );
    }
}
