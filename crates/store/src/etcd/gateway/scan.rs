//! Where a JSON value ends, in bytes that come piece by piece, and whether it is one.
//!
//! Strict as `encoding/json` of Go is, whose words for what is wrong etcd's clients see. What stands behind the value is
//! not looked at.

use std::ops::Range;

use tonic::Status;

/// Most objects, lists and members in one value.
const PARTS_MAX: usize = 100_000;
/// Go's bound.
const DEPTH_MAX: usize = 10_000;

/// What is expected of the next byte.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    AfterKey,
    AfterMember,
    AfterElement,
    Text,
    Escape,
    /// So many hexadecimal digits of four have come.
    Hex(u8),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// So many bytes of this word have come.
    Word(&'static str, usize),
}

/// Looks for the end of a value.
#[derive(Default)]
pub(super) struct Scan {
    /// How far it has looked.
    at: usize,
    /// Where the value begins.
    start: Option<usize>,
    state: State,
    /// What is open; true is an object.
    open: Vec<bool>,
    parts: usize,
    /// Whether the text is a member's name.
    in_key: bool,
}

/// What a byte is.
enum Step {
    /// Of the value.
    Inside,
    /// Its last.
    Last,
    /// Behind it.
    Behind,
    /// White space before it.
    Before,
}

impl Scan {
    /// Where the first value of `bytes` is, of which it has seen the beginning before.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, Status> {
        for byte in bytes.get(self.at..).unwrap_or_default() {
            let step = self.step(*byte)?;
            if matches!(step, Step::Behind) {
                return Ok(self.start.map(|start| start..self.at));
            }
            self.at += 1;
            if matches!(step, Step::Before) {
                continue;
            }
            let start = *self.start.get_or_insert(self.at - 1);
            if matches!(step, Step::Last) {
                return Ok(Some(start..self.at));
            }
            if self.parts > PARTS_MAX {
                let text = format!("more than {PARTS_MAX} parts in a request");
                return Err(Status::invalid_argument(text));
            }
        }
        Ok(None)
    }

    /// The value, if the end of the bytes ends it: a number's end is seen by what follows.
    pub(super) fn finish(&self) -> Option<Range<usize>> {
        let whole = self.open.is_empty() && self.in_whole_number();
        self.start.filter(|_| whole).map(|start| start..self.at)
    }

    fn in_whole_number(&self) -> bool {
        matches!(
            self.state,
            State::Zero | State::Digits | State::Fraction | State::ExponentDigits
        )
    }

    fn step(&mut self, byte: u8) -> Result<Step, Status> {
        if self.in_whole_number() {
            if let Some(state) = number_goes_on(self.state, byte) {
                self.state = state;
                return Ok(Step::Inside);
            }
            if matches!(self.ended(), Step::Last) {
                return Ok(Step::Behind);
            }
        }
        match self.state {
            State::Text | State::Escape | State::Hex(_) => self.in_text(byte),
            State::Word(word, seen) => self.in_word(byte, word, seen),
            State::Minus | State::Point | State::Exponent | State::ExponentSign => self.in_number(byte),
            _ if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') => Ok(match self.start {
                Some(_) => Step::Inside,
                None => Step::Before,
            }),
            _ => self.between(byte),
        }
    }

    /// A byte that begins something, ends something, or stands between two things.
    fn between(&mut self, byte: u8) -> Result<Step, Status> {
        match (self.state, byte) {
            (State::ValueOrEnd | State::AfterElement, b']')
            | (State::KeyOrEnd | State::AfterMember, b'}') => {
                self.open.pop();
                return Ok(self.ended());
            }
            (State::Value | State::ValueOrEnd, _) => return self.begins(byte),
            (State::Key | State::KeyOrEnd, b'"') => {
                self.in_key = true;
                self.state = State::Text;
            }
            (State::AfterKey, b':') => self.state = State::Value,
            (State::AfterMember, b',') => {
                self.parts += 1;
                self.state = State::Key;
            }
            (State::AfterElement, b',') => {
                self.parts += 1;
                self.state = State::Value;
            }
            (State::Key | State::KeyOrEnd, _) => {
                return Err(wrong(byte, "looking for beginning of object key string"));
            }
            (State::AfterKey, _) => return Err(wrong(byte, "after object key")),
            (State::AfterMember, _) => return Err(wrong(byte, "after object key:value pair")),
            _ => return Err(wrong(byte, "after array element")),
        }
        Ok(Step::Inside)
    }

    fn begins(&mut self, byte: u8) -> Result<Step, Status> {
        self.state = match byte {
            b'{' | b'[' => {
                self.open.push(byte == b'{');
                self.parts += 1;
                if self.open.len() > DEPTH_MAX {
                    return Err(wrong(byte, "exceeded max depth"));
                }
                if byte == b'{' {
                    State::KeyOrEnd
                } else {
                    State::ValueOrEnd
                }
            }
            b'"' => {
                self.in_key = false;
                State::Text
            }
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => State::Word("true", 1),
            b'f' => State::Word("false", 1),
            b'n' => State::Word("null", 1),
            _ => return Err(wrong(byte, "looking for beginning of value")),
        };
        Ok(Step::Inside)
    }

    /// A value has ended.
    fn ended(&mut self) -> Step {
        self.state = match self.open.last() {
            Some(true) => State::AfterMember,
            Some(false) => State::AfterElement,
            None => return Step::Last,
        };
        Step::Inside
    }

    fn in_text(&mut self, byte: u8) -> Result<Step, Status> {
        self.state = match (self.state, byte) {
            (State::Text, b'"') if self.in_key => State::AfterKey,
            (State::Text, b'"') => return Ok(self.ended()),
            (State::Text, b'\\') => State::Escape,
            (State::Text, 0..=0x1f) => return Err(wrong(byte, "in string literal")),
            (State::Text, _) => State::Text,
            (State::Escape, b'u') => State::Hex(0),
            (State::Escape, b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => State::Text,
            (State::Escape, _) => return Err(wrong(byte, "in string escape code")),
            (State::Hex(seen), byte) if byte.is_ascii_hexdigit() => {
                if seen == 3 {
                    State::Text
                } else {
                    State::Hex(seen + 1)
                }
            }
            _ => return Err(wrong(byte, "in \\u hexadecimal character escape")),
        };
        Ok(Step::Inside)
    }

    fn in_word(&mut self, byte: u8, word: &'static str, seen: usize) -> Result<Step, Status> {
        let expected = word.as_bytes().get(seen).copied().unwrap_or_default();
        if byte != expected {
            let context = format!("in literal {word} (expecting {})", quoted(expected));
            return Err(wrong(byte, &context));
        }
        if seen + 1 == word.len() {
            return Ok(self.ended());
        }
        self.state = State::Word(word, seen + 1);
        Ok(Step::Inside)
    }

    /// A number that has not all it needs.
    fn in_number(&mut self, byte: u8) -> Result<Step, Status> {
        self.state = match (self.state, byte) {
            (State::Minus, b'0') => State::Zero,
            (State::Minus, b'1'..=b'9') => State::Digits,
            (State::Minus, _) => return Err(wrong(byte, "in numeric literal")),
            (State::Point, b'0'..=b'9') => State::Fraction,
            (State::Point, _) => return Err(wrong(byte, "after decimal point in numeric literal")),
            (State::Exponent, b'+' | b'-') => State::ExponentSign,
            (_, b'0'..=b'9') => State::ExponentDigits,
            _ => return Err(wrong(byte, "in exponent of numeric literal")),
        };
        Ok(Step::Inside)
    }
}

/// The next state of a number that might end here.
fn number_goes_on(state: State, byte: u8) -> Option<State> {
    match (state, byte) {
        (State::Digits, b'0'..=b'9') => Some(State::Digits),
        (State::Fraction, b'0'..=b'9') => Some(State::Fraction),
        (State::ExponentDigits, b'0'..=b'9') => Some(State::ExponentDigits),
        (State::Zero | State::Digits, b'.') => Some(State::Point),
        (State::Zero | State::Digits | State::Fraction, b'e' | b'E') => Some(State::Exponent),
        _ => None,
    }
}

fn wrong(byte: u8, context: &str) -> Status {
    Status::invalid_argument(format!("invalid character {} {context}", quoted(byte)))
}

/// A byte as Go quotes the character of that number.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0..=0x1f | 0x7f => format!(r"'\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the text byte by byte; the first value.
    fn first(text: &str) -> Result<Option<&str>, String> {
        let mut scan = Scan::default();
        let mut found = None;
        for len in 0..=text.len() {
            found = scan
                .find(&text.as_bytes()[..len])
                .map_err(|status| status.message().to_owned())?;
            if found.is_some() {
                break;
            }
        }
        Ok(found.or_else(|| scan.finish()).map(|range| &text[range]))
    }

    #[test]
    fn the_end_of_a_value_is_found_wherever_the_body_is_cut() {
        for (text, expect) in [
            ("{}", Some("{}")),
            ("  {\"a\":[{},{}]} {}", Some("{\"a\":[{},{}]}")),
            (r#"{"a":"}\"]{"}x"#, Some(r#"{"a":"}\"]{"}"#)),
            (
                "\n[1,-0.5e+7,\"\\u00e9\",true,false,null]]",
                Some("[1,-0.5e+7,\"\\u00e9\",true,false,null]"),
            ),
            ("12", Some("12")),
            ("12x", Some("12")),
            ("\"a\"x", Some("\"a\"")),
            ("{\"a\":", None),
            ("-", None),
            ("tru", None),
            (" \n", None),
            ("", None),
        ] {
            assert_eq!(first(text), Ok(expect), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused_at_its_first_byte_in_gos_words() {
        for (text, expect) in [
            ("}", "'}' looking for beginning of value"),
            ("{,}", "',' looking for beginning of object key string"),
            ("{\"a\":1,}", "'}' looking for beginning of object key string"),
            ("{\"a\" \"b\"}", "'\"' after object key"),
            ("{\"a\":1 2}", "'2' after object key:value pair"),
            ("{\"a\":01}", "'1' after object key:value pair"),
            ("[1 2]", "'2' after array element"),
            ("[1,]", "']' looking for beginning of value"),
            ("{\"a\":nope}", "'o' in literal null (expecting 'u')"),
            ("[-]", "']' in numeric literal"),
            ("[1.]", "']' after decimal point in numeric literal"),
            ("[1e]", "']' in exponent of numeric literal"),
            ("[\"\\x\"]", "'x' in string escape code"),
            ("[\"\\u00g0\"]", r"'g' in \u hexadecimal character escape"),
            ("[\"\n\"]", r"'\n' in string literal"),
            ("\u{0}", r"'\x00' looking for beginning of value"),
            ("\u{feff}{}", "'ï' looking for beginning of value"),
            ("'", r"'\'' looking for beginning of value"),
        ] {
            assert_eq!(first(text), Err(format!("invalid character {expect}")), "{text}");
        }
    }

    #[test]
    fn floods_of_parts_and_of_depth_are_refused() {
        let flood = format!("{{\"success\":[{}", "{},".repeat(PARTS_MAX / 2 + 1));
        assert!(first_error(&flood).contains("parts in a request"));
        let deep = first_error(&"[".repeat(DEPTH_MAX + 1));
        assert_eq!(deep, "invalid character '[' exceeded max depth");
    }

    fn first_error(text: &str) -> String {
        Scan::default()
            .find(text.as_bytes())
            .unwrap_err()
            .message()
            .to_owned()
    }
}
