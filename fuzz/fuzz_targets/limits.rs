//! The file with limits: whatever is in it, it is refused with its problems or put in force, and calls are answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use setpoint_flow::{Ask, Limits, Rules, Scope};
use tokio::time::Instant;

fuzz_target!(|text: &str| {
    let Ok(rules) = serde_saphyr::from_str::<Rules>(text) else {
        return;
    };
    let (limits, scope, now) = (Limits::new(), Scope::default(), Instant::now());
    if limits.replace(&rules, now).is_ok() {
        for method in ["/etcdserverpb.KV/Put", "list pods", ""] {
            let ask = Ask {
                method,
                peer: "10.0.0.7",
                metadata: &|_| None,
            };
            let _ = limits.admit(&ask, &scope, now);
        }
        // Twice: the second finds what the first left.
        assert!(limits.replace(&rules, now).is_ok());
    }
});
