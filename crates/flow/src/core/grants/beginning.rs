//! A connection that begins: how soon its peer answers, and how much streams may send at once.

use super::tests::*;
use super::*;

#[test]
fn the_first_settings_are_timed_from_when_they_are_written_until_they_are_acknowledged() {
    let mut ends = Ends::greeting(100_000, 400_000);
    let now = ends.now;
    assert_eq!(ends.grants.greeted(), None);
    ends.grants.leaves(|| now);
    ends.grants.leaves(|| now + Duration::from_secs(1));
    assert_eq!(ends.grants.greeted(), None, "not acknowledged");
    ends.say(SETTINGS, ACK, 0, &[]);
    assert_eq!(ends.grants.greeted(), Some(now));
    assert_eq!(ends.grants.greeted(), None, "told once");
    // Later ones may come behind much else.
    ends.write(&initial(7));
    ends.grants.leaves(|| now + Duration::from_secs(2));
    ends.say(SETTINGS, ACK, 0, &[]);
    assert_eq!(ends.grants.greeted(), None);
}

#[test]
fn nothing_is_timed_before_settings_are_said() {
    let mut grants = Grants::default();
    grants.leaves(|| unreachable!("nothing was said"));
    assert_eq!(grants.greeted(), None);
}

#[test]
fn streams_that_begin_have_no_more_under_way_than_all_may_whatever_each_may() {
    let mut ends = Ends::settled(100_000, 4_000_000);
    ends.grants.set_under_way(150_000);
    // What was given stays so, and is used up first.
    let stream = |n: usize| u32::try_from(2 * n + 1).unwrap();
    (0..60).map(stream).for_each(|stream| ends.begin(stream));
    let mut arrived = 0;
    for stream in (0..60).map(stream) {
        while ends.may(stream) >= 10_000 {
            ends.data(stream, 10_000).unwrap();
            arrived += 10_000;
            ends.write(&[]);
            assert!(
                arrived < 3_850_000 || ends.peer_connection <= 150_000,
                "{} after {arrived}",
                ends.peer_connection
            );
        }
    }
    // Nobody has read, and that has stopped nobody: each stream has sent all of its window, as far as the connection's goes.
    assert!(arrived >= 3_900_000, "{arrived}");
    assert_eq!(ends.grants.unread(), arrived);
}
