//! Clients with one request in flight each, and a network that delays, loses requests and loses answers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use setpoint_store::types::{self, KeyRange, LeaseId, Op, OpResult, Relation, Revision};
use setpoint_store::{Error, Store};
use setpoint_testkit::linear::Call;
use setpoint_testkit::linear::kv::{Answer, Compare, Gave, Keys, Refusal, Request, Step, Version};

/// A request on the server.
pub(super) type Running = Pin<Box<dyn Future<Output = Option<Answer>>>>;

/// What becomes of one message each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives,
    RequestLost,
    AnswerLost,
}

pub(super) enum State {
    Idle,
    /// The request is on its way.
    Sent(Request, Call, Fate),
    /// The server has it.
    Running(Request, Call, Fate, Running),
    /// The answer is on its way.
    Answered(Request, Call, Fate, Option<Answer>),
}

pub(super) struct Client {
    pub(super) name: u64,
    pub(super) state: State,
}

/// Starts a request on the server.
pub(super) fn start(store: &Store, request: &Request) -> Running {
    let (store, request) = (store.clone(), request.clone());
    Box::pin(async move { answer(&request, run(&store, &request).await) })
}

pub(super) fn poll(running: &mut Running) -> Poll<Option<Answer>> {
    running.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

async fn run(store: &Store, request: &Request) -> Result<Answer, Error> {
    let done = |revision: Revision, gave| Answer::Done(revision.0, true, gave);
    Ok(match request {
        Request::One(Step::Range(keys, at)) => {
            let result = store.range(&range(keys, *at))?;
            done(result.revision, vec![found(&result)])
        }
        Request::One(Step::Put(key, value, lease)) => {
            let result = store.put(put(key, value, *lease), None).await?;
            done(result.revision, vec![Gave::Put])
        }
        Request::One(Step::Delete(keys)) => {
            let result = store.delete(delete(keys), None).await?;
            done(result.revision, vec![Gave::Deleted(result.deleted)])
        }
        Request::Txn(compares, then, otherwise) => {
            let txn = types::Txn {
                compares: compares.iter().map(compare).collect(),
                success: then.iter().map(op).collect(),
                failure: otherwise.iter().map(op).collect(),
            };
            let result = store.txn(txn, None).await?;
            let gave = result.results.iter().map(|result| match result {
                OpResult::Range(range) => found(range),
                OpResult::Put(_) => Gave::Put,
                OpResult::Delete(delete) => Gave::Deleted(delete.deleted),
                OpResult::Txn(_) => unreachable!("these transactions are flat"),
            });
            Answer::Done(result.revision.0, result.succeeded, gave.collect())
        }
        Request::Compact(at) => done(store.compact(Revision(*at), false).await?, vec![]),
        Request::Grant(id) => {
            store.lease_grant(Some(LeaseId(*id)), TTL).await?;
            Answer::Granted
        }
        Request::KeepAlive(id) => {
            store.lease_keep_alive(LeaseId(*id)).await?;
            Answer::Granted
        }
        Request::Revoke(id) => done(store.lease_revoke(LeaseId(*id)).await?, vec![]),
        Request::Expire(_) => unreachable!("nobody asks for it"),
    })
}

/// Seconds that leases are granted for.
pub(super) const TTL: i64 = 4;

/// What the client is told; `None` leaves it in the dark.
fn answer(request: &Request, result: Result<Answer, Error>) -> Option<Answer> {
    let refused = match result {
        Ok(answer) => return Some(answer),
        Err(Error::Compacted { .. }) => Refusal::Compacted,
        Err(Error::FutureRevision { .. }) => Refusal::Future,
        // It was granted, and has ended before the answer was made.
        Err(Error::LeaseNotFound(_)) if matches!(request, Request::Grant(_)) => return None,
        Err(Error::LeaseNotFound(_)) => Refusal::NoLease,
        Err(Error::LeaseExists(_)) => Refusal::LeaseExists,
        Err(Error::NoSpace) => Refusal::NoRoom,
        Err(Error::Poisoned(_) | Error::Stopped | Error::Read(_)) => return None,
        Err(other) => panic!("{request:?}: {other:?}"),
    };
    Some(Answer::Refused(refused))
}

pub(super) fn key_range(keys: &Keys) -> KeyRange {
    match &keys.end {
        Some(end) if **end == *[&keys.start[..], b"\0"].concat() => KeyRange::Key(keys.start.clone().into()),
        Some(end) => KeyRange::Span(keys.start.clone().into(), end.clone().into()),
        None => KeyRange::From(keys.start.clone().into()),
    }
}

fn range(keys: &Keys, at: Option<i64>) -> types::Range {
    types::Range {
        revision: at.map(Revision),
        ..types::Range::of(key_range(keys))
    }
}

fn put(key: &[u8], value: &[u8], lease: i64) -> types::Put {
    types::Put {
        lease: types::PutLease::Set((lease != 0).then_some(LeaseId(lease))),
        ..types::Put::new(key.to_vec(), value.to_vec())
    }
}

fn delete(keys: &Keys) -> types::Delete {
    types::Delete {
        keys: key_range(keys),
        prev_kv: false,
    }
}

fn op(step: &Step) -> Op {
    match step {
        Step::Range(keys, at) => Op::Range(range(keys, *at)),
        Step::Put(key, value, lease) => Op::Put(put(key, value, *lease)),
        Step::Delete(keys) => Op::Delete(delete(keys)),
    }
}

fn compare(compare: &Compare) -> types::Compare {
    let (key, target) = match compare {
        Compare::Modified(key, at) => (key, types::CompareTarget::Mod(*at)),
        Compare::Version(key, n) => (key, types::CompareTarget::Version(*n)),
        Compare::Value(key, value) => (key, types::CompareTarget::Value(value.clone().into())),
    };
    types::Compare {
        keys: KeyRange::Key(key.clone().into()),
        relation: Relation::Equal,
        target,
    }
}

fn found(range: &types::RangeResult) -> Gave {
    Gave::Range(range.kvs.iter().map(version).collect())
}

fn version(kv: &types::KeyValue) -> (Vec<u8>, Version) {
    let version = Version {
        value: kv.value.to_vec(),
        create: kv.create_revision.0,
        modified: kv.mod_revision.0,
        version: kv.version,
        lease: kv.lease.map_or(0, |lease| lease.0),
    };
    (kv.key.to_vec(), version)
}

/// Makes up requests.
pub(super) struct Inventor {
    /// A value was never used before: it tells the request it came from.
    pub(super) values: u64,
    /// Whether to throw everything away now and then, so that whole segments die.
    pub(super) wasteful: bool,
    /// How many of [`HOARD`] keys were written, where that is done at first: they keep the oldest segment alive, while
    /// those after it die and are rewritten.
    pub(super) hoard: Option<u8>,
}

/// Keys of a hoard: most of a segment.
const HOARD: u8 = 18;
/// Of these so many are deleted later, and never written again.
const DOOMED: u8 = 4;

impl Inventor {
    /// A request of somebody who knows of revisions up to `known`.
    pub(super) fn request(&mut self, rng: &mut fastrand::Rng, known: i64) -> Request {
        if self.wasteful && rng.u8(..10) == 0 {
            return if rng.bool() {
                Request::Compact(known)
            } else {
                let (start, end) = (b"\0".to_vec(), None);
                Request::One(Step::Delete(Keys { start, end }))
            };
        }
        if let Some(hoarded) = self.hoard {
            return self.hoarding(rng, known, hoarded);
        }
        match rng.u8(..40) {
            0..=13 => Request::One(self.put(rng)),
            14..=16 => Request::One(Step::Delete(keys(rng))),
            17..=21 => Request::One(Step::Range(keys(rng), None)),
            22..=24 => Request::One(Step::Range(keys(rng), Some(rng.i64(1..=known + 1)))),
            25..=32 => self.txn(rng, known),
            33..=34 => Request::Compact(rng.i64((known - 20).max(0)..=known)),
            35..=36 => Request::Grant(rng.i64(1..4)),
            37..=38 => Request::KeepAlive(rng.i64(1..4)),
            _ => Request::Revoke(rng.i64(1..4)),
        }
    }

    fn hoarding(&mut self, rng: &mut fastrand::Rng, known: i64, hoarded: u8) -> Request {
        let of_hoard = |n: u8| format!("hoard/{n:02}").into_bytes();
        if hoarded < HOARD {
            self.hoard = Some(hoarded + 1);
            return Request::One(Step::Put(of_hoard(hoarded), self.value(700), 0));
        }
        match rng.u8(..12) {
            0..=5 => {
                let len = rng.usize(..1_200);
                Request::One(Step::Put(key(rng), self.value(len), 0))
            }
            6 => Request::One(Step::Delete(Keys::one(&of_hoard(rng.u8(..DOOMED))))),
            7..=8 => Request::Compact(known),
            9 => Request::One(Step::Range(keys(rng), None)),
            _ => self.txn(rng, known),
        }
    }

    fn txn(&mut self, rng: &mut fastrand::Rng, known: i64) -> Request {
        let at = key(rng);
        let compare = match rng.u8(..3) {
            0 => Compare::Version(at.clone(), rng.i64(0..3)),
            1 => Compare::Modified(at.clone(), rng.i64((known - 10).max(0)..=known)),
            _ => Compare::Value(at.clone(), rng.u64(..=self.values).to_string().into_bytes()),
        };
        let mut then = vec![self.put(rng)];
        if rng.bool() {
            let other = self.put(rng);
            if written(&other) != written(&then[0]) {
                then.push(other);
            }
        }
        then.push(Step::Range(Keys::one(&at), None));
        let otherwise = match rng.u8(..3) {
            0 => vec![Step::Range(keys(rng), None)],
            1 => vec![self.put(rng)],
            _ => vec![Step::Delete(Keys::one(&key(rng)))],
        };
        let compares = if rng.u8(..3) == 0 { vec![] } else { vec![compare] };
        Request::Txn(compares, then, otherwise)
    }

    fn put(&mut self, rng: &mut fastrand::Rng) -> Step {
        let len = if self.wasteful || rng.u8(..6) == 0 {
            // Three of them fit into a request.
            rng.usize(..1_200)
        } else {
            rng.usize(..60)
        };
        let value = self.value(len);
        let lease = if rng.u8(..6) == 0 { rng.i64(1..4) } else { 0 };
        Step::Put(key(rng), value, lease)
    }

    /// A value that no other request has, with so many bytes beside.
    fn value(&mut self, len: usize) -> Vec<u8> {
        self.values += 1;
        let mut value = self.values.to_string().into_bytes();
        value.resize(value.len() + len, b'.');
        value
    }
}

fn written(step: &Step) -> Option<&[u8]> {
    match step {
        Step::Put(key, ..) => Some(key),
        _ => None,
    }
}

const KEYS: [&[u8]; 6] = [b"a/0", b"a/1", b"b/2", b"b/3", b"c/4", b"c/5"];

fn key(rng: &mut fastrand::Rng) -> Vec<u8> {
    KEYS[rng.usize(..KEYS.len())].to_vec()
}

fn keys(rng: &mut fastrand::Rng) -> Keys {
    let span = |start: &[u8], end: Option<&[u8]>| Keys {
        start: start.to_vec(),
        end: end.map(<[u8]>::to_vec),
    };
    match rng.u8(..6) {
        0 => span(b"a/", Some(b"a0")),
        1 => span(b"b", None),
        2 => span(b"\0", None),
        _ => Keys::one(&key(rng)),
    }
}
