//! Any bytes as a checkpoint, also with its checksums made right.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| setpoint_store::fuzzing::checkpoint(bytes));
