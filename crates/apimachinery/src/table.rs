//! Tables: the rows that `kubectl get` prints (`meta.k8s.io/v1` Table, apiextensions-apiserver
//! `registry/customresource/tableconvertor`, `pkg/printers/internalversion`).

use std::borrow::Cow;

use jiff::Timestamp;
use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use serde_json::{Value, json};

use crate::encoded::Encoded;

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// The title.
    pub name: Cow<'static, str>,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean` or `date`.
    pub ty: Cow<'static, str>,
    /// OpenAPI format, or empty; `name` marks the column of names.
    pub format: Cow<'static, str>,
    /// Text for humans.
    pub description: Cow<'static, str>,
    /// 0 is always shown, more only in wide tables.
    pub priority: i32,
    /// Where the value comes from.
    pub cell: Cell,
}

/// Where the value of a cell comes from.
#[derive(Clone, Debug)]
pub enum Cell {
    /// The field at a dotted path.
    Field(&'static str),
    /// How many members the fields at these paths have together.
    Count(&'static [&'static str]),
    /// The time since the timestamp at a path.
    Age(&'static str),
    /// When an Event was last seen.
    LastSeen,
    /// When an Event was first seen.
    FirstSeen,
    /// How often an Event was seen.
    EventCount,
    /// The object an Event is about, as `kind/name`.
    EventObject,
    /// Who reports an Event.
    EventSource,
    /// The first match of a JSONPath in a custom resource; `None` when the path cannot be used.
    JsonPath(Option<JsonPath>),
}

/// A JSONPath of a custom column.
#[derive(Clone, Debug)]
pub struct JsonPath {
    query: JpQuery,
}

impl JsonPath {
    /// Reads a Kubernetes JSONPath such as `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// With the parser's text when the path is malformed.
    pub fn parse(path: &str) -> Result<Self, String> {
        let path = path.trim().trim_start_matches('{').trim_end_matches('}');
        let rooted = match path.strip_prefix('$') {
            Some(rest) => rest.to_owned(),
            None if path.starts_with(['.', '[']) => path.to_owned(),
            None => format!(".{path}"),
        };
        // Kubernetes lets a dash stand in a dotted name and escapes dots by backslash; RFC 9535 has neither.
        parse_json_path(&format!("${}", quote_names(&rooted)))
            .map(|query| Self { query })
            .map_err(|error| error.to_string())
    }

    /// The values the path names.
    #[must_use]
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let found = js_path_process(&self.query, value).unwrap_or_default();
        found.into_iter().map(|reference| reference.val()).collect()
    }
}

/// `.a\.b.c-d[0]` as `['a.b']['c-d'][0]`; filters and indices stay.
fn quote_names(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 8);
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            out.push_str("..");
            rest = after;
            if rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        } else if let Some(after) = rest.strip_prefix('.') {
            let (name, end) = dotted_name(after);
            match name.as_str() {
                "" => out.push('.'),
                "*" => out.push_str("[*]"),
                name => out.push_str(&format!(
                    "['{}']",
                    name.replace('\\', "\\\\").replace('\'', "\\'")
                )),
            }
            rest = &after[end..];
        } else if rest.starts_with('[') {
            let end = bracket_end(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else {
            out.push_str(rest);
            rest = "";
        }
    }
    out
}

/// The name at the start, backslashes resolved, and where it ends.
fn dotted_name(text: &str) -> (String, usize) {
    let (mut name, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            c if escaped => {
                name.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '.' | '[' => return (name, at),
            c => name.push(c),
        }
    }
    (name, text.len())
}

/// Just behind the bracket that closes the one at the start; brackets in quotes do not count.
fn bracket_end(text: &str) -> usize {
    let (mut depth, mut quote) = (0_u32, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => (),
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => (),
        }
    }
    text.len()
}

impl Column {
    /// A column that is always shown.
    pub(crate) const fn builtin(
        name: &'static str,
        ty: &'static str,
        description: &'static str,
        cell: Cell,
    ) -> Self {
        Self::fixed(name, ty, "", description, 0, cell)
    }

    /// A column shown in wide tables.
    pub(crate) const fn wide(name: &'static str, description: &'static str, cell: Cell) -> Self {
        Self::fixed(name, "string", "", description, 1, cell)
    }

    /// The column of names.
    pub(crate) const fn of_names(priority: i32) -> Self {
        Self::fixed(
            "Name",
            "string",
            "name",
            "Name of the object.",
            priority,
            Cell::Field("metadata.name"),
        )
    }

    const fn fixed(
        name: &'static str,
        ty: &'static str,
        format: &'static str,
        description: &'static str,
        priority: i32,
        cell: Cell,
    ) -> Self {
        Self {
            name: Cow::Borrowed(name),
            ty: Cow::Borrowed(ty),
            format: Cow::Borrowed(format),
            description: Cow::Borrowed(description),
            priority,
            cell,
        }
    }

    /// A column of a custom resource, from an entry of `additionalPrinterColumns`. A path that does not parse
    /// gives empty cells.
    #[must_use]
    pub fn custom(definition: &Value) -> Self {
        let text = |field: &str| Cow::Owned(definition[field].as_str().unwrap_or_default().to_owned());
        let description = match definition["description"].as_str() {
            Some(description) if !description.is_empty() => Cow::Owned(description.to_owned()),
            _ => Cow::Owned(format!(
                "Custom resource definition column (in JSONPath format): {}",
                definition["jsonPath"].as_str().unwrap_or_default()
            )),
        };
        Self {
            name: text("name"),
            ty: text("type"),
            format: text("format"),
            description,
            priority: definition["priority"]
                .as_i64()
                .and_then(|p| i32::try_from(p).ok())
                .unwrap_or(0),
            cell: Cell::JsonPath(JsonPath::parse(definition["jsonPath"].as_str().unwrap_or_default()).ok()),
        }
    }

    /// The columns of a custom resource: its name, then those defined, or its age when none is.
    #[must_use]
    pub fn custom_columns(definitions: Option<&Value>) -> Vec<Self> {
        let mut columns = vec![Self::of_names(0)];
        match definitions.and_then(Value::as_array) {
            Some(list) if !list.is_empty() => columns.extend(list.iter().map(Self::custom)),
            _ => {
                let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
                    "description": "Time since the object was created."});
                columns.push(Self::custom(&age));
            }
        }
        columns
    }

    /// The entry of a Table's `columnDefinitions`.
    #[must_use]
    pub fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.ty, "format": self.format, "description": self.description,
            "priority": self.priority,
        })
    }
}

/// The cells of one row. An object is decoded only when a column needs JSONPath.
#[must_use]
pub fn cells(columns: &[Column], object: &Encoded, now: Timestamp) -> Vec<Value> {
    let needs_value = columns
        .iter()
        .any(|column| matches!(column.cell, Cell::JsonPath(_)));
    let value = if needs_value {
        object.decode().map(Value::Object).unwrap_or_default()
    } else {
        Value::Null
    };
    columns
        .iter()
        .map(|column| cell(column, object, &value, now))
        .collect()
}

fn cell(column: &Column, object: &Encoded, value: &Value, now: Timestamp) -> Value {
    let text = |path: &str| object.field_text(path).map(Cow::into_owned).unwrap_or_default();
    match &column.cell {
        Cell::Field(path) => text(path).into(),
        Cell::Count(paths) => paths
            .iter()
            .map(|path| members(object, path))
            .sum::<usize>()
            .to_string()
            .into(),
        Cell::Age(path) => age(&text(path), now).into(),
        Cell::LastSeen => age(&first(&text, LAST_SEEN), now).into(),
        Cell::FirstSeen => age(&first(&text, FIRST_SEEN), now).into(),
        Cell::EventCount => first(&text, &["series.count", "count"]).into(),
        Cell::EventObject => {
            let kind = text("involvedObject.kind").to_lowercase();
            format!("{kind}/{}", text("involvedObject.name")).into()
        }
        Cell::EventSource => {
            let component = first(&text, &["source.component", "reportingComponent"]);
            let host = first(&text, &["source.host", "reportingInstance"]);
            let comma = if component.is_empty() || host.is_empty() {
                ""
            } else {
                ", "
            };
            format!("{component}{comma}{host}").into()
        }
        Cell::JsonPath(path) => path
            .as_ref()
            .map_or(Value::Null, |path| custom_cell(column, path, value, now)),
    }
}

const LAST_SEEN: &[&str] = &[
    "series.lastObservedTime",
    "lastTimestamp",
    "eventTime",
    "firstTimestamp",
];
const FIRST_SEEN: &[&str] = &["firstTimestamp", "eventTime"];

/// The first of the fields that is there.
fn first(text: &dyn Fn(&str) -> String, paths: &[&str]) -> String {
    paths
        .iter()
        .map(|path| text(path))
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// How many members an object or array has.
fn members(object: &Encoded, path: &str) -> usize {
    let value = object
        .field(path)
        .and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
    match value {
        Some(Value::Object(fields)) => fields.len(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    }
}

/// A value is shown only when it has the column's type.
fn custom_cell(column: &Column, path: &JsonPath, value: &Value, now: Timestamp) -> Value {
    let found = path.find(value);
    let Some(first) = found.first().copied() else {
        return Value::Null;
    };
    match (&*column.ty, first) {
        ("integer", Value::Number(number)) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|x| x as i64))
            .map_or(Value::Null, Into::into),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => first.clone(),
        ("string", Value::String(_)) => first.clone(),
        ("string", Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        ("date", Value::String(text)) => age(text, now).into(),
        _ => Value::Null,
    }
}

/// The time since `timestamp` as kubectl prints it; `<unknown>` when it cannot be read.
#[must_use]
pub fn age(timestamp: &str, now: Timestamp) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(then) => human_duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A duration in at most two units (apimachinery `util/duration/duration.go`, `HumanDuration`).
fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::needless_pass_by_value, reason = "rows read better with values")]

    use super::*;
    use crate::encode;
    use crate::kinds::BUILTIN;

    fn now() -> Timestamp {
        "2024-01-02T00:00:00Z".parse().unwrap()
    }

    fn object(value: Value) -> Encoded {
        Encoded::stored(encode(value.as_object().unwrap()), 1, None).unwrap()
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_460, "3h11m"),
            (28_800, "8h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (64_000_000, "2y10d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn built_in_rows_show_what_upstream_shows() {
        let columns = |plural: &str| BUILTIN.iter().find(|r| r.plural == plural).unwrap().columns;
        let map = object(json!({
            "metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "data": {"x": "", "y": ""}, "binaryData": {"z": ""},
        }));
        assert_eq!(
            cells(columns("configmaps"), &map, now()),
            [json!("a"), json!("3"), json!("24h")]
        );
        let event = object(json!({
            "metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": "up", "count": 2,
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n1"},
            "lastTimestamp": "2024-01-01T23:59:00Z", "firstTimestamp": "2024-01-01T23:00:00Z",
        }));
        assert_eq!(
            cells(columns("events"), &event, now()),
            [
                "60s",
                "Normal",
                "Started",
                "pod/p",
                "",
                "kubelet, n1",
                "up",
                "60m",
                "2",
                "e"
            ]
            .map(Value::from)
        );
    }

    #[test]
    fn custom_columns_follow_their_paths_and_types() {
        let definitions = json!([
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
            {"name": "Escaped", "type": "string", "jsonPath": ".metadata.labels.a\\.b/c"},
            {"name": "Host", "type": "string", "jsonPath": ".spec.hosts[0]"},
            {"name": "Dash", "type": "string", "jsonPath": ".spec.with-dash"},
            {"name": "Missing", "type": "string", "jsonPath": ".spec.nothing"},
            {"name": "Wrong", "type": "integer", "jsonPath": ".spec.with-dash"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ]);
        let columns = Column::custom_columns(Some(&definitions));
        let row = object(json!({
            "metadata": {"name": "a", "labels": {"a.b/c": "l"}, "creationTimestamp": "2024-01-01T23:59:00Z"},
            "spec": {"replicas": 3, "hosts": ["h", "i"], "with-dash": "d"},
            "status": {"conditions": [{"type": "Other", "status": "x"}, {"type": "Ready", "status": "True"}]},
        }));
        assert_eq!(
            cells(&columns, &row, now()),
            [
                json!("a"),
                json!("True"),
                json!(3),
                json!("l"),
                json!("h"),
                json!("d"),
                json!(null),
                json!(null),
                json!("60s")
            ]
        );
        assert_eq!(Column::custom_columns(None).len(), 2);
    }
}
