//! How a refusal is told: as gRPC, or as plain HTTP.

use http::header::{HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::limits::Refused;

/// Tells a gRPC client when to come again; clients that know it wait as long by themselves.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl Refused {
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

    use super::*;
    use crate::limits::Cause;

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
