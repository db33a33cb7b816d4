//! The estimator when clocks jump, in either direction and by years.

use std::time::Duration;

use proptest::prelude::*;

use super::{Bounds, Estimator};

#[derive(Clone, Copy, Debug)]
enum Event {
    Received(u32),
    Asked,
    Answered,
    Credit(u64),
    Bound(u64),
    AlsoTook(u64),
    Rest,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<u32>().prop_map(Event::Received),
        2 => Just(Event::Asked),
        2 => Just(Event::Answered),
        1 => any_time().prop_map(Event::Credit),
        1 => any_time().prop_map(Event::Bound),
        1 => any_time().prop_map(Event::AlsoTook),
        1 => Just(Event::Rest),
    ]
}

/// Nanoseconds: mostly small, now and then years.
fn any_time() -> impl Strategy<Value = u64> {
    prop_oneof![0..1_000_000_000_u64, 0..100_000_000_000_000_000_u64]
}

proptest! {
    #[test]
    fn whatever_the_clock_says_the_window_stays_within_its_bounds(
        events in prop::collection::vec((any_time(), event()), 1..200),
    ) {
        let bounds = Bounds::default();
        let mut estimator = Estimator::new(bounds, Duration::ZERO);
        for (now, event) in events {
            let now = Duration::from_nanos(now);
            match event {
                Event::Received(bytes) => estimator.received(bytes.into(), now),
                Event::Asked if estimator.wants_ping(now) => estimator.ping_sent(now),
                Event::Asked => (),
                Event::Answered => estimator.ping_acked(now),
                Event::Credit(since) => estimator.credit_used(Duration::from_nanos(since), now),
                Event::Bound(bound) => estimator.lower_bound(Duration::from_nanos(bound), now),
                Event::AlsoTook(took) => estimator.also_took(Duration::from_nanos(took), now),
                Event::Rest => {
                    estimator.rest(now);
                }
            }
            let window = estimator.window();
            prop_assert!(window >= 16 << 10 && window <= bounds.cap, "{window}");
            prop_assert!(estimator.estimate().bandwidth.is_finite());
        }
    }
}
