//! Headers of gRPC, read once: a name that is given as text is checked and hashed at every look.

use http::HeaderName;

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(super) const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
pub(super) const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
pub(super) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
