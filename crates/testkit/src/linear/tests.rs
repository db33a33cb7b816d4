//! Known histories, and random ones against the definition of linearizability.

use proptest::prelude::*;

use super::kv::{Answer, Compare, Etcd, Gave, Keys, Op, Outcome, Refusal, Request, State, Step};
use super::*;
use crate::model::{Change, Model};

const STEPS: usize = 100_000;

fn put(value: &str) -> Request {
    Request::One(Step::Put(b"k".to_vec(), value.as_bytes().to_vec(), 0))
}

fn get() -> Request {
    Request::One(Step::Range(Keys::one(b"k"), None))
}

fn wrote(revision: i64) -> Answer {
    Answer::Done(revision, true, vec![Gave::Put])
}

/// What a read of `k` gives at a revision, with the state after these puts.
fn read(puts: &[&str]) -> Answer {
    let mut state = State::default();
    for value in puts {
        state.apply(&put(value));
    }
    state.apply(&get())
}

fn op(call: u64, returned: u64, request: Request, answer: Answer) -> Operation<Op> {
    Operation {
        call,
        returned: Some(returned),
        op: (request, Outcome::Answered(answer)),
    }
}

fn lost(call: u64, request: Request) -> Operation<Op> {
    Operation {
        call,
        returned: None,
        op: (request, Outcome::Unknown),
    }
}

#[track_caller]
fn verdict(history: &[Operation<Op>], linearizable: bool) {
    let verdict = check(&Etcd, history, STEPS);
    assert_eq!(
        matches!(verdict, Verdict::Linearizable(_)),
        linearizable,
        "{verdict:?}"
    );
}

#[test]
fn a_read_during_a_write_may_see_either_and_one_after_it_may_not() {
    for (from, until, seen, fine) in [
        (2, 3, &["a"][..], true),
        (2, 3, &[], true),
        (5, 6, &["a"], true),
        (5, 6, &[], false),
    ] {
        let history = [op(1, 4, put("a"), wrote(2)), op(from, until, get(), read(seen))];
        verdict(&history, fine);
    }
}

#[test]
fn two_reads_in_a_row_do_not_go_back() {
    let history = |first: &[&str], second: &[&str]| {
        [
            op(1, 9, put("a"), wrote(2)),
            op(2, 3, get(), read(first)),
            op(4, 5, get(), read(second)),
        ]
    };
    verdict(&history(&[], &["a"]), true);
    verdict(&history(&["a"], &[]), false);
}

#[test]
fn a_lost_write_may_happen_late_or_never_but_not_come_and_go() {
    let reads = |seen: [&[&str]; 3]| {
        let mut history = vec![lost(1, put("a"))];
        for (n, seen) in (1..).zip(seen) {
            history.push(op(10 * n, 10 * n + 1, get(), read(seen)));
        }
        history
    };
    verdict(&reads([&[], &[], &["a"]]), true);
    verdict(&reads([&[], &[], &[]]), true);
    verdict(&reads([&[], &["a"], &[]]), false);
}

#[test]
fn two_writes_cannot_have_one_revision() {
    let history = [op(1, 4, put("a"), wrote(2)), op(2, 3, put("b"), wrote(2))];
    verdict(&history, false);
    let history = [op(1, 4, put("a"), wrote(3)), op(2, 3, put("b"), wrote(2))];
    verdict(&history, true);
}

#[test]
fn a_compare_decides_on_the_state_at_its_moment() {
    let create = |value: &str| {
        Request::Txn(
            vec![Compare::Version(b"k".to_vec(), 0)],
            vec![Step::Put(b"k".to_vec(), value.as_bytes().to_vec(), 0)],
            vec![],
        )
    };
    let won = |revision| Answer::Done(revision, true, vec![Gave::Put]);
    let failed = |revision| Answer::Done(revision, false, vec![]);
    let both = |first: Answer, second: Answer| [op(1, 9, create("a"), first), op(2, 8, create("b"), second)];
    verdict(&both(won(2), failed(2)), true);
    verdict(&both(won(2), won(3)), false);
    verdict(&both(failed(2), failed(2)), false);
}

#[test]
fn compaction_and_leases_refuse_what_etcd_refuses() {
    let past = |at| Request::One(Step::Range(Keys::one(b"k"), Some(at)));
    let leased = |id| Request::One(Step::Put(b"l".to_vec(), b"v".to_vec(), id));
    let done = |revision| Answer::Done(revision, true, vec![]);
    let refused = Answer::Refused;
    let mut state = State::default();
    for (request, answer) in [
        (Request::Compact(0), done(1)),
        (Request::Compact(0), refused(Refusal::Compacted)),
        (Request::Compact(2), refused(Refusal::Future)),
        (put("a"), wrote(2)),
        (past(3), refused(Refusal::Future)),
        (leased(7), refused(Refusal::NoLease)),
        (Request::Grant(7), Answer::Granted),
        (Request::Grant(7), refused(Refusal::LeaseExists)),
        (leased(7), wrote(3)),
        (Request::Compact(3), done(3)),
        (past(2), refused(Refusal::Compacted)),
        (Request::KeepAlive(7), Answer::Granted),
        (Request::Revoke(7), done(4)),
        (Request::Revoke(7), refused(Refusal::NoLease)),
        (Request::KeepAlive(7), refused(Refusal::NoLease)),
        (Request::Grant(7), Answer::Granted),
        (Request::Revoke(7), done(4)),
    ] {
        assert_eq!(state.apply(&request), answer, "{request:?}");
    }
}

#[test]
fn the_log_says_what_became_of_lost_writes() {
    let mut history = History::default();
    let _kept = history.call(1, put("kept"));
    history.gave_up(1);
    let _gone = history.call(2, put("gone"));
    history.gave_up(2);
    let seen = history.call(3, get());
    history.answered(3, seen, read(&["kept"]));
    let mut log = Model::default();
    log.commit(&[Change::Put(b"k".to_vec(), b"kept".to_vec())]);
    let patched = history.with_log(&log);
    assert_eq!(patched.len(), 2, "what is not in the log is gone");
    assert_eq!(patched[0].op.1, Outcome::Written(2));
    assert_eq!(
        patched[0].returned, patched[1].returned,
        "it happened before somebody was told of its revision"
    );
    assert_eq!(history.check(&log, STEPS), Ok(()));
    let empty = Model::default();
    let text = history.check(&empty, STEPS).unwrap_err();
    assert!(text.contains("not linearizable"), "{text}");
}

/// All orders that respect time, by trying each permutation: the definition itself.
fn by_definition(history: &[Operation<Op>]) -> bool {
    fn go(state: &State, rest: &[&Operation<Op>]) -> bool {
        let done = rest.iter().all(|operation| operation.returned.is_none());
        done || (0..rest.len()).any(|n| {
            let next = rest[n];
            let mut others = rest.to_vec();
            others.remove(n);
            let first = others
                .iter()
                .all(|other| other.returned.is_none_or(|returned| returned > next.call));
            first
                && Etcd
                    .step(state, &next.op)
                    .is_some_and(|after| go(&after, &others))
        })
    }
    go(&State::default(), &history.iter().collect::<Vec<_>>())
}

/// A request, its length, whether its answer is lost, and what is done to its answer.
type Drawn = (u8, u64, bool, u8);

/// Requests that overlap, answered by a store that runs each at some moment between call and return, and that lies
/// now and then.
fn history(drawn: &[Drawn]) -> Vec<Operation<Op>> {
    let request = |n: usize, kind: u8| match kind % 6 {
        0 | 1 => put(&n.to_string()),
        2 => get(),
        3 => Request::One(Step::Delete(Keys::one(b"k"))),
        4 => Request::Txn(
            vec![Compare::Version(b"k".to_vec(), i64::from(kind / 6 % 3))],
            vec![Step::Put(b"k".to_vec(), n.to_string().into_bytes(), 0)],
            vec![Step::Range(Keys::one(b"k"), None)],
        ),
        _ => Request::Compact(i64::from(kind / 6 % 4)),
    };
    // By the moment each takes effect.
    let mut moments: Vec<(u64, usize)> = drawn
        .iter()
        .enumerate()
        .map(|(n, (_, length, _, late))| (10 * n as u64 + 1 + length * u64::from(late % 10) / 10, n))
        .collect();
    moments.sort_unstable();
    let mut state = State::default();
    let mut answers = vec![None; drawn.len()];
    for (_, n) in moments {
        answers[n] = Some(state.apply(&request(n, drawn[n].0)));
    }
    let operation = |(n, (kind, length, lost, lie)): (usize, &Drawn)| {
        let answer = answers[n].clone().expect("each request ran");
        let answer = match answer {
            Answer::Done(revision, held, gave) if *lie > 240 => Answer::Done(revision - 1, held, gave),
            answer => answer,
        };
        let outcome = if *lost {
            Outcome::Unknown
        } else {
            Outcome::Answered(answer)
        };
        Operation {
            call: 10 * n as u64,
            returned: (!lost).then_some(10 * n as u64 + 2 + length),
            op: (request(n, *kind), outcome),
        }
    };
    drawn.iter().enumerate().map(operation).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn the_search_agrees_with_the_definition(
        drawn in prop::collection::vec((any::<u8>(), 0..60_u64, prop::bool::weighted(0.2), any::<u8>()), 1..7)
    ) {
        let history = history(&drawn);
        let found = check(&Etcd, &history, STEPS);
        prop_assert_eq!(matches!(found, Verdict::Linearizable(_)), by_definition(&history), "{:?}", found);
    }

    #[test]
    fn an_honest_store_is_found_linearizable(
        drawn in prop::collection::vec((any::<u8>(), 0..60_u64, prop::bool::weighted(0.2), 0..240_u8), 1..40)
    ) {
        let found = check(&Etcd, &history(&drawn), STEPS);
        prop_assert!(matches!(found, Verdict::Linearizable(_)), "{:?}", found);
    }
}
