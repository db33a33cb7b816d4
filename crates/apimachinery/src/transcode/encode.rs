//! From JSON to protobuf.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;

use super::TranscodeError;
use super::wire::Writer;
use crate::Object;
use crate::kinds::{Field, JSON_SCHEMA_PROPS, Kind, Ty};

/// The message of an object. Null and unknown fields are left out.
pub(super) fn message(kind: &Kind, object: &Object) -> Result<Vec<u8>, TranscodeError> {
    let mut out = Writer::default();
    // In order of numbers, as Go writes them; the tables are mostly in that order already.
    let mut fields: Vec<&'static Field> = kind.fields.iter().collect();
    fields.sort_by_key(|field| field.number);
    for field in fields {
        if let Some(value) = object.get(field.name).filter(|value| !value.is_null()) {
            write(&mut out, field, field.number, &field.ty, value)?;
        }
    }
    Ok(out.0)
}

fn write(
    out: &mut Writer,
    field: &'static Field,
    number: u32,
    ty: &'static Ty,
    value: &Value,
) -> Result<(), TranscodeError> {
    let wrong = |why| TranscodeError::Field {
        field: field.name,
        why,
    };
    let text = || value.as_str().ok_or_else(|| wrong("must be a string"));
    match ty {
        Ty::String => out.bytes(number, text()?.as_bytes()),
        Ty::Bool => out.int(
            number,
            i64::from(value.as_bool().ok_or_else(|| wrong("must be a boolean"))?),
        ),
        Ty::Int32 | Ty::Int64 => out.int(number, value.as_i64().ok_or_else(|| wrong("must be an integer"))?),
        Ty::Double => out.double(number, value.as_f64().ok_or_else(|| wrong("must be a number"))?),
        Ty::Bytes => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text()?);
            out.bytes(number, &bytes.map_err(|_| wrong("must be base64"))?);
        }
        Ty::Time | Ty::MicroTime => {
            let time: Timestamp = text()?.parse().map_err(|_| wrong("must be an RFC 3339 time"))?;
            let micros = i64::from(time.subsec_nanosecond()) / 1000 * 1000;
            let mut inner = Writer::default();
            inner.int(1, time.as_second());
            inner.int(2, if matches!(ty, Ty::Time) { 0 } else { micros });
            out.bytes(number, &inner.0);
        }
        Ty::FieldsV1 | Ty::Json | Ty::RawExtension => {
            let mut inner = Writer::default();
            inner.bytes(1, value.to_string().as_bytes());
            out.bytes(number, &inner.0);
        }
        Ty::SchemaOrBool | Ty::SchemaOrArray | Ty::SchemaOrStrings => {
            out.bytes(number, &schema_or(field, ty, value)?);
        }
        Ty::Message(kind) => {
            let object = value.as_object().ok_or_else(|| wrong("must be an object"))?;
            out.bytes(number, &message(kind, object)?);
        }
        Ty::List(item) => {
            for value in value.as_array().ok_or_else(|| wrong("must be an array"))? {
                write(out, field, number, item, value)?;
            }
        }
        Ty::Map(item) => {
            for (key, value) in value.as_object().ok_or_else(|| wrong("must be an object"))? {
                let mut entry = Writer::default();
                entry.bytes(1, key.as_bytes());
                if !value.is_null() {
                    write(&mut entry, field, 2, item, value)?;
                }
                out.bytes(number, &entry.0);
            }
        }
    }
    Ok(())
}

/// A schema, or what may stand in its place.
fn schema_or(field: &'static Field, ty: &Ty, value: &Value) -> Result<Vec<u8>, TranscodeError> {
    let wrong = TranscodeError::Field {
        field: field.name,
        why: "must be a schema",
    };
    let mut out = Writer::default();
    match (ty, value) {
        (Ty::SchemaOrBool, Value::Bool(allowed)) => out.int(1, i64::from(*allowed)),
        (Ty::SchemaOrBool, Value::Object(schema)) => {
            out.int(1, 1);
            out.bytes(2, &message(&JSON_SCHEMA_PROPS, schema)?);
        }
        (Ty::SchemaOrArray | Ty::SchemaOrStrings, Value::Object(schema)) => {
            out.bytes(1, &message(&JSON_SCHEMA_PROPS, schema)?);
        }
        (Ty::SchemaOrArray, Value::Array(schemas)) => {
            for schema in schemas {
                let schema = schema.as_object().ok_or_else(|| wrong.clone())?;
                out.bytes(2, &message(&JSON_SCHEMA_PROPS, schema)?);
            }
        }
        (Ty::SchemaOrStrings, Value::Array(names)) => {
            for name in names {
                out.bytes(2, name.as_str().ok_or_else(|| wrong.clone())?.as_bytes());
            }
        }
        _ => return Err(wrong),
    }
    Ok(out.0)
}
