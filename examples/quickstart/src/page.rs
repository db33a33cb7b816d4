//! Turns a site's template into a page. Pure.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

/// A template cannot be used; the text is for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// `{{` without `}}`.
    Unclosed { line: usize },
    /// A name that is neither `title` nor `config.KEY`.
    Unknown { line: usize, name: String },
    /// `config.KEY` where the ConfigMap has no such key.
    NoValue { line: usize, key: String },
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed { line } => write!(f, "line {line}: {{{{ is not closed"),
            Self::Unknown { line, name } => {
                write!(f, "line {line}: {name:?} is unknown: write title or config.KEY")
            }
            Self::NoValue { line, key } => {
                write!(f, "line {line}: the ConfigMap has no {key:?}")
            }
        }
    }
}

/// Renders a whole page. Values are escaped: a ConfigMap is text, not markup.
pub(crate) fn render(
    title: &str,
    html: &str,
    config: &BTreeMap<String, String>,
) -> Result<Bytes, TemplateError> {
    let mut page = format!(
        "<!doctype html>\n<meta charset=utf-8>\n<title>{}</title>\n",
        escape(title)
    );
    let mut rest = html;
    while let Some((before, tail)) = rest.split_once("{{") {
        page.push_str(before);
        let line = 1 + html[..html.len() - tail.len()].matches('\n').count();
        let (name, after) = tail.split_once("}}").ok_or(TemplateError::Unclosed { line })?;
        let name = name.trim();
        let value = match name.strip_prefix("config.") {
            _ if name == "title" => title,
            Some(key) => config.get(key).ok_or_else(|| TemplateError::NoValue {
                line,
                key: key.to_owned(),
            })?,
            None => {
                return Err(TemplateError::Unknown {
                    line,
                    name: name.to_owned(),
                });
            }
        };
        page.push_str(&escape(value));
        rest = after;
    }
    page.push_str(rest);
    Ok(page.into())
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(html: &str) -> Result<String, TemplateError> {
        let config = BTreeMap::from([("color".to_owned(), "<red>".to_owned())]);
        let page = render("Hi", html, &config)?;
        let text = String::from_utf8(page.to_vec()).unwrap();
        Ok(text.split_once("</title>\n").unwrap().1.to_owned())
    }

    #[test]
    fn a_template_is_filled_in_or_says_where_it_is_wrong() {
        let unknown = |line, name: &str| TemplateError::Unknown {
            line,
            name: name.to_owned(),
        };
        for (html, expected) in [
            ("plain", Ok("plain")),
            ("{{title}}!", Ok("Hi!")),
            ("a {{ config.color }} b", Ok("a &lt;red&gt; b")),
            ("a\n{{ title", Err(TemplateError::Unclosed { line: 2 })),
            ("{{ title }}\n\n{{ nam }}", Err(unknown(3, "nam"))),
            (
                "{{config.size}}",
                Err(TemplateError::NoValue {
                    line: 1,
                    key: "size".to_owned(),
                }),
            ),
        ] {
            assert_eq!(body(html), expected.map(str::to_owned), "{html}");
        }
    }
}
