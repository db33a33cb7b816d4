//! Any bytes as a Kubernetes object; what the scan accepts must be JSON, and stay it when it is written out.
#![no_main]

use bytes::Bytes;
use setpoint_apimachinery::Encoded;
use setpoint_apimachinery::encoded::{scan_event, scan_list};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let body = Bytes::copy_from_slice(bytes);
    let _ = scan_list(&body);
    let _ = scan_event(&body);
    let _ = Encoded::stored(body.clone(), 7, None);
    if let Ok(object) = Encoded::wire(body, None) {
        let _ = (
            object.metadata_json(),
            object.field("spec.replicas"),
            object.header(),
        );
        if object.decode().is_ok() {
            serde_json::from_slice::<serde_json::Value>(&object.json())
                .expect("an object is written as JSON");
        }
    }
});
