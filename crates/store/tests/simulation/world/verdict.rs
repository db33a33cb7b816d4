//! The end of a run: everything comes to rest, and is judged.

use super::*;

/// Steps of the search for an order; a history that needs more is a mistake of these tests.
const SEARCH: usize = 2_000_000;

impl World {
    /// Everything that is under way comes to its end: requests, leases, watchers, cleaning.
    pub(super) fn settle(&self) {
        self.leave();
        for round in 0..400 {
            for worker in Worker::ALL {
                while self.store().step(worker) && worker == Worker::Dispatcher {}
            }
            self.advance(Duration::from_millis(300));
            // Watchers of the future have to be reached.
            if round % 20 == 0 {
                self.write();
            }
            let target = self.log.borrow().revision();
            let mut behind = false;
            for watching in &self.watching {
                let mut watching = watching.borrow_mut();
                watching.ask_for_progress();
                let mut rng = fastrand::Rng::with_seed(round);
                while watching.step(self.store().store(), &mut rng).is_some() {}
                behind |= watching.covered() < target;
            }
            if !behind && round > 40 && self.store().store().leases().is_empty() {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.store().store().status());
    }

    fn write(&self) {
        let name = self.next_name.get();
        self.next_name.set(name + 1);
        for n in 0..8 {
            let value = format!("last {name} {n}").into_bytes();
            let request = Request::One(Step::Put(b"a/0".to_vec(), value, 0));
            let call = self.history.borrow_mut().call(name, request.clone());
            let mut running = clients::start(self.store().store(), &request);
            let _ = clients::poll(&mut running);
            self.store().step(Worker::Sequencer);
            match clients::poll(&mut running) {
                Poll::Ready(Some(answer)) => self.answered(name, &request, call, answer),
                other => panic!("a healthy store takes writes: {other:?}"),
            }
        }
    }

    pub(super) fn judge(&self) {
        let log = self.log.borrow();
        if let Err(why) = self.history.borrow().check(&log, SEARCH) {
            panic!("{why}");
        }
        for watching in &self.watching {
            let watching = watching.borrow();
            for record in watching.records.iter().chain(&watching.ended) {
                if let Err(violation) = validate::watch(&log, record) {
                    panic!("{violation}\nrequest: {:?}", record.request);
                }
            }
        }
    }

    /// What the store says it holds is what it holds, and a restart agrees.
    pub(super) fn balance(&self) {
        let store = self.store();
        let found = store.store().range(&Range::of(everything())).unwrap();
        self.is_what_the_log_says(&found.kvs);
        let before = store.store().status();
        assert_eq!(before.keys, found.kvs.len() as u64);
        drop(store);
        let store = self.store.take().expect("it is open");
        for watching in &self.watching {
            watching.borrow_mut().disconnect();
        }
        Rc::try_unwrap(store).ok().expect("nobody uses it").close();
        assert!(self.open());
        self.work(Worker::Janitor);
        let after = self.store().store().status();
        let books = |status: &setpoint_store::types::StoreStatus| {
            (
                status.revision,
                status.compact_revision,
                status.keys,
                status.live_bytes,
                status.log_index,
            )
        };
        assert_eq!(books(&after), books(&before), "before and after a restart");
        let names: Vec<_> = self.disk.borrow().paths();
        assert!(
            names
                .iter()
                .filter(|name| name.extension().is_some_and(|e| e == "tmp"))
                .count()
                <= 1,
            "{names:?}"
        );
    }
}
