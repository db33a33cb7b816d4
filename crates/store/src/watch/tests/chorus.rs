//! What streams say alike.

use super::*;
use crate::watch::Step;

/// What a stream of so many watchers says of the next parcel, if in chorus; and whether it wrote that itself.
fn told(stream: &mut WatchStream) -> (Option<Bytes>, bool) {
    let Some(Step::Events { id, .. }) = awaited(stream) else {
        panic!("events come");
    };
    in_chorus(stream, id)
}

fn in_chorus(stream: &mut WatchStream, first: i64) -> (Option<Bytes>, bool) {
    let mut wrote = false;
    let text = stream.in_chorus(first, (false, 100), |events, ids| {
        wrote = true;
        assert_eq!(events.len(), 1);
        ids.iter().map(|id| *id as u8).collect()
    });
    (text, wrote)
}

/// The next step, without the clock: the dispatcher's time is real.
fn awaited(stream: &mut WatchStream) -> Option<Step> {
    for _ in 0..10_000 {
        if let Some(step) = stream.try_step() {
            return step;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing comes");
}

#[tokio::test]
async fn streams_with_the_same_watchers_say_the_same_and_those_who_were_told_are_told_once() {
    let world = World::new(8);
    let mut streams: Vec<_> = (0..3).map(|_| world.hub.stream()).collect();
    for stream in &mut streams {
        for id in 0..20 {
            assert_eq!(stream.create(all(None)).unwrap().0, id);
        }
    }
    let [one, other, less] = &mut streams[..] else {
        panic!("there are three");
    };
    world.commit(&["a"]);
    let ((first, wrote), (second, wrote_again)) = (told(one), told(other));
    assert!(wrote && !wrote_again);
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.as_ptr(), second.as_ptr());
    let mut ids = first.to_vec();
    ids.sort_unstable();
    assert_eq!(ids, (0..20).collect::<Vec<u8>>());
    // One that is cancelled while the others are told says something else.
    let Some(Step::Events { id, .. }) = awaited(less) else {
        panic!("events come");
    };
    less.cancel(7);
    assert!(in_chorus(less, id).0.is_none());
    assert_eq!(
        seen(less, 18)
            .await
            .iter()
            .filter(|seen| seen.starts_with("7 "))
            .count(),
        0
    );
    world.commit(&["b"]);
    assert_eq!(
        seen(one, 20)
            .await
            .iter()
            .filter(|seen| seen.ends_with("b@3"))
            .count(),
        20
    );
}

#[tokio::test(start_paused = true)]
async fn watchers_that_were_told_in_chorus_were_not_idle() {
    let world = World::new(8);
    let mut stream = world.hub.stream();
    for _ in 0..20 {
        let spec = WatchSpec {
            progress: true,
            ..all(None)
        };
        stream.create(spec).unwrap();
    }
    // One tick, so that all count as idle.
    for _ in 0..20 {
        assert!(matches!(
            next_within_a_day(&mut stream).await,
            WatchUpdate::Progress { .. }
        ));
    }
    world.commit(&["a"]);
    assert!(told(&mut stream).0.is_some());
    let asked = tokio::time::Instant::now();
    assert!(matches!(
        next_within_a_day(&mut stream).await,
        WatchUpdate::Progress { .. }
    ));
    assert!(
        asked.elapsed() > Options::new("unused").progress_interval,
        "the next tick is not for them"
    );
}

async fn next_within_a_day(stream: &mut WatchStream) -> WatchUpdate {
    let next = tokio::time::timeout(Duration::from_secs(86_400), stream.next()).await;
    next.expect("an update comes").expect("the hub is open")
}
