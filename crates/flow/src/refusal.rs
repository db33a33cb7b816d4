//! How a refusal is told: as gRPC, or as plain HTTP.

use http::header::{HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::limits::Refused;

/// Tells a gRPC client when to come again; clients that know it wait as long by themselves.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The field of a span that says which rule has refused its call.
pub const REFUSED_BY: &str = "flow.refused_by";

impl Refused {
    /// Leaves a word in the call's trace: in the field [`REFUSED_BY`] of the span it is in, where that has one, and as an event.
    pub(crate) fn traced(self, method: &str) -> Self {
        tracing::Span::current().record(REFUSED_BY, &*self.rule);
        tracing::debug!(rule = &*self.rule, method, retry_after = ?self.retry_after, "a call was refused");
        self
    }

    /// `RESOURCE_EXHAUSTED` with `google.rpc.RetryInfo` among its details and `grpc-retry-pushback-ms` in its metadata.
    #[must_use]
    pub fn status(&self) -> Status {
        let details = ErrorDetails::with_retry_info(Some(self.retry_after));
        let millis = self.retry_after.as_nanos().div_ceil(1_000_000);
        let mut metadata = MetadataMap::new();
        if let Ok(pushback) = millis.to_string().parse() {
            metadata.insert(PUSHBACK, pushback);
        }
        Status::with_error_details_and_metadata(Code::ResourceExhausted, self.to_string(), details, metadata)
    }

    /// 429 with `Retry-After` in whole seconds, rounded up, and an empty body.
    #[must_use]
    pub fn response<B: Default>(&self) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        let seconds = self.retry_after.as_nanos().div_ceil(1_000_000_000).max(1);
        if let Ok(seconds) = HeaderValue::try_from(seconds.to_string()) {
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::fmt;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing::field::{Field, Visit};
    use tracing::span;
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt};

    use super::*;
    use crate::limits::Cause;
    use crate::{Ask, Limits, Per, Rule, Rules, Scope};

    /// Notes what is recorded in spans.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<String>>>);

    impl Visit for Notes {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.lock().push(format!("{} {value:?}", field.name()));
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Notes {
        fn on_record(&self, _: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
            values.record(&mut self.clone());
        }
    }

    #[test]
    fn who_is_refused_has_the_rule_in_its_trace() {
        let limits = Limits::of(&Rules {
            rules: vec![Rule::new("puts", "1/s").burst(1).per(Per::Global)],
            ..Rules::default()
        });
        let (limits, notes) = (limits.unwrap(), Notes::default());
        let ask = Ask {
            method: "put",
            peer: "",
            metadata: &|_| None,
        };
        let (scope, now) = (Scope::default(), tokio::time::Instant::now());
        let subscriber = tracing_subscriber::registry().with(notes.clone());
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", flow.refused_by = tracing::field::Empty);
            let _entered = span.enter();
            limits.admit(&ask, &scope, now).unwrap();
            limits.admit(&ask, &scope, now).unwrap_err();
        });
        assert_eq!(*notes.0.lock(), ["flow.refused_by \"puts\""]);
    }

    #[test]
    fn times_are_never_rounded_down() {
        let refused = |micros| Refused {
            rule: "r".into(),
            retry_after: Duration::from_micros(micros),
            cause: Cause::Rate,
        };
        for (micros, millis, seconds) in [(1, "1", "1"), (1_000_001, "1001", "2"), (0, "0", "1")] {
            let refused = refused(micros);
            assert_eq!(refused.status().metadata().get(PUSHBACK).unwrap(), millis);
            let told = refused
                .status()
                .get_error_details()
                .retry_info()
                .unwrap()
                .retry_delay;
            assert_eq!(told, Some(refused.retry_after));
            let response: Response<()> = refused.response();
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        }
    }
}
