//! Regular expressions of schemas: Go's syntax (RE2) over the `regex` crate.

use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};

/// Most bytes of a compiled pattern: a bound on what one definition can make the server hold.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A pattern, compiled when it is first needed: most definitions are never used.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) text: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// Checks the pattern; the compiled form is dropped again.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        compile(text).map_err(|error| error.to_string())?;
        Ok(Self {
            text: text.into(),
            compiled: OnceLock::new(),
        })
    }

    /// Whether `text` contains a match.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| compile(&self.text).ok());
        compiled.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

fn compile(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&from_go(text))
        .size_limit(PATTERN_BYTES_MAX)
        .build()
}

/// Go's classes `\d`, `\w`, `\s` and boundaries are ASCII; in its brackets `[`, `&` and `~` mean themselves.
fn from_go(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str(r"[\t\n\f\r ]"),
                Some('S') => out.push_str(r"[^\t\n\f\r ]"),
                Some('b') if !in_class => out.push_str(r"(?-u:\b)"),
                Some('B') if !in_class => out.push_str(r"(?-u:\B)"),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if in_class && chars.peek() == Some(&':') => {
                // A POSIX class such as [:alpha:], to its end.
                out.push('[');
                while let Some(c) = chars.next() {
                    out.push(c);
                    if c == ':' && chars.peek() == Some(&']') {
                        out.extend(chars.next());
                        break;
                    }
                }
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            '[' => {
                in_class = true;
                out.push('[');
                out.extend(chars.next_if_eq(&'^'));
                // A bracket right at the start means itself.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, yes, no) in [
            (r"^\d+$", "42", "٤٢"),
            (r"^\w+$", "a_1", "ä"),
            (r"^[\w-.]+$", "a-b.c", "a b"),
            (r"^[^[]+$", "a]", "["),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[]a]+$", "]a", "b"),
            (r"^[[:alpha:]]+$", "ab", "1"),
            (r"^a\/b$", "a/b", "ab"),
            (r"\bfoo\b", "a foo b", "afoob"),
            (r"^[^\s]+$", "ab", "a b"),
            ("^(a|b){1,3}$", "abb", "abba"),
        ] {
            let pattern = Pattern::new(pattern).unwrap_or_else(|error| panic!("{error}"));
            assert!(pattern.matches(yes) && !pattern.matches(no), "{}", pattern.text);
        }
    }

    #[test]
    fn broken_and_oversized_patterns_are_refused() {
        for pattern in ["(", "[", "*a", "(?=a)", r"\", "((a{1000}){1000}){1000}"] {
            Pattern::new(pattern).unwrap_err();
        }
    }
}
