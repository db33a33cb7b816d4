//! The Kubernetes object model as values: no I/O, no tasks, no clock.
//!
//! What it holds, in reading order:
//!
//! - [`gvk`]: names of kinds and resources.
//! - [`cause`], [`status`]: errors of one field, and of a request, in upstream's words.
//! - [`encoded`]: [`Encoded`], how objects travel: bytes, a header, offsets.
//! - [`meta`], [`names`]: accessors on decoded objects, and the rules for names and metadata.
//! - [`selector`]: label and field selectors.
//! - [`kinds`]: the table of built-in kinds; [`schema`]: structural schemas, pruning, defaults, validation.
//! - [`patch`]: JSON patch, merge patch, strategic merge patch.
//! - [`table`]: the rows that `kubectl get` prints; [`transcode`]: protobuf for built-in kinds.

pub mod cause;
pub mod encoded;
pub mod gvk;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod patch;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod transcode;

pub use cause::Cause;
pub use encoded::{
    Encoded, Header, Labels, Owner, RawEvent, RawList, ScanError, encode, scan_event, scan_list,
};
pub use gvk::{GroupResource, Gvk, Gvr};
pub use meta::Meta;
pub use names::NameRule;
pub use selector::{FieldSelector, LabelSelector, SelectorError};
pub use status::{Details, Status};

/// A decoded object.
pub type Object = serde_json::Map<String, serde_json::Value>;
