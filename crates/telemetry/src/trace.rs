//! Which trace a span belongs to.
//!
//! A small layer keeps one [`TraceContext`] per span: a child inherits its parent's trace, a root starts a new
//! one, and [`open`] or [`adopt`] continue a trace that came from elsewhere. The ids are ours, so that they are
//! the same in logs, in stored records and in what is exported, and exist without an exporter too.

use std::cell::RefCell;

use setpoint_base::TraceContext;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Span, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use crate::otlp::{Exporter, SpanRecord};

/// Links one span may have; more are dropped.
const LINKS_MAX: usize = 8;

thread_local! {
    /// The contexts of the spans entered on this thread, innermost last.
    static ENTERED: RefCell<Vec<(u64, TraceContext)>> = const { RefCell::new(Vec::new()) };
}

/// What the layer knows of one live span.
pub(crate) struct SpanState {
    pub(crate) context: TraceContext,
    pub(crate) parent: Option<Parent>,
    pub(crate) links: Vec<TraceContext>,
    /// Kept only while an exporter wants it.
    pub(crate) record: Option<Box<SpanRecord>>,
}

/// The span that caused another one.
#[derive(Clone, Copy)]
pub(crate) struct Parent {
    pub(crate) span_id: [u8; 8],
    pub(crate) remote: bool,
}

/// Puts the span into the trace of `cause`, or into a new trace, and returns the span's own context.
///
/// The returned context is what to pass on: its trace is the cause's, its span id this span's. It is valid even
/// when no subscriber is installed or the span is disabled.
#[must_use]
pub fn open(span: &Span, cause: Option<&TraceContext>) -> TraceContext {
    if let Some(cause) = cause {
        adopt(span, cause);
    }
    context_of(span).unwrap_or_else(|| cause.map_or_else(TraceContext::random, TraceContext::child))
}

/// Continues `cause` in the span. Call it before the span is entered or has children.
pub fn adopt(span: &Span, cause: &TraceContext) {
    with_state(span, |state, id| {
        state.context.trace_id = cause.trace_id;
        state.context.flags = cause.flags;
        state.parent = Some(Parent {
            span_id: cause.span_id,
            remote: true,
        });
        let context = state.context;
        ENTERED.with_borrow_mut(|entered| {
            for entry in entered.iter_mut().filter(|entry| entry.0 == id) {
                entry.1 = context;
            }
        });
    });
}

/// Notes that the span also continues another trace, for example a coalesced earlier change.
pub fn link(span: &Span, other: &TraceContext) {
    with_state(span, |state, _| {
        if state.links.len() < LINKS_MAX {
            state.links.push(*other);
        }
    });
}

/// The span's own context; `None` without a subscriber or when the span is disabled.
#[must_use]
pub fn context_of(span: &Span) -> Option<TraceContext> {
    with_state(span, |state, _| state.context)
}

/// The context of the innermost span entered on this thread.
#[must_use]
pub fn current() -> Option<TraceContext> {
    ENTERED.with_borrow(|entered| entered.last().map(|entry| entry.1))
}

fn with_state<T>(span: &Span, act: impl FnOnce(&mut SpanState, u64) -> T) -> Option<T> {
    span.with_subscriber(|(id, dispatch): (&Id, &Dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        let mut extensions = span.extensions_mut();
        Some(act(extensions.get_mut::<SpanState>()?, id.into_u64()))
    })
    .flatten()
}

/// The layer behind this module.
pub(crate) struct TraceLayer {
    pub(crate) exporter: Option<Exporter>,
}

impl TraceLayer {
    fn state_for<S>(&self, attributes: &Attributes<'_>, parent: Option<&SpanRef<'_, S>>) -> SpanState
    where
        S: for<'a> LookupSpan<'a>,
    {
        let inherited = parent.and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<SpanState>().map(|state| state.context)
        });
        let mut context = inherited.map_or_else(TraceContext::random, |context| context.child());
        if let (None, Some(exporter)) = (inherited, &self.exporter) {
            context.flags = u8::from(exporter.samples_root(&context));
        }
        SpanState {
            context,
            parent: inherited.map(|context| Parent {
                span_id: context.span_id,
                remote: false,
            }),
            links: Vec::new(),
            record: self
                .exporter
                .as_ref()
                .map(|exporter| Box::new(exporter.begin(attributes))),
        }
    }
}

impl<S> Layer<S> for TraceLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let state = self.state_for(attributes, span.parent().as_ref());
        span.extensions_mut().replace(state);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        if self.exporter.is_none() {
            return;
        }
        let Some(span) = ctx.span(id) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(record) = extensions
            .get_mut::<SpanState>()
            .and_then(|state| state.record.as_mut())
        {
            record.record(values);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let Some(exporter) = &self.exporter else { return };
        let Some(span) = ctx.event_span(event) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(record) = extensions
            .get_mut::<SpanState>()
            .and_then(|state| state.record.as_mut())
        {
            exporter.note(record, event);
        }
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let extensions = span.extensions();
        if let Some(state) = extensions.get::<SpanState>() {
            ENTERED.with_borrow_mut(|entered| entered.push((id.into_u64(), state.context)));
        }
    }

    fn on_exit(&self, id: &Id, _ctx: Context<'_, S>) {
        ENTERED.with_borrow_mut(|entered| {
            // Spans may be left in another order than they were entered.
            if let Some(at) = entered.iter().rposition(|entry| entry.0 == id.into_u64()) {
                entered.remove(at);
            }
        });
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        let Some(exporter) = &self.exporter else { return };
        let Some(span) = ctx.span(&id) else { return };
        let state = span.extensions_mut().remove::<SpanState>();
        if let Some(state) = state {
            exporter.end(span.name(), state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    fn traced(body: impl FnOnce()) {
        let subscriber = tracing_subscriber::registry().with(TraceLayer { exporter: None });
        tracing::subscriber::with_default(subscriber, body);
    }

    fn cause() -> TraceContext {
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .unwrap()
    }

    #[test]
    fn a_span_continues_the_trace_that_caused_it_and_hands_it_to_its_children() {
        traced(|| {
            let request = tracing::info_span!("request");
            let own = open(&request, Some(&cause()));
            assert_eq!(own.trace_id, cause().trace_id);
            assert_ne!(own.span_id, cause().span_id);
            assert_eq!(context_of(&request), Some(own));
            let inner = request.in_scope(|| {
                assert_eq!(current(), Some(own));
                tracing::info_span!("commit")
            });
            let inner = context_of(&inner).unwrap();
            assert_eq!(inner.trace_id, cause().trace_id);
            assert_ne!(inner.span_id, own.span_id);
            assert_eq!(current(), None);
        });
    }

    #[test]
    fn a_span_without_a_cause_starts_a_trace_of_its_own() {
        traced(|| {
            let (one, two) = (tracing::info_span!("a"), tracing::info_span!("b"));
            assert_ne!(open(&one, None).trace_id, open(&two, None).trace_id);
        });
    }

    #[test]
    fn a_context_can_be_opened_without_a_subscriber() {
        let span = Span::none();
        assert_eq!(open(&span, Some(&cause())).trace_id, cause().trace_id);
        assert_eq!(context_of(&span), None);
        assert_ne!(open(&span, None), open(&span, None));
    }

    #[test]
    fn a_trace_adopted_inside_the_span_is_current_at_once() {
        traced(|| {
            let span = tracing::info_span!("late");
            span.in_scope(|| {
                adopt(&span, &cause());
                assert_eq!(current().unwrap().trace_id, cause().trace_id);
            });
        });
    }

    #[test]
    fn spans_left_out_of_order_do_not_leave_a_stale_current_context() {
        traced(|| {
            let (one, two) = (tracing::info_span!("a"), tracing::info_span!("b"));
            let first = one.enter();
            let second = two.enter();
            drop(first);
            assert_eq!(current(), context_of(&two));
            drop(second);
            assert_eq!(current(), None);
        });
    }
}
