//! Any bytes as what a client sends: a call is answered below the protocol or passed on to it, and never both.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((cut, bytes)) = bytes.split_first() {
        setpoint_flow::fuzzing::bypass(bytes, usize::from(*cut) * 8);
    }
});
