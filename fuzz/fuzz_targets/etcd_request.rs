//! Any bytes as a request: the first says which.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((kind, bytes)) = bytes.split_first() {
        setpoint_store::fuzzing::etcd_request(*kind, bytes);
    }
});
