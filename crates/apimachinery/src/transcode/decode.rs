//! From protobuf to JSON.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::TranscodeError;
use super::wire::{Reader, Wire};
use crate::Object;
use crate::kinds::{Field, JSON_SCHEMA_PROPS, Kind, Ty};

/// The object of a message. Zero values are left out where Go's JSON leaves them out.
pub(super) fn message(kind: &Kind, message: &[u8], depth: usize) -> Result<Object, TranscodeError> {
    let depth = depth
        .checked_sub(1)
        .ok_or(TranscodeError::Wire("messages are nested too deeply"))?;
    let mut object = Object::new();
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.next()? {
        let Some(field) = kind.fields.iter().find(|field| field.number == number) else {
            continue;
        };
        read(&mut object, field, wire, depth)?;
    }
    Ok(object)
}

fn read(
    object: &mut Object,
    field: &'static Field,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), TranscodeError> {
    let slot = || field.name.to_owned();
    match &field.ty {
        Ty::List(item) => {
            let value = value(item, wire, depth)?;
            if let Value::Array(items) = object.entry(slot()).or_insert_with(|| Value::Array(Vec::new())) {
                items.push(value);
            }
        }
        Ty::Map(item) => {
            let (mut key, mut entry) = ("", zero(item));
            let mut reader = Reader::new(wire.bytes()?);
            while let Some((number, wire)) = reader.next()? {
                match number {
                    1 => key = wire.text()?,
                    2 => entry = value(item, wire, depth)?,
                    _ => (),
                }
            }
            if let Value::Object(map) = object.entry(slot()).or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key.to_owned(), entry);
            }
        }
        ty => {
            let value = value(ty, wire, depth)?;
            if field.pointer || field.required || !is_zero(&value) {
                object.insert(slot(), value);
            }
        }
    }
    Ok(())
}

/// What Go leaves out when a field is not a pointer.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

/// The value of a map's entry that names none.
fn zero(ty: &Ty) -> Value {
    match ty {
        Ty::String | Ty::Bytes => "".into(),
        Ty::Message(_) | Ty::Map(_) => Value::Object(Map::new()),
        Ty::List(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

fn value(ty: &Ty, wire: Wire<'_>, depth: usize) -> Result<Value, TranscodeError> {
    Ok(match ty {
        Ty::String => wire.text()?.into(),
        Ty::Bool => (wire.varint()? != 0).into(),
        // A 32-bit field on the wire may carry more; Go keeps the low half.
        Ty::Int32 => (wire.int()? as i32).into(),
        Ty::Int64 => wire.int()?.into(),
        Ty::Double => double(wire.double()?)?,
        Ty::Bytes => base64::engine::general_purpose::STANDARD
            .encode(wire.bytes()?)
            .into(),
        Ty::Time | Ty::MicroTime => time(ty, wire.bytes()?)?,
        Ty::FieldsV1 | Ty::Json | Ty::RawExtension => raw(wire.bytes()?)?,
        Ty::SchemaOrBool | Ty::SchemaOrArray | Ty::SchemaOrStrings => schema_or(ty, wire.bytes()?, depth)?,
        Ty::Message(kind) => Value::Object(message(kind, wire.bytes()?, depth)?),
        // No field of the table is a list of lists or of maps.
        Ty::List(_) | Ty::Map(_) => return Err(TranscodeError::Wire("a list in a list has no form")),
    })
}

/// A whole number is written without a fraction, as Go does.
fn double(number: f64) -> Result<Value, TranscodeError> {
    if number.fract() == 0.0 && number.abs() < 9.0e15 {
        return Ok((number as i64).into());
    }
    Number::from_f64(number)
        .map(Value::Number)
        .ok_or(TranscodeError::Wire("a number is not finite"))
}

fn time(ty: &Ty, message: &[u8]) -> Result<Value, TranscodeError> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => seconds = wire.int()?,
            2 => nanos = wire.int()?,
            _ => (),
        }
    }
    let nanos = i32::try_from(nanos).unwrap_or(0).clamp(0, 999_999_999);
    let time = Timestamp::new(seconds, nanos).map_err(|_| TranscodeError::Wire("a time is out of range"))?;
    Ok(match ty {
        Ty::MicroTime => format!("{time:.6}").into(),
        _ => format!("{time:.0}").into(),
    })
}

/// JSON wrapped in a message; empty is null.
fn raw(message: &[u8]) -> Result<Value, TranscodeError> {
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            let bytes = wire.bytes()?;
            return serde_json::from_slice(bytes)
                .map_err(|_| TranscodeError::Wire("the embedded JSON is malformed"));
        }
    }
    Ok(Value::Null)
}

fn schema_or(ty: &Ty, bytes: &[u8], depth: usize) -> Result<Value, TranscodeError> {
    let (mut allowed, mut schema, mut list) = (false, None, Vec::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (ty, number) {
            (Ty::SchemaOrBool, 1) => allowed = wire.varint()? != 0,
            (Ty::SchemaOrBool, 2) | (_, 1) => {
                schema = Some(message(&JSON_SCHEMA_PROPS, wire.bytes()?, depth)?);
            }
            (Ty::SchemaOrArray, 2) => {
                list.push(Value::Object(message(&JSON_SCHEMA_PROPS, wire.bytes()?, depth)?));
            }
            (Ty::SchemaOrStrings, 2) => list.push(wire.text()?.into()),
            _ => (),
        }
    }
    Ok(match (ty, schema) {
        (_, Some(schema)) => Value::Object(schema),
        (Ty::SchemaOrBool, None) => allowed.into(),
        (_, None) => Value::Array(list),
    })
}
