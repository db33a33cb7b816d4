#![allow(clippy::needless_pass_by_value, reason = "rows read better with values")]

use serde_json::json;

use super::*;

fn schema(spec: Value) -> Value {
    json!({"type": "object", "properties": {"spec": spec}})
}

fn parsed(spec: Value) -> Structural {
    Structural::parse(&schema(spec)).unwrap()
}

#[track_caller]
fn refused(spec: Value, expect: &[&str]) {
    let causes = Structural::parse(&schema(spec)).map(|_| ()).unwrap_err();
    assert_eq!(causes.iter().map(ToString::to_string).collect::<Vec<_>>(), expect);
}

#[track_caller]
fn check(spec: Value, value: Value, expect: &[&str]) {
    let causes = parsed(spec).validate(&json!({"spec": value}));
    assert_eq!(causes.iter().map(ToString::to_string).collect::<Vec<_>>(), expect);
}

#[test]
fn wrong_values_are_named_in_upstreams_words() {
    let field = |schema: Value| json!({"type": "object", "properties": {"x": schema}});
    for (schema, value, expect) in [
        (
            json!({"type": "integer"}),
            json!("3"),
            &["spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\""][..],
        ),
        (json!({"type": "integer"}), json!(3.0), &[]),
        (
            json!({"type": "string"}),
            json!(null),
            &["spec.x: Invalid value: \"null\": spec.x in body must be of type string: \"null\""],
        ),
        (json!({"type": "string", "nullable": true}), json!(null), &[]),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            &["spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\""],
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            &["spec.x: Invalid value: \"b\": spec.x in body should match '^a+$'"],
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("ä"),
            &["spec.x: Invalid value: \"ä\": spec.x in body should be at least 2 chars long"],
        ),
        (
            json!({"type": "string", "maxLength": 1}),
            json!("ab"),
            &["spec.x: Too long: may not be more than 1 byte"],
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("x"),
            &["spec.x: Invalid value: \"x\": spec.x in body must be of type date-time: \"x\""],
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            &["spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1"],
        ),
        (
            json!({"type": "number", "maximum": 1.5, "exclusiveMaximum": true}),
            json!(1.5),
            &["spec.x: Invalid value: 1.5: spec.x in body should be less than 1.5"],
        ),
        (
            json!({"type": "number", "multipleOf": 0.1}),
            json!(0.35),
            &["spec.x: Invalid value: 0.35: spec.x in body should be a multiple of 0.1"],
        ),
        (json!({"type": "number", "multipleOf": 0.1}), json!(0.3), &[]),
        (
            json!({"type": "array", "items": {"type": "string"}, "minItems": 2}),
            json!(["a"]),
            &["spec.x: Invalid value: 1: spec.x in body should have at least 2 items"],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", 2]),
            &[
                "spec.x: Too many: 2: must have at most 1 item",
                "spec.x[1]: Invalid value: \"integer\": spec.x[1] in body must be of type string: \"integer\"",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!(["a", "b", "a", "a"]),
            &["spec.x[2]: Duplicate value: \"a\""],
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 1}),
            json!({"a": 1, "b": "c"}),
            &[
                "spec.x: Too many: 2: must have at most 1 item",
                "spec.x.b: Invalid value: \"string\": spec.x.b in body must be of type integer: \"string\"",
            ],
        ),
        (
            json!({"type": "object", "properties": {"y": {"type": "string"}}, "required": ["y"]}),
            json!({}),
            &["spec.x.y: Required value"],
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            &[
                "spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\"",
            ],
        ),
    ] {
        check(field(schema), json!({"x": value}), expect);
    }
}

#[test]
fn junctors_say_which_rule_failed() {
    let spec = |junctor: Value| {
        let mut schema =
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}});
        schema
            .as_object_mut()
            .unwrap()
            .extend(junctor.as_object().unwrap().clone());
        schema
    };
    let either = json!([{"required": ["a"]}, {"required": ["b"]}]);
    check(
        spec(json!({"oneOf": either})),
        json!({}),
        &[
            "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid",
            "spec.a: Required value",
        ],
    );
    check(
        spec(json!({"oneOf": either})),
        json!({"a": "", "b": ""}),
        &[
            "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ],
    );
    check(spec(json!({"oneOf": either})), json!({"a": ""}), &[]);
    check(spec(json!({"anyOf": either})), json!({"a": "", "b": ""}), &[]);
    check(
        spec(json!({"not": {"required": ["a"]}})),
        json!({"a": ""}),
        &["<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)"],
    );
    check(
        spec(json!({"allOf": either})),
        json!({}),
        &[
            "spec.a: Required value",
            "spec.b: Required value",
            "<nil>: Invalid value: \"\": \"spec\" must validate all the schemas (allOf). None validated",
        ],
    );
}

#[test]
fn list_maps_have_unique_keys() {
    let list = json!({
        "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    });
    check(
        list,
        json!([{"name": "a"}, {"name": "a"}]),
        &["spec[1]: Duplicate value: {\"name\":\"a\"}"],
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    let root = |schema: Value| -> Vec<String> {
        Structural::parse(&schema)
            .map(|_| ())
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        root(json!({})),
        ["type: Required value: must not be empty at the root"]
    );
    assert_eq!(
        root(json!({"type": "array", "items": {"type": "string"}})),
        ["type: Invalid value: \"array\": must be object at the root"]
    );
    refused(
        json!({}),
        &["properties[spec].type: Required value: must not be empty for specified object fields"],
    );
    refused(
        json!({"type": "array"}),
        &["properties[spec].items: Required value: must be specified"],
    );
    refused(
        json!({"type": "date"}),
        &[
            "properties[spec].type: Unsupported value: \"date\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ],
    );
    refused(
        json!({"type": "object", "anyOf": [{"properties": {"x": {"type": "string"}}}]}),
        &[
            "properties[spec].anyOf[0].properties[x].type: Forbidden: must be empty to be structural",
            "properties[spec].properties[x]: Required value: because it is defined in properties[spec].anyOf[0].properties[x]",
        ][1..],
    );
    refused(
        json!({"type": "object", "properties": {"x": {"type": "string"}}, "anyOf": [{"properties": {"x": {"type": "string", "description": "d"}}}]}),
        &[
            "properties[spec].anyOf[0].properties[x].description: Forbidden: must be empty to be structural",
            "properties[spec].anyOf[0].properties[x].type: Forbidden: must be empty to be structural",
        ],
    );
    refused(
        json!({"type": "string", "pattern": "("}),
        &[&*format!(
            "properties[spec].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: {}",
            Pattern::new("(").unwrap_err()
        )],
    );
    refused(
        json!({"type": "object", "$ref": "#/x", "uniqueItems": true}),
        &[
            "properties[spec].$ref: Forbidden: $ref is not supported",
            "properties[spec].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ],
    );
    refused(
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
        &[
            "properties[spec].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ],
    );
    refused(
        json!({"type": "integer", "default": "x"}),
        &[
            "properties[spec].default: Invalid value: \"string\": properties[spec].default in body must be of type integer: \"string\"",
        ],
    );
    refused(
        json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "string"}}),
        &[
            "properties[spec].items.type: Invalid value: \"string\": must be object if parent array's x-kubernetes-list-type is map",
            "properties[spec].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ],
    );
}

#[test]
fn int_or_string_may_say_its_types() {
    let any_of = json!([{"type": "integer"}, {"type": "string"}]);
    for schema in [
        json!({"x-kubernetes-int-or-string": true, "anyOf": any_of}),
        json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": any_of}, {"pattern": "^a"}]}),
    ] {
        check(schema.clone(), json!(3), &[]);
        check(schema, json!("a"), &[]);
    }
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let schema = parsed(json!({
        "type": "object",
        "properties": {
            "known": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                     "properties": {"strict": {"type": "object", "properties": {}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        },
    }));
    let mut value = json!({
        "apiVersion": "v1", "kind": "K", "extra": 1,
        "metadata": {"name": "a", "wrong": 1, "creationTimestamp": null},
        "spec": {
            "known": [{"a": "", "b": 1}], "unknown": 1,
            "free": {"any": {"thing": 1}, "strict": {"x": 1}},
            "map": {"k": {"a": "", "b": 1}},
            "embedded": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "b", "wrong": 1}, "data": {"x": 1}},
        },
    });
    assert_eq!(
        schema.prune(&mut value),
        [
            "extra",
            "metadata.wrong",
            "spec.embedded.metadata.wrong",
            "spec.free.strict.x",
            "spec.known[0].b",
            "spec.map.k.b",
            "spec.unknown"
        ]
    );
    assert_eq!(
        value,
        json!({
            "apiVersion": "v1", "kind": "K", "metadata": {"name": "a"},
            "spec": {
                "known": [{"a": ""}], "free": {"any": {"thing": 1}, "strict": {}}, "map": {"k": {"a": ""}},
                "embedded": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "b"}, "data": {"x": 1}},
            },
        })
    );
}

#[test]
fn defaults_are_filled_in_and_wrong_nulls_dropped() {
    let schema = parsed(json!({
        "type": "object",
        "properties": {
            "a": {"type": "integer", "default": 1},
            "b": {"type": "object", "default": {}, "properties": {"c": {"type": "string", "default": "x"}}},
            "d": {"type": "string"},
            "e": {"type": "string", "nullable": true},
            "f": {"type": "array", "items": {"type": "object", "properties": {"g": {"type": "integer", "default": 2}}}},
        },
    }));
    let mut value = json!({"spec": {"a": null, "d": null, "e": null, "f": [{}, {"g": 3}]}});
    schema.default(&mut value);
    assert_eq!(
        value,
        json!({"spec": {"a": 1, "b": {"c": "x"}, "e": null, "f": [{"g": 2}, {"g": 3}]}})
    );
    let once = value.clone();
    schema.default(&mut value);
    assert_eq!(value, once);
    assert!(schema.has_defaults());
}

#[test]
fn rules_in_cel_are_kept_and_warned_of() {
    let schema = parsed(json!({
        "type": "object", "properties": {"a": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.a > 1", "message": "too small"}],
    }));
    assert_eq!(schema.rules().len(), 1);
    assert_eq!(schema.rules()[0].0, "spec");
    assert_eq!(schema.warnings().len(), 1);
    assert!(parsed(json!({"type": "object"})).warnings().is_empty());
}

#[test]
fn metadata_of_the_root_has_its_own_types() {
    let schema = parsed(json!({"type": "object"}));
    let causes = schema.validate(&json!({"kind": 1, "metadata": {"labels": {"a": 1}, "name": 2}}));
    let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(fields, ["kind", "metadata.labels.a", "metadata.name"]);
}
