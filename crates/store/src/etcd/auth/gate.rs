//! Whom each method is for, where its request need not be converted to tell.
//!
//! From `server/etcdserver/api/v3rpc/{key,lease,maintenance}.go`, `server/etcdserver/{server,v3_server}.go` and
//! `apply/auth.go`. Requests that name keys are checked by the services, by what they are converted to; those of the
//! Lock and Election services here, by the keys that they come down to.

use bytes::Bytes;
use prost::Message;
use setpoint_proto::{etcdserverpb as pb, v3electionpb, v3lockpb};
use tonic::Status;

use super::access::Access;
use super::error::AuthError;
use crate::Store;
use crate::etcd::contest;
use crate::etcd::convert;
use crate::etcd::method::Method;
use crate::types::{Delete, KeyRange, Put, PutLease};

impl Access {
    /// Whether the caller may call this method at all.
    pub(in crate::etcd) fn gate(&self, store: &Store, method: Method, request: &Bytes) -> Result<(), Status> {
        if matches!(self, Self::Open) {
            return Ok(());
        }
        match method {
            Method::Compact
            | Method::MemberAdd
            | Method::MemberRemove
            | Method::MemberUpdate
            | Method::MemberPromote
            | Method::Defragment
            | Method::Hash
            | Method::HashKv
            | Method::Snapshot
            | Method::MoveLeader
            | Method::Downgrade
            | Method::AuthEnable
            | Method::AuthDisable
            | Method::UserAdd
            | Method::UserList
            | Method::UserDelete
            | Method::UserChangePassword
            | Method::UserGrantRole
            | Method::UserRevokeRole
            | Method::RoleAdd
            | Method::RoleList
            | Method::RoleDelete
            | Method::RoleGrantPermission
            | Method::RoleRevokePermission => self.admin()?,
            Method::MemberList
            | Method::Status
            | Method::LeaseGrant
            | Method::LeaseRevoke
            | Method::LeaseTimeToLive => self.named()?,
            Method::AuthStatus => self.not_invalid()?,
            Method::Alarm => self.alarm(request)?,
            Method::Lock
            | Method::Unlock
            | Method::Campaign
            | Method::Proclaim
            | Method::Leader
            | Method::Observe
            | Method::Resign => {
                let contest = self.contest(store, method, request)?;
                contest.map_err(|error| contest::as_client(error.into()))?;
            }
            // By their keys, by who asks, or for everybody.
            Method::Range
            | Method::RangeStream
            | Method::Put
            | Method::DeleteRange
            | Method::Txn
            | Method::Watch
            | Method::LeaseKeepAlive
            | Method::LeaseLeases
            | Method::UserGet
            | Method::RoleGet
            | Method::Authenticate
            | Method::HealthCheck
            | Method::HealthWatch => (),
        }
        Ok(())
    }

    /// Everybody who has a name may read alarms.
    fn alarm(&self, request: &Bytes) -> Result<(), AuthError> {
        let request = pb::AlarmRequest::decode(request.clone()).unwrap_or_default();
        if request.action == pb::alarm_request::AlarmAction::Get as i32 {
            self.named()
        } else {
            self.admin()
        }
    }

    /// The outer error is one of the request, the inner a refusal.
    fn contest(
        &self,
        store: &Store,
        method: Method,
        request: &Bytes,
    ) -> Result<Result<(), AuthError>, Status> {
        let request = request.clone();
        Ok(match method {
            Method::Lock => {
                let request: v3lockpb::LockRequest = convert::decode(request)?;
                self.contend(store, &request.name, request.lease)
            }
            Method::Campaign => {
                let request: v3electionpb::CampaignRequest = convert::decode(request)?;
                self.contend(store, &request.name, request.lease)
            }
            Method::Unlock => {
                let request: v3lockpb::UnlockRequest = convert::decode(request)?;
                self.delete(&Delete {
                    keys: KeyRange::Key(request.key),
                    prev_kv: false,
                })
            }
            Method::Proclaim => {
                let request: v3electionpb::ProclaimRequest = convert::decode(request)?;
                self.lead(store, request.leader.unwrap_or_default())
            }
            Method::Resign => {
                let request: v3electionpb::ResignRequest = convert::decode(request)?;
                self.lead(store, request.leader.unwrap_or_default())
            }
            _ => {
                // Leader and Observe have the same request.
                let request: v3electionpb::LeaderRequest = convert::decode(request)?;
                self.range(&contest::rivals(&request.name))
            }
        })
    }

    /// A contender reads all keys of its rivals and writes one of them.
    fn contend(&self, store: &Store, name: &[u8], lease: i64) -> Result<(), AuthError> {
        self.range(&contest::rivals(name))?;
        let key = contest::key(name, crate::types::LeaseId(lease));
        self.put(store, &leased(key, lease))
    }

    /// A leader compares its key, and writes or deletes it.
    fn lead(&self, store: &Store, leader: v3electionpb::LeaderKey) -> Result<(), AuthError> {
        self.range(&KeyRange::Key(leader.key.clone()))?;
        self.put(store, &leased(leader.key, leader.lease))
    }
}

fn leased(key: Bytes, lease: i64) -> Put {
    Put {
        lease: PutLease::Set(convert::lease_id(lease)),
        ..Put::new(key, Bytes::new())
    }
}
