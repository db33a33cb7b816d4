//! Whatever a connection goes through, and however its frames are cut.

use std::collections::HashMap;

use proptest::prelude::*;

use super::tests::*;
use super::*;

/// What a connection may go through.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Data { stream: usize, bytes: u16, ends: bool },
    Read { stream: usize, bytes: u16 },
    Leave { stream: usize },
    ResetByPeer { stream: usize },
    Initial { bytes: u32 },
    Share { bytes: u32 },
    Window { beyond: u32 },
    UnderWay { bytes: u32 },
    Acknowledge,
    Updates,
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..6_usize;
    prop_oneof![
        2 => Just(Step::Open),
        9 => (stream.clone(), 0..16_384_u16, prop::bool::weighted(0.05))
            .prop_map(|(stream, bytes, ends)| Step::Data { stream, bytes, ends }),
        6 => (stream.clone(), any::<u16>()).prop_map(|(stream, bytes)| Step::Read { stream, bytes }),
        1 => stream.clone().prop_map(|stream| Step::Leave { stream }),
        1 => stream.prop_map(|stream| Step::ResetByPeer { stream }),
        1 => (16_384..500_000_u32).prop_map(|bytes| Step::Initial { bytes }),
        1 => (16_384..2_000_000_u32).prop_map(|bytes| Step::Share { bytes }),
        1 => (65_536..1_000_000_u32).prop_map(|beyond| Step::Window { beyond }),
        1 => (65_536..1_000_000_u32).prop_map(|bytes| Step::UnderWay { bytes }),
        2 => Just(Step::Acknowledge),
        6 => Just(Step::Updates),
    ]
}

proptest! {
    /// A peer that keeps to its account is never taken for one that does not; nothing read is lost, and whoever has read
    /// all of a stream has left its sender credit.
    #[test]
    fn both_ends_agree_on_what_may_be_sent(steps in prop::collection::vec(step(), 1..300)) {
        let mut ends = Ends::settled(65_535, 262_144);
        let (mut open, mut next, mut pending, mut unread) = (Vec::new(), 1_u32, 0, HashMap::new());
        for step in steps {
            match step {
                Step::Open => {
                    ends.begin(next);
                    open.push(next);
                    unread.insert(next, 0_u64);
                    next += 2;
                }
                Step::Data { stream, bytes, ends: last } => {
                    let Some(&stream) = open.get(stream) else { continue };
                    let bytes = i64::from(bytes).min(ends.may(stream)).max(0) as usize;
                    prop_assert_eq!(ends.data(stream, bytes), Ok(()));
                    if let Some(unread) = unread.get_mut(&stream) {
                        *unread += bytes as u64;
                    }
                    if last {
                        ends.say(DATA, END_STREAM, stream, &[]);
                        open.retain(|open| *open != stream);
                    }
                }
                Step::Read { stream, bytes } => {
                    let Some(&stream) = open.get(stream) else { continue };
                    let Some(unread) = unread.get_mut(&stream) else { continue };
                    let bytes = u64::from(bytes).min(*unread);
                    *unread -= bytes;
                    ends.grants.read(stream, bytes);
                }
                Step::Leave { stream } => {
                    let Some(&stream) = open.get(stream) else { continue };
                    ends.grants.has_left(stream);
                    unread.remove(&stream);
                }
                Step::ResetByPeer { stream } => {
                    let Some(&stream) = open.get(stream) else { continue };
                    ends.say(RESET, 0, stream, &[0; 4]);
                    open.retain(|open| *open != stream);
                }
                Step::Initial { bytes } if pending == 0 => {
                    ends.grants.set_initial(bytes.into());
                    ends.write(&initial(7));
                    pending += 1;
                }
                Step::Share { bytes } => ends.grants.set_share(bytes.into()),
                Step::Window { beyond } => {
                    let window = ends.grants.unread() + u64::from(beyond);
                    ends.grants.set_window(window);
                }
                Step::UnderWay { bytes } => ends.grants.set_under_way(bytes.into()),
                Step::Acknowledge if pending > 0 => {
                    pending -= 1;
                    ends.say(SETTINGS, ACK, 0, &[]);
                }
                Step::Initial { .. } | Step::Acknowledge => (),
                Step::Updates => {
                    ends.write(&[]);
                }
            }
            let still: u64 = unread.values().sum();
            prop_assert_eq!(ends.grants.unread(), still);
        }
        ends.write(&[]);
        for stream in open {
            let all_read = unread.get(&stream) == Some(&0);
            let window = ends.peer_initial + ends.peer_streams.get(&stream).copied().unwrap_or(0);
            prop_assert!(!all_read || window > 0, "{} has {}", stream, window);
        }
    }

    /// However its bytes are cut: everything leaves as it was but the initial window and the protocol's updates.
    #[test]
    fn what_is_written_leaves_unharmed_however_it_is_cut(
        frames in prop::collection::vec((0_u8..12, any::<u8>(), 0_u32..9, prop::collection::vec(any::<u8>(), 0..40)), 0..30),
        cuts in prop::collection::vec(1_usize..30, 1..30),
    ) {
        let (mut written, mut expected) = (vec![b'P'; 24], vec![b'P'; 24]);
        for (kind, flags, stream, payload) in &frames {
            written.extend(frame(*kind, *flags, *stream, payload));
            let mut payload = payload.clone();
            if *kind == SETTINGS && flags & ACK == 0 {
                for entry in payload.chunks_exact_mut(6).filter(|entry| entry[..2] == [0, 4]) {
                    entry[2..].copy_from_slice(&77_777_u32.to_be_bytes());
                }
            }
            if *kind != 8 {
                expected.extend(frame(*kind, *flags, *stream, &payload));
            }
        }
        let (mut grants, mut outgoing, mut out) = (Grants::default(), Outgoing::after_preface(24), Vec::new());
        grants.set_initial(77_777);
        let (mut rest, mut cuts) = (&written[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let n = cuts.next().map_or(1, |cut| (*cut).min(rest.len()));
            outgoing.take(&rest[..n], &mut grants, &mut out);
            rest = &rest[n..];
        }
        prop_assert_eq!(out, expected);
        let mut block = false;
        for (kind, flags, ..) in &frames {
            if matches!(kind, 1 | 5 | 9) {
                block = flags & 4 == 0;
            }
        }
        prop_assert_eq!(outgoing.is_between_frames(), !block);
    }
}
