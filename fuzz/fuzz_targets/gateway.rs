//! Any bytes as the JSON of a request: the first byte chooses the method.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((kind, json)) = bytes.split_first() {
        setpoint_store::fuzzing::etcd_json(*kind, json);
    }
});
