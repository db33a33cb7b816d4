//! Encoded objects: what the scan finds, and that it agrees with a full decoder.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is not an object"),
    }
}

fn sample() -> Object {
    object(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "data": {"zeta": "\"quoted\"", "a": [1, 2.5, null]},
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u-1", "generation": 3, "resourceVersion": "1",
            "labels": {"tier": "front", "app": "web", "e\"s": "c\n"},
            "annotations": {"a.b/c": "x"},
            "finalizers": ["one", "two"],
            "deletionTimestamp": "2024-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "u-0", "controller": true}],
        },
        "spec": {"replicas": 2, "paused": false, "name": "caf\u{e9}"},
    }))
}

fn stored() -> Encoded {
    Encoded::stored(encode(&sample()), 42, None).unwrap()
}

#[test]
fn the_header_is_found_without_decoding() {
    let encoded = stored();
    let header = encoded.header();
    assert_eq!(
        (&*header.namespace, &*header.name, &*header.uid),
        ("shop", "web", "u-1")
    );
    assert_eq!((header.resource_version, header.generation), (42, 3));
    assert_eq!((header.deleting, header.finalizers), (true, 2));
    assert_eq!(
        header.labels.iter().collect::<Vec<_>>(),
        [("app", "web"), ("e\"s", "c\n"), ("tier", "front")]
    );
    assert_eq!(header.labels.get("tier"), Some("front"));
    assert_eq!(header.labels.get("nothing"), None);
    let owner = &header.owners[0];
    assert_eq!(
        (&*owner.uid, &*owner.kind, owner.controller, owner.block),
        ("u-0", "K", true, false)
    );
    assert_eq!(
        (encoded.api_version(), encoded.kind()),
        (Some("apps/v1"), Some("Deployment"))
    );
}

#[test]
fn the_version_is_spliced_into_every_form() {
    let encoded = stored();
    let mut written = Vec::new();
    encoded.write_json(&mut written);
    assert_eq!(written.len(), encoded.json_len());
    assert_eq!(encoded.chunks().flatten().collect::<Vec<_>>(), written);
    assert_eq!(encoded.json(), written);
    let mut expected = sample();
    expected["metadata"]["resourceVersion"] = json!("42");
    assert_eq!(serde_json::from_slice::<Object>(&written).unwrap(), expected);
    assert_eq!(encoded.decode().unwrap(), expected);
    assert_eq!(
        serde_json::from_slice::<Value>(&encoded.metadata_json()).unwrap(),
        expected["metadata"]
    );
    let wire = Encoded::wire(written.into(), None).unwrap();
    assert_eq!(wire, encoded);
    assert_eq!(wire.header(), encoded.header());
    assert_eq!(wire.metadata_json(), encoded.metadata_json());
}

#[test]
fn a_stored_object_without_metadata_fields_stays_valid_json() {
    let encoded = Encoded::stored(Bytes::from_static(b"{\"metadata\":{}}"), 7, None).unwrap();
    assert_eq!(encoded.json(), "{\"metadata\":{\"resourceVersion\":\"7\"}}");
}

#[test]
fn the_api_version_is_replaced_and_nothing_else() {
    for encoded in [stored(), Encoded::wire(stored().json(), None).unwrap()] {
        let other = encoded.with_api_version("apps/v1beta1");
        assert_eq!(other.api_version(), Some("apps/v1beta1"));
        let mut expected = encoded.decode().unwrap();
        expected["apiVersion"] = json!("apps/v1beta1");
        assert_eq!(serde_json::from_slice::<Object>(&other.json()).unwrap(), expected);
    }
}

#[test]
fn fields_are_found_by_path() {
    let encoded = stored();
    assert_eq!(encoded.field("spec.replicas"), Some(&b"2"[..]));
    assert_eq!(
        encoded.field_at(&["metadata", "annotations", "a.b/c"]),
        Some(&b"\"x\""[..])
    );
    assert_eq!(encoded.field("spec.replicas.deeper"), None);
    assert_eq!(encoded.field_text("spec.name").as_deref(), Some("café"));
    assert_eq!(encoded.field_text("spec.paused").as_deref(), Some("false"));
    assert_eq!(
        encoded.field_text("metadata.resourceVersion").as_deref(),
        Some("42")
    );
    assert_eq!(encoded.field_text("spec"), None);
    assert_eq!(encoded.field_text("spec.nothing"), None);
}

#[test]
fn bodies_that_are_no_objects_are_refused() {
    for body in [
        "",
        "[]",
        "{}",
        "{\"metadata\":1}",
        "{\"metadata\":{\"name\":1}}",
        "{\"metadata\":{\"labels\":[]}}",
        "{\"metadata\":{\"labels\":{\"a\":1}}}",
        "{\"metadata\":{}} x",
        "{\"metadata\":{\"generation\":\"1\"}}",
        "{\"metadata\":{\"ownerReferences\":[1]}}",
        "{\"metadata\":{\"resourceVersion\":\"x\"}}",
        "{\"kind\":1,\"metadata\":{}}",
    ] {
        assert!(Encoded::wire(Bytes::from(body), None).is_err(), "{body}");
    }
    assert_eq!(
        Encoded::stored(Bytes::from("{\"metadata\":{\"resourceVersion\":\"1\"}}"), 2, None).unwrap_err(),
        ScanError::StoredVersion
    );
    let null = "{\"metadata\":{\"name\":null,\"labels\":null,\"finalizers\":null,\"ownerReferences\":null,\"generation\":null}}";
    assert_eq!(
        Encoded::wire(Bytes::from(null), None).unwrap().header(),
        &Header::default()
    );
}

#[test]
fn of_two_labels_with_one_key_the_later_wins() {
    let labels = Labels::from_pairs([("b", "1"), ("a", "2"), ("b", "3")]);
    assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
}

proptest! {
    #[test]
    fn a_mutated_body_never_panics_and_decodes_if_it_scans(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = stored().json().to_vec();
        for (index, byte) in edits {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(stored) = Encoded::stored(bytes.clone(), 9, None) {
            let _ = (stored.json(), stored.metadata_json(), stored.field("spec.replicas"), stored.decode());
        }
        let Ok(wire) = Encoded::wire(bytes.clone(), None) else { return Ok(()) };
        // What scans is JSON; only a number out of range or half a surrogate may still stop the decoder.
        prop_assert!(serde_json::from_slice::<Box<serde_json::value::RawValue>>(&bytes).is_ok());
        let _ = (wire.decode(), wire.field_text("metadata.labels.app"), wire.with_api_version("v9"));
    }

    #[test]
    fn any_version_is_written_as_its_decimal(version in any::<u64>()) {
        let encoded = Encoded::stored(Bytes::from_static(b"{\"metadata\":{\"name\":\"a\"}}"), version, None).unwrap();
        prop_assert_eq!(Encoded::wire(encoded.json(), None).unwrap().header().resource_version, version);
    }
}
