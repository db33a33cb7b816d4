//! Does the simulation find anything? Each bug that can be planted has to be found, within a bounded number of seeds.
//!
//! `SETPOINT_PLANT=LostWrite` plants that one alone; `SETPOINT_SEEDS=1000..50000` tries other seeds.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use setpoint_store::simulation::{Plant, plant};

use super::chosen;
use super::world::World;

/// Seeds that a bug may take: what CI runs anyhow.
const SEEDS: Range<u64> = 0..1_000;

/// The first seed that finds a bug, and in what words.
fn find(bug: Plant) -> Option<(u64, String)> {
    chosen(SEEDS).find_map(|seed| {
        plant(Some(bug));
        let run = catch_unwind(AssertUnwindSafe(|| World::run(seed)));
        plant(None);
        run.err().map(|panic| (seed, first_line(&*panic)))
    })
}

fn first_line(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("a panic without words");
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(110).collect()
}

#[test]
fn every_planted_bug_is_found() {
    let only = std::env::var("SETPOINT_PLANT").ok();
    let wanted = |bug: &Plant| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    let bugs: Vec<Plant> = Plant::ALL.into_iter().filter(wanted).collect();
    assert!(!bugs.is_empty(), "{only:?} is none of {:?}", Plant::ALL);
    let mut missed = Vec::new();
    for bug in bugs {
        match find(bug) {
            Some((seed, how)) => println!("{bug:?}: found by seed {seed}: {how}"),
            None => missed.push(bug),
        }
    }
    assert!(
        missed.is_empty(),
        "{missed:?} survived seeds {:?}: the simulation proves less than it seems to",
        chosen(SEEDS)
    );
}
