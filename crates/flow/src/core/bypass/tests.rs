//! Calls that are answered or passed on, in every order and in all pieces.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use setpoint_testkit::frames::{DATA, END_STREAM, HEADERS, RST_STREAM, frame, update};

use super::*;

/// Only reads the table: a path that is not indexed.
const ASKS: &[u8] = &[0x83, 0x04, 2, b'/', b'a'];
const OTHER: &[u8] = &[0x83, 0x04, 2, b'/', b'b'];
/// Adds to the table.
const ADDS: &[u8] = &[0x83, 0x44, 2, b'/', b'c'];

/// A protocol that lets all calls be known, and those who answer them.
#[derive(Default)]
struct World {
    passed: Vec<u8>,
    answered: Vec<(u32, Vec<u8>, Vec<u8>)>,
    /// The list that a place stands for, and how often the table had changed.
    places: HashMap<usize, (Vec<u8>, usize)>,
    /// Streams that nobody can answer.
    refused: HashSet<u32>,
    /// How often the table has changed before each stream.
    changes: HashMap<u32, usize>,
}

impl Sides for World {
    fn pass(&mut self, bytes: &[u8]) {
        self.passed.extend_from_slice(bytes);
    }

    fn answer(&mut self, stream: u32, place: usize, body: &[u8]) -> bool {
        if self.refused.contains(&stream) {
            return false;
        }
        let (list, changes) = &self.places[&place];
        if let Some(now) = self.changes.get(&stream) {
            assert_eq!(changes, now, "the list says something else by now");
        }
        self.answered.push((stream, list.clone(), body.to_vec()));
        true
    }
}

/// Frames of what has been passed on.
fn frames_of(mut bytes: &[u8]) -> Vec<(Head, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, len)) = Head::of(bytes) {
        let (whole, rest) = bytes.split_at(HEADER_BYTES + len);
        frames.push((head, whole[HEADER_BYTES..].to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a frame was passed on");
    frames
}

/// Shows what arrives in pieces of these sizes; calls begin, and are learned from, after each.
fn run(world: &mut World, bypass: &mut Bypass, bytes: &[u8], cuts: &[usize]) -> Result<(), Closed> {
    let (mut shown, mut cuts, mut begun) = (0, cuts.iter().cycle(), world.passed.len());
    let mut tail = Vec::new();
    while shown < bytes.len() {
        let n = cuts
            .next()
            .map_or(bytes.len(), |cut| (*cut).min(bytes.len() - shown));
        tail.extend_from_slice(&bytes[shown..shown + n]);
        shown += n;
        let taken = bypass.take(&tail, world)?;
        tail.drain(..taken);
        // What is passed on in pieces is no call before it is whole.
        let fresh = world.passed[begun..].to_vec();
        let mut rest = &fresh[..];
        while let Some((head, len)) = Head::of(rest)
            && rest.len() >= HEADER_BYTES + len
        {
            let (whole, later) = rest.split_at(HEADER_BYTES + len);
            if head.kind == HEADERS
                && let Some(place) = bypass.place_of(head.stream)
            {
                let changes = world.changes.get(&head.stream).copied().unwrap_or_default();
                world
                    .places
                    .insert(place, (whole[HEADER_BYTES..].to_vec(), changes));
                bypass.learn();
            }
            begun += HEADER_BYTES + len;
            rest = later;
        }
    }
    assert!(tail.is_empty());
    Ok(())
}

fn call(stream: u32, block: &[u8], body: &[u8]) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, block);
    [head, frame(DATA, END_STREAM, stream, body)].concat()
}

#[test]
fn a_list_is_known_from_the_second_time_on_and_forgotten_with_the_table() {
    let (mut world, mut bypass) = (World::default(), Bypass::default());
    let mut ask = |stream, block: &[u8]| {
        run(
            &mut world,
            &mut bypass,
            &call(stream, block, b"body"),
            &[usize::MAX],
        )
        .unwrap();
        world.answered.len()
    };
    assert_eq!(
        (ask(1, ASKS), ask(3, ASKS), ask(5, OTHER), ask(7, OTHER)),
        (0, 1, 1, 2)
    );
    assert_eq!(
        (ask(9, ASKS), ask(11, ADDS), ask(13, ASKS), ask(15, ASKS)),
        (3, 3, 3, 4)
    );
    assert_eq!((ask(17, ADDS), ask(19, ADDS)), (4, 4), "it adds each time");
    let expect = [(3, ASKS), (7, OTHER), (9, ASKS), (15, ASKS)];
    assert_eq!(
        world.answered,
        expect.map(|(stream, list)| (stream, list.to_vec(), b"body".to_vec()))
    );
    let passed = frames_of(&world.passed).len();
    assert_eq!(passed, 2 * 6, "and all others as they came");
}

#[test]
fn heads_before_bodies_are_answered_and_what_goes_on_otherwise_is_passed_on_in_order() {
    let (mut world, mut bypass) = (World::default(), Bypass::default());
    run(&mut world, &mut bypass, &call(1, ASKS, b"1"), &[usize::MAX]).unwrap();
    world.passed.clear();
    let head = |stream| frame(HEADERS, END_HEADERS, stream, ASKS);
    let data = |flags, stream, body: &[u8]| frame(DATA, flags, stream, body);
    let arrives = [
        head(3),
        head(5),
        head(7),
        frame(6, 0, 0, &[0; 8]),
        data(END_STREAM, 5, b"5"),
        data(0, 7, b"7"),
        // The third has nothing more to say; the first goes on.
        data(END_STREAM, 7, b""),
        data(0, 3, b"3"),
        data(END_STREAM, 3, b"3"),
        update(5, 10),
        frame(RST_STREAM, 0, 7, &[0; 4]),
        // Padded, abandoned, and without an end.
        head(9),
        data(END_STREAM | PADDED, 9, &[0]),
        head(11),
        frame(RST_STREAM, 0, 11, &[0; 4]),
        head(13),
    ];
    run(&mut world, &mut bypass, &arrives.concat(), &[usize::MAX]).unwrap();
    let answered: Vec<u32> = world.answered.iter().map(|(stream, ..)| *stream).collect();
    assert_eq!(answered, [5, 7]);
    let [ping, first, more, end] = [3, 0, 7, 8].map(|at| &arrives[at][..]);
    let rest = arrives[11..].concat();
    let late = [update(5, 10), frame(RST_STREAM, 0, 7, &[0; 4])].concat();
    // The protocol knows 3 only, so of the others it hears nothing.
    assert_eq!(world.passed, [ping, first, more, end, &rest].concat());
    world.passed.clear();
    // By now it has seen 13: it takes late frames for what they are.
    run(&mut world, &mut bypass, &late, &[usize::MAX]).unwrap();
    assert_eq!(world.passed, late);
}

#[test]
fn who_goes_on_with_a_stream_that_was_answered_is_told() {
    for bytes in [
        frame(DATA, 0, 3, b"more"),
        frame(HEADERS, END_HEADERS, 3, ADDS),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, ASKS),
        frame(DATA, 0, 3, &[0; 5_000])[..1_000].to_vec(),
    ] {
        let (mut world, mut bypass) = (World::default(), Bypass::default());
        let calls = [call(1, ASKS, b"1"), call(3, ASKS, b"3")];
        for call in calls {
            run(&mut world, &mut bypass, &call, &[usize::MAX]).unwrap();
        }
        assert_eq!(world.answered.len(), 1);
        assert_eq!(bypass.take(&bytes, &mut world), Err(Closed));
    }
}

/// How a call is made: its list, its frames of DATA, and whether it is reset in the end.
#[derive(Clone, Debug)]
struct Made {
    block: usize,
    bodies: Vec<usize>,
    late_end: bool,
    padded: bool,
    resets: bool,
    refused: bool,
}

fn made() -> impl Strategy<Value = Made> {
    let bodies = prop_oneof![6 => Just(vec![20]), 1 => prop::collection::vec(0_usize..3_000, 0..3)];
    let rare = prop::bool::weighted(0.1);
    let block = prop_oneof![6 => Just(0_usize), 2 => Just(1), 1 => Just(2)];
    (block, bodies, any::<bool>(), rare, rare, rare).prop_map(
        |(block, bodies, late_end, padded, resets, refused)| Made {
            block,
            bodies,
            late_end,
            padded,
            resets,
            refused,
        },
    )
}

/// The frames of a call.
fn frames(stream: u32, made: &Made) -> Vec<Vec<u8>> {
    let block = [ASKS, OTHER, ADDS][made.block];
    let ends = made.bodies.is_empty();
    let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
    let mut frames = vec![frame(HEADERS, flags, stream, block)];
    for (n, len) in made.bodies.iter().enumerate() {
        let last = n + 1 == made.bodies.len() && !made.late_end;
        let padded = if made.padded { PADDED } else { 0 };
        let flags = padded | if last { END_STREAM } else { 0 };
        let body: Vec<u8> = (0..*len).map(|n| n as u8).collect();
        frames.push(frame(DATA, flags, stream, &body));
    }
    if made.late_end && !ends {
        frames.push(frame(DATA, END_STREAM, stream, b""));
    }
    if made.resets {
        frames.push(frame(RST_STREAM, 0, stream, &[0; 4]));
    }
    frames
}

proptest! {
    #[test]
    fn each_call_is_answered_with_its_own_list_and_body_or_passed_on_whole(
        calls in prop::collection::vec((made(), 0_usize..4), 1..60),
        cuts in prop::collection::vec(prop_oneof![1_usize..40, 1_usize..5_000], 1..20),
    ) {
        let (mut world, mut bypass) = (World::default(), Bypass::default());
        // A call begins, and then frames of those that have begun come, the oldest first or the newest.
        let (mut arrives, mut open, mut changes) = (Vec::new(), Vec::<std::vec::IntoIter<Vec<u8>>>::new(), 0);
        for (n, (made, more)) in calls.iter().enumerate() {
            let stream = 2 * n as u32 + 1;
            world.changes.insert(stream, changes);
            changes += usize::from(made.block == 2);
            if made.refused {
                world.refused.insert(stream);
            }
            let mut frames = frames(stream, made).into_iter();
            arrives.extend(frames.next());
            open.push(frames);
            for k in 0..*more {
                let which = if k % 2 == 0 { 0 } else { open.len() - 1 };
                arrives.extend(open[which].next());
                open.retain(|frames| frames.len() > 0);
                if open.is_empty() {
                    break;
                }
            }
            arrives.push(frame(6, 0, 0, &[n as u8; 8]));
        }
        arrives.extend(open.into_iter().flatten());
        prop_assert_eq!(run(&mut world, &mut bypass, &arrives.concat(), &cuts), Ok(()));

        let passed = frames_of(&world.passed);
        let answered: HashMap<u32, _> =
            world.answered.iter().map(|(stream, list, body)| (*stream, (list, body))).collect();
        prop_assert_eq!(answered.len(), world.answered.len(), "one answer to each");
        let opened: Vec<u32> = passed.iter().filter(|(head, _)| head.kind == HEADERS).map(|(head, _)| head.stream).collect();
        prop_assert!(opened.is_sorted(), "streams open in their order");
        let pings = passed.iter().filter(|(head, _)| head.kind == 6).count();
        prop_assert_eq!(pings, calls.len());
        for (n, (made, _)) in calls.iter().enumerate() {
            let stream = 2 * n as u32 + 1;
            let all = frames(stream, made);
            let mine: Vec<_> = passed.iter().filter(|(head, _)| head.stream == stream).collect();
            if let Some((list, body)) = answered.get(&stream) {
                prop_assert_eq!(list.as_slice(), [ASKS, OTHER, ADDS][made.block]);
                prop_assert!(made.block != 2 && made.bodies.len() == 1 && !made.padded);
                let expect: Vec<u8> = (0..made.bodies[0]).map(|n| n as u8).collect();
                prop_assert_eq!(*body, &expect);
                prop_assert!(mine.iter().all(|(head, _)| head.kind == RST_STREAM));
            } else {
                let mine: Vec<u8> = mine
                    .iter()
                    .flat_map(|(head, payload)| frame(head.kind, head.flags, stream, payload))
                    .collect();
                prop_assert_eq!(mine, all.concat());
            }
        }
    }
}
