//! Which changes a reconcile answers to.

use std::collections::HashMap;

use parking_lot::Mutex;
use setpoint_base::TraceContext;

use crate::key::Request;

/// Earlier causes remembered beside the last one.
const LINKS_MAX: usize = 8;

/// The traces of the changes that wait for a reconcile, per object. Holds queued objects only.
#[derive(Debug, Default)]
pub(super) struct Causes {
    waiting: Mutex<HashMap<Request, Cause>>,
}

/// The last change wins: it is the state that will be read. Earlier ones are linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) last: TraceContext,
    pub(super) earlier: Vec<TraceContext>,
}

impl Causes {
    /// Notes a change, before its object is queued.
    pub(super) fn note(&self, request: &Request, trace: Option<TraceContext>) {
        let Some(trace) = trace else { return };
        let mut waiting = self.waiting.lock();
        let Some(cause) = waiting.get_mut(request) else {
            let cause = Cause {
                last: trace,
                earlier: Vec::new(),
            };
            waiting.insert(request.clone(), cause);
            return;
        };
        if cause.last.trace_id != trace.trace_id {
            if cause.earlier.len() == LINKS_MAX {
                cause.earlier.remove(0);
            }
            cause.earlier.push(cause.last);
        }
        cause.last = trace;
    }

    /// Takes the causes of a reconcile that begins.
    pub(super) fn take(&self, request: &Request) -> Option<Cause> {
        self.waiting.lock().remove(request)
    }

    /// A reconcile will be repeated: it still answers to the same change, unless a newer one came.
    pub(super) fn put_back(&self, request: &Request, cause: Option<Cause>) {
        if let Some(cause) = cause {
            self.waiting.lock().entry(request.clone()).or_insert(cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_wins_and_the_earlier_ones_are_linked() {
        let causes = Causes::default();
        let request = Request::new("ns", "a");
        let traces: Vec<_> = (0..12).map(|_| TraceContext::random()).collect();
        for trace in &traces {
            causes.note(&request, Some(*trace));
        }
        causes.note(&request, None);
        let cause = causes.take(&request).unwrap();
        assert_eq!(cause.last, traces[11]);
        assert_eq!(cause.earlier, traces[3..11]);
        assert_eq!(causes.take(&request), None);
    }

    #[test]
    fn a_retry_keeps_its_cause_unless_something_newer_came() {
        let causes = Causes::default();
        let request = Request::new("ns", "a");
        let (old, new) = (TraceContext::random(), TraceContext::random());
        causes.note(&request, Some(old));
        let taken = causes.take(&request);
        causes.put_back(&request, taken.clone());
        assert_eq!(causes.take(&request), taken);
        causes.note(&request, Some(new));
        causes.put_back(&request, taken);
        assert_eq!(causes.take(&request).unwrap().last, new);
    }
}
