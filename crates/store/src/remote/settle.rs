//! Writing, to a known end where there is one. What may be concluded is in [`intent`].

use super::failure::{self, Asked, Failure};
use super::intent::{self, Intent, Verdict};
use super::{Cluster, Tries, convert};
use crate::core::check;
use crate::error::Error;
use crate::types::*;

/// Versions looked at on the way back to the one that was written on.
const STEPS_BACK_MAX: usize = 16;

impl Cluster {
    /// Runs a transaction.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResult, Error> {
        let writes = check::writes(&txn);
        let intent = Intent::of(&txn);
        let lease = lease_of(&txn);
        let request = convert::txn(&self.0.space, txn);
        let mut tries = Tries::new(self.0.patience);
        // What an attempt said that may have gone through.
        let mut unsure: Option<String> = None;
        loop {
            let asked = Asked {
                revision: None,
                lease,
                seen: self.seen(),
            };
            let failure = match self.0.client.txn(request.clone()).await {
                Ok(answer) => {
                    self.saw(answer.header.as_ref());
                    let result = convert::txn_result(&self.0.space, answer);
                    return match unsure {
                        // Only one of two attempts on the same revision can go through.
                        Some(why) if !result.succeeded => self.settle(&intent, result, why).await,
                        _ => Ok(result),
                    };
                }
                Err(error) if writes => failure::of(&error, asked),
                Err(error) => failure::of_read(&error, asked),
            };
            let why = match failure {
                Failure::NotYet(why) => why,
                Failure::Unsure(why) => {
                    unsure = Some(why.clone());
                    why
                }
                Failure::Final(error) => return Err(unsure.map_or(error, Error::OutcomeUnknown)),
            };
            if let Some(why) = &unsure
                && !intent.repeatable()
            {
                return self.settle(&intent, TxnResult::default(), why.clone()).await;
            }
            if !tries.again().await {
                return Err(match unsure {
                    Some(why) => Error::OutcomeUnknown(why),
                    None => Error::Unavailable(why),
                });
            }
        }
    }

    /// What became of a write that got no answer. `lost` is the answer when its condition does not hold any more.
    async fn settle(&self, intent: &Intent, lost: TxnResult, why: String) -> Result<TxnResult, Error> {
        let verdict = match intent {
            Intent::Other => Ok(Verdict::Unknown),
            Intent::Create { key, value } => self
                .first(key)
                .await
                .map(|first| intent::created(value, first.as_ref())),
            Intent::Follow { key, from, value } => self.after(key, *from).await.map(|after| match after {
                // Another condition failed, and none can come true again.
                After::Unchanged => Verdict::Failed,
                After::Version(next) => intent::followed(value.as_ref(), Some(&next)),
                After::Unknown => Verdict::Unknown,
            }),
        };
        // That the log cannot be read is no better news than that it does not tell.
        match verdict.unwrap_or(Verdict::Unknown) {
            Verdict::Happened(revision) => Ok(TxnResult {
                revision,
                succeeded: true,
                results: vec![OpResult::Put(PutResult {
                    revision,
                    prev_kv: None,
                })],
            }),
            Verdict::Failed => Ok(lost),
            Verdict::Unknown => Err(Error::OutcomeUnknown(why)),
        }
    }

    /// The first version of a key that is there.
    async fn first(&self, key: &bytes::Bytes) -> Result<Option<KeyValue>, Error> {
        let Some(now) = self.at(key, None).await? else {
            return Ok(None);
        };
        if now.version == 1 {
            return Ok(Some(now));
        }
        self.at(key, Some(now.create_revision)).await
    }

    /// The version of a key that came after the one at `from`.
    async fn after(&self, key: &bytes::Bytes, from: Revision) -> Result<After, Error> {
        let Some(mut version) = self.at(key, None).await? else {
            return Ok(After::Unknown);
        };
        if version.mod_revision == from {
            return Ok(After::Unchanged);
        }
        for _ in 0..STEPS_BACK_MAX {
            let before = Revision(version.mod_revision.0 - 1);
            match self.at(key, Some(before)).await? {
                Some(earlier) if earlier.mod_revision == from => return Ok(After::Version(version)),
                Some(earlier) => version = earlier,
                None => return Ok(After::Unknown),
            }
        }
        Ok(After::Unknown)
    }

    async fn at(&self, key: &bytes::Bytes, revision: Option<Revision>) -> Result<Option<KeyValue>, Error> {
        let mut range = Range::key(key.clone());
        range.revision = revision;
        Ok(self.range(&range).await?.kvs.pop())
    }
}

/// What is to be learned about a key.
enum After {
    /// It is still at that version.
    Unchanged,
    /// This version followed.
    Version(KeyValue),
    /// It was deleted since, or too much happened, or its history is compacted.
    Unknown,
}

/// The lease that a refusal would be about.
fn lease_of(txn: &Txn) -> Option<LeaseId> {
    txn.success.iter().chain(&txn.failure).find_map(|op| match op {
        Op::Put(Put {
            lease: PutLease::Set(lease),
            ..
        }) => *lease,
        _ => None,
    })
}
