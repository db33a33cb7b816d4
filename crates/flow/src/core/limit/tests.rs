//! What limits are for, on virtual time: three times the load, and the service does its work as if nothing were.

use std::time::Duration;

use proptest::prelude::*;

use super::model::{Model, Phase, Record, Spread};
use super::{Law, Limit, Sample, Settings};

const ADAPTIVE: [Law; 3] = [Law::Gradient2, Law::Vegas, Law::Aimd];
const SERVICE: Duration = Duration::from_millis(20);
/// Everything has to be well again this many seconds after a change.
const RECOVERY: u64 = 5;

fn settings(law: Law) -> Settings {
    Settings {
        law,
        ..Settings::default()
    }
}

/// A while in which `times` as many calls come as can be done.
fn phase(seconds: u64, workers: usize, service: Duration, times: f64) -> Phase {
    Phase {
        seconds,
        workers,
        service,
        rate: times * capacity(workers, service),
    }
}

fn capacity(workers: usize, service: Duration) -> f64 {
    workers as f64 / service.as_secs_f64()
}

/// From `RECOVERY` after its begin on, a phase does what it can, and at most doubles what calls take at rest.
#[track_caller]
fn well(what: &str, record: &Record, from: u64, phase: Phase, at_rest: Duration) {
    let settled = from + RECOVERY..from + phase.seconds;
    let goodput = record.goodput(settled.clone()) / capacity(phase.workers, phase.service);
    let p99 = record.p99(settled);
    assert!(goodput >= 0.95, "{what}: {:.1} % of what it can", goodput * 100.0);
    assert!(p99 <= 2 * at_rest, "{what}: p99 {p99:?}, at rest {at_rest:?}");
}

/// What calls take of a service that has little to do: all but one in a hundred at most.
fn at_rest(workers: usize, service: Duration) -> Duration {
    let phases = [phase(10, workers, service, 0.3)];
    Model::run(settings(Law::Gradient2), Spread::Even, &phases).p99(1..10)
}

/// All phases, one after the other; each has to be well.
#[track_caller]
fn check(what: &str, law: Law, phases: &[Phase]) {
    let record = Model::run(settings(law), Spread::Even, phases);
    let mut from = 0;
    for (n, phase) in phases.iter().enumerate() {
        if phase.rate > capacity(phase.workers, phase.service) {
            let at_rest = at_rest(phase.workers, phase.service);
            well(
                &format!("{what}, {law:?}, phase {n}"),
                &record,
                from,
                *phase,
                at_rest,
            );
        }
        from += phase.seconds;
    }
}

#[test]
fn three_times_the_load_costs_nothing() {
    for law in ADAPTIVE {
        for workers in [4, 8, 32, 100] {
            let phases = [phase(5, workers, SERVICE, 0.5), phase(25, workers, SERVICE, 3.0)];
            check(&format!("{workers} workers"), law, &phases);
        }
    }
}

#[test]
fn a_start_into_overload_finds_its_limit() {
    for law in ADAPTIVE {
        for workers in [4, 32, 300] {
            let phases = [phase(12, workers, SERVICE, 3.0)];
            check(&format!("{workers} workers"), law, &phases);
        }
    }
}

#[test]
fn a_service_that_loses_workers_and_gets_them_back_goes_on() {
    for law in ADAPTIVE {
        let phases = [
            phase(5, 32, SERVICE, 0.5),
            phase(12, 32, SERVICE, 3.0),
            phase(12, 8, SERVICE, 3.0),
            phase(12, 64, SERVICE, 3.0),
        ];
        check("workers", law, &phases);
    }
}

#[test]
fn a_service_that_becomes_slower_and_faster_goes_on() {
    for law in ADAPTIVE {
        let slow = 3 * SERVICE;
        let phases = [
            phase(5, 32, SERVICE, 0.5),
            phase(12, 32, SERVICE, 3.0),
            phase(20, 32, slow, 3.0),
            phase(12, 32, SERVICE, 3.0),
        ];
        check("time", law, &phases);
    }
}

#[test]
fn calls_of_all_lengths_are_no_trouble() {
    for law in ADAPTIVE {
        let phases = [phase(20, 32, SERVICE, 0.5), phase(30, 32, SERVICE, 3.0)];
        let record = Model::run(settings(law), Spread::Wide, &phases);
        let at_rest = record.p99(5..20);
        well(&format!("{law:?}"), &record, 20, phases[1], at_rest);
    }
}

#[test]
fn who_is_not_overloaded_is_not_limited() {
    for law in ADAPTIVE {
        for spread in [Spread::Even, Spread::Wide] {
            let phases = [phase(30, 32, SERVICE, 0.7)];
            let record = Model::run(settings(law), spread, &phases);
            // The first seconds find out that more than the first guess can be served at a time.
            assert_eq!(record.refused(5..30), 0, "{law:?} {spread:?}");
        }
    }
}

#[test]
fn a_fixed_limit_is_what_it_is() {
    let phases = [phase(20, 8, SERVICE, 3.0)];
    let fixed = Settings {
        initial: 80,
        ..settings(Law::Fixed)
    };
    let record = Model::run(fixed, Spread::Even, &phases);
    // Ten times as many as there are workers: ten times as long.
    let p99 = record.p99(5..20);
    assert!(p99 > 9 * SERVICE && p99 < 11 * SERVICE, "{p99:?}");
}

#[test]
fn dropped_calls_lower_the_limit_and_a_few_do_not() {
    for law in ADAPTIVE {
        for (one_in, sinks) in [(4, true), (50, false)] {
            let mut limit = Limit::new(settings(law));
            for n in 0..4_000_u32 {
                let sample = Sample {
                    rtt: SERVICE,
                    in_flight: limit.limit(),
                    dropped: n % one_in == 0,
                };
                limit.sample(sample, Duration::from_millis(u64::from(n)));
            }
            assert_eq!(limit.limit() < 20, sinks, "{law:?}: {}", limit.limit());
        }
    }
}

#[test]
fn settings_change_without_forgetting() {
    let (mut limit, mut n) = (Limit::new(settings(Law::Gradient2)), 0);
    while limit.limit() < 50 {
        n += 1;
        let sample = Sample {
            rtt: SERVICE,
            in_flight: limit.limit(),
            dropped: false,
        };
        limit.sample(sample, Duration::from_millis(n * 5));
        assert!(n < 10_000, "it grows as long as nothing queues");
    }
    let grown = limit.limit();
    limit.change(settings(Law::Vegas));
    assert_eq!(limit.limit(), grown);
    limit.change(Settings {
        max: 10,
        ..settings(Law::Vegas)
    });
    assert_eq!(limit.limit(), 10);
    limit.change(Settings {
        initial: 3,
        ..settings(Law::Fixed)
    });
    assert_eq!((limit.limit(), limit.law()), (3, Law::Fixed));
}

proptest! {
    /// Whatever is seen, also clocks that jump and calls that took no time: the limit is between its bounds.
    #[test]
    fn the_limit_keeps_its_bounds(
        samples in prop::collection::vec((0_u64..10_000_000_000, 0_u32..3_000, any::<bool>(), 0_u64..10_000_000_000), 1..400),
        law in prop_oneof![Just(Law::Gradient2), Just(Law::Vegas), Just(Law::Aimd)],
    ) {
        let mut limit = Limit::new(Settings { min: 5, max: 70, ..settings(law) });
        for (rtt, in_flight, dropped, now) in samples {
            limit.sample(Sample { rtt: Duration::from_nanos(rtt), in_flight, dropped }, Duration::from_nanos(now));
            prop_assert!((5..=70).contains(&limit.limit()), "{}", limit.limit());
        }
    }
}
