//! Any bytes as a Kubernetes object in protobuf, or as an event of a watch; what is written is read again, as the same.
#![no_main]

use setpoint_apimachinery::transcode;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let body = [&transcode::MAGIC[..], bytes].concat();
    let event = transcode::decode_event(bytes).map(|(_, object)| object);
    for object in [transcode::decode(&body), event].into_iter().flatten() {
        let Ok(written) = transcode::encode(&object) else {
            continue;
        };
        let again = transcode::decode(&written).expect("what is written is read");
        assert_eq!(transcode::encode(&again), Ok(written));
    }
});
