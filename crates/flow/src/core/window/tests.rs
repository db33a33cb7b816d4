//! The estimator on links of all lengths.

use std::time::Duration;

use proptest::prelude::*;

use super::link::Link;
use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn near(estimate: Option<Duration>, rtt: Duration) -> bool {
    estimate.is_some_and(|estimate| estimate >= rtt * 3 / 4 && estimate <= rtt * 5 / 4)
}

/// After six round trips, one sender gets nine tenths of the link.
#[track_caller]
fn fills(mbit: f64, rtt_ms: u64) {
    let mut link = Link::new(mbit, rtt_ms);
    let rtt = ms(rtt_ms);
    // Half a round trip passes before the first byte can be here.
    link.run(rtt / 2 + rtt * 6);
    let share = link.share((rtt * 10).max(ms(100)));
    let estimate = link.estimator.estimate();
    let window = link.estimator.window();
    assert!(
        share >= 0.9,
        "{share:.3} of {mbit} Mbit/s at {rtt_ms} ms: window {window}, {estimate:?}"
    );
}

#[test]
fn a_link_of_100_mbit_is_full_within_six_round_trips() {
    for rtt_ms in [2, 30, 100, 200] {
        fills(100.0, rtt_ms);
    }
}

#[test]
fn a_link_of_1_gbit_is_full_within_six_round_trips() {
    for rtt_ms in [2, 30, 100, 200] {
        fills(1000.0, rtt_ms);
    }
}

#[test]
fn it_stays_full_and_the_window_does_not_creep() {
    for (mbit, rtt_ms) in [(100.0, 30), (1000.0, 2), (1000.0, 100)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(10_000));
        let early = link.estimator.window();
        let share = link.share(ms(120_000));
        let late = link.estimator.window();
        assert!(share >= 0.9, "{share:.3} at {mbit} Mbit/s, {rtt_ms} ms");
        assert!(
            late <= early * 2,
            "{early} became {late} at {mbit} Mbit/s, {rtt_ms} ms"
        );
    }
}

/// How long after a step the estimate is within a quarter.
fn follows(link: &mut Link, to: Duration) -> Duration {
    link.rtt = to;
    let begun = link.now;
    while !near(link.estimator.estimate().rtt, to) && link.now < begun + ms(60_000) {
        link.run(ms(1));
    }
    link.now - begun
}

#[test]
fn a_step_of_the_round_trip_is_followed_within_ten_of_the_longer_ones_both_ways() {
    // A sender with less to say than the link takes, so that nothing queues; and more than the window, at first.
    for mbit in [400.0, 1000.0] {
        let mut link = Link::new(mbit, 20);
        link.demand = Some(link.rate / 2.0);
        link.run(ms(20_000)); // AGE
        assert!(
            near(link.estimator.estimate().rtt, ms(20)),
            "{:?}",
            link.estimator.estimate()
        );
        let up = follows(&mut link, ms(150));
        assert!(up <= ms(1_500), "up at {mbit} Mbit/s after {up:?}");
        link.run(ms(20_000)); // AGE
        let down = follows(&mut link, ms(20));
        assert!(
            down <= ms(450),
            "down at {mbit} Mbit/s after {down:?}: {:?}",
            link.estimator.estimate()
        );
    }
}

#[test]
fn a_step_is_followed_as_soon_behind_a_queue_of_our_own() {
    // The sender puts all it may into the pipe, and PINGs wait behind that: the path has to be found below the queue.
    for (mbit, age) in [(100.0, 8), (400.0, 8), (1000.0, 8), (400.0, 20), (1000.0, 100)] {
        let mut link = Link::new(mbit, 20);
        link.run(ms(age * 1000));
        let estimate = |link: &Link| format!("{mbit} Mbit/s, {age} s old: {:?}", link.estimator.estimate());
        assert!(near(link.estimator.estimate().rtt, ms(20)), "{}", estimate(&link));
        let up = follows(&mut link, ms(150));
        assert!(up <= ms(1_500), "up after {up:?}: {}", estimate(&link));
        link.run(ms(1_500));
        assert!(link.share(ms(5_000)) >= 0.9, "150 ms: {}", estimate(&link));
        // Half of the longer round trip until the first byte can be here by the shorter way, and what is under way then:
        // about ten of the shorter ones.
        let down = follows(&mut link, ms(20));
        assert!(down <= ms(230), "down after {down:?}: {}", estimate(&link));
        link.run(ms(1_500));
        assert!(link.share(ms(5_000)) >= 0.9, "20 ms again: {}", estimate(&link));
    }
}

#[test]
fn a_way_that_became_shorter_is_found_whenever_that_is() {
    let mut link = Link::new(100.0, 150);
    link.run(ms(8_000));
    for phase in (0..2_000).step_by(7) {
        let mut link = link.clone();
        link.run(ms(phase));
        let found = follows(&mut link, ms(20));
        // Longest where a nod is just over.
        assert!(found <= ms(205), "{found:?}, {phase} ms later");
    }
}

/// Nothing but nods can see that: nobody is sooner than what he catches up with.
#[test]
fn a_way_back_that_became_shorter_is_found_by_a_nod() {
    for age in [3_000, 9_000, 40_000] {
        let mut link = Link::new(100.0, 150);
        link.run(ms(age));
        link.sooner_back = ms(60);
        let begun = link.now;
        while !near(link.estimator.estimate().rtt, ms(90)) && link.now < begun + ms(60_000) {
            link.run(ms(10));
        }
        let found = link.now - begun;
        // The longest pause between two is 64 of the longer round trips.
        assert!(found <= ms(12_000), "{found:?} at the age of {age} ms");
    }
}

#[test]
fn nods_that_show_nothing_cost_a_long_path_less_than_a_hundredth() {
    for (mbit, rtt_ms) in [(100.0, 100), (1000.0, 100), (100.0, 200)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(8_000));
        let share = link.share(ms(40_000));
        assert!(share >= 0.99, "{share} of {mbit} Mbit/s at {rtt_ms} ms");
    }
}

#[test]
fn what_a_nod_kept_back_does_not_queue_after_it() {
    for (mbit, rtt_ms) in [(1000.0, 20), (100.0, 60), (100.0, 150)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(8_000));
        // A sixteenth and a millisecond, credit in steps of a thirty-second, and two frames.
        let frames = Duration::from_secs_f64(32_768.0 / link.rate);
        let most = ms(rtt_ms) / 10 + ms(1) + frames;
        let (mut nods, mut before) = (0, false);
        for _ in 0..40_000 {
            link.run(ms(1));
            let nods_now = link.estimator.nod.is_some();
            nods += u32::from(nods_now && !before);
            before = nods_now;
            let queue = link.queue();
            assert!(
                queue <= most,
                "{queue:?} of {mbit} Mbit/s at {rtt_ms} ms after {:?}",
                link.now
            );
        }
        assert!(nods > 0, "{mbit} Mbit/s at {rtt_ms} ms");
    }
}

/// A window that was used up before the first credit was back: the sender had nothing left that a PING could wait behind.
#[test]
fn a_path_that_was_seen_without_a_queue_is_not_looked_for_soon() {
    for (mbit, rtt_ms) in [
        (100.0, 100),
        (100.0, 200),
        (1000.0, 30),
        (1000.0, 100),
        (1000.0, 200),
    ] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(rtt_ms * 7));
        let holds = link.rate * link.rtt.as_secs_f64();
        for _ in 0..5_000 {
            link.run(ms(1));
            let window = f64::from(link.estimator.window()) / holds;
            assert!(
                window >= 1.0,
                "{window} of {mbit} Mbit/s at {rtt_ms} ms after {:?}",
                link.now
            );
        }
    }
}

#[test]
fn bytes_that_were_held_up_change_no_window() {
    let mut link = Link::new(100.0, 100);
    link.run(ms(8_700));
    for held in [5, 10, 20, 45, 80, 200] {
        let before = link.estimator.window();
        link.hold(ms(held));
        for _ in 0..400 {
            link.run(ms(1));
            let window = f64::from(link.estimator.window()) / f64::from(before);
            // A nod is a fifth less.
            assert!((0.75..1.1).contains(&window), "{held} ms: {window}");
        }
        link.run(ms(3_000));
    }
}

/// Twice in a row, by a tenth of a round trip: the window grew by two fifths for a quarter of a second.
#[test]
fn bytes_that_are_a_little_late_change_no_window() {
    for (mbit, rtt_ms) in [(100.0, 20), (1000.0, 20), (100.0, 100)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(8_700));
        let before = link.estimator.window();
        for phase in 1..40 {
            for _ in 0..3 {
                link.hold(ms(rtt_ms) / 8);
                link.run(ms(rtt_ms) * (20 + phase) / 20);
                let window = f64::from(link.estimator.window()) / f64::from(before);
                assert!(window < 1.2, "{window} of {mbit} Mbit/s at {rtt_ms} ms, {phase}");
            }
            link.run(ms(rtt_ms * 10));
        }
    }
}

#[test]
fn a_link_that_becomes_faster_stays_full_and_is_not_taken_for_a_shorter_one() {
    for (mbit, rtt_ms) in [(100.0, 30), (100.0, 150), (300.0, 100)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(8_000));
        link.rate *= 3.0;
        link.run(ms(rtt_ms * 30));
        let share = link.share(ms(5_000));
        assert!(share >= 0.9, "{share} of {mbit} Mbit/s at {rtt_ms} ms");
    }
}

#[test]
fn a_window_holds_what_the_link_does_and_little_more() {
    for (mbit, rtt_ms) in [(1000.0, 20), (100.0, 100), (1000.0, 100), (100.0, 20)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(10_000));
        let holds = link.rate * link.rtt.as_secs_f64();
        for _ in 0..20 {
            assert!(link.share(ms(1_000)) >= 0.9, "{mbit} Mbit/s at {rtt_ms} ms");
            let window = f64::from(link.estimator.window()) / holds;
            assert!(
                (0.85..1.25).contains(&window),
                "{window} at {mbit} Mbit/s, {rtt_ms} ms"
            );
        }
    }
}

/// What a receiver knows may be wrong: a round trip that is often longer than its shortest must not make the window smaller
/// and smaller, with less and less coming of it.
#[test]
fn a_path_that_is_mostly_longer_than_at_its_best_does_not_starve() {
    let mut link = Link::new(200.0, 40);
    link.run(ms(3_000));
    for _ in 0..60 {
        link.rtt = ms(40);
        link.run(ms(100));
        link.rtt = ms(55);
        link.run(ms(900));
    }
    assert!(link.share(ms(2_000)) >= 0.7, "{:?}", link.estimator.estimate());
}

#[test]
fn the_bandwidth_falls_and_rises_with_the_link() {
    let mut link = Link::new(400.0, 40);
    link.run(ms(5_000));
    let wide = link.estimator.window();
    link.rate /= 8.0;
    link.run(ms(20_000));
    let bandwidth = link.estimator.estimate().bandwidth;
    assert!((0.8..1.2).contains(&(bandwidth / link.rate)), "{bandwidth}");
    assert!(
        link.estimator.window() <= wide / 2,
        "{wide}, {}",
        link.estimator.window()
    );
    link.rate *= 8.0;
    link.run(ms(3_000));
    assert!(link.share(ms(2_000)) >= 0.9);
}

#[test]
fn a_steady_flow_is_pinged_once_in_ten_seconds_at_most() {
    for (mbit, rtt_ms) in [(100.0, 30), (1000.0, 2)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(60_000));
        let before = link.pings;
        link.run(ms(100_000));
        let pings = link.pings - before;
        assert!(
            pings <= 11,
            "{pings} PINGs in 100 s at {mbit} Mbit/s, {rtt_ms} ms"
        );
    }
}

#[test]
fn a_sender_with_little_to_say_is_hardly_pinged_and_keeps_its_window() {
    let mut link = Link::new(1000.0, 30);
    link.demand = Some(1e6);
    link.run(ms(60_000));
    assert!(link.pings <= 3, "{}", link.pings);
    assert_eq!(link.estimator.window(), Bounds::default().start);
}

#[test]
fn a_few_bytes_are_never_pinged_for() {
    let mut estimator = Estimator::new(Bounds::default(), Duration::ZERO);
    for n in 0..100 {
        estimator.received(500, ms(n * 10));
        assert!(!estimator.wants_ping(ms(n * 10)));
    }
}

#[test]
fn after_half_a_minute_without_data_all_is_forgotten() {
    let mut link = Link::new(1000.0, 100);
    link.run(ms(5_000));
    assert!(link.estimator.window() > 10 << 20);
    let last = link.estimator.rest_at() - IDLE;
    assert!(!link.estimator.clone().rest(last + IDLE - ms(1)));
    assert!(link.estimator.rest(last + IDLE));
    assert_eq!(link.estimator.window(), Bounds::default().start);
    assert_eq!(link.estimator.estimate().rtt, None);
    assert!(!link.estimator.rest(last + IDLE * 2));
}

/// Eight streams have eight first windows.
const EIGHT: u32 = 8 << 20;

#[test]
fn eight_new_streams_queue_for_a_moment_only_where_the_path_was_seen_before() {
    for (mbit, rtt_ms) in [(100.0, 2), (100.0, 20), (100.0, 100), (300.0, 20), (1000.0, 20)] {
        let mut link = Link::begins_with(EIGHT, mbit, rtt_ms);
        link.estimator.also_took(ms(rtt_ms), Duration::ZERO);
        link.run(ms(rtt_ms * 6));
        assert!(link.share(ms(900)) >= 0.95, "{mbit} Mbit/s at {rtt_ms} ms");
        // The least window there is, or a sixteenth of the round trip and a millisecond; and what was still on its way.
        let least = Duration::from_secs_f64(f64::from(FULL_MIN) / link.rate);
        let queue = least.max(ms(rtt_ms) / 16 + ms(1)) + ms(1);
        for _ in 0..3_000 {
            link.run(ms(1));
            let (queued, estimate) = (link.queue(), link.estimator.estimate());
            assert!(
                queued <= queue,
                "{queued:?}: {mbit} Mbit/s at {rtt_ms} ms, {estimate:?}"
            );
        }
        assert!(link.share(ms(3_000)) >= 0.98, "{mbit} Mbit/s at {rtt_ms} ms");
    }
}

#[test]
fn a_path_that_became_longer_since_it_was_seen_is_not_starved() {
    for (credit, mbit, rtt_ms) in [
        (EIGHT, 100.0, 60),
        (EIGHT, 100.0, 150),
        (1 << 20, 100.0, 150),
        (1 << 20, 1000.0, 100),
    ] {
        let mut link = Link::begins_with(credit, mbit, rtt_ms);
        link.estimator.also_took(ms(10), Duration::ZERO);
        link.run(ms(rtt_ms * 12 + 1_000));
        let share = link.share(ms(2_000));
        let estimate = link.estimator.estimate();
        assert!(
            share >= 0.9,
            "{share:.3} of {mbit} Mbit/s at {rtt_ms} ms, {credit} at first: {estimate:?}"
        );
    }
}

/// Twice in a row, by half a round trip; the credit that was given after the first one was not.
#[test]
fn pings_that_were_late_by_themselves_make_no_longer_path() {
    for (mbit, rtt_ms) in [(1000.0, 20), (100.0, 20), (100.0, 100)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(5_000));
        let late = link.pings + 8;
        while link.pings < late && link.now < ms(120_000) {
            let before = link.pings;
            link.run(ms(1));
            if link.pings > before {
                // Its answer is on the last half of its way.
                link.run(ms(rtt_ms) / 2 - ms(1));
                link.hold(ms(rtt_ms) / 2);
                link.run(ms(rtt_ms) / 2);
            }
            let rtt = link.estimator.estimate().rtt;
            assert!(near(rtt, ms(rtt_ms)), "{rtt:?} of {rtt_ms} ms, {mbit} Mbit/s");
        }
        assert_eq!(link.pings, late, "{mbit} Mbit/s at {rtt_ms} ms");
    }
}

/// A sender that has less to say while a smaller window is tried makes that look bad: it is tried again soon.
#[test]
fn a_window_that_is_too_large_is_not_kept_for_long_after_one_failure() {
    for (mbit, rtt_ms) in [(1000.0, 20), (1000.0, 100), (300.0, 100)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.run(ms(5_000));
        let right = link.estimator.window();
        link.estimator.window = right / 2 * 3;
        while link.estimator.trial.is_none() {
            assert!(link.now < ms(8_000), "{mbit} Mbit/s at {rtt_ms} ms: not tried");
            link.run(ms(1));
        }
        link.demand = Some(link.rate * 0.8);
        link.run(ms(rtt_ms * 8).max(ms(500)));
        link.demand = None;
        assert!(
            link.estimator.kept.0 > right,
            "{mbit} Mbit/s at {rtt_ms} ms: not kept"
        );
        link.run(ms(4_000));
        let window = f64::from(link.estimator.window()) / f64::from(right);
        assert!(window < 1.2, "{window} of {mbit} Mbit/s at {rtt_ms} ms");
    }
}

/// A window for the least round trip would be too small for most of them; what then came looked like a narrower link, and so on.
#[test]
fn an_uneven_path_stays_full() {
    for (mbit, rtt_ms) in [(100.0, 30), (100.0, 100), (1000.0, 30), (1000.0, 100)] {
        let mut link = Link::new(mbit, rtt_ms);
        link.jitter = ms(rtt_ms) * 3 / 20;
        link.run(ms(15_000));
        let share = link.share(ms(10_000));
        let estimate = link.estimator.estimate();
        assert!(
            share >= 0.9,
            "{share:.3} of {mbit} Mbit/s at {rtt_ms} ms: {estimate:?}"
        );
    }
}

proptest! {
    /// Whatever arrives, and whenever: the window stays within its bounds, and a PING waits for its answer.
    #[test]
    fn the_window_stays_within_its_bounds(
        steps in prop::collection::vec((0_u64..300_000, 0_u64..20_000_000, 0_u8..4), 1..300),
    ) {
        let bounds = Bounds { start: 1 << 20, cap: 24 << 20 };
        let (mut estimator, mut now, mut flying) = (Estimator::new(bounds, Duration::ZERO), Duration::ZERO, false);
        for (micros, bytes, action) in steps {
            now += Duration::from_micros(micros);
            match action {
                0 if flying => {
                    estimator.ping_acked(now);
                    flying = false;
                }
                1 => {
                    estimator.rest(now);
                }
                _ => estimator.received(bytes, now),
            }
            if estimator.wants_ping(now) {
                prop_assert!(!flying);
                estimator.ping_sent(now);
                flying = true;
            }
            prop_assert!((DIP_MIN..=bounds.cap).contains(&estimator.window()));
            let estimate = estimator.estimate();
            prop_assert!(estimate.bandwidth.is_finite() && estimate.bdp() >= 0.0);
        }
    }
}
