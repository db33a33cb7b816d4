//! How objects are written out: one renderer per response, chosen by content negotiation.
//!
//! JSON of the full object is here; other representations implement the same trait.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use setpoint_apimachinery::encoded::Encoded;
use setpoint_apimachinery::status::Status;
use setpoint_base::TraceContext;

use crate::cache::ring::{CacheEvent, Change};
use crate::layout::{Pretty, Yaml};
use crate::metadata::PartialMetadata;
use crate::negotiate::{Answer, Format, Shape, negotiate};
use crate::resources::ResourceInfo;
use crate::server::{Head, Server};
use crate::tables::Table;

/// The metadata of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListMeta {
    /// Revision that the list shows.
    pub(crate) revision: u64,
    /// Token for the next page; empty on the last.
    pub(crate) next: String,
    /// Objects after this page, when known.
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    /// The JSON object.
    pub(crate) fn write_json(&self, out: &mut BytesMut) {
        out.put_slice(format!("{{\"resourceVersion\":\"{}\"", self.revision).as_bytes());
        if !self.next.is_empty() {
            out.put_slice(format!(",\"continue\":\"{}\"", self.next).as_bytes());
        }
        if let Some(remaining) = self.remaining {
            out.put_slice(format!(",\"remainingItemCount\":{remaining}").as_bytes());
        }
        out.put_u8(b'}');
    }
}

/// Writes one response. Each call appends to `out`; the caller cuts it into frames.
pub(crate) trait Render: Send {
    /// `Content-Type` of a single object or a list.
    fn content_type(&self) -> &'static str;
    /// `Content-Type` of a watch.
    fn watch_content_type(&self) -> &'static str;
    /// One object as a whole body.
    ///
    /// # Errors
    /// When the object has no such representation.
    fn object(&mut self, object: &Encoded, out: &mut BytesMut) -> Result<(), Status>;
    /// What comes before the first item.
    fn list_head(&mut self, meta: &ListMeta, out: &mut BytesMut);
    /// One item.
    ///
    /// # Errors
    /// As of `object`; the response is then cut.
    fn item(&mut self, object: &Encoded, first: bool, out: &mut BytesMut) -> Result<(), Status>;
    /// What comes after the last item.
    fn list_tail(&mut self, out: &mut BytesMut);
    /// One line (or frame) of a watch.
    ///
    /// # Errors
    /// As of `object`; the watch then ends.
    fn event(&mut self, change: Change, object: &Encoded, out: &mut BytesMut) -> Result<(), Status>;
    /// A bookmark at a revision; `initial_end` marks the end of the initial events.
    fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut BytesMut);
    /// The error that ends a watch.
    fn error(&mut self, status: &Status, out: &mut BytesMut);
    /// Which of [`CacheEvent::lines`] `event` would produce, so that it is made once for all watches.
    fn shared_line(&self) -> Option<usize> {
        None
    }
}

/// The line of an event, shared when the renderer allows.
///
/// # Errors
/// Those of [`Render::event`].
pub(crate) fn line(
    render: &mut dyn Render,
    event: &CacheEvent,
    change: Change,
    out: &mut BytesMut,
) -> Result<Bytes, Status> {
    if let (Some(slot), true) = (render.shared_line(), change == event.change) {
        if let Some(line) = event.lines[slot].get() {
            return Ok(line.clone());
        }
        let mut made = BytesMut::with_capacity(event.object.json_len() + 128);
        render.event(change, &event.object, &mut made)?;
        return Ok(event.lines[slot].get_or_init(|| made.freeze()).clone());
    }
    render.event(change, &event.object, out)?;
    Ok(out.split().freeze())
}

/// Plain JSON of whole objects.
#[derive(Debug)]
pub(crate) struct Json {
    /// `apiVersion` served.
    pub(crate) api_version: String,
    /// Kind of one object.
    pub(crate) kind: Box<str>,
    /// Kind of a list.
    pub(crate) list_kind: Box<str>,
    /// Whether objects are stored under another version, so that `apiVersion` is spliced.
    pub(crate) convert: bool,
    /// Whether watch lines carry the trace of the write (our own clients ask for it).
    pub(crate) trace: bool,
}

impl Json {
    fn write(&self, object: &Encoded, out: &mut BytesMut) {
        if self.convert {
            object.with_api_version(&self.api_version).write_json(out);
        } else {
            object.write_json(out);
        }
    }
}

impl Render for Json {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn watch_content_type(&self) -> &'static str {
        "application/json;stream=watch"
    }

    fn object(&mut self, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        self.write(object, out);
        out.put_u8(b'\n');
        Ok(())
    }

    fn list_head(&mut self, meta: &ListMeta, out: &mut BytesMut) {
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":",
            self.list_kind, self.api_version
        );
        out.put_slice(head.as_bytes());
        meta.write_json(out);
        out.put_slice(b",\"items\":[");
    }

    fn item(&mut self, object: &Encoded, first: bool, out: &mut BytesMut) -> Result<(), Status> {
        if !first {
            out.put_u8(b',');
        }
        self.write(object, out);
        Ok(())
    }

    fn list_tail(&mut self, out: &mut BytesMut) {
        out.put_slice(b"]}\n");
    }

    fn event(&mut self, change: Change, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        let trace = self.trace.then_some(object.header().trace).flatten();
        event_head(change.wire(), trace, out);
        self.write(object, out);
        out.put_slice(b"}\n");
        Ok(())
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        event_head("BOOKMARK", None, out);
        let mut annotations = "";
        if initial_end {
            annotations = ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}";
        }
        let object = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{revision}\",\"creationTimestamp\":null{annotations}}}}}}}\n",
            self.kind, self.api_version
        );
        out.put_slice(object.as_bytes());
    }

    fn error(&mut self, status: &Status, out: &mut BytesMut) {
        event_head("ERROR", None, out);
        out.put_slice(&status.to_json());
        out.put_slice(b"}\n");
    }

    fn shared_line(&self) -> Option<usize> {
        (!self.convert).then_some(usize::from(self.trace))
    }
}

/// The start of a JSON watch line, up to the object.
pub(crate) fn event_head(kind: &str, trace: Option<TraceContext>, out: &mut BytesMut) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    if let Some(trace) = trace {
        out.put_slice(format!("\",\"traceparent\":\"{trace}").as_bytes());
    }
    out.put_slice(b"\",\"object\":");
}

/// What a renderer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// One object.
    Object,
    /// A list.
    List,
    /// A watch.
    Watch,
}

/// The renderer for a response about a resource.
///
/// # Errors
/// 406 when the client accepts nothing that can be made.
pub(crate) fn choose(
    server: &Server,
    head: &Head,
    info: &ResourceInfo,
    purpose: Purpose,
) -> Result<Box<dyn Render>, Status> {
    let answer = match purpose {
        Purpose::Object => Answer::Object,
        Purpose::List => Answer::List,
        Purpose::Watch => Answer::Watch,
    };
    let accepted = negotiate(&head.headers, &head.query, answer, false)?;
    let plain: Box<dyn Render> = match accepted.shape {
        Shape::Metadata => Box::new(PartialMetadata),
        Shape::Table => Box::new(Table::new(head, info, Arc::clone(&server.clock))?),
        Shape::Object | Shape::Discovery => Box::new(Json::new(head, info)),
    };
    Ok(match (accepted.format, accepted.pretty) {
        (Format::Yaml, _) => Box::new(Yaml::new(plain)),
        (_, true) => Box::new(Pretty::new(plain)),
        (_, false) => plain,
    })
}

impl Json {
    /// For this resource; with traces if the client asks for them (`setpoint-trace: 1`).
    pub(crate) fn new(head: &Head, info: &ResourceInfo) -> Self {
        let api_version = info.api_version();
        Self {
            convert: api_version != *info.storage_api_version,
            api_version,
            kind: info.kind.clone(),
            list_kind: info.list_kind.clone(),
            trace: head
                .headers
                .get("setpoint-trace")
                .is_some_and(|value| value == "1"),
        }
    }
}
