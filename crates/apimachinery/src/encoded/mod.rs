//! How an object travels: encoded bytes plus a small header, shared by all who read it.
//!
//! A **stored** body is canonical JSON without `metadata.resourceVersion`, since the version is known only when
//! the write commits. It is spliced in on the way out, right after the brace that opens `metadata`:
//!
//! ```text
//! {"apiVersion":"v1","kind":"ConfigMap","metadata":{|"resourceVersion":"7",|"name":"a"},"data":{}}
//!                     head, a slice of the body      made on the spot       tail, a slice of the body
//! ```
//!
//! A **wire** body is what a server sent, the version inside. Neither is decoded to fill the [`Header`]: one
//! scan finds it.

mod header;
mod list;
mod scan;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use setpoint_base::TraceContext;

pub use header::{Header, Labels, Owner};
pub use list::{RawEvent, RawList, scan_event, scan_list};
pub(crate) use scan::Scanner;
pub use scan::{DEPTH_MAX, ScanError};

use crate::Object;
use header::{Origin, Spans, scan};

/// An object: immutable, cheap to clone, never decoded unless asked.
#[derive(Clone)]
pub struct Encoded(Arc<Inner>);

struct Inner {
    header: Header,
    body: Bytes,
    spans: Spans,
    /// Where the version is put into a stored body; `None` for a wire body, which has it.
    splice: Option<u32>,
}

impl Encoded {
    /// An object as the store holds it: `body` comes from [`encode`], `resource_version` is the revision of the
    /// write. The body is trusted beyond its `metadata`.
    ///
    /// # Errors
    /// When the body has no readable `metadata`, or carries a version of its own.
    pub fn stored(
        body: Bytes,
        resource_version: u64,
        trace: Option<TraceContext>,
    ) -> Result<Self, ScanError> {
        let (mut header, spans) = scan(&body, Origin::Stored)?;
        header.resource_version = resource_version;
        header.trace = trace;
        let splice = Some(spans.metadata.0 + 1);
        Ok(Self(Arc::new(Inner {
            header,
            body,
            spans,
            splice,
        })))
    }

    /// An object as it was received. `apiVersion` and `kind` may be absent, as in the items of a typed list.
    ///
    /// # Errors
    /// When the body is not one JSON object, has no `metadata`, or a field of the header has a wrong type.
    pub fn wire(body: Bytes, trace: Option<TraceContext>) -> Result<Self, ScanError> {
        let (mut header, spans) = scan(&body, Origin::Wire)?;
        header.trace = trace;
        Ok(Self(Arc::new(Inner {
            header,
            body,
            spans,
            splice: None,
        })))
    }

    /// What is known without decoding.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// The bytes held: for a stored object without the version.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// `apiVersion` as it is spelled in the JSON; `None` when absent.
    #[must_use]
    pub fn api_version(&self) -> Option<&str> {
        self.unquoted(self.0.spans.api_version)
    }

    /// `kind` as it is spelled in the JSON; `None` when absent.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.unquoted(self.0.spans.kind)
    }

    fn unquoted(&self, (start, end): (u32, u32)) -> Option<&str> {
        let span = self
            .0
            .body
            .get(start as usize + 1..(end as usize).checked_sub(1)?)?;
        std::str::from_utf8(span).ok()
    }

    /// Length of the complete JSON in bytes.
    #[must_use]
    pub fn json_len(&self) -> usize {
        self.0.body.len() + self.version().len()
    }

    /// Appends the complete JSON, the version included.
    pub fn write_json(&self, out: &mut impl BufMut) {
        let (head, tail) = self.halves();
        out.put_slice(head);
        out.put_slice(&self.version());
        out.put_slice(tail);
    }

    /// The complete JSON in one piece. A wire object's is shared, a stored object's is copied.
    #[must_use]
    pub fn json(&self) -> Bytes {
        if self.0.splice.is_none() {
            return self.0.body.clone();
        }
        let mut out = BytesMut::with_capacity(self.json_len());
        self.write_json(&mut out);
        out.freeze()
    }

    /// The complete JSON in pieces; all but the few bytes of the version are slices of the shared body.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> + use<> {
        let at = self.0.splice.map_or(0, |at| at as usize);
        let version = self.version();
        let middle = if version.is_empty() {
            Bytes::new()
        } else {
            Bytes::copy_from_slice(&version)
        };
        [self.0.body.slice(..at), middle, self.0.body.slice(at..)]
            .into_iter()
            .filter(|chunk| !chunk.is_empty())
    }

    fn halves(&self) -> (&[u8], &[u8]) {
        self.0.body.split_at(self.0.splice.map_or(0, |at| at as usize))
    }

    /// The text spliced into a stored body; empty for a wire body.
    fn version(&self) -> VersionText {
        match self.0.splice {
            None => VersionText::EMPTY,
            Some(_) => VersionText::new(self.0.header.resource_version, !self.0.spans.metadata_empty),
        }
    }

    /// The same object seen in another version of its group, without conversion. Everything but the value of
    /// `apiVersion` is copied as it is. An object without `apiVersion` is returned unchanged.
    #[must_use]
    pub fn with_api_version(&self, api_version: &str) -> Self {
        let (start, end) = self.0.spans.api_version;
        if end == 0 || self.api_version() == Some(api_version) {
            return self.clone();
        }
        let text = Value::from(api_version).to_string();
        let mut body = BytesMut::with_capacity(self.0.body.len() + text.len());
        body.put_slice(&self.0.body[..start as usize]);
        body.put_slice(text.as_bytes());
        body.put_slice(&self.0.body[end as usize..]);
        let body = body.freeze();
        // Spans are found anew rather than shifted: the scan of a stored body stops after its metadata.
        let origin = if self.0.splice.is_some() {
            Origin::Stored
        } else {
            Origin::Wire
        };
        let Ok((_, spans)) = scan(&body, origin) else {
            return self.clone();
        };
        let splice = self.0.splice.map(|_| spans.metadata.0 + 1);
        Self(Arc::new(Inner {
            header: self.0.header.clone(),
            body,
            spans,
            splice,
        }))
    }

    /// The `metadata` object, the version included, for `PartialObjectMetadata`.
    #[must_use]
    pub fn metadata_json(&self) -> Bytes {
        let (start, end) = (self.0.spans.metadata.0 as usize, self.0.spans.metadata.1 as usize);
        let version = self.version();
        if version.is_empty() {
            return self.0.body.slice(start..end);
        }
        let mut out = BytesMut::with_capacity(end - start + version.len());
        out.put_u8(b'{');
        out.put_slice(&version);
        out.put_slice(&self.0.body[start + 1..end]);
        out.freeze()
    }

    /// Decodes the object, the version included.
    ///
    /// # Errors
    /// When a stored body is damaged beyond its metadata, or a number does not fit.
    pub fn decode(&self) -> Result<Object, serde_json::Error> {
        let mut object: Object = serde_json::from_slice(&self.0.body)?;
        if self.0.splice.is_some()
            && let Some(Value::Object(metadata)) = object.get_mut("metadata")
        {
            metadata.insert(
                "resourceVersion".into(),
                self.0.header.resource_version.to_string().into(),
            );
        }
        Ok(object)
    }

    /// Decodes into a type of the caller's, the version included.
    ///
    /// # Errors
    /// When the object does not have the shape of `T`.
    pub fn decode_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.json())
    }

    /// The raw JSON of the field at a dotted path such as `involvedObject.name`, found by scanning.
    /// `None` when it is absent. Keys that contain dots need [`Encoded::field_at`].
    #[must_use]
    pub fn field(&self, path: &str) -> Option<&[u8]> {
        find(&self.0.body, &mut path.split('.'))
    }

    /// As [`Encoded::field`], the path given key by key.
    #[must_use]
    pub fn field_at(&self, path: &[&str]) -> Option<&[u8]> {
        find(&self.0.body, &mut path.iter().copied())
    }

    /// The field at a dotted path as field selectors compare it: strings without quotes, numbers and booleans
    /// as spelled; `None` when it is absent, `null`, an object or an array. Knows `metadata.resourceVersion`
    /// of stored objects too.
    #[must_use]
    pub fn field_text(&self, path: &str) -> Option<Cow<'_, str>> {
        match path {
            "metadata.name" => return Some(Cow::Borrowed(&self.0.header.name)),
            "metadata.namespace" => return Some(Cow::Borrowed(&self.0.header.namespace)),
            "metadata.resourceVersion" => return Some(self.0.header.resource_version.to_string().into()),
            _ => (),
        }
        let raw = self.field(path)?;
        match raw.first()? {
            b'"' => Scanner::new(raw).ok()?.string().ok()?.unescape().ok(),
            b'{' | b'[' | b'n' => None,
            _ => std::str::from_utf8(raw).ok().map(Cow::Borrowed),
        }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded")
            .field("api_version", &self.api_version())
            .field("kind", &self.kind())
            .field("header", &self.0.header)
            .field("body_len", &self.0.body.len())
            .finish()
    }
}

/// Equal when the complete JSON is equal byte for byte; traces do not count.
impl PartialEq for Encoded {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.json_len() == other.json_len() && self.json() == other.json())
    }
}

fn find<'a>(body: &'a [u8], path: &mut dyn Iterator<Item = &str>) -> Option<&'a [u8]> {
    let mut scanner = Scanner::new(body).ok()?;
    for key in path {
        let mut found = false;
        if scanner.peek() != Some(b'{') {
            return None;
        }
        let walk = scanner.object(|name, scanner| {
            found = name.is(key);
            if !found {
                scanner.skip()?;
            }
            Ok(!found)
        });
        if walk.is_err() || !found {
            return None;
        }
    }
    scanner.value().ok().map(str::as_bytes)
}

/// `"resourceVersion":"18446744073709551615",` without an allocation.
struct VersionText {
    bytes: [u8; 64],
    len: usize,
}

impl VersionText {
    const EMPTY: Self = Self {
        bytes: [0; 64],
        len: 0,
    };

    fn new(version: u64, comma: bool) -> Self {
        let mut text = Self::EMPTY;
        let mut digits = [0; 20];
        let mut start = digits.len();
        let mut rest = version;
        loop {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        text.put(b"\"resourceVersion\":\"");
        text.put(&digits[start..]);
        text.put(if comma { b"\"," } else { b"\"" });
        text
    }

    fn put(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }
}

impl std::ops::Deref for VersionText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The canonical stored form: `apiVersion`, `kind` and `metadata` first, then the other fields in order of
/// their names, no white space, `metadata.resourceVersion` left out. A missing `metadata` becomes empty.
#[must_use]
pub fn encode(object: &Object) -> Bytes {
    let mut out = Writer(Vec::with_capacity(1024));
    out.0.push(b'{');
    for key in ["apiVersion", "kind"] {
        if let Some(value) = object.get(key) {
            out.member(key, value);
        }
    }
    out.key("metadata");
    out.0.push(b'{');
    if let Some(Value::Object(metadata)) = object.get("metadata") {
        for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
            out.member(key, value);
        }
    }
    out.0.push(b'}');
    for (key, value) in object
        .iter()
        .filter(|(key, _)| !matches!(&***key, "apiVersion" | "kind" | "metadata"))
    {
        out.member(key, value);
    }
    out.0.push(b'}');
    out.0.into()
}

struct Writer(Vec<u8>);

impl Writer {
    fn key(&mut self, key: &str) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        self.value(key);
        self.0.push(b':');
    }

    fn member(&mut self, key: &str, value: &Value) {
        self.key(key);
        self.value(value);
    }

    fn value<T: serde::Serialize + ?Sized>(&mut self, value: &T) {
        serde_json::to_writer(&mut self.0, value).expect("a JSON value always serialises into memory");
    }
}

#[cfg(test)]
mod tests;
