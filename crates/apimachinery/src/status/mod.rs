//! `metav1.Status`: every error of the API, with the texts clients match on.
//!
//! Constructors mirror `k8s.io/apimachinery/pkg/api/errors`; predicates mirror its `IsNotFound` and siblings.

mod wire;

use std::fmt;

pub use crate::cause::Cause;
use crate::cause::{aggregate, quote};
use crate::gvk::{GroupResource, Gvk, write_qualified};

/// An error answer of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, such as `NotFound`; empty when unknown.
    pub reason: &'static str,
    /// The text for humans.
    pub message: String,
    /// What the error is about.
    pub details: Option<Details>,
    /// `metadata.continue`: where a list whose snapshot is gone may go on (410 only); empty says nothing.
    pub continue_token: String,
}

/// What an error is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The resource's plural, or for `Invalid` the kind (so upstream).
    pub kind: String,
    /// The object's uid.
    pub uid: String,
    /// One entry for each thing that is wrong.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; 0 says nothing.
    pub retry_after_seconds: u32,
}

impl Status {
    /// The object does not exist.
    #[must_use]
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::about(
            404,
            "NotFound",
            resource,
            name,
            format!("{resource} {} not found", quote(name)),
        )
    }

    /// The path names no resource that is served.
    #[must_use]
    pub fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self {
            details: Some(Details::default()),
            ..Self::plain(404, "NotFound", message)
        }
    }

    /// An object of that name exists.
    #[must_use]
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::about(
            409,
            "AlreadyExists",
            resource,
            name,
            format!("{resource} {} already exists", quote(name)),
        )
    }

    /// No free name was found for `generateName`; the client may try again in a second.
    #[must_use]
    pub fn generate_name_conflict(resource: &GroupResource, name: &str) -> Self {
        let name_text = quote(name);
        let message = format!(
            "{resource} {name_text} already exists, the server was not able to generate a unique name for the object"
        );
        Self::about(409, "AlreadyExists", resource, name, message).retry_after(1)
    }

    /// Somebody else changed the object first; `why` ends the sentence.
    #[must_use]
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {resource} {}: {why}",
            quote(name)
        );
        Self::about(409, "Conflict", resource, name, message)
    }

    /// The conflict of an update with an old `resourceVersion`.
    #[must_use]
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// The object breaks rules; `name` is empty when it has none.
    #[must_use]
    pub fn invalid(kind: &Gvk, name: &str, causes: Vec<Cause>) -> Self {
        let mut message = String::new();
        write_qualified(&mut message, &kind.kind, &kind.group).expect("writing into a String cannot fail");
        message.push_str(&format!(" {} is invalid", quote(name)));
        if !causes.is_empty() {
            message.push_str(&format!(": {}", aggregate(&causes)));
        }
        let details = Details {
            name: name.into(),
            group: kind.group.to_string(),
            kind: kind.kind.to_string(),
            causes,
            ..Details::default()
        };
        Self {
            code: 422,
            reason: "Invalid",
            message,
            details: Some(details),
            continue_token: String::new(),
        }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// Nobody knows who asks.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    /// The one who asks may not.
    #[must_use]
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = if resource.resource.is_empty() && resource.group.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", quote(name))
        };
        Self::about(403, "Forbidden", resource, name, message)
    }

    /// The revision asked for is compacted: list again.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// What was asked for is gone for good.
    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::plain(410, "Gone", message)
    }

    /// The resource does not have this verb.
    #[must_use]
    pub fn method_not_allowed(resource: &GroupResource, verb: &str) -> Self {
        // Methods of HTTP that are none of ours have no verb.
        let verb = if verb.is_empty() { "this method" } else { verb };
        let message = format!(
            "{verb} is not supported on resources of kind {}",
            quote(&resource.to_string())
        );
        Self::about(405, "MethodNotAllowed", resource, "", message)
    }

    /// None of the media types the client accepts can be produced (text of
    /// `endpoints/handlers/negotiation/errors.go`).
    #[must_use]
    pub fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            offered.join(", ")
        );
        Self::plain(406, "NotAcceptable", message)
    }

    /// The body's media type is not read here (text of `endpoints/handlers/negotiation/errors.go`).
    #[must_use]
    pub fn unsupported_media_type(offered: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            offered.join(", ")
        );
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// The body is longer than `bytes_max`.
    #[must_use]
    pub fn too_large(bytes_max: usize) -> Self {
        let message = format!("Request entity too large: limit is {bytes_max}");
        Self::plain(413, "RequestEntityTooLarge", message)
    }

    /// The server failed; `why` is shown to the client.
    #[must_use]
    pub fn internal(why: impl fmt::Display) -> Self {
        let cause = Cause {
            reason: "",
            message: why.to_string(),
            field: String::new(),
        };
        let details = Details {
            causes: vec![cause],
            ..Details::default()
        };
        let message = format!("Internal error occurred: {why}");
        Self {
            details: Some(details),
            ..Self::plain(500, "InternalError", message)
        }
    }

    /// The request took too long.
    #[must_use]
    pub fn timeout(message: &str) -> Self {
        Self {
            details: Some(Details::default()),
            ..Self::plain(504, "Timeout", format!("Timeout: {message}"))
        }
    }

    /// The server is not ready to serve.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::plain(503, "ServiceUnavailable", message)
    }

    /// There is too much to do; try again in `seconds`.
    #[must_use]
    pub fn too_many_requests(seconds: u32) -> Self {
        let message = "Too many requests, please try again later.";
        Self::plain(429, "TooManyRequests", message).retry_after(seconds)
    }

    /// A rate limit refused the request.
    #[must_use]
    pub fn rate_limited(message: impl Into<String>, seconds: u32) -> Self {
        let message: String = message.into();
        Self::plain(429, "TooManyRequests", &message).retry_after(seconds)
    }

    /// A version is asked for that the cache has not reached (text of `storage/errors.go`).
    #[must_use]
    pub fn resource_version_too_large(asked: u64, current: u64) -> Self {
        let mut status = Self::timeout(&format!(
            "Too large resource version: {asked}, current: {current}"
        ))
        .retry_after(1);
        status.details_mut().causes.push(Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        });
        status
    }

    /// An answer without a `Status` body, as a client reads it (`NewGenericServerResponse`).
    #[must_use]
    pub fn from_http(code: u16, body: &str) -> Self {
        let (reason, message) = match code {
            400 => ("BadRequest", "the server rejected our request for an unknown reason".to_owned()),
            401 => ("Unauthorized", "the server has asked for the client to provide credentials".to_owned()),
            403 => ("Forbidden", body.to_owned()),
            404 => ("NotFound", "the server could not find the requested resource".to_owned()),
            405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource".to_owned()),
            406 => ("NotAcceptable", body.to_owned()),
            409 => ("Conflict", "the server reported a conflict".to_owned()),
            410 => ("Gone", body.to_owned()),
            415 => ("UnsupportedMediaType", body.to_owned()),
            422 => ("Invalid", "the server rejected our request due to an error in our request".to_owned()),
            429 => (
                "TooManyRequests",
                "the server has received too many requests and has asked us to try again later".to_owned(),
            ),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
            504 => (
                "Timeout",
                "the server was unable to return a response in the time allotted, but may still be processing the request"
                    .to_owned(),
            ),
            500.. => (
                "InternalError",
                format!("an error on the server ({}) has prevented the request from succeeding", quote(body)),
            ),
            _ => (
                "",
                format!("the server responded with the status code {code} but did not return more information"),
            ),
        };
        Self::plain(code, reason, message)
    }

    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            ..Self::default()
        }
    }

    fn about(code: u16, reason: &'static str, resource: &GroupResource, name: &str, message: String) -> Self {
        let details = Details {
            name: name.into(),
            group: resource.group.to_string(),
            kind: resource.resource.to_string(),
            ..Details::default()
        };
        Self {
            code,
            reason,
            message,
            details: Some(details),
            continue_token: String::new(),
        }
    }

    /// The details, made when there are none.
    pub fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_with(Details::default)
    }

    /// The same status telling the client to try again in `seconds`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details_mut().retry_after_seconds = seconds;
        self
    }

    /// The same status with one more cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &'static str, message: &str) -> Self {
        let cause = Cause {
            reason,
            message: message.into(),
            field: String::new(),
        };
        self.details_mut().causes.push(cause);
        self
    }

    /// Seconds to wait before trying again, when the server said so.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details
            .as_ref()
            .map(|d| d.retry_after_seconds)
            .filter(|seconds| *seconds > 0)
    }

    /// The object or resource is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.is("NotFound", 404)
    }

    /// The object is there already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// The object was changed by somebody else.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.is("Conflict", 409)
    }

    /// The revision is compacted, or the resource gone: only a new list helps.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.reason == "Expired" || self.is("Gone", 410)
    }

    /// The object breaks rules.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.is("Invalid", 422)
    }

    /// The one who asks may not.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.is("Forbidden", 403)
    }

    /// There is too much to do.
    #[must_use]
    pub fn is_too_many_requests(&self) -> bool {
        self.is("TooManyRequests", 429)
    }

    /// The version asked for lies in the future.
    #[must_use]
    pub fn is_resource_version_too_large(&self) -> bool {
        self.reason == "Timeout"
            && self
                .details
                .as_ref()
                .is_some_and(|d| d.causes.iter().any(|c| c.reason == "ResourceVersionTooLarge"))
    }

    /// The reason decides; the code only where the reason is unknown (as upstream).
    fn is(&self, reason: &str, code: u16) -> bool {
        self.reason == reason || (self.reason.is_empty() && self.code == code)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests;
