//! What the fake server says, and how it reads a request.

use super::*;

pub(super) fn is_in(key: &str, path: &str, plural: &str) -> bool {
    let root = path.strip_suffix(plural).unwrap_or(path);
    let collection = key.rsplit('/').nth(1).unwrap_or_default();
    key.starts_with(root) && collection == plural
}

pub(super) fn kind_of(method: &Method, path: &str, query: &BTreeMap<String, String>) -> On {
    if method != Method::GET {
        return On::Write;
    }
    match (
        query.contains_key("watch"),
        query.contains_key("sendInitialEvents"),
    ) {
        (true, true) => On::WatchList,
        (true, false) => On::Watch,
        (false, _)
            if [MAPS.plural(), SITES.plural(), "events"].contains(&path.rsplit('/').next().unwrap_or("")) =>
        {
            if query.contains_key("continue") {
                On::NextPage
            } else {
                On::List
            }
        }
        _ => On::Get,
    }
}

pub(super) fn read_of(request: &str) -> Option<String> {
    let (verb_path, query) = request.split_once('?')?;
    let path = verb_path.strip_prefix("GET ")?;
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let word = match kind_of(&Method::GET, path, &query) {
        On::List | On::NextPage => "list",
        On::Watch => "watch",
        On::WatchList => "watchlist",
        _ => return None,
    };
    let mut text = word.to_owned();
    for (key, short) in [
        ("resourceVersion", "rv"),
        ("limit", "limit"),
        ("continue", "continue"),
    ] {
        if let Some(value) = query.get(key) {
            let value = if key == "continue" { "…" } else { value };
            text.push_str(&format!(" {short}={value}"));
        }
    }
    Some(text)
}

pub(super) fn ok(body: &Value) -> Answer {
    answer(StatusCode::OK, body)
}

pub(super) fn status(code: u16, reason: &str, message: &str) -> Answer {
    let http = StatusCode::from_u16(code).unwrap();
    answer(http, &status_json(code, reason, message))
}

pub(super) fn status_json(code: u16, reason: &str, message: &str) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                            "code": code, "reason": reason, "message": message});
    if message.starts_with("Too large resource version") {
        status["details"] = json!({"retryAfterSeconds": 1, "causes": [
            {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"},
        ]});
    }
    status
}

pub(super) fn answer(code: StatusCode, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    response
}

pub(super) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| !list.is_empty())
}

pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

pub(super) fn name_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!(
        "{}/{}",
        metadata["namespace"].as_str().unwrap(),
        metadata["name"].as_str().unwrap()
    )
}

pub(super) fn version_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

pub(super) fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
