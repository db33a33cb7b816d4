//! How streams share what they may have together.

use super::tests::Ends;

/// Streams that sent so many KB in a round, of 100 KB that all may have: how many bytes the largest may.
#[track_caller]
fn shared(sent: &[usize], most: u64) {
    let mut ends = Ends::settled(1 << 20, 16 << 20);
    for (stream, kb) in (1..).step_by(2).zip(sent) {
        ends.begin(stream);
        for _ in 0..*kb {
            ends.data(stream, 1_000).unwrap();
        }
    }
    assert_eq!(ends.grants.next_round(100_000), most);
    for _ in 0..32 {
        ends.grants.next_round(100_000);
    }
    assert_eq!(ends.grants.next_round(100_000), 100_000, "nobody sends any more");
}

#[test]
fn streams_that_send_much_share_equally_what_others_leave() {
    shared(&[], 100_000);
    shared(&[80], 100_000);
    shared(&[50, 50], 50_000);
    shared(&[25, 25, 25, 25], 25_000);
    // Whoever sends little may send a quarter more, and the others have the rest.
    shared(&[90, 10], 87_500);
    shared(&[8, 60, 40], 45_000);
    shared(&[8, 60, 30], 52_500);
    // Where there is something for all, they have equal parts of the rest.
    shared(&[8, 8, 8, 8], 25_000);
    shared(&[40, 8, 8, 8], 55_000);
}

/// What eight streams may have together, in bytes.
const TOTAL: u64 = 800_000;

/// Eight streams over 200 rounds, which send at most what `most` says of a stream in a round; then `check` has the round, what they
/// may send together and the level.
#[track_caller]
fn eight(most: impl Fn(u32, usize) -> i64, check: impl Fn(usize, i64, u64)) -> Ends {
    let mut ends = Ends::settled(16 << 10, 16 << 20);
    let streams: Vec<u32> = (1..17).step_by(2).collect();
    for stream in &streams {
        ends.begin(*stream);
    }
    for round in 0..200 {
        for stream in &streams {
            let bytes = ends.may(*stream).min(most(*stream, round));
            if bytes > 0 {
                ends.data(*stream, bytes as usize).unwrap();
                ends.grants.read(*stream, bytes as u64);
            }
        }
        let level = ends.grants.next_round(TOTAL);
        ends.grants.set_share(level);
        ends.write(&[]);
        let under_way = streams.iter().map(|stream| ends.may(*stream)).sum();
        check(round, under_way, level);
    }
    ends
}

#[test]
fn what_streams_may_have_adds_up_to_little_more_than_all_may_have() {
    // The sender serves them unevenly, as senders do: in each round, it passes over two of the eight.
    let most = |stream: u32, round: usize| {
        let passed_over = (stream as usize / 2 + round).is_multiple_of(4);
        if passed_over { 0 } else { 130_000 }
    };
    eight(most, |round, under_way, level| {
        if round > 20 {
            let what = format!("{under_way} in round {round}, level {level}");
            assert!(under_way <= 1_000_000, "{what}");
            assert!(under_way >= 700_000, "{what}");
        }
    });
}

/// They send more than half of what they may, so none is held to what it sends.
#[test]
fn streams_that_send_a_little_less_do_not_let_all_have_more() {
    let most = |stream: u32, _: usize| if stream > 5 { 60_000 } else { 1_000_000 };
    let ends = eight(most, |round, under_way, level| {
        let little = round < 5 || under_way <= 860_000;
        assert!(little, "{under_way} in round {round}, level {level}");
    });
    assert!(ends.may(1) >= 100_000, "{}", ends.may(1));
}

#[test]
fn a_window_that_has_grown_is_not_taken_back_before_it_could_be_used() {
    let mut ends = Ends::settled(16 << 10, 1 << 30);
    ends.begin(1);
    let mut total = 1_000_000;
    let mut allowed = [0; 2];
    for round in 0..19 {
        // What comes was sent by the credit of a round trip ago.
        let bytes = allowed[0].min(ends.may(1));
        ends.data(1, bytes as usize).unwrap();
        ends.grants.read(1, bytes as u64);
        if round == 9 {
            total *= 8;
        }
        let level = ends.grants.next_round(total);
        ends.grants.set_share(level);
        ends.write(&[]);
        allowed = [allowed[1], ends.may(1)];
        let may = ends.may(1).cast_unsigned();
        assert!(
            round < 5 || may >= total / 16 * 15,
            "{may} of {total} in round {round}"
        );
    }
}

#[test]
fn who_sends_little_has_no_more_than_he_can_use_soon() {
    let mut ends = Ends::settled(16 << 10, 16 << 20);
    for stream in [1, 3, 5, 7, 9] {
        ends.begin(stream);
    }
    for _ in 0..20 {
        for (stream, bytes) in [(1, 400_000), (3, 2_000), (5, 2_000), (7, 2_000), (9, 2_000)] {
            let bytes = ends.may(stream).min(bytes);
            ends.data(stream, bytes as usize).unwrap();
            ends.grants.read(stream, bytes as u64);
        }
        let level = ends.grants.next_round(400_000);
        ends.grants.set_share(level);
        ends.write(&[]);
    }
    assert!(ends.may(1) >= 370_000, "{}", ends.may(1));
    let others: i64 = [3, 5, 7, 9].map(|stream| ends.may(stream)).iter().sum();
    assert!(others <= 200_000, "{others}");
}
