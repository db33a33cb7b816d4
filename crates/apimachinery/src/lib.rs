//! The Kubernetes object model as values: no I/O, no tasks, no clock.
//!
//! What it holds, in reading order:
//!
//! - [`gvk`]: names of kinds and resources.
//! - [`cause`], [`status`]: errors of one field, and of a request, in upstream's words.
//! - [`encoded`]: [`Encoded`], how objects travel: bytes, a header, offsets.
//! - [`meta`], [`names`]: accessors on decoded objects, and the rules for names and metadata.
//! - [`selector`]: label and field selectors.

pub mod cause;
pub mod encoded;
pub mod gvk;
pub mod meta;
pub mod names;
pub mod selector;
pub mod status;

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
