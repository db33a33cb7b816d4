//! Messages from JSON, by their descriptions and to the letter of protobuf's JSON mapping as Go reads it: a field once,
//! base64 in either alphabet but padded right or not at all, whole numbers in any spelling, also as text.
//!
//! `super::scan` has seen before that the text is JSON; here it is taken apart. What is wrong is said in the words that
//! etcd's clients see, with the line and the character it begins at.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use tonic::Status;

use super::number;

/// Deepest nesting of messages. An answer is one level deeper than its request, and has to be decoded to become JSON: a
/// transaction that went deeper would be done and then called a failure.
const DEPTH_MAX: usize = 100;

/// Reads the message of a kind from a JSON value.
pub(super) fn message(kind: &MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Status> {
    let mut reader = Reader {
        text: json,
        at: 0,
        depth: 0,
    };
    reader.message(kind)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

/// A piece of the text.
struct Token<'a> {
    at: usize,
    raw: &'a [u8],
    part: Part<'a>,
}

enum Part<'a> {
    Object,
    ObjectEnd,
    List,
    ListEnd,
    Text(Cow<'a, str>),
    Number,
    Bool(bool),
    Null,
}

impl<'a> Reader<'a> {
    fn message(&mut self, kind: &MessageDescriptor) -> Result<DynamicMessage, Status> {
        let open = self.token()?;
        if !matches!(open.part, Part::Object) {
            return Err(self.unexpected(&open));
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(said("exceeded max recursion depth"));
        }
        let mut message = DynamicMessage::new(kind.clone());
        let mut seen = Vec::new();
        loop {
            let token = self.token()?;
            let Part::Text(name) = &token.part else {
                self.depth -= 1;
                return Ok(message);
            };
            let field = kind
                .get_field_by_json_name(name)
                .or_else(|| kind.get_field_by_name(name));
            let Some(field) = field else {
                self.skip()?;
                continue;
            };
            if seen.contains(&field.number()) {
                let text = format!("duplicate field {}", raw(&token));
                return Err(self.wrong(token.at, &text));
            }
            seen.push(field.number());
            if !self.is_null()? {
                self.field(&mut message, &field, &token)?;
            }
        }
    }

    fn field(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        name: &Token<'_>,
    ) -> Result<(), Status> {
        if field.is_list() {
            let list = self.list(field)?;
            message.set_field(field, Value::List(list));
            return Ok(());
        }
        if let Some(oneof) = field.containing_oneof()
            && oneof.fields().any(|other| message.has_field(&other))
        {
            let text = format!(
                "error parsing {}, oneof {} is already set",
                raw(name),
                oneof.full_name()
            );
            return Err(self.wrong(name.at, &text));
        }
        if let Some(value) = self.single(field)? {
            message.set_field(field, value);
        }
        Ok(())
    }

    fn list(&mut self, field: &FieldDescriptor) -> Result<Vec<Value>, Status> {
        let open = self.token()?;
        if !matches!(open.part, Part::List) {
            return Err(self.unexpected(&open));
        }
        let mut list = Vec::new();
        loop {
            let before = self.at;
            if matches!(self.token()?.part, Part::ListEnd) {
                return Ok(list);
            }
            self.at = before;
            list.extend(self.single(field)?);
        }
    }

    /// One value of a field; none for an enum's name that nobody knows.
    fn single(&mut self, field: &FieldDescriptor) -> Result<Option<Value>, Status> {
        let kind = field.kind();
        if let Kind::Message(kind) = kind {
            return self.message(&kind).map(|message| Some(Value::Message(message)));
        }
        let token = self.token()?;
        if let (Kind::Enum(kind), Part::Text(name)) = (&kind, &token.part) {
            return Ok(kind
                .get_value_by_name(name)
                .map(|it| Value::EnumNumber(it.number())));
        }
        match scalar(&kind, &token) {
            Some(value) => Ok(Some(value)),
            None => {
                let (kind, name) = (name_of(&kind), field.json_name());
                let text = format!("invalid value for {kind} field {name}: {}", raw(&token));
                Err(self.wrong(token.at, &text))
            }
        }
    }

    /// Passes a value by, whatever it is.
    fn skip(&mut self) -> Result<(), Status> {
        let mut open = 0_usize;
        loop {
            match self.token()?.part {
                Part::Object | Part::List => open += 1,
                Part::ObjectEnd | Part::ListEnd => open = open.saturating_sub(1),
                _ => (),
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Whether the next value is null, which is then passed by.
    fn is_null(&mut self) -> Result<bool, Status> {
        let before = self.at;
        let is = matches!(self.token()?.part, Part::Null);
        if !is {
            self.at = before;
        }
        Ok(is)
    }

    /// The next piece. That commas and colons are where they belong is known.
    fn token(&mut self) -> Result<Token<'a>, Status> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let passed = rest
            .iter()
            .position(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':'));
        let (Some(passed), at) = (passed, self.at + passed.unwrap_or_default()) else {
            return Err(Status::invalid_argument("unexpected EOF"));
        };
        let rest = rest.get(passed..).unwrap_or_default();
        let (part, len) = match rest.first() {
            Some(b'{') => (Part::Object, 1),
            Some(b'}') => (Part::ObjectEnd, 1),
            Some(b'[') => (Part::List, 1),
            Some(b']') => (Part::ListEnd, 1),
            Some(b't') => (Part::Bool(true), 4),
            Some(b'f') => (Part::Bool(false), 5),
            Some(b'n') => (Part::Null, 4),
            Some(b'"') => {
                let len = text_len(rest);
                (Part::Text(self.unescaped(at, rest, len)?), len)
            }
            _ => (Part::Number, number::len(rest)),
        };
        let raw = rest.get(..len).unwrap_or(rest);
        self.at = at + raw.len();
        Ok(Token { at, raw, part })
    }

    /// What the text says that is the first `len` bytes of `rest`.
    fn unescaped(&self, at: usize, rest: &'a [u8], len: usize) -> Result<Cow<'a, str>, Status> {
        let inside = rest.get(1..len.saturating_sub(1)).unwrap_or_default();
        let text = std::str::from_utf8(inside).map_err(|_| self.syntax(at, "invalid UTF-8 in string"))?;
        if !text.contains('\\') {
            return Ok(Cow::Borrowed(text));
        }
        let (mut made, mut left) = (String::with_capacity(text.len()), text);
        while let Some((plain, escaped)) = left.split_once('\\') {
            made.push_str(plain);
            // What stands behind the text too: Go looks there for the other half of a pair.
            let behind = rest.get(len - 1 - escaped.len()..).unwrap_or_default();
            let (character, taken) = escape(behind).map_err(|wrong| match wrong {
                Some(code) => self.syntax(at, &format!("invalid escape code {code:?} in string")),
                None => said("unexpected EOF"),
            })?;
            made.push(character);
            left = escaped.get(taken..).unwrap_or_default();
        }
        made.push_str(left);
        Ok(Cow::Owned(made))
    }

    fn unexpected(&self, token: &Token<'_>) -> Status {
        self.syntax(token.at, &format!("unexpected token {}", raw(token)))
    }

    fn syntax(&self, at: usize, text: &str) -> Status {
        said(&format!("syntax error {}: {text}", self.place(at)))
    }

    fn wrong(&self, at: usize, text: &str) -> Status {
        said(&format!("{}: {text}", self.place(at)))
    }

    /// The line and the character at a byte.
    fn place(&self, at: usize) -> String {
        let before = String::from_utf8_lossy(self.text.get(..at).unwrap_or_default());
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        format!("(line {line}:{column})")
    }
}

fn said(text: &str) -> Status {
    Status::invalid_argument(format!("proto: {text}"))
}

/// A piece as it was written; never more of it than a line can show.
fn raw<'a>(token: &Token<'a>) -> Cow<'a, str> {
    const SHOWN_MAX: usize = 1024;
    String::from_utf8_lossy(token.raw.get(..SHOWN_MAX).unwrap_or(token.raw))
}

/// How long the text is that begins here, with its quotes.
fn text_len(rest: &[u8]) -> usize {
    let mut escaped = true;
    for (place, byte) in rest.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return place + 1,
            _ => (),
        }
    }
    rest.len()
}

/// The character that a `\` in front of `text` makes, and how much of it. What is wrong: a code, or that there is no more.
fn escape(text: &[u8]) -> Result<(char, usize), Option<String>> {
    let character = match text.first() {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode(text),
        Some(byte) => char::from(*byte),
        None => return Err(None),
    };
    Ok((character, 1))
}

fn unicode(text: &[u8]) -> Result<(char, usize), Option<String>> {
    let first = unit(text).ok_or(None)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Ok((character, 5));
    }
    // Half of a pair.
    let rest = text.get(5..11).ok_or(None)?;
    let second = rest.strip_prefix(b"\\").and_then(unit);
    let pair = second.and_then(|second| char::decode_utf16([first, second]).next()?.ok());
    pair.map(|character| (character, 11))
        .ok_or_else(|| Some(String::from_utf8_lossy(rest).into_owned()))
}

/// `uXXXX`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn scalar(kind: &Kind, token: &Token<'_>) -> Option<Value> {
    let whole = || match &token.part {
        Part::Number => number::whole(token.raw),
        Part::Text(text) => number::whole_text(text),
        _ => None,
    };
    match (kind, &token.part) {
        (Kind::Bool, Part::Bool(value)) => Some(Value::Bool(*value)),
        (Kind::String, Part::Text(text)) => Some(Value::String(text.clone().into_owned())),
        (Kind::Bytes, Part::Text(text)) => bytes(text).map(Value::Bytes),
        (Kind::Enum(_), Part::Number) => number::whole(token.raw)?.parse().ok().map(Value::EnumNumber),
        (Kind::Int32 | Kind::Sint32 | Kind::Sfixed32, _) => whole()?.parse().ok().map(Value::I32),
        (Kind::Int64 | Kind::Sint64 | Kind::Sfixed64, _) => whole()?.parse().ok().map(Value::I64),
        (Kind::Uint32 | Kind::Fixed32, _) => whole()?.parse().ok().map(Value::U32),
        (Kind::Uint64 | Kind::Fixed64, _) => whole()?.parse().ok().map(Value::U64),
        _ => None,
    }
}

/// Bytes of base64: the alphabet by what is in it, padding by the length, ends of lines passed over.
fn bytes(text: &str) -> Option<Bytes> {
    let alphabet: &Alphabet = if text.contains(['-', '_']) {
        &URL_SAFE
    } else {
        &STANDARD
    };
    let padding = if text.len().is_multiple_of(4) {
        DecodePaddingMode::RequireCanonical
    } else {
        DecodePaddingMode::RequireNone
    };
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(padding);
    let engine = GeneralPurpose::new(alphabet, config);
    let decoded = if text.contains(['\r', '\n']) {
        engine.decode(text.replace(['\r', '\n'], ""))
    } else {
        engine.decode(text)
    };
    decoded.ok().map(Bytes::from)
}

/// A kind as protobuf calls it.
fn name_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Sint32 => "sint32",
        Kind::Sint64 => "sint64",
        Kind::Fixed32 => "fixed32",
        Kind::Fixed64 => "fixed64",
        Kind::Sfixed32 => "sfixed32",
        Kind::Sfixed64 => "sfixed64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Message(_) => "message",
        Kind::Enum(_) => "enum",
    }
}
