//! What it costs to know an object: the header scan beside a full decode.
//!
//! `cargo bench -p setpoint-apimachinery --bench json` prints nanoseconds an object and megabytes a second,
//! the median of eleven rounds.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use setpoint_apimachinery::{Encoded, Object, encode};
use tokio::time::Instant;

const ROUNDS: usize = 11;

/// A custom resource of about `bytes` bytes with what real ones have: labels, an owner, managed fields.
fn object(bytes: usize) -> Object {
    let mut items = Vec::new();
    while items.len() * 95 + 900 < bytes {
        items.push(json!({"name": format!("item-{}", items.len()), "port": 8080, "enabled": true, "note": "a \"quoted\" word", "ratio": 0.5}));
    }
    let value = json!({
        "apiVersion": "example.com/v1", "kind": "Widget",
        "metadata": {
            "name": "widget-0001", "namespace": "default", "uid": "9f0c0c4e-8b1a-4a7e-9d3e-6a2f0f4b1c2d", "generation": 4,
            "creationTimestamp": "2024-01-01T00:00:00Z", "resourceVersion": "123456",
            "labels": {"app.kubernetes.io/name": "widget", "app.kubernetes.io/part-of": "bench", "tier": "front"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Box", "name": "b", "uid": "u", "controller": true}],
            "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:items": {}}}}],
        },
        "spec": {"items": items},
        "status": {"phase": "Ready", "observedGeneration": 4},
    });
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn measure(name: &str, bytes: usize, mut run: impl FnMut()) {
    let iterations = (20_000_000 / bytes.max(1)).clamp(20, 50_000);
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..iterations).for_each(|_| run());
            start.elapsed()
        })
        .collect();
    rounds.sort();
    let nanos = rounds[ROUNDS / 2].as_nanos() as f64 / iterations as f64;
    let rate = bytes as f64 / nanos * 1e9 / 1e6;
    #[expect(clippy::print_stdout, reason = "a benchmark prints its result")]
    {
        println!("{name:<28} {bytes:>8} B {nanos:>12.0} ns/object {rate:>10.0} MB/s");
    }
}

fn main() {
    for size in [2_000, 20_000, 200_000] {
        let object = object(size);
        let stored = encode(&object);
        let wire = Encoded::stored(stored.clone(), 7, None)
            .map(|encoded| encoded.json())
            .unwrap_or_default();
        let bytes = wire.len();
        measure("scan stored header", bytes, || {
            drop(black_box(Encoded::stored(stored.clone(), 7, None)));
        });
        measure("scan and check wire body", bytes, || {
            drop(black_box(Encoded::wire(wire.clone(), None)));
        });
        measure("serde_json::Value decode", bytes, || {
            drop(black_box(serde_json::from_slice::<Value>(&wire)));
        });
        measure("encode to canonical bytes", bytes, || {
            drop(black_box(encode(&object)));
        });
        let encoded = Encoded::stored(stored, 7, None);
        let mut out: Vec<u8> = Vec::with_capacity(bytes);
        measure("write with version spliced", bytes, || {
            out.clear();
            if let Ok(encoded) = &encoded {
                encoded.write_json(&mut out);
            }
            black_box(Bytes::new());
        });
    }
}
