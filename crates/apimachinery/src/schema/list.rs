//! Lists that are sets or maps (apiextensions-apiserver `schema/listtype/validation.go`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::List;
use crate::cause::{Cause, Path};

/// What is wrong with the items of a list as far as its type goes.
pub(super) fn validate(list: &List, items: &[Value], path: &mut Path, causes: &mut Vec<Cause>) {
    match list {
        List::Atomic => (),
        List::Set => duplicates(items.iter().map(Clone::clone), path, causes),
        List::Map(keys) => {
            let scalar = |item: &Value| !item.is_null() && !item.is_object();
            if let Some((i, item)) = items.iter().enumerate().find(|(_, item)| scalar(item)) {
                let why = "must be an object for an array of list-type map";
                path.index(i, |path| causes.push(Cause::invalid(path.as_str(), item, why)));
                return;
            }
            let key = |item: &Value| {
                let pairs = keys
                    .iter()
                    .filter_map(|key| Some((key.to_string(), item.get(&**key)?.clone())));
                Value::Object(Map::from_iter(pairs))
            };
            duplicates(items.iter().map(key), path, causes);
        }
    }
}

/// Names the second of each group of equal values, once.
fn duplicates(values: impl Iterator<Item = Value>, path: &mut Path, causes: &mut Vec<Cause>) {
    let (mut seen, mut reported) = (HashSet::new(), HashSet::new());
    for (i, value) in values.enumerate() {
        let text = value.to_string();
        if seen.contains(&text) {
            if reported.insert(text) {
                path.index(i, |path| causes.push(Cause::duplicate(path.as_str(), &value)));
            }
        } else {
            seen.insert(text);
        }
    }
}
