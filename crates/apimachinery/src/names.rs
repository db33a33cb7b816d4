//! Rules for names and keys, with the texts of `util/validation/validation.go`.

/// Longest DNS label, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes.
pub const SUBDOMAIN_MAX: usize = 253;

/// Which names a resource accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS-1123 subdomain: the default, and the rule of custom resources.
    #[default]
    Subdomain,
    /// A DNS-1123 label: Namespaces.
    Label,
    /// Anything that can stand between two slashes of a path: roles.
    PathSegment,
}

impl NameRule {
    /// What is wrong with `name`; nothing when it is valid. A `prefix` is a `generateName`, to which five
    /// characters will be appended, so that a dash may end it.
    #[must_use]
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        // Upstream masks a trailing dash of a prefix (`maskTrailingDash` in api/validation/generic.go).
        let masked;
        let name = match name.strip_suffix('-') {
            Some(stem) if prefix && name.len() > 1 && self != Self::PathSegment => {
                masked = format!("{stem}a");
                masked.as_str()
            }
            _ => name,
        };
        match self {
            Self::Subdomain => subdomain(name),
            Self::Label => dns_label(name),
            Self::PathSegment => path_segment(name, prefix),
        }
    }
}

/// What is wrong with a DNS-1123 subdomain.
#[must_use]
pub fn subdomain(text: &str) -> Vec<String> {
    let mut errors = max_len(text, SUBDOMAIN_MAX);
    if !text.split('.').all(is_lower_label) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    errors
}

/// What is wrong with a DNS-1123 label.
#[must_use]
pub fn dns_label(text: &str) -> Vec<String> {
    let mut errors = max_len(text, LABEL_MAX);
    if !is_lower_label(text) {
        if text.split('.').all(is_lower_label) {
            // A subdomain where a label is wanted: upstream says so in other words.
            errors.push("must not contain dots".into());
        } else {
            errors.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
                &["my-name", "123-abc"],
            ));
        }
    }
    errors
}

/// What is wrong with a DNS-1035 label.
#[must_use]
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = max_len(text, LABEL_MAX);
    if !is_lower_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// What is wrong with a name that becomes a segment of a URL path.
#[must_use]
pub fn path_segment(text: &str, prefix: bool) -> Vec<String> {
    if !prefix && (text == "." || text == "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|bad| text.contains(**bad))
        .map(|bad| format!("may not contain '{bad}'"))
        .collect()
}

const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const QUALIFIED_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// What is wrong with a key of labels or annotations, or a finalizer: `[prefix/]name`.
#[must_use]
pub fn qualified_name(text: &str) -> Vec<String> {
    let regex = || regex_error(QUALIFIED, QUALIFIED_REGEX, &["MyName", "my.name", "123-abc"]);
    let mut errors = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            let hint = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {} {hint}", regex())];
        }
        Some(("", name)) => {
            errors.push("prefix part must be non-empty".into());
            name
        }
        Some((prefix, name)) => {
            errors.extend(
                subdomain(prefix)
                    .into_iter()
                    .map(|error| format!("prefix part {error}")),
            );
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    }
    errors.extend(
        max_len(name, LABEL_MAX)
            .into_iter()
            .map(|error| format!("name part {error}")),
    );
    if !is_qualified(name) {
        errors.push(format!("name part {}", regex()));
    }
    errors
}

/// What is wrong with the value of a label.
#[must_use]
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = max_len(text, LABEL_MAX);
    if !text.is_empty() && !is_qualified(text) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// What is wrong with a key of a ConfigMap or a Secret.
#[must_use]
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut errors = max_len(text, SUBDOMAIN_MAX);
    if text.is_empty()
        || !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => errors.push("must not be '.'".into()),
        ".." => errors.push("must not be '..'".into()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".into()),
        _ => (),
    }
    errors
}

fn max_len(text: &str, len_max: usize) -> Vec<String> {
    if text.len() > len_max {
        vec![format!("must be no more than {len_max} characters")]
    } else {
        Vec::new()
    }
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_lower_label(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || *b == b'-')
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    let quoted: Vec<String> = examples.iter().map(|example| format!("'{example}'")).collect();
    format!(
        "{message} (e.g. {}, regex used for validation is '{regex}')",
        quoted.join(",  or ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(rule(text), Vec::<String>::new(), "{text:?}");
        }
        for text in bad {
            assert_ne!(rule(text), Vec::<String>::new(), "{text:?}");
        }
    }

    #[test]
    fn names_follow_the_dns_rules() {
        let (long, longer) = ("a".repeat(63), "a".repeat(64));
        check(
            dns_label,
            &["a", "a-b", "1", &long],
            &["", "-a", "a-", "A", "a.b", "a_b", &longer, "ä"],
        );
        check(
            subdomain,
            &["a", "a.b-c.1", &longer],
            &["", ".a", "a.", "a..b", "A", "a_b", &"a".repeat(254)],
        );
        check(dns1035_label, &["a", "a1"], &["1a", "", "A"]);
        check(
            qualified_name,
            &["a", "A_b.c", "a.b/C", "x/y"],
            &["", "/a", "a/", "a/b/c", "-a", "A.b/c", "a/b c", &longer],
        );
        check(label_value, &["", "a", "A_b.c"], &["-a", "a ", &longer]);
        check(
            config_map_key,
            &["a", "A_b.c-d", ".a"],
            &["", ".", "..", "..a", "a/b", "a b"],
        );
        check(
            |text| path_segment(text, false),
            &["a:b", "A", ""],
            &[".", "..", "a/b", "a%b"],
        );
    }

    #[test]
    fn a_generated_name_may_end_with_a_dash_before_its_suffix() {
        assert!(NameRule::Subdomain.check("web-", true).is_empty());
        assert!(!NameRule::Subdomain.check("web-", false).is_empty());
        assert!(!NameRule::Subdomain.check("-", true).is_empty());
        assert!(NameRule::PathSegment.check(".", true).is_empty());
    }

    #[test]
    fn the_text_shows_rule_examples_and_pattern() {
        assert_eq!(
            subdomain("A").join(";"),
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        assert!(dns_label("A")[0].contains("(e.g. 'my-name',  or '123-abc', regex used for validation is"));
    }
}
