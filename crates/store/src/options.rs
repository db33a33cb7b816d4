//! How a store behaves.

use std::path::PathBuf;
use std::time::Duration;

/// Options of an embedded store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where segments and checkpoints live; made if absent.
    pub dir: PathBuf,
    /// Size of one log segment, in bytes (64 MiB, as etcd's WAL).
    pub segment_bytes: u64,
    /// Recent log kept in memory for reads and watchers, with the events that were made of it, in bytes (40 MiB). It is less
    /// by 24 bytes for each key there is, down to two fifths: so a million keys of 64 B with 256 B each stay below 250 MB.
    pub hot_bytes: usize,
    /// Largest request, in bytes (etcd's default is 1.5 MiB).
    pub request_bytes_max: usize,
    /// Most operations in one level of a transaction (etcd's default is 128).
    pub txn_ops_max: usize,
    /// Proposals that may wait for the sequencer; more are refused with "too many requests" (5,000).
    pub proposals_max: usize,
    /// Bytes of proposals that may wait (64 MiB).
    pub proposal_bytes_max: usize,
    /// Watchers one stream may have (100,000).
    pub stream_watchers_max: usize,
    /// Updates that may wait for a slow stream before its watchers become cursors into history (256).
    pub stream_updates_max: usize,
    /// How often an idle watcher that asked for progress gets it (etcd's default is 10 min).
    pub progress_interval: Duration,
    /// Live bytes from which on growth is refused: 0 is etcd's default of 2 GiB, negative is no limit but the disk's.
    pub quota_bytes: i64,
    /// Whether a store without room stays closed to growth until somebody disarms the alarm, as etcd does. Otherwise
    /// it accepts writes again when there is room.
    pub no_space_manual: bool,
    /// How long a wide read, which goes as slowly as its client takes it, may hold back the pruning of what has been compacted
    /// since it began (60 s). It then ends with "compacted".
    pub read_holds: Duration,
    /// Whether new segments are filled with zeros in the background; faster commits, more disk writes.
    pub prefill: bool,
}

impl Options {
    /// The defaults, on `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            hot_bytes: 40 << 20,
            request_bytes_max: 1536 << 10,
            txn_ops_max: 128,
            proposals_max: 5_000,
            proposal_bytes_max: 64 << 20,
            stream_watchers_max: 100_000,
            stream_updates_max: 256,
            progress_interval: Duration::from_secs(600),
            quota_bytes: 0,
            no_space_manual: false,
            read_holds: Duration::from_secs(60),
            prefill: true,
        }
    }

    /// The quota in bytes; negative is none.
    #[must_use]
    pub fn quota(&self) -> i64 {
        if self.quota_bytes == 0 {
            2 << 30
        } else {
            self.quota_bytes
        }
    }

    /// Every problem, each with its remedy.
    ///
    /// # Errors
    /// The list of problems, if there is one.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let segment_bytes_min = 4 * self.request_bytes_max as u64;
        if self.segment_bytes < segment_bytes_min {
            problems.push(format!(
                "segment_bytes is {}: a segment must hold four of the largest requests, give at least {segment_bytes_min}",
                self.segment_bytes
            ));
        }
        if self.segment_bytes > u64::from(u32::MAX) {
            problems.push("segment_bytes is above 4 GiB: offsets have 32 bits".to_owned());
        }
        if self.proposals_max == 0 {
            problems.push("proposals_max is 0: every write would be refused; give at least 1".to_owned());
        }
        if self.progress_interval < Duration::from_millis(100) {
            problems.push("progress_interval is below 100 ms: give at least that".to_owned());
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}
