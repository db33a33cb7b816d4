//! Strict decoding: duplicate fields in raw JSON, and the texts for unknown ones
//! (sigs.k8s.io/json `internal/golang/encoding/json`, apimachinery `runtime/serializer/json`).

use std::borrow::Cow;
use std::collections::HashSet;

use crate::cause::{Path, quote};
use crate::encoded::{ScanError, Scanner};

/// Most duplicate fields reported for one body.
pub const DUPLICATES_MAX: usize = 100;

/// The fields that occur twice in one object of a JSON text, as `duplicate field "spec.x"`. A text that is not
/// JSON has none: it does not decode either.
#[must_use]
pub fn duplicate_fields(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(mut scanner) = Scanner::new(body) {
        // What was found before an error is of no use: decoding reports the error.
        if walk(&mut scanner, &mut Path::default(), &mut found).is_err() {
            found.clear();
        }
    }
    found
}

/// Paths that pruning dropped, as `unknown field "spec.foo"`.
#[must_use]
pub fn unknown_fields(dropped: &[String]) -> Vec<String> {
    dropped
        .iter()
        .map(|path| format!("unknown field {}", quote(path)))
        .collect()
}

fn walk(scanner: &mut Scanner<'_>, path: &mut Path, found: &mut Vec<String>) -> Result<(), ScanError> {
    match scanner.peek() {
        Some(b'{') => {
            let mut seen: HashSet<Cow<'_, str>> = HashSet::new();
            scanner.object(|key, scanner| {
                let key = key.unescape()?;
                path.child(&key, |path| {
                    if seen.contains(&key) && found.len() < DUPLICATES_MAX {
                        let text = format!("duplicate field {}", quote(path.as_str()));
                        if !found.contains(&text) {
                            found.push(text);
                        }
                    }
                    walk(scanner, path, found)
                })?;
                seen.insert(key);
                Ok(true)
            })
        }
        Some(b'[') => {
            let mut i = 0;
            scanner.array(|scanner| {
                path.index(i, |path| walk(scanner, path, found))?;
                i += 1;
                Ok(())
            })
        }
        _ => scanner.skip(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_named_once_with_their_path() {
        for (body, expect) in [
            (r#"{"a":1,"b":{"a":1}}"#, &[][..]),
            (r#"{"a":1,"a":2,"a":3}"#, &["duplicate field \"a\""]),
            (
                r#"{"spec":{"list":[{"x":1},{"x":1,"x":2}]}}"#,
                &["duplicate field \"spec.list[1].x\""],
            ),
            (r#"{"a":1,"a":2,"b":}"#, &[]),
            (r#"{"a":1,"\u0061":2}"#, &["duplicate field \"a\""]),
            ("", &[]),
        ] {
            assert_eq!(duplicate_fields(body.as_bytes()), expect, "{body}");
        }
        assert_eq!(
            unknown_fields(&["spec.foo".to_owned()]),
            ["unknown field \"spec.foo\""]
        );
    }
}
