//! The calls there are.

/// A call this front serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Method {
    Range,
    RangeStream,
    Put,
    DeleteRange,
    Txn,
    Compact,
    Watch,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    LeaseTimeToLive,
    LeaseLeases,
    MemberList,
    Alarm,
    Status,
    AuthStatus,
    HealthCheck,
}

/// A method with its service and name on the wire, in the order of the variants.
pub(super) const METHODS: [(Method, &str, &str); 17] = [
    (Method::Range, "etcdserverpb.KV", "Range"),
    (Method::RangeStream, "etcdserverpb.KV", "RangeStream"),
    (Method::Put, "etcdserverpb.KV", "Put"),
    (Method::DeleteRange, "etcdserverpb.KV", "DeleteRange"),
    (Method::Txn, "etcdserverpb.KV", "Txn"),
    (Method::Compact, "etcdserverpb.KV", "Compact"),
    (Method::Watch, "etcdserverpb.Watch", "Watch"),
    (Method::LeaseGrant, "etcdserverpb.Lease", "LeaseGrant"),
    (Method::LeaseRevoke, "etcdserverpb.Lease", "LeaseRevoke"),
    (Method::LeaseKeepAlive, "etcdserverpb.Lease", "LeaseKeepAlive"),
    (Method::LeaseTimeToLive, "etcdserverpb.Lease", "LeaseTimeToLive"),
    (Method::LeaseLeases, "etcdserverpb.Lease", "LeaseLeases"),
    (Method::MemberList, "etcdserverpb.Cluster", "MemberList"),
    (Method::Alarm, "etcdserverpb.Maintenance", "Alarm"),
    (Method::Status, "etcdserverpb.Maintenance", "Status"),
    (Method::AuthStatus, "etcdserverpb.Auth", "AuthStatus"),
    (Method::HealthCheck, "grpc.health.v1.Health", "Check"),
];

impl Method {
    /// The method that a request path names.
    pub(super) fn of(path: &str) -> Option<Self> {
        let (service, name) = path.strip_prefix('/')?.split_once('/')?;
        METHODS
            .iter()
            .find(|(_, of, called)| *called == name && *of == service)
            .map(|(method, ..)| *method)
    }

    /// Whether its answer is more than one message.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Self::RangeStream | Self::Watch | Self::LeaseKeepAlive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_variants() {
        for (index, (method, service, name)) in METHODS.iter().enumerate() {
            assert_eq!(*method as usize, index);
            assert_eq!(Method::of(&format!("/{service}/{name}")), Some(*method));
        }
        for path in [
            "",
            "/",
            "/etcdserverpb.KV",
            "/etcdserverpb.KV/",
            "/etcdserverpb.KV/range",
            "/x/Range",
        ] {
            assert_eq!(Method::of(path), None, "{path}");
        }
    }
}
