//! Which objects of a resource a request is about: namespace, labels, fields.

use std::borrow::Cow;

use setpoint_apimachinery::selector::{FieldSelector, LabelRequirement, LabelSelector, Operator};
use setpoint_apimachinery::{Encoded, Status};

use crate::cache::LabelTerm;
use crate::cache::map::Key;
use crate::request::Query;
use crate::resources::ResourceInfo;

/// A condition on objects of one resource.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// Empty is every namespace.
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for a selector that does not parse or names a field that cannot be selected by.
    pub(crate) fn parse(info: &ResourceInfo, namespace: &str, query: &Query) -> Result<Self, Status> {
        let labels = query.get("labelSelector").unwrap_or_default();
        let fields = query.get("fieldSelector").unwrap_or_default();
        let refuse = |why: String| {
            Status::bad_request(format!(
                "Unable to find {:?} that match label selector {labels:?}, field selector {fields:?}: {why}",
                info.gvr().to_string()
            ))
        };
        let parsed_labels = LabelSelector::parse(labels)
            .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
        let parsed_fields = FieldSelector::parse(fields).map_err(|error| refuse(error.to_string()))?;
        for requirement in parsed_fields.requirements() {
            let path = requirement.path.as_str();
            if !info.selectable(path) {
                return Err(refuse(format!("field label not supported: {path}")));
            }
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            labels: parsed_labels,
            fields: parsed_fields,
        })
    }

    /// The namespace asked for; empty is all.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether a walk in key order has left the namespace.
    pub(crate) fn beyond(&self, object: &Encoded) -> bool {
        !self.namespace.is_empty() && *self.namespace != *object.header().namespace
    }

    /// Whether anything but the namespace narrows the result.
    pub(crate) fn selects(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// Whether the object is meant.
    pub(crate) fn matches(&self, object: &Encoded) -> bool {
        let header = object.header();
        (self.namespace.is_empty() || *self.namespace == *header.namespace)
            && (self.labels.is_empty() || self.labels.matches(&header.labels))
            && self.fields.matches(|path| field_value(object, path))
    }

    /// The one key that can match, if the selector names it.
    pub(crate) fn only_key(&self, namespaced: bool) -> Option<Key<'_>> {
        let name = self.fields.exact("metadata.name")?;
        let namespace = match (namespaced, self.namespace.as_str()) {
            (false, _) => "",
            (true, "") => self.fields.exact("metadata.namespace")?,
            (true, namespace) => namespace,
        };
        Some(Key { namespace, name })
    }

    /// What the label index can answer.
    pub(crate) fn label_terms(&self) -> Vec<LabelTerm> {
        self.labels.requirements().iter().filter_map(label_term).collect()
    }
}

/// The label index answers "has one of these values" and "has the label".
fn label_term(requirement: &LabelRequirement) -> Option<LabelTerm> {
    let key = requirement.key.clone();
    match requirement.operator {
        Operator::Equals | Operator::DoubleEquals | Operator::In => {
            Some(LabelTerm::In(key, requirement.values.clone()))
        }
        Operator::Exists | Operator::GreaterThan | Operator::LessThan => Some(LabelTerm::Has(key)),
        Operator::NotEquals | Operator::NotIn | Operator::DoesNotExist => None,
    }
}

/// A field as selectors see it.
fn field_value<'a>(object: &'a Encoded, path: &str) -> Option<Cow<'a, str>> {
    match path {
        // Events: the component that reports (`registry/core/event/strategy.go`).
        "source" => {
            let source = object
                .field_text("source.component")
                .filter(|value| !value.is_empty());
            source.or_else(|| object.field_text("reportingComponent"))
        }
        _ => object.field_text(path),
    }
}
