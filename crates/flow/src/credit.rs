//! The credit of one connection, shared by whoever moves its bytes, whoever reads its streams, and the controller of its
//! windows.

use std::task::Waker;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::core::grants::Grants;

/// The grants of one connection, and its task, which is woken when some are due. Nothing waits while the lock is held.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    grants: Mutex<Grants>,
    task: AtomicWaker,
}

impl Credit {
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut Grants) -> R) -> R {
        look(&mut self.grants.lock())
    }

    /// Somebody may read the stream.
    pub(crate) fn has_reader(&self, stream: u32) {
        self.with(|grants| grants.has_reader(stream));
    }

    /// So many bytes of the stream need no more room.
    pub(crate) fn read(&self, stream: u32, bytes: u64) {
        if self.with(|grants| grants.read(stream, bytes)) {
            self.task.wake();
        }
    }

    /// Nobody will read the stream any more.
    pub(crate) fn has_left(&self, stream: u32) {
        if self.with(|grants| grants.has_left(stream)) {
            self.task.wake();
        }
    }

    /// A turn of the connection begins. Its task is woken for what becomes due after the turn; what becomes due in it is
    /// written at its end.
    pub(crate) fn begin_turn(&self, task: &Waker) {
        self.task.register(task);
        self.with(Grants::begin_turn);
    }

    pub(crate) fn end_turn(&self) {
        self.with(Grants::end_turn);
    }
}
