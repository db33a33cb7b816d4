//! Protobuf in and out for built-in kinds, by the table of kinds.
//!
//! A body of type `application/vnd.kubernetes.protobuf` is the four bytes `k8s\0` and a `runtime.Unknown`
//! (apimachinery `runtime/generated.proto`): what kind it is, and the bytes of the message. Watches frame
//! `WatchEvent` messages whose object is again such a body.

mod decode;
mod encode;
mod wire;

use serde_json::Value;

use crate::Object;
use crate::kinds::{DELETE_OPTIONS, Kind, LIST_META, STATUS, TOP_LEVEL};
use crate::meta::Meta as _;
use wire::{Reader, Writer};

/// The first bytes of every protobuf body.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Deepest nesting of messages accepted; only schemas of schemas nest deeply.
const DEPTH_MAX: usize = 100;

/// The bytes or the object cannot be carried over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TranscodeError {
    /// The body does not start with the four magic bytes.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The wire format is broken.
    #[error("proto: {0}")]
    Wire(&'static str),
    /// The kind is not in the table.
    #[error("no protobuf form is known of kind {kind:?} in version {api_version:?}")]
    UnknownKind {
        /// The `apiVersion`.
        api_version: String,
        /// The kind.
        kind: String,
    },
    /// A field's value does not have its type.
    #[error("field {field}: {why}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}

/// Whether objects of a kind have a protobuf form.
#[must_use]
pub fn is_known(api_version: &str, kind: &str) -> bool {
    find(api_version, kind).is_some()
}

fn find(api_version: &str, kind: &str) -> Option<&'static Kind> {
    // Clients name these two in the version of the resource they act on.
    if let Some(meta) = [&DELETE_OPTIONS, &STATUS]
        .into_iter()
        .find(|meta| meta.name == kind)
    {
        return Some(meta);
    }
    TOP_LEVEL
        .iter()
        .copied()
        .find(|k| k.name == kind && k.api_version == Some(api_version))
}

fn unknown(api_version: &str, kind: &str) -> TranscodeError {
    TranscodeError::UnknownKind {
        api_version: api_version.into(),
        kind: kind.into(),
    }
}

/// Reads a protobuf body.
///
/// # Errors
/// When it is not one, is of an unknown kind, or its message is damaged.
pub fn decode(body: &[u8]) -> Result<Object, TranscodeError> {
    let raw = body.strip_prefix(MAGIC).ok_or(TranscodeError::NoMagic)?;
    let (mut api_version, mut kind, mut message, mut content_type) =
        (String::new(), String::new(), &[][..], "");
    let mut reader = Reader::new(raw);
    while let Some((number, value)) = reader.next()? {
        match number {
            1 => {
                let mut types = Reader::new(value.bytes()?);
                while let Some((number, value)) = types.next()? {
                    match number {
                        1 => api_version = value.text()?.to_owned(),
                        2 => kind = value.text()?.to_owned(),
                        _ => (),
                    }
                }
            }
            2 => message = value.bytes()?,
            4 => content_type = value.text()?,
            _ => (),
        }
    }
    let mut object = if content_type == "application/json" {
        serde_json::from_slice(message).map_err(|_| TranscodeError::Wire("the embedded JSON is malformed"))?
    } else if let Some(item) = kind
        .strip_suffix("List")
        .and_then(|item| find(&api_version, item))
    {
        decode_list(item, message)?
    } else {
        let known = find(&api_version, &kind).ok_or_else(|| unknown(&api_version, &kind))?;
        decode::message(known, message, DEPTH_MAX)?
    };
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(object)
}

fn decode_list(item: &'static Kind, message: &[u8]) -> Result<Object, TranscodeError> {
    let (mut metadata, mut items) = (Object::new(), Vec::new());
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.next()? {
        match number {
            1 => metadata = decode::message(&LIST_META, value.bytes()?, DEPTH_MAX)?,
            2 => items.push(Value::Object(decode::message(item, value.bytes()?, DEPTH_MAX)?)),
            _ => (),
        }
    }
    Ok(Object::from_iter([
        ("metadata".to_owned(), metadata.into()),
        ("items".to_owned(), items.into()),
    ]))
}

/// Writes an object, or a list of them, as a protobuf body.
///
/// # Errors
/// When its kind is unknown or a field has the wrong type. Fields that the table does not have are left out.
pub fn encode(object: &Object) -> Result<Vec<u8>, TranscodeError> {
    let (api_version, kind) = (object.api_version(), object.kind());
    let message = if let Some(item) = kind.strip_suffix("List").and_then(|item| find(api_version, item)) {
        let mut list = Writer::default();
        let metadata = object.metadata().cloned().unwrap_or_default();
        list.bytes(1, &encode::message(&LIST_META, &metadata)?);
        for value in object
            .get("items")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            list.bytes(
                2,
                &encode::message(item, value.as_object().unwrap_or(&Object::new()))?,
            );
        }
        list.0
    } else {
        encode::message(
            find(api_version, kind).ok_or_else(|| unknown(api_version, kind))?,
            object,
        )?
    };
    Ok(envelope(api_version, kind, &message))
}

/// Wraps a message; field 3 and 4, empty, are written as upstream writes them.
fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut types = Writer::default();
    types.bytes(1, api_version.as_bytes());
    types.bytes(2, kind.as_bytes());
    let mut out = Writer(Vec::with_capacity(MAGIC.len() + message.len() + 64));
    out.0.extend_from_slice(MAGIC);
    out.bytes(1, &types.0);
    out.bytes(2, message);
    out.bytes(3, b"");
    out.bytes(4, b"");
    out.0
}

/// Writes one event of a watch: the length in four bytes, big-endian, and the `WatchEvent` message.
///
/// # Errors
/// As [`encode`].
pub fn encode_event(kind: &str, object: &Object) -> Result<Vec<u8>, TranscodeError> {
    let mut raw = Writer::default();
    raw.bytes(1, &encode(object)?);
    let mut event = Writer::default();
    event.bytes(1, kind.as_bytes());
    event.bytes(2, &raw.0);
    let len = u32::try_from(event.0.len()).map_err(|_| TranscodeError::Wire("the event is too large"))?;
    let mut frame = len.to_be_bytes().to_vec();
    frame.extend_from_slice(&event.0);
    Ok(frame)
}

/// Reads the `WatchEvent` message of one frame, without its length: what happened, and the object.
///
/// # Errors
/// As [`decode`].
pub fn decode_event(event: &[u8]) -> Result<(String, Object), TranscodeError> {
    let (mut kind, mut object) = (String::new(), None);
    let mut reader = Reader::new(event);
    while let Some((number, value)) = reader.next()? {
        match number {
            1 => kind = value.text()?.to_owned(),
            2 => {
                let mut raw = Reader::new(value.bytes()?);
                while let Some((number, value)) = raw.next()? {
                    if number == 1 {
                        object = Some(decode(value.bytes()?)?);
                    }
                }
            }
            _ => (),
        }
    }
    Ok((
        kind,
        object.ok_or(TranscodeError::Wire("the event has no object"))?,
    ))
}

/// A `Status` of success or failure as a protobuf body.
#[must_use]
pub fn encode_status(status: &crate::Status) -> Vec<u8> {
    let object = status.to_value().as_object().cloned().unwrap_or_default();
    encode(&object).unwrap_or_default()
}

#[cfg(test)]
mod tests;
