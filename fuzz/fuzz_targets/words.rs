//! Texts that clients and operators write: selectors, paths, timeouts, scripts of bad networks.
#![no_main]

use setpoint_apimachinery::table::JsonPath;
use setpoint_apimachinery::{FieldSelector, LabelSelector, Status};
use setpoint_flow::core::{retry::Pushback, timeout};
use setpoint_flow::impair::Script;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        let again = LabelSelector::parse(&selector.to_string()).expect("a selector is written as it is read");
        assert_eq!(selector, again);
    }
    let _ = (
        FieldSelector::parse(text),
        JsonPath::parse(text),
        Status::parse(text.as_bytes()),
    );
    let _ = (
        timeout::parse(text.as_bytes()),
        Pushback::parse(text.as_bytes()),
        Script::parse(text),
    );
});
