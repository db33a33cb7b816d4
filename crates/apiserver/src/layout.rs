//! Layouts for people: indented JSON and YAML, made from the JSON of another renderer piece by piece, so that a list
//! still streams.

use bytes::{BufMut, BytesMut};
use serde_json::Value;
use setpoint_apimachinery::{Encoded, Status};

use crate::answer::{self, Indenter};
use crate::cache::ring::Change;
use crate::render::{ListMeta, Render};

/// Indented JSON.
pub(crate) struct Pretty {
    inner: Box<dyn Render>,
    indenter: Indenter,
    made: BytesMut,
}

impl Pretty {
    /// Indents what `inner` writes; watches are left as they are, one line an event.
    pub(crate) fn new(inner: Box<dyn Render>) -> Self {
        Self {
            inner,
            indenter: Indenter::default(),
            made: BytesMut::new(),
        }
    }

    fn indent(&mut self, out: &mut BytesMut) {
        let mut text = Vec::with_capacity(self.made.len() * 3 / 2);
        self.indenter.write(&self.made, &mut text);
        self.made.clear();
        out.put_slice(&text);
    }
}

impl Render for Pretty {
    fn content_type(&self) -> &'static str {
        self.inner.content_type()
    }

    fn watch_content_type(&self) -> &'static str {
        self.inner.watch_content_type()
    }

    fn object(&mut self, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        self.inner.object(object, &mut self.made)?;
        self.indent(out);
        Ok(())
    }

    fn list_head(&mut self, meta: &ListMeta, out: &mut BytesMut) {
        self.inner.list_head(meta, &mut self.made);
        self.indent(out);
    }

    fn item(&mut self, object: &Encoded, first: bool, out: &mut BytesMut) -> Result<(), Status> {
        self.inner.item(object, first, &mut self.made)?;
        self.indent(out);
        Ok(())
    }

    fn list_tail(&mut self, out: &mut BytesMut) {
        self.inner.list_tail(&mut self.made);
        self.indent(out);
    }

    fn event(&mut self, change: Change, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        self.inner.event(change, object, out)
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        self.inner.bookmark(revision, initial_end, out);
    }

    fn error(&mut self, status: &Status, out: &mut BytesMut) {
        self.inner.error(status, out);
    }
}

/// YAML. Watches have none: negotiation refuses them.
pub(crate) struct Yaml {
    inner: Box<dyn Render>,
    /// The key of the list's array, until it is written: an empty list is `items: []`.
    array: Option<String>,
}

impl Yaml {
    /// Writes what `inner` writes, as YAML.
    pub(crate) fn new(inner: Box<dyn Render>) -> Self {
        Self { inner, array: None }
    }
}

impl Render for Yaml {
    fn content_type(&self) -> &'static str {
        "application/yaml"
    }

    fn watch_content_type(&self) -> &'static str {
        self.inner.watch_content_type()
    }

    fn object(&mut self, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        let mut json = BytesMut::with_capacity(object.json_len() + 64);
        self.inner.object(object, &mut json)?;
        out.put_slice(&answer::yaml(&json));
        Ok(())
    }

    fn list_head(&mut self, meta: &ListMeta, out: &mut BytesMut) {
        let mut json = BytesMut::new();
        self.inner.list_head(meta, &mut json);
        self.inner.list_tail(&mut json);
        let mut head: Value = serde_json::from_slice(&json).unwrap_or_default();
        for key in ["items", "rows"] {
            if head
                .as_object_mut()
                .is_some_and(|head| head.remove(key).is_some())
            {
                self.array = Some(key.to_owned());
            }
        }
        out.put_slice(&answer::yaml(head.to_string().as_bytes()));
    }

    fn item(&mut self, object: &Encoded, _: bool, out: &mut BytesMut) -> Result<(), Status> {
        if let Some(key) = self.array.take() {
            out.put_slice(format!("{key}:\n").as_bytes());
        }
        let mut json = BytesMut::with_capacity(object.json_len() + 64);
        self.inner.item(object, true, &mut json)?;
        let text = answer::yaml(&json);
        let mut lead = "- ";
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            // Blank lines belong to block scalars, where trailing spaces would be content.
            if line != b"\n" {
                out.put_slice(lead.as_bytes());
            }
            out.put_slice(line);
            lead = "  ";
        }
        Ok(())
    }

    fn list_tail(&mut self, out: &mut BytesMut) {
        if let Some(key) = self.array.take() {
            out.put_slice(format!("{key}: []\n").as_bytes());
        }
    }

    fn event(&mut self, change: Change, object: &Encoded, out: &mut BytesMut) -> Result<(), Status> {
        self.inner.event(change, object, out)
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        self.inner.bookmark(revision, initial_end, out);
    }

    fn error(&mut self, status: &Status, out: &mut BytesMut) {
        self.inner.error(status, out);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::metadata::PartialMetadata;
    use crate::render::Json;

    fn plain() -> Box<dyn Render> {
        Box::new(Json {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".into(),
            list_kind: "ConfigMapList".into(),
            convert: false,
            trace: false,
        })
    }

    fn object(name: &str, data: &str) -> Encoded {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "uid": "u"}, "data": {"k": data}});
        let Value::Object(body) = body else {
            unreachable!("an object was just written")
        };
        Encoded::stored(setpoint_apimachinery::encode(&body), 7, None).unwrap()
    }

    fn list(render: &mut dyn Render, objects: &[Encoded]) -> Bytes {
        let (mut out, meta) = (
            BytesMut::new(),
            ListMeta {
                revision: 9,
                ..ListMeta::default()
            },
        );
        render.list_head(&meta, &mut out);
        for (at, object) in objects.iter().enumerate() {
            render.item(object, at == 0, &mut out).unwrap();
        }
        render.list_tail(&mut out);
        out.freeze()
    }

    #[test]
    fn every_layout_of_a_list_says_the_same() {
        let objects = [
            object("a", "x"),
            object("b", "one\n\n  two: {\n"),
            object("c", ""),
        ];
        for count in 0..=objects.len() {
            for shape in [plain as fn() -> Box<dyn Render>, || Box::new(PartialMetadata)] {
                let want: Value = serde_json::from_slice(&list(&mut *shape(), &objects[..count])).unwrap();
                assert_eq!(want["items"].as_array().unwrap().len(), count);
                let pretty: Value =
                    serde_json::from_slice(&list(&mut Pretty::new(shape()), &objects[..count])).unwrap();
                assert_eq!(pretty, want);
                let text = list(&mut Yaml::new(shape()), &objects[..count]);
                let yaml: Value = serde_saphyr::from_slice(&text).unwrap_or_else(|e| panic!("{e}\n{text:?}"));
                assert_eq!(yaml, want, "{}", String::from_utf8_lossy(&text));
            }
        }
    }

    #[test]
    fn partial_metadata_has_the_resource_version_and_nothing_of_the_body() {
        let mut out = BytesMut::new();
        PartialMetadata.object(&object("a", "secret"), &mut out).unwrap();
        let value: Value = serde_json::from_slice(&out).unwrap();
        let want = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a", "uid": "u", "resourceVersion": "7"}});
        assert_eq!(value, want);
    }

    #[test]
    fn a_bookmark_is_one_line() {
        let mut out = BytesMut::new();
        Pretty::new(Box::new(PartialMetadata)).bookmark(12, true, &mut out);
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            value["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
            "true"
        );
    }
}
