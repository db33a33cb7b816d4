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
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberList,
    MemberPromote,
    Alarm,
    Status,
    Defragment,
    Hash,
    HashKv,
    Snapshot,
    MoveLeader,
    Downgrade,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    Authenticate,
    UserAdd,
    UserGet,
    UserList,
    UserDelete,
    UserChangePassword,
    UserGrantRole,
    UserRevokeRole,
    RoleAdd,
    RoleGet,
    RoleList,
    RoleDelete,
    RoleGrantPermission,
    RoleRevokePermission,
    Lock,
    Unlock,
    Campaign,
    Proclaim,
    Leader,
    Observe,
    Resign,
    HealthCheck,
    HealthWatch,
}

/// A method with its service and name on the wire, in the order of the variants.
pub(super) const METHODS: [(Method, &str, &str); 51] = [
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
    (Method::MemberAdd, "etcdserverpb.Cluster", "MemberAdd"),
    (Method::MemberRemove, "etcdserverpb.Cluster", "MemberRemove"),
    (Method::MemberUpdate, "etcdserverpb.Cluster", "MemberUpdate"),
    (Method::MemberList, "etcdserverpb.Cluster", "MemberList"),
    (Method::MemberPromote, "etcdserverpb.Cluster", "MemberPromote"),
    (Method::Alarm, "etcdserverpb.Maintenance", "Alarm"),
    (Method::Status, "etcdserverpb.Maintenance", "Status"),
    (Method::Defragment, "etcdserverpb.Maintenance", "Defragment"),
    (Method::Hash, "etcdserverpb.Maintenance", "Hash"),
    (Method::HashKv, "etcdserverpb.Maintenance", "HashKV"),
    (Method::Snapshot, "etcdserverpb.Maintenance", "Snapshot"),
    (Method::MoveLeader, "etcdserverpb.Maintenance", "MoveLeader"),
    (Method::Downgrade, "etcdserverpb.Maintenance", "Downgrade"),
    (Method::AuthEnable, "etcdserverpb.Auth", "AuthEnable"),
    (Method::AuthDisable, "etcdserverpb.Auth", "AuthDisable"),
    (Method::AuthStatus, "etcdserverpb.Auth", "AuthStatus"),
    (Method::Authenticate, "etcdserverpb.Auth", "Authenticate"),
    (Method::UserAdd, "etcdserverpb.Auth", "UserAdd"),
    (Method::UserGet, "etcdserverpb.Auth", "UserGet"),
    (Method::UserList, "etcdserverpb.Auth", "UserList"),
    (Method::UserDelete, "etcdserverpb.Auth", "UserDelete"),
    (
        Method::UserChangePassword,
        "etcdserverpb.Auth",
        "UserChangePassword",
    ),
    (Method::UserGrantRole, "etcdserverpb.Auth", "UserGrantRole"),
    (Method::UserRevokeRole, "etcdserverpb.Auth", "UserRevokeRole"),
    (Method::RoleAdd, "etcdserverpb.Auth", "RoleAdd"),
    (Method::RoleGet, "etcdserverpb.Auth", "RoleGet"),
    (Method::RoleList, "etcdserverpb.Auth", "RoleList"),
    (Method::RoleDelete, "etcdserverpb.Auth", "RoleDelete"),
    (
        Method::RoleGrantPermission,
        "etcdserverpb.Auth",
        "RoleGrantPermission",
    ),
    (
        Method::RoleRevokePermission,
        "etcdserverpb.Auth",
        "RoleRevokePermission",
    ),
    (Method::Lock, "v3lockpb.Lock", "Lock"),
    (Method::Unlock, "v3lockpb.Lock", "Unlock"),
    (Method::Campaign, "v3electionpb.Election", "Campaign"),
    (Method::Proclaim, "v3electionpb.Election", "Proclaim"),
    (Method::Leader, "v3electionpb.Election", "Leader"),
    (Method::Observe, "v3electionpb.Election", "Observe"),
    (Method::Resign, "v3electionpb.Election", "Resign"),
    (Method::HealthCheck, "grpc.health.v1.Health", "Check"),
    (Method::HealthWatch, "grpc.health.v1.Health", "Watch"),
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

    /// Whether it is one of the Auth service's.
    pub(super) fn is_auth(self) -> bool {
        METHODS[self as usize].1 == "etcdserverpb.Auth"
    }

    /// Whether the usual call of it begins, or even ends, where it arrives.
    pub(super) fn is_quick(self) -> bool {
        matches!(self, Self::Range | Self::Put)
    }

    /// Whether its answer is more than one message.
    pub(super) fn is_stream(self) -> bool {
        matches!(
            self,
            Self::RangeStream
                | Self::Watch
                | Self::LeaseKeepAlive
                | Self::Snapshot
                | Self::Observe
                | Self::HealthWatch
        )
    }

    /// Whether its answer may be long in coming: the client waits for others, for the whole log to be read, or for history
    /// to be removed.
    pub(super) fn waits(self) -> bool {
        matches!(
            self,
            Self::Lock | Self::Campaign | Self::Hash | Self::HashKv | Self::Compact
        )
    }

    /// Whether it touches keys or leases, which nobody may do while the data is not to be trusted.
    pub(super) fn needs_trust(self) -> bool {
        matches!(
            self,
            Self::Range
                | Self::RangeStream
                | Self::Put
                | Self::DeleteRange
                | Self::Txn
                | Self::Compact
                | Self::LeaseGrant
                | Self::LeaseRevoke
        ) || self.writes_as_client()
    }

    /// Whether it writes keys of its own on its caller's behalf, as a client of the store would.
    pub(super) fn writes_as_client(self) -> bool {
        matches!(
            self,
            Self::Lock | Self::Unlock | Self::Campaign | Self::Proclaim | Self::Resign
        )
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

    #[test]
    fn the_table_of_compatibility_has_every_call_once() {
        let page = include_str!("../../../../docs/reference/etcd-compatibility.md");
        let rows: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("| `")).collect();
        for (_, service, name) in METHODS {
            let service = service.rsplit('.').next().unwrap_or_default();
            let start = format!("{service}.{name}` |");
            let found = rows.iter().filter(|row| row.starts_with(&start)).count();
            assert_eq!(found, 1, "{service}.{name}");
        }
    }
}
