//! What a reconciler says when it is done.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use super::Context;
use crate::key::Request;

/// A reconcile that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The object is as it should be; look again when something changes.
    Done,
    /// Look again after this time at the latest.
    RequeueAfter(Duration),
}

/// A reconcile that failed. `?` on any error makes one that is retried with backoff.
///
/// It is not a [`std::error::Error`] itself, so that every error can become one.
pub struct ReconcileError {
    source: Box<dyn Error + Send + Sync>,
    terminal: bool,
}

impl ReconcileError {
    /// A failure that repeating cannot mend: the object is looked at again only when it changes.
    pub fn terminal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            source: source.into(),
            terminal: true,
        }
    }

    /// Whether it is not retried.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// What went wrong.
    #[must_use]
    pub fn source(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for ReconcileError {
    fn from(source: E) -> Self {
        Self {
            source: source.into(),
            terminal: false,
        }
    }
}

impl fmt::Debug for ReconcileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReconcileError")
            .field("source", &self.source)
            .field("terminal", &self.terminal)
            .finish()
    }
}

/// Says of a failure that repeating cannot mend it.
pub trait OrTerminal<T> {
    /// The value, or a [`ReconcileError`] that is not retried.
    ///
    /// # Errors
    /// The same failure, made terminal.
    fn or_terminal(self) -> Result<T, ReconcileError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrTerminal<T> for Result<T, E> {
    fn or_terminal(self) -> Result<T, ReconcileError> {
        self.map_err(ReconcileError::terminal)
    }
}

/// Makes the world match one object. Any `async fn(Request, Context) -> Result<Outcome, ReconcileError>` is
/// one, and so is a closure that owns what it needs.
///
/// It is given a name, not an event, and may be called at any time: after a change of the object or of what
/// it owns, after a restart, or for no reason. For one name it is never called twice at once.
pub trait Reconciler: Send + Sync + 'static {
    /// Looks at the object and acts.
    fn reconcile(
        &self,
        request: Request,
        context: Context,
    ) -> impl Future<Output = Result<Outcome, ReconcileError>> + Send;
}

impl<F, Fut> Reconciler for F
where
    F: Fn(Request, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, ReconcileError>> + Send,
{
    fn reconcile(
        &self,
        request: Request,
        context: Context,
    ) -> impl Future<Output = Result<Outcome, ReconcileError>> + Send {
        self(request, context)
    }
}
