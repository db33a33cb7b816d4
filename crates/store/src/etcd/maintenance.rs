//! What clients ask about the server itself: Maintenance and Cluster.

use std::sync::Arc;

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use tonic::Status;

use super::server::Shared;
use super::wire::{self, RAFT_TERM, Reply};
use super::{CLUSTER_VERSION, ETCD_VERSION, convert};

/// Maintenance.Status.
pub(super) fn status(shared: &Arc<Shared>) -> Result<Reply, Status> {
    let status = shared.store.status();
    let alarms = alarms(shared).into_iter();
    Ok(Reply::Whole(wire::message(&pb::StatusResponse {
        header: Some(shared.header(status.revision)),
        version: ETCD_VERSION.to_owned(),
        db_size: i64::try_from(status.disk_bytes).unwrap_or(i64::MAX),
        db_size_in_use: i64::try_from(status.live_bytes).unwrap_or(i64::MAX),
        // No quota, as etcd's Status shows `--quota-backend-bytes=-1`: the disk is the limit.
        db_size_quota: -1,
        leader: shared.member_id,
        raft_index: status.log_index,
        raft_applied_index: status.log_index,
        raft_term: RAFT_TERM,
        errors: alarms
            .map(|alarm| format!("memberID:{} alarm:NOSPACE ", alarm.member_id))
            .collect(),
        is_learner: false,
        storage_version: CLUSTER_VERSION.to_owned(),
        downgrade_info: Some(pb::DowngradeInfo::default()),
    })))
}

/// Maintenance.Alarm: alarms are read here. They cannot be raised, and clear themselves.
pub(super) fn alarm(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    let request: pb::AlarmRequest = convert::decode(request)?;
    let header = Some(shared.header(shared.store.revision()));
    let alarms = match pb::alarm_request::AlarmAction::try_from(request.action) {
        Ok(pb::alarm_request::AlarmAction::Get) => alarms(shared)
            .into_iter()
            .filter(|alarm| request.alarm == 0 || request.alarm == alarm.alarm)
            .collect(),
        // Nothing was disarmed: the alarm ends when there is room again, and not before.
        Ok(pb::alarm_request::AlarmAction::Deactivate) => Vec::new(),
        _ => return Err(Status::unimplemented("alarms cannot be activated by hand")),
    };
    Ok(Reply::Whole(wire::message(&pb::AlarmResponse { header, alarms })))
}

fn alarms(shared: &Arc<Shared>) -> Vec<pb::AlarmMember> {
    let no_space = shared.store.status().no_space;
    no_space
        .then(|| pb::AlarmMember {
            member_id: shared.member_id,
            alarm: pb::AlarmType::Nospace as i32,
        })
        .into_iter()
        .collect()
}

/// Cluster.MemberList: this one.
pub(super) fn member_list(shared: &Arc<Shared>) -> Result<Reply, Status> {
    let mut header = shared.header(shared.store.revision());
    // Answers of the Cluster service carry no revision.
    header.revision = 0;
    Ok(Reply::Whole(wire::message(&pb::MemberListResponse {
        header: Some(header),
        members: vec![pb::Member {
            id: shared.member_id,
            name: shared.options.member_name.clone(),
            peer_ur_ls: shared.options.peer_urls.clone(),
            client_ur_ls: shared.client_urls.clone(),
            is_learner: false,
        }],
    })))
}
