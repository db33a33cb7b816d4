//! `PartialObjectMetadata`: the metadata of objects without the rest, cut out of their bytes
//! (apiserver `pkg/endpoints/handlers/response.go`).

use bytes::{BufMut, BytesMut};
use setpoint_apimachinery::{Encoded, Status};

use crate::cache::ring::Change;
use crate::render::{ListMeta, Render, event_head};

/// Writes the metadata of objects. Nothing is decoded.
#[derive(Debug)]
pub(crate) struct PartialMetadata;

/// Appends one object's metadata as an object of its own.
pub(crate) fn write(object: &Encoded, out: &mut BytesMut) {
    out.put_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#);
    out.put_slice(&object.metadata_json());
    out.put_u8(b'}');
}

/// Appends an object that has nothing but what a bookmark says.
pub(crate) fn write_bookmark(revision: u64, initial_end: bool, out: &mut BytesMut) {
    let annotations = match initial_end {
        true => r#","annotations":{"k8s.io/initial-events-end":"true"}"#,
        false => "",
    };
    let object = format!(
        r#"{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{{"resourceVersion":"{revision}","creationTimestamp":null{annotations}}}}}"#
    );
    out.put_slice(object.as_bytes());
}

impl Render for PartialMetadata {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn watch_content_type(&self) -> &'static str {
        "application/json;stream=watch"
    }

    fn object(&mut self, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        write(object, out);
        out.put_u8(b'\n');
        Ok(())
    }

    fn list_head(&mut self, meta: &ListMeta, out: &mut BytesMut) {
        out.put_slice(br#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":"#);
        meta.write_json(out);
        out.put_slice(br#","items":["#);
    }

    fn item(&mut self, object: &Encoded, first: bool, out: &mut BytesMut) -> Result<(), Status> {
        if !first {
            out.put_u8(b',');
        }
        write(object, out);
        Ok(())
    }

    fn list_tail(&mut self, out: &mut BytesMut) {
        out.put_slice(b"]}\n");
    }

    fn event(&mut self, change: Change, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        event_head(change.wire(), None, out);
        write(object, out);
        out.put_slice(b"}\n");
        Ok(())
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        event_head("BOOKMARK", None, out);
        write_bookmark(revision, initial_end, out);
        out.put_slice(b"}\n");
    }

    fn error(&mut self, status: &Status, out: &mut BytesMut) {
        event_head("ERROR", None, out);
        out.put_slice(status.to_json().trim_ascii_end());
        out.put_slice(b"}\n");
    }
}
