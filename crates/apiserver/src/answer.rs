//! Small whole answers: documents that are JSON in memory and go out as the client likes them.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use setpoint_apimachinery::status::Status;

use crate::body::ApiBody;
use crate::negotiate::{Accepted, Format};

/// An answer of one media type.
pub(crate) fn bytes(code: StatusCode, media: &'static str, body: impl Into<Bytes>) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::full(body));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A plain text answer.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<ApiBody> {
    bytes(code, "text/plain; charset=utf-8", body)
}

/// A JSON document in the negotiated layout.
pub(crate) fn document(accepted: Accepted, json: &Bytes) -> Response<ApiBody> {
    match (accepted.format, accepted.pretty) {
        (Format::Yaml, _) => bytes(StatusCode::OK, Format::Yaml.media_type(), yaml(json)),
        (_, true) => bytes(StatusCode::OK, Format::Json.media_type(), indented(json)),
        (_, false) => bytes(StatusCode::OK, Format::Json.media_type(), json.clone()),
    }
}

/// A `Status` as JSON with its code, and `Retry-After` where it says when.
pub(crate) fn status(status: &Status) -> Response<ApiBody> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = bytes(code, Format::Json.media_type(), status.to_json());
    if let Some(seconds) = status.retry_after_seconds() {
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// JSON with two spaces of indent, as `json.MarshalIndent` writes it. Strings are left alone; what is not JSON comes
/// out unharmed enough to read.
pub(crate) fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 3 / 2);
    Indenter::default().write(json, &mut out);
    out
}

/// Indents JSON piece by piece, so that a list can be indented while it streams.
#[derive(Debug, Default)]
pub(crate) struct Indenter {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// An opening bracket whose line break waits for a first element: empty ones stay closed up.
    opened: bool,
}

impl Indenter {
    /// Appends the next piece.
    pub(crate) fn write(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &byte in piece {
            if self.in_string {
                out.push(byte);
                self.in_string = self.escaped || byte != b'"';
                self.escaped = byte == b'\\' && !self.escaped;
                continue;
            }
            self.token(byte, out);
        }
    }

    fn token(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' if self.depth > 0 => (),
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if !std::mem::take(&mut self.opened) {
                    self.line(out);
                }
                out.push(byte);
            }
            _ => {
                if std::mem::take(&mut self.opened) {
                    self.line(out);
                }
                out.push(byte);
                match byte {
                    b'{' | b'[' => {
                        self.depth += 1;
                        self.opened = true;
                    }
                    b',' => self.line(out),
                    b':' => out.push(b' '),
                    _ => self.in_string = byte == b'"',
                }
            }
        }
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 2 * self.depth, b' ');
    }
}

/// The document as YAML. What is not JSON is sent as it is: JSON is YAML.
pub(crate) fn yaml(json: &[u8]) -> Vec<u8> {
    let value: Result<serde_json::Value, _> = serde_json::from_slice(json);
    match value.map(|value| serde_saphyr::to_string(&value)) {
        Ok(Ok(text)) => text.into_bytes(),
        _ => json.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_go_does_it_and_in_any_pieces() {
        let json = br#"{"a":[1,{"b":"x,\"{}\\"}],"c":{},"d":[],"e":null}
"#;
        let want = "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x,\\\"{}\\\\\"\n    }\n  ],\n  \"c\": {},\n  \"d\": [],\n  \"e\": null\n}\n";
        assert_eq!(String::from_utf8(indented(json)).unwrap(), want);
        for cut in 0..json.len() {
            let (mut out, mut indenter) = (Vec::new(), Indenter::default());
            indenter.write(&json[..cut], &mut out);
            indenter.write(&json[cut..], &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want, "cut at {cut}");
        }
    }

    #[test]
    fn yaml_reads_back_as_the_same_document() {
        let json = serde_json::json!({"a": "yes", "n": "1", "t": "2026-01-02T03:04:05Z", "l": [1, 2.5, null, true, ""], "m": "x\ny: z\n", "o": {}});
        let text = yaml(json.to_string().as_bytes());
        let back: serde_json::Value = serde_saphyr::from_slice(&text).unwrap();
        assert_eq!(back, json, "{}", String::from_utf8_lossy(&text));
    }
}
