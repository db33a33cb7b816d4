//! Tables: what `kubectl get` prints (apiserver `pkg/endpoints/handlers/response.go`).
//!
//! Columns are the built-in kinds' own or a definition's `additionalPrinterColumns`. Each row carries the object's
//! metadata, the whole object or nothing, as `includeObject` says.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use serde_json::Value;
use setpoint_apimachinery::kinds::BUILTIN;
use setpoint_apimachinery::table::{Column, cells};
use setpoint_apimachinery::{Encoded, Status};
use setpoint_base::WallClock;

use crate::cache::ring::Change;
use crate::metadata;
use crate::render::{ListMeta, Render, event_head};
use crate::resources::ResourceInfo;
use crate::schema::ResourceSchema;
use crate::server::Head;

/// What each row carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

/// Columns of a kind's table.
#[derive(Debug)]
enum Columns {
    Builtin(&'static [Column]),
    Custom(Vec<Column>),
}

impl Columns {
    fn of(info: &ResourceInfo) -> Self {
        if let ResourceSchema::Custom(version) = &info.schema {
            return Self::Custom(Column::custom_columns(Some(&Value::Array(
                version.columns.clone(),
            ))));
        }
        let builtin = BUILTIN
            .iter()
            .find(|one| one.plural == &*info.plural && one.group() == &*info.group);
        builtin.map_or_else(
            || Self::Custom(Column::custom_columns(None)),
            |one| Self::Builtin(one.columns),
        )
    }

    fn get(&self) -> &[Column] {
        match self {
            Self::Builtin(columns) => columns,
            Self::Custom(columns) => columns,
        }
    }
}

/// Writes tables.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Columns,
    include: Include,
    /// The served version, when objects are stored in another.
    convert: Option<String>,
    /// Whether the columns are still to be described: a watch does it once.
    describe: bool,
    clock: Arc<dyn WallClock>,
}

impl Table {
    /// For this resource, as the request's `includeObject` says.
    ///
    /// # Errors
    /// 400 for another word there.
    pub(crate) fn new(head: &Head, info: &ResourceInfo, clock: Arc<dyn WallClock>) -> Result<Self, Status> {
        let include = match head.query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::Nothing,
            "Object" => Include::Object,
            other => {
                return Err(Status::bad_request(format!(
                    "unrecognized includeObject value: {other:?}"
                )));
            }
        };
        let served = info.api_version();
        Ok(Self {
            columns: Columns::of(info),
            include,
            convert: (served != *info.storage_api_version).then_some(served),
            describe: true,
            clock,
        })
    }

    /// Everything up to the first row.
    fn head(&mut self, meta: &ListMeta, out: &mut BytesMut) {
        out.put_slice(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":"#);
        meta.write_json(out);
        out.put_slice(br#","columnDefinitions":"#);
        if std::mem::take(&mut self.describe) {
            let described: Vec<Value> = self.columns.get().iter().map(Column::definition).collect();
            out.put_slice(Value::Array(described).to_string().as_bytes());
        } else {
            out.put_slice(b"null");
        }
        out.put_slice(br#","rows":["#);
    }

    fn row(&self, object: &Encoded, out: &mut BytesMut) {
        out.put_slice(br#"{"cells":"#);
        let cells = cells(self.columns.get(), object, self.clock.now());
        out.put_slice(Value::Array(cells).to_string().as_bytes());
        out.put_slice(br#","object":"#);
        match (self.include, &self.convert) {
            (Include::Nothing, _) => out.put_slice(b"null"),
            (Include::Metadata, _) => metadata::write(object, out),
            (Include::Object, None) => object.write_json(out),
            (Include::Object, Some(version)) => object.with_api_version(version).write_json(out),
        }
        out.put_u8(b'}');
    }
}

fn of_revision(revision: u64) -> ListMeta {
    ListMeta {
        revision,
        ..ListMeta::default()
    }
}

impl Render for Table {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn watch_content_type(&self) -> &'static str {
        "application/json;stream=watch"
    }

    fn object(&mut self, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        self.head(&of_revision(object.header().resource_version), out);
        self.row(object, out);
        out.put_slice(b"]}\n");
        Ok(())
    }

    fn list_head(&mut self, meta: &ListMeta, out: &mut BytesMut) {
        self.head(meta, out);
    }

    fn item(&mut self, object: &Encoded, first: bool, out: &mut BytesMut) -> Result<(), Status> {
        if !first {
            out.put_u8(b',');
        }
        self.row(object, out);
        Ok(())
    }

    fn list_tail(&mut self, out: &mut BytesMut) {
        out.put_slice(b"]}\n");
    }

    fn event(&mut self, change: Change, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        event_head(change.wire(), None, out);
        self.head(&of_revision(object.header().resource_version), out);
        self.row(object, out);
        out.put_slice(b"]}}\n");
        Ok(())
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        event_head("BOOKMARK", None, out);
        self.head(&of_revision(revision), out);
        // A row without cells, for what the bookmark says in its annotations.
        out.put_slice(br#"{"cells":[],"object":"#);
        metadata::write_bookmark(revision, initial_end, out);
        out.put_slice(b"}]}}\n");
    }

    fn error(&mut self, status: &Status, out: &mut BytesMut) {
        event_head("ERROR", None, out);
        out.put_slice(status.to_json().trim_ascii_end());
        out.put_slice(b"}\n");
    }
}
