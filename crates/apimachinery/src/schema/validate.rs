//! Validation (kube-openapi `pkg/validation/validate`, apiextensions-apiserver `apiserver/validation`).

use serde_json::{Map, Value};

use super::{Additional, Bound, Checks, Node, Type, format, is_type_meta, list};
use crate::cause::{Cause, Path, quote};
use crate::kinds;

/// Most errors collected for one object; what follows them helps nobody.
const CAUSES_MAX: usize = 256;

pub(super) fn validate(node: &Node, value: &Value, path: &mut Path, causes: &mut Vec<Cause>) {
    if causes.len() >= CAUSES_MAX {
        return;
    }
    let node = node.resolve();
    if !type_matches(node, value) {
        if value.is_null() && node.nullable {
            return;
        }
        causes.push(wrong_type(node, value, path));
    }
    let checks = node.checks.as_deref();
    if value.is_null() {
        // Upstream checks nothing else of a null but the enumeration.
        checks
            .into_iter()
            .for_each(|checks| enumeration(checks, value, path, causes));
        return;
    }
    if let Some(checks) = checks {
        junctors(checks, value, path, causes);
        scalar(node, checks, value, path, causes);
        enumeration(checks, value, path, causes);
    }
    match value {
        Value::Object(fields) => object(node, checks, fields, path, causes),
        Value::Array(items) => array(node, checks, items, path, causes),
        _ => (),
    }
}

/// The JSON type of a value, as errors name it.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn type_matches(node: &Node, value: &Value) -> bool {
    if node.int_or_string && node.ty.is_none() {
        return value.is_string() || is_integer(value);
    }
    match node.ty {
        None => true,
        Some(Type::Object) => value.is_object(),
        Some(Type::Array) => value.is_array(),
        Some(Type::String) => value.is_string(),
        Some(Type::Integer) => is_integer(value),
        Some(Type::Number) => value.is_number(),
        Some(Type::Boolean) => value.is_boolean(),
    }
}

/// An integer, also when it is spelled `1.0`.
fn is_integer(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_i64()
                || number.is_u64()
                || number
                    .as_f64()
                    .is_some_and(|x| x.fract() == 0.0 && x.abs() <= 9_007_199_254_740_991.0)
        }
        _ => false,
    }
}

fn wrong_type(node: &Node, value: &Value, path: &Path) -> Cause {
    let wanted = match node.ty {
        Some(ty) => ty.name(),
        None if node.int_or_string => "integer,string",
        None => "",
    };
    let found = type_name(value);
    let why = format!("{} must be of type {wanted}: {}", in_body(path), quote(found));
    Cause::type_invalid(field(path), &found.into(), &why)
}

fn in_body(path: &Path) -> String {
    if path.as_str().is_empty() {
        "in body".to_owned()
    } else {
        format!("{} in body", path.as_str())
    }
}

/// The whole object is `<nil>` in upstream's errors.
fn field(path: &Path) -> &str {
    if path.as_str().is_empty() {
        "<nil>"
    } else {
        path.as_str()
    }
}

fn invalid(path: &Path, value: &Value, what: &str) -> Cause {
    Cause::invalid(field(path), value, &format!("{} {what}", in_body(path)))
}

fn enumeration(checks: &Checks, value: &Value, path: &Path, causes: &mut Vec<Cause>) {
    if let Some(allowed) = &checks.allowed
        && !allowed.iter().any(|candidate| equal(candidate, value))
    {
        let texts: Vec<String> = allowed
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
            .collect();
        causes.push(Cause::not_supported(field(path), value, &texts));
    }
}

/// Equality in which 1 and 1.0 are the same.
fn equal(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn scalar(node: &Node, checks: &Checks, value: &Value, path: &Path, causes: &mut Vec<Cause>) {
    match value {
        Value::String(text) => string(node, checks, text, value, path, causes),
        Value::Number(_) => number(checks, value, path, causes),
        _ => (),
    }
}

fn string(node: &Node, checks: &Checks, text: &str, value: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let (min, max) = checks.length;
    if min.is_some() || max.is_some() {
        let length = text.chars().count() as u64;
        if let Some(max) = max.filter(|max| length > *max) {
            causes.push(Cause::too_long(
                field(path),
                usize::try_from(max).unwrap_or(usize::MAX),
            ));
        }
        if let Some(min) = min.filter(|min| length < *min) {
            causes.push(invalid(
                path,
                value,
                &format!("should be at least {min} chars long"),
            ));
        }
    }
    if let Some(pattern) = &checks.pattern
        && !pattern.matches(text)
    {
        causes.push(invalid(path, value, &format!("should match '{}'", pattern.text)));
    }
    if let Some(name) = &checks.format
        && !node.int_or_string
        && !format::matches(name, text)
    {
        let why = format!("{} must be of type {name}: {}", in_body(path), quote(text));
        causes.push(Cause::type_invalid(field(path), value, &why));
    }
}

fn number(checks: &Checks, value: &Value, path: &Path, causes: &mut Vec<Cause>) {
    let number = value.as_f64().unwrap_or(f64::NAN);
    if let Some(factor) = checks.multiple_of
        && !is_multiple(number, factor)
    {
        causes.push(invalid(path, value, &format!("should be a multiple of {factor}")));
    }
    if let Some(Bound { limit, exclusive }) = checks.maximum
        && (number > limit || (exclusive && number == limit))
    {
        let words = if exclusive {
            "less than"
        } else {
            "less than or equal to"
        };
        causes.push(invalid(path, value, &format!("should be {words} {limit}")));
    }
    if let Some(Bound { limit, exclusive }) = checks.minimum
        && (number < limit || (exclusive && number == limit))
    {
        let words = if exclusive {
            "greater than"
        } else {
            "greater than or equal to"
        };
        causes.push(invalid(path, value, &format!("should be {words} {limit}")));
    }
}

/// Whether the quotient is whole, up to what division in floating point loses.
fn is_multiple(number: f64, factor: f64) -> bool {
    let quotient = number / factor;
    (quotient - quotient.round()).abs() < 1e-9
}

fn object(
    node: &Node,
    checks: Option<&Checks>,
    fields: &Map<String, Value>,
    path: &mut Path,
    causes: &mut Vec<Cause>,
) {
    if let Some(checks) = checks {
        let count = fields.len();
        let (min, max) = checks.properties;
        if let Some(min) = min.filter(|min| (count as u64) < *min) {
            causes.push(invalid(
                path,
                &count.into(),
                &format!("should have at least {min} properties"),
            ));
        }
        if let Some(max) = max.filter(|max| count as u64 > *max) {
            causes.push(Cause::too_many(
                field(path),
                count,
                usize::try_from(max).unwrap_or(usize::MAX),
            ));
        }
        for name in checks
            .required
            .iter()
            .filter(|name| !fields.contains_key(&***name))
        {
            path.child(name, |path| causes.push(Cause::required(path.as_str(), "")));
        }
    }
    for (name, value) in fields {
        let known = node.properties.get(name.as_str());
        path.child(name, |path| {
            let builtin = known.is_some_and(|node| node.reference.is_some());
            if node.resource && name == "metadata" && !builtin {
                validate(&kinds::OBJECT_META.structural().root, value, path, causes);
            } else if node.resource && is_type_meta(name) && !value.is_string() {
                causes.push(wrong_type(
                    &Node {
                        ty: Some(Type::String),
                        ..Node::default()
                    },
                    value,
                    path,
                ));
            }
            match (known, &node.additional) {
                (Some(node), _) => validate(node, value, path, causes),
                (None, Additional::Schema(node)) => validate(node, value, path, causes),
                _ => (),
            }
        });
    }
}

fn array(node: &Node, checks: Option<&Checks>, items: &[Value], path: &mut Path, causes: &mut Vec<Cause>) {
    let count = items.len();
    if let Some(checks) = checks {
        let (min, max) = checks.items;
        if let Some(min) = min.filter(|min| (count as u64) < *min) {
            causes.push(invalid(
                path,
                &count.into(),
                &format!("should have at least {min} items"),
            ));
        }
        if let Some(max) = max.filter(|max| count as u64 > *max) {
            causes.push(Cause::too_many(
                field(path),
                count,
                usize::try_from(max).unwrap_or(usize::MAX),
            ));
        }
    }
    if let Some(node) = &node.items {
        for (i, item) in items.iter().enumerate() {
            path.index(i, |path| validate(node, item, path, causes));
        }
    }
    list::validate(&node.list, items, path, causes);
}

fn junctors(checks: &Checks, value: &Value, path: &mut Path, causes: &mut Vec<Cause>) {
    let name = quote(path.as_str());
    let complain = |causes: &mut Vec<Cause>, what: String| {
        // Upstream loses the path of these: they print as an error of the whole object.
        causes.push(Cause::invalid("<nil>", &"".into(), &format!("{name} {what}")));
    };
    if !checks.any_of.is_empty() {
        let (valid, best) = try_each(&checks.any_of, value, path, true);
        if valid == 0 {
            complain(causes, "must validate at least one schema (anyOf)".into());
            causes.extend(best);
        }
    }
    if !checks.one_of.is_empty() {
        let (valid, best) = try_each(&checks.one_of, value, path, false);
        if valid != 1 {
            let found = match valid {
                0 => "Found none valid".to_owned(),
                many => format!("Found {many} valid alternatives"),
            };
            complain(
                causes,
                format!("must validate one and only one schema (oneOf). {found}"),
            );
            if valid == 0 {
                causes.extend(best);
            }
        }
    }
    let mut valid = 0;
    for node in &checks.all_of {
        let before = causes.len();
        validate(node, value, path, causes);
        valid += usize::from(causes.len() == before);
    }
    if valid != checks.all_of.len() {
        let none = if valid == 0 { ". None validated" } else { "" };
        complain(causes, format!("must validate all the schemas (allOf){none}"));
    }
    if let Some(node) = &checks.not {
        let mut hidden = Vec::new();
        validate(node, value, path, &mut hidden);
        if hidden.is_empty() {
            complain(causes, "must not validate the schema (not)".into());
        }
    }
}

/// How many schemas accept the value, and the shortest list of errors of those that do not.
fn try_each(nodes: &[Node], value: &Value, path: &mut Path, first: bool) -> (usize, Vec<Cause>) {
    let mut valid = 0;
    let mut best: Option<Vec<Cause>> = None;
    for node in nodes {
        let mut causes = Vec::new();
        validate(node, value, path, &mut causes);
        if causes.is_empty() {
            valid += 1;
            if first {
                break;
            }
        } else if best.as_ref().is_none_or(|best| causes.len() < best.len()) {
            best = Some(causes);
        }
    }
    (valid, best.unwrap_or_default())
}
