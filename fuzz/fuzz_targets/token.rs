//! Any text as a signed token, also with a signature that is right.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| setpoint_store::fuzzing::token(text));
