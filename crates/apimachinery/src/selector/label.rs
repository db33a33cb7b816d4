//! Label selectors: `app=web,tier in (a,b),!old,n>3` (apimachinery `pkg/labels/selector.go`).

use std::fmt;

use serde_json::Value;

use super::SelectorError;
use super::lexer::{Item, Token, lex};
use crate::cause::Cause;
use crate::encoded::Labels;
use crate::names;

/// A conjunction of requirements; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelRequirement {
    /// The label's key.
    pub key: String,
    /// How the value is compared.
    pub operator: Operator,
    /// Values, sorted, none twice; none for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=`: the label is there with this value.
    Equals,
    /// `==`: the same.
    DoubleEquals,
    /// `!=`: absent, or another value.
    NotEquals,
    /// `in (..)`: there with one of the values.
    In,
    /// `notin (..)`: absent, or none of the values.
    NotIn,
    /// `key`: there.
    Exists,
    /// `!key`: absent.
    DoesNotExist,
    /// `>`: there, an integer, and greater.
    GreaterThan,
    /// `<`: there, an integer, and less.
    LessThan,
}

impl LabelRequirement {
    /// Whether labels meet the requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = |value: &str| self.values.iter().any(|wanted| wanted == value);
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let number = |text: &str| text.parse::<i64>().ok();
                let wanted = self.values.first().and_then(|text| number(text));
                match (value.and_then(number), wanted) {
                    (Some(value), Some(wanted)) if self.operator == Operator::GreaterThan => value > wanted,
                    (Some(value), Some(wanted)) => value < wanted,
                    _ => false,
                }
            }
        }
    }
}

impl LabelSelector {
    /// Reads a selector.
    ///
    /// # Errors
    /// With upstream's text when the grammar, a key or a value is broken.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser {
            items: lex(text),
            at: 0,
        };
        let mut requirements = parser.requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// A selector from its parts.
    ///
    /// # Errors
    /// When a key or value breaks the rules for labels.
    pub fn from_requirements(requirements: Vec<LabelRequirement>) -> Result<Self, SelectorError> {
        let mut requirements = requirements
            .into_iter()
            .map(|r| requirement(&r.key, r.operator, r.values))
            .collect::<Result<Vec<_>, _>>()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements in order of their keys.
    #[must_use]
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }

    /// Whether labels meet all requirements.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (
            i,
            LabelRequirement {
                key,
                operator,
                values,
            },
        ) in self.requirements.iter().enumerate()
        {
            if i > 0 {
                f.write_str(",")?;
            }
            let values = values.join(",");
            match operator {
                Operator::Equals => write!(f, "{key}={values}")?,
                Operator::DoubleEquals => write!(f, "{key}=={values}")?,
                Operator::NotEquals => write!(f, "{key}!={values}")?,
                Operator::In => write!(f, "{key} in ({values})")?,
                Operator::NotIn => write!(f, "{key} notin ({values})")?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan => write!(f, "{key}>{values}")?,
                Operator::LessThan => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    items: Vec<Item<'a>>,
    at: usize,
}

/// Inside a list of values and where a key is wanted, `in` and `notin` are words like others.
fn as_word((token, text): Item<'_>) -> Item<'_> {
    match token {
        Token::In | Token::NotIn => (Token::Identifier, text),
        _ => (token, text),
    }
}

fn found(text: &str, expected: &str) -> SelectorError {
    SelectorError(format!("found '{text}', expected: {expected}"))
}

impl<'a> Parser<'a> {
    /// The next token; beyond the end it is `End` for ever.
    fn peek(&self) -> Item<'a> {
        self.items.get(self.at).copied().unwrap_or((Token::End, ""))
    }

    fn next(&mut self) -> Item<'a> {
        let item = self.peek();
        self.at += 1;
        item
    }

    fn requirements(&mut self) -> Result<Vec<LabelRequirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match as_word(self.peek()) {
                (Token::Identifier | Token::Not, _) => {
                    let requirement = self.requirement();
                    requirements.push(
                        requirement
                            .map_err(|e| SelectorError(format!("unable to parse requirement: {}", e.0)))?,
                    );
                }
                (Token::End, _) => return Ok(requirements),
                (_, text) => return Err(found(text, "!, identifier, or 'end of string'")),
            }
            match self.next() {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => match as_word(self.peek()) {
                    (Token::Identifier | Token::Not, _) => (),
                    (_, text) => return Err(found(text, "identifier after ','")),
                },
                (_, text) => return Err(found(text, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<LabelRequirement, SelectorError> {
        let negated = self.peek().0 == Token::Not;
        if negated {
            self.next();
        }
        let (token, key) = as_word(self.next());
        if token != Token::Identifier {
            return Err(found(key, "identifier"));
        }
        let errors = names::qualified_name(key);
        if !errors.is_empty() {
            return Err(invalid("<nil>", key, &errors));
        }
        if negated {
            return requirement(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return requirement(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        requirement(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        Ok(match self.next() {
            (Token::In, _) => Operator::In,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::Equals, _) => Operator::Equals,
            (Token::DoubleEquals, _) => Operator::DoubleEquals,
            (Token::NotEquals, _) => Operator::NotEquals,
            (Token::Greater, _) => Operator::GreaterThan,
            (Token::Less, _) => Operator::LessThan,
            (_, text) => return Err(found(text, "in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        match as_word(self.peek()) {
            (Token::End | Token::Comma, _) => Ok(String::new()),
            (Token::Identifier, text) => {
                self.next();
                Ok(text.to_owned())
            }
            (_, text) => Err(found(text, "identifier")),
        }
    }

    /// `(a,b)`; an empty place between two commas is the empty value.
    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, text) = self.next();
        if token != Token::Open {
            return Err(SelectorError(format!("found '{text}' expected: '('")));
        }
        if !matches!(
            as_word(self.peek()).0,
            Token::Identifier | Token::Comma | Token::Close
        ) {
            return Err(found(self.peek().1, "',', ')' or identifier"));
        }
        let mut values = Vec::new();
        loop {
            let mut value = "";
            if let (Token::Identifier, text) = as_word(self.peek()) {
                self.next();
                value = text;
            }
            values.push(value.to_owned());
            match self.next() {
                (Token::Comma, _) => (),
                (Token::Close, _) => return Ok(values),
                (_, text) => return Err(found(text, "',' or ')'")),
            }
        }
    }
}

fn invalid(path: &str, value: &str, errors: &[String]) -> SelectorError {
    SelectorError(Cause::invalid(path, &Value::from(value), &errors.join("; ")).to_string())
}

/// Checks key and values (`NewRequirement`).
fn requirement(
    key: &str,
    operator: Operator,
    mut values: Vec<String>,
) -> Result<LabelRequirement, SelectorError> {
    let errors = names::qualified_name(key);
    if !errors.is_empty() {
        return Err(invalid("key", key, &errors));
    }
    values.sort_unstable();
    values.dedup();
    if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
        let number = |value: &String| value.parse::<i64>().is_ok();
        if let Some(value) = values.iter().find(|value| !number(value)) {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer".to_owned();
            return Err(invalid("values[0]", value, &[why]));
        }
    }
    for (i, value) in values.iter().enumerate() {
        let errors = names::label_value(value);
        if !errors.is_empty() {
            return Err(invalid(&format!("values[{i}][{key}]"), value, &errors));
        }
    }
    Ok(LabelRequirement {
        key: key.into(),
        operator,
        values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, labels: &[(&str, &str)], expect: bool) {
        let labels = Labels::from_pairs(labels.iter().copied());
        assert_eq!(
            LabelSelector::parse(selector).unwrap().matches(&labels),
            expect,
            "{selector} {labels:?}"
        );
    }

    #[test]
    fn requirements_are_a_conjunction() {
        check("", &[], true);
        check("x=y", &[("x", "y")], true);
        check("x=y,z==w", &[("x", "y"), ("z", "w")], true);
        check("x!=y,z!=w", &[("x", "z"), ("z", "a")], true);
        check("notin=in", &[("notin", "in")], true);
        check("x", &[("x", "z")], true);
        check("!x", &[("y", "z")], true);
        check("!x", &[("x", "z")], false);
        check("x>1", &[("x", "2")], true);
        check("x<1", &[("x", "0")], true);
        check("x>1", &[("x", "one")], false);
        check("x=z", &[], false);
        check("x!=z", &[], true);
        check("x in (a, b)", &[("x", "b")], true);
        check("x notin (a,b)", &[], true);
        check("x in (a,,b)", &[("x", "")], true);
        check("x in ()", &[("x", "")], true);
        check("x=", &[("x", "")], true);
        check("x in (in,notin)", &[("x", "in")], true);
        check(" x , y in ( c ) ", &[("x", ""), ("y", "c")], true);
    }

    #[test]
    fn the_text_form_reads_back() {
        for text in [
            "",
            "x",
            "!x",
            "x=a",
            "x==a",
            "x!=a",
            "x in (a,b)",
            "x notin (a)",
            "a>1",
            "a<2",
            "x=a,y=b",
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            LabelSelector::parse("b,a in (z,y)").unwrap().to_string(),
            "a in (y,z),b"
        );
    }

    #[test]
    fn broken_selectors_are_refused_in_upstreams_words() {
        for (text, error) in [
            ("x,", "found '', expected: identifier after ','"),
            (",x", "found ',', expected: !, identifier, or 'end of string'"),
            (
                "x y",
                "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            (
                "x in (a",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            ("!x=a", "found '=', expected: ',' or 'end of string'"),
            (
                "x=(a)",
                "unable to parse requirement: found '(', expected: identifier",
            ),
            ("!", "unable to parse requirement: found '', expected: identifier"),
        ] {
            assert_eq!(
                LabelSelector::parse(text).unwrap_err().to_string(),
                error,
                "{text}"
            );
        }
        for text in [
            "x=a b",
            "-x=a",
            "x=-a",
            "x>a",
            "a/b/c",
            "x==,,",
            "x=a=b",
            "x in (a b)",
            "x in (>)",
            "x<<1",
        ] {
            LabelSelector::parse(text).unwrap_err();
        }
        let error = LabelSelector::parse("a=-").unwrap_err().to_string();
        assert!(
            error.starts_with(
                "unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label"
            ),
            "{error}"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_what_parses_reads_back(text in "[ax!=<>(), /.-]{0,16}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                proptest::prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
