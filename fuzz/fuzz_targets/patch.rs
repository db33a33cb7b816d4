//! Two JSON values, one a line: an object and a patch.
#![no_main]

use serde_json::Value;
use setpoint_apimachinery::{kinds, patch};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(split) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    let (Some(object), Some(change)) = (parse(&bytes[..split]), parse(&bytes[split + 1..])) else {
        return;
    };
    let _ = patch::json::apply(&object, &change, 1_000);
    let mut merged = object.clone();
    patch::merge::apply(&mut merged, &change);
    for kind in kinds::TOP_LEVEL {
        let _ = patch::strategic::apply(&mut object.clone(), &change, kind);
    }
});
