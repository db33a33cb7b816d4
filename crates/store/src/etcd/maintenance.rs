//! What clients ask about the server itself: Maintenance.

use std::sync::Arc;

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use tonic::Status;

use super::server::Shared;
use super::status::status as of;
use super::wire::{self, RAFT_TERM, Reply};
use super::{CLUSTER_VERSION, ETCD_VERSION, convert};
use crate::types::{Alarm, AlarmKind};

/// Maintenance.Status.
pub(super) fn status(shared: &Arc<Shared>) -> Result<Reply, Status> {
    let status = shared.store.status();
    Ok(Reply::Whole(wire::message(&pb::StatusResponse {
        header: Some(shared.header(status.revision)),
        version: ETCD_VERSION.to_owned(),
        db_size: i64::try_from(status.disk_bytes).unwrap_or(i64::MAX),
        db_size_in_use: i64::try_from(status.live_bytes).unwrap_or(i64::MAX),
        db_size_quota: status.quota_bytes,
        leader: shared.member_id,
        raft_index: status.log_index,
        raft_applied_index: status.log_index,
        raft_term: RAFT_TERM,
        errors: shared
            .store
            .alarms()
            .iter()
            .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member, alarm.kind.name()))
            .collect(),
        is_learner: false,
        storage_version: CLUSTER_VERSION.to_owned(),
        downgrade_info: Some(pb::DowngradeInfo::default()),
    })))
}

/// Maintenance.Alarm. A lack of room that ends by itself is listed while it lasts; it cannot be disarmed.
pub(super) async fn alarm(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    use pb::alarm_request::AlarmAction;
    let request: pb::AlarmRequest = convert::decode(request)?;
    let named = AlarmKind::of_code(request.alarm).map(|kind| Alarm {
        member: request.member_id,
        kind,
    });
    let alarms = match (AlarmAction::try_from(request.action), named) {
        (Ok(AlarmAction::Get), _) => {
            let asked = |alarm: &Alarm| request.alarm == 0 || request.alarm == alarm.kind.code();
            shared.store.alarms().into_iter().filter(asked).collect()
        }
        (Ok(AlarmAction::Activate), Some(alarm)) => {
            shared.store.raise(alarm).await.map_err(|error| of(&error))?;
            tracing::warn!(
                member = alarm.member,
                alarm = alarm.kind.name(),
                "a client raised an alarm"
            );
            vec![alarm]
        }
        (Ok(AlarmAction::Deactivate), Some(alarm)) => {
            let disarmed = shared.store.disarm(alarm).await.map_err(|error| of(&error))?;
            disarmed.then_some(alarm).into_iter().collect()
        }
        _ => Vec::new(),
    };
    Ok(Reply::Whole(wire::message(&pb::AlarmResponse {
        header: Some(shared.header(shared.store.revision())),
        alarms: alarms.into_iter().map(alarm_member).collect(),
    })))
}

fn alarm_member(alarm: Alarm) -> pb::AlarmMember {
    pb::AlarmMember {
        member_id: alarm.member,
        alarm: alarm.kind.code(),
    }
}

/// Maintenance.Defragment: a hint. Nothing stops for it, so there is nothing to wait for.
pub(super) fn defragment(shared: &Arc<Shared>) -> Reply {
    shared.store.defragment();
    Reply::Whole(wire::message(&pb::DefragmentResponse::default()))
}

/// Maintenance.Downgrade: there is no other version to go to.
pub(super) fn downgrade(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    use pb::downgrade_request::DowngradeAction;
    let request: pb::DowngradeRequest = convert::decode(request)?;
    match DowngradeAction::try_from(request.action) {
        // etcd says so whether there was one or not.
        Ok(DowngradeAction::Cancel) => Ok(Reply::Whole(wire::message(&pb::DowngradeResponse {
            header: Some(shared.header(shared.store.revision())),
            version: minor(CLUSTER_VERSION).to_owned(),
        }))),
        Ok(_) if !is_version(&request.version) => Err(Status::invalid_argument(
            "etcdserver: wrong downgrade target version format",
        )),
        Ok(_) => Err(Status::invalid_argument(
            "etcdserver: invalid downgrade target version",
        )),
        Err(_) => Err(Status::unknown("etcdserver: unknown method")),
    }
}

/// Major and minor, with or without the rest.
fn is_version(version: &str) -> bool {
    let numbers: Vec<_> = version.split('.').collect();
    (2..=3).contains(&numbers.len()) && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}

pub(super) fn minor(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}
