//! A JSON scanner: finds spans, decodes nothing.
//!
//! It checks the grammar of RFC 8259 of whatever it walks over, keeps no state but a position and a depth, and
//! allocates nothing. Objects are visited through callbacks that see the raw key and must consume the value.

use std::borrow::Cow;

/// Deepest nesting of arrays and objects accepted. It is the limit of `serde_json`, so that whatever the
/// scanner accepts can also be decoded (Go's decoder stops at 10,000; no schema or object comes near 128).
pub const DEPTH_MAX: usize = 127;

/// The bytes are not an object this crate can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The JSON grammar is broken.
    #[error("invalid JSON at byte {at}: expected {expected}")]
    Syntax {
        /// Offset of the offending byte; the length of the input when it ended too early.
        at: usize,
        /// What the grammar wants there.
        expected: &'static str,
    },
    /// A string is not UTF-8.
    #[error("invalid JSON at byte {at}: not UTF-8")]
    Utf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// Arrays and objects are nested too deeply.
    #[error("invalid JSON at byte {at}: nested deeper than {DEPTH_MAX}")]
    Depth {
        /// Offset of the bracket that is one too many.
        at: usize,
    },
    /// A field of the header has the wrong type.
    #[error("{field} must be {expected}")]
    Field {
        /// The field's path.
        field: &'static str,
        /// The type it must have.
        expected: &'static str,
    },
    /// A body meant for storage carries `metadata.resourceVersion`; the version of a stored object is the
    /// revision that wrote it and nothing else.
    #[error("a stored object must not carry metadata.resourceVersion")]
    StoredVersion,
    /// The body is 4 GiB or more; offsets are 32 bits.
    #[error("object of {len} bytes is too large")]
    TooLarge {
        /// Length of the body in bytes.
        len: usize,
    },
}

/// A string as it stands between its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw<'a> {
    /// The text between the quotes, escapes not resolved.
    pub(crate) text: &'a str,
    /// Whether there is any escape in it.
    pub(crate) escaped: bool,
    /// Offset of the opening quote.
    pub(crate) at: usize,
}

impl<'a> Raw<'a> {
    /// The text with escapes resolved.
    ///
    /// # Errors
    /// When an escape names half a surrogate pair.
    pub(crate) fn unescape(&self) -> Result<Cow<'a, str>, ScanError> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.text));
        }
        let quoted = format!("\"{}\"", self.text);
        serde_json::from_str::<String>(&quoted)
            .map(Cow::Owned)
            .map_err(|_| ScanError::Syntax {
                at: self.at,
                expected: "a valid escape sequence",
            })
    }

    /// Whether the key is `name`; an escaped key is compared by its meaning.
    pub(crate) fn is(&self, name: &str) -> bool {
        if self.escaped {
            self.unescape().is_ok_and(|text| text == name)
        } else {
            self.text == name
        }
    }
}

/// A position in a JSON text.
#[derive(Clone)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not UTF-8.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, ScanError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self {
                text,
                at: 0,
                depth: 0,
            }),
            Err(error) => Err(ScanError::Utf8 {
                at: error.valid_up_to(),
            }),
        }
    }

    /// Offset of the next byte.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space, without consuming it.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Fails unless nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), ScanError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("the end of the input")),
        }
    }

    /// A syntax error at the present position.
    pub(crate) fn wrong(&self, expected: &'static str) -> ScanError {
        ScanError::Syntax {
            at: self.at,
            expected,
        }
    }

    /// Visits the members of the object that stands here. `visit` gets the key and must consume the value; when
    /// it answers `false`, the walk ends at once and the scanner is left wherever the visitor left it.
    pub(crate) fn object(
        &mut self,
        mut visit: impl FnMut(Raw<'a>, &mut Self) -> Result<bool, ScanError>,
    ) -> Result<(), ScanError> {
        self.open(b'{', "an object")?;
        if self.peek() == Some(b'}') {
            self.close();
            return Ok(());
        }
        loop {
            let key = self.key()?;
            if !visit(key, self)? {
                return Ok(());
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.close();
                    return Ok(());
                }
                _ => return Err(self.wrong("',' or '}'")),
            }
        }
    }

    /// Visits the items of the array that stands here; `visit` must consume the item.
    pub(crate) fn array(
        &mut self,
        mut visit: impl FnMut(&mut Self) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        self.open(b'[', "an array")?;
        if self.peek() == Some(b']') {
            self.close();
            return Ok(());
        }
        loop {
            visit(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.close();
                    return Ok(());
                }
                _ => return Err(self.wrong("',' or ']'")),
            }
        }
    }

    fn key(&mut self) -> Result<Raw<'a>, ScanError> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong("a string key"));
        }
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return Err(self.wrong("':'"));
        }
        self.at += 1;
        Ok(key)
    }

    fn open(&mut self, bracket: u8, expected: &'static str) -> Result<(), ScanError> {
        if self.peek() != Some(bracket) {
            return Err(self.wrong(expected));
        }
        if self.depth == DEPTH_MAX {
            return Err(ScanError::Depth { at: self.at });
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    /// The span of the value that stands here, which is walked over whatever it is.
    pub(crate) fn value(&mut self) -> Result<&'a str, ScanError> {
        self.peek();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Walks over the value that stands here. Not recursive: open brackets are bits, one for each level.
    pub(crate) fn skip(&mut self) -> Result<(), ScanError> {
        const { assert!(DEPTH_MAX <= 128, "one bit a level must fit the stack below") };
        let base = self.depth;
        let mut objects: u128 = 0;
        loop {
            match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    self.open(open, "a value")?;
                    let is_object = open == b'{';
                    objects = (objects << 1) | u128::from(is_object);
                    let closing = if is_object { b'}' } else { b']' };
                    if self.peek() != Some(closing) {
                        if is_object {
                            self.key()?;
                        }
                        continue;
                    }
                }
                _ => {
                    self.scalar()?;
                    if self.depth == base {
                        return Ok(());
                    }
                }
            }
            if self.after_value(base, &mut objects)? {
                return Ok(());
            }
        }
    }

    /// After a value or at a closing bracket: closes what ends here, or steps to the next member.
    /// True when the outermost bracket was closed.
    fn after_value(&mut self, base: usize, objects: &mut u128) -> Result<bool, ScanError> {
        loop {
            let in_object = *objects & 1 == 1;
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    if in_object {
                        self.key()?;
                    }
                    return Ok(false);
                }
                Some(b'}') if in_object => self.close(),
                Some(b']') if !in_object => self.close(),
                _ if in_object => return Err(self.wrong("',' or '}'")),
                _ => return Err(self.wrong("',' or ']'")),
            }
            *objects >>= 1;
            if self.depth == base {
                return Ok(true);
            }
        }
    }

    fn scalar(&mut self) -> Result<(), ScanError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.wrong("a value")),
        }
    }

    /// Consumes `null` if it stands here.
    pub(crate) fn null(&mut self) -> Result<bool, ScanError> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.literal("null")?;
        Ok(true)
    }

    fn literal(&mut self, word: &'static str) -> Result<(), ScanError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong(word));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), ScanError> {
        let bytes = self.text.as_bytes();
        if bytes[self.at] == b'-' {
            self.at += 1;
        }
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return Err(self.wrong("a digit"));
        }
        self.at += count;
        Ok(())
    }

    /// Consumes the string that stands here.
    pub(crate) fn string(&mut self) -> Result<Raw<'a>, ScanError> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong("a string"));
        }
        let at = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_len(&bytes[self.at..]);
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.wrong("the end of the string")),
            }
        }
        let text = &self.text[at + 1..self.at];
        self.at += 1;
        Ok(Raw { text, escaped, at })
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        let bytes = self.text.as_bytes();
        match bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u')
                if bytes
                    .get(self.at + 2..self.at + 6)
                    .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) =>
            {
                self.at += 6;
            }
            _ => return Err(self.wrong("a valid escape sequence")),
        }
        Ok(())
    }
}

/// How many bytes at the start of `bytes` need no attention in a string: eight at a time.
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut len = 0;
    while let Some(chunk) = bytes[len..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let slash = zero(word ^ (ONES * u64::from(b'\\')));
        // A byte below 0x20 has its three upper bits clear.
        let control = zero(word & (ONES * 0xe0));
        let found = quote | slash | control;
        if found != 0 {
            // The lowest mark is exact; only marks above it may be false.
            return len + found.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    len + bytes[len..]
        .iter()
        .take_while(|b| !matches!(b, b'"' | b'\\' | 0..0x20))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(text: &[u8]) -> bool {
        Scanner::new(text)
            .and_then(|mut scanner| scanner.skip().and_then(|()| scanner.end()))
            .is_ok()
    }

    #[track_caller]
    fn agrees_with_serde(text: &[u8]) {
        // A number beyond f64 and half a surrogate pair are errors of decoding, not of grammar.
        let reference = serde_json::from_slice::<Box<serde_json::value::RawValue>>(text).is_ok();
        assert_eq!(accepts(text), reference, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn the_grammar_is_that_of_rfc_8259() {
        for text in [
            "",
            " ",
            "{}",
            "[]",
            "{ }",
            "[1,2]",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{1:2}",
            "nul",
            "null",
            "truex",
            "-",
            "-0",
            "01",
            "1.",
            "1.5e",
            "1.5e+7",
            "1e-2",
            ".5",
            "\"",
            "\"\\\"",
            "\"\\u12\"",
            "\"\\u12aF\"",
            "\"\\x\"",
            "\"a\tb\"",
            "[[[]]]",
            "[[[]]",
            "]",
            "{\"a\":[{\"b\":{}}]}",
            "[}",
            "{]",
            "[{\"a\":1]}",
            "\"12345678\\\"12345\"",
            "{\"a\":1}x",
            "[1 2]",
            "{\"a\" 1}",
            "{\"a\":}",
        ] {
            agrees_with_serde(text.as_bytes());
        }
        agrees_with_serde(b"\"\xff\"");
    }

    #[test]
    fn nesting_stops_where_the_decoder_stops() {
        for depth in [DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, 100_000] {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            let decodes = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert_eq!(accepts(text.as_bytes()), decodes, "depth {depth}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged_as_serde_judges_them(text in "[\\[\\]{}:,\"\\\\a0-9eu. +-]{0,24}") {
            agrees_with_serde(text.as_bytes());
        }

        #[test]
        fn plain_runs_end_at_the_first_special_byte(bytes in proptest::collection::vec(0u8.., 0..40)) {
            let simple = bytes.iter().position(|b| *b < 0x20 || *b == b'"' || *b == b'\\').unwrap_or(bytes.len());
            proptest::prop_assert_eq!(plain_len(&bytes), simple);
        }
    }
}
