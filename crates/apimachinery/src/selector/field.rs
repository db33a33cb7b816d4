//! Field selectors: `metadata.name=a,type!=Opaque` (apimachinery `pkg/fields/selector.go`).

use std::borrow::Cow;
use std::fmt;

use super::SelectorError;

/// A conjunction of comparisons; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldRequirement {
    /// The dotted path, such as `involvedObject.name`.
    pub path: String,
    /// Whether the field must equal the value; otherwise it must differ.
    pub equal: bool,
    /// The value, escapes resolved.
    pub value: String,
}

impl FieldSelector {
    /// Reads `path=value`, `path==value` and `path!=value`, separated by commas. In a value, `\`, `,` and `=`
    /// are escaped by a backslash.
    ///
    /// # Errors
    /// With upstream's text when a term has no operator or a bad escape.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let Some((path, equal, value)) = split_term(term) else {
                return Err(SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let value = unescape(value)?;
            // Upstream drops the term of an empty path and value (`a hasTerm that matches everything`).
            if !(path.is_empty() && value.is_empty()) {
                requirements.push(FieldRequirement {
                    path: path.into(),
                    equal,
                    value,
                });
            }
        }
        Ok(Self { requirements })
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The comparisons in order of their text.
    #[must_use]
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The value the field at `path` must have, when the selector asks for exactly one.
    #[must_use]
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.equal && r.path == path)
            .map(|r| r.value.as_str())
    }

    /// Whether an object matches; `field` answers the value at a path. An absent field counts as empty.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<Cow<'a, str>>) -> bool {
        self.requirements.iter().all(|r| {
            let value = field(&r.path);
            (value.as_deref().unwrap_or_default() == r.value) == r.equal
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(
                f,
                "{comma}{}{}{}",
                r.path,
                if r.equal { "=" } else { "!=" },
                escape(&r.value)
            )?;
        }
        Ok(())
    }
}

/// Puts a backslash before `\`, `,` and `=`, for use as a value in a field selector.
#[must_use]
pub(crate) fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => (),
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = term[at..].strip_prefix(operator) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let bad = |sequence: &str| {
        SelectorError(format!(
            "invalid field selector: invalid escape sequence: {sequence}"
        ))
    };
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(bad(&format!("\\{c}"))),
                None => return Err(bad("\\")),
            },
            ',' | '=' => {
                let code = u32::from(c);
                let message = format!("invalid field selector: unescaped character in value: {code}");
                return Err(SelectorError(message));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, name: Option<&str>, expect: bool) {
        let selector = FieldSelector::parse(selector).unwrap();
        let matched = selector.matches(|path| name.filter(|_| path == "metadata.name").map(Cow::Borrowed));
        assert_eq!(matched, expect, "{selector}");
    }

    #[test]
    fn fields_are_compared_as_text() {
        check("", Some("a"), true);
        check("metadata.name=a", Some("a"), true);
        check("metadata.name==a", Some("b"), false);
        check("metadata.name!=a", Some("b"), true);
        check("metadata.name!=a,", None, true);
        check("metadata.name=", None, true);
        check(r"metadata.name=a\,b\=c\\", Some("a,b=c\\"), true);
    }

    #[test]
    fn the_text_form_reads_back() {
        for text in ["", "a=b", "a!=b,c=d", r"a=x\,y"] {
            let selector = FieldSelector::parse(text).unwrap();
            assert_eq!(selector.to_string(), text);
        }
        assert_eq!(FieldSelector::parse("b=1,a=2").unwrap().exact("b"), Some("1"));
    }

    #[test]
    fn broken_selectors_are_refused_in_upstreams_words() {
        for (text, error) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            (
                "a=b=c",
                "invalid field selector: unescaped character in value: 61",
            ),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            (r"a=b\", r"invalid field selector: invalid escape sequence: \"),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), error);
        }
    }
}
