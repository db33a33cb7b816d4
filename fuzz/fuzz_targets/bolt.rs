//! Any bytes as a snapshot's file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    setpoint_store::fuzzing::bolt(bytes);
});
