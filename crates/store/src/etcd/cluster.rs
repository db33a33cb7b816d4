//! The Cluster service and MoveLeader: one member, which cannot become more. Whoever needs more runs an etcd cluster.

use std::sync::Arc;

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use tonic::Status;

use super::convert;
use super::server::Shared;
use super::wire::{self, Reply};

/// MemberList: this one. What is read here is durable, so a linearizable answer is no different.
pub(super) fn list(shared: &Arc<Shared>) -> Reply {
    let mut header = shared.header(shared.store.revision());
    // Answers of the Cluster service carry no revision.
    header.revision = 0;
    Reply::Whole(wire::message(&pb::MemberListResponse {
        header: Some(header),
        members: vec![pb::Member {
            id: shared.member_id,
            name: shared.options.member_name.clone(),
            peer_ur_ls: shared.options.peer_urls.clone(),
            client_ur_ls: shared.client_urls.clone(),
            is_learner: false,
        }],
    }))
}

/// MemberAdd: refused, after the checks that etcd makes.
pub(super) fn add(request: Bytes) -> Status {
    match convert::decode::<pb::MemberAddRequest>(request) {
        Err(status) => status,
        Ok(request) if !are_urls(&request.peer_ur_ls) => bad_urls(),
        Ok(_) => alone(),
    }
}

/// MemberRemove: the last member stays, or there would be nobody to ask.
pub(super) fn remove(shared: &Arc<Shared>, request: Bytes) -> Status {
    match convert::decode::<pb::MemberRemoveRequest>(request) {
        Err(status) => status,
        Ok(request) if request.id != shared.member_id => not_found(),
        // UNKNOWN is what etcd really sends here, as for "too many requests".
        Ok(_) => Status::unknown("etcdserver: re-configuration failed due to not enough started members"),
    }
}

/// MemberUpdate: there are no peers, so there is no URL for them.
pub(super) fn update(shared: &Arc<Shared>, request: Bytes) -> Status {
    match convert::decode::<pb::MemberUpdateRequest>(request) {
        Err(status) => status,
        Ok(request) if request.id != shared.member_id => not_found(),
        Ok(request) if !are_urls(&request.peer_ur_ls) => bad_urls(),
        Ok(_) => alone(),
    }
}

/// MemberPromote: there are no learners.
pub(super) fn promote(shared: &Arc<Shared>, request: Bytes) -> Status {
    match convert::decode::<pb::MemberPromoteRequest>(request) {
        Err(status) => status,
        Ok(request) if request.id != shared.member_id => not_found(),
        Ok(_) => Status::failed_precondition("etcdserver: can only promote a learner member"),
    }
}

/// MoveLeader: done if it is to move to where it is.
pub(super) fn move_leader(shared: &Arc<Shared>, request: Bytes) -> Result<Reply, Status> {
    let request: pb::MoveLeaderRequest = convert::decode(request)?;
    if request.target_id != shared.member_id {
        return Err(Status::failed_precondition("etcdserver: bad leader transferee"));
    }
    Ok(Reply::Whole(wire::message(&pb::MoveLeaderResponse::default())))
}

fn alone() -> Status {
    Status::failed_precondition(
        "etcdserver: this server is its cluster's only member and takes no others: to have several, restore a snapshot \
         of it into an etcd cluster",
    )
}

fn bad_urls() -> Status {
    Status::invalid_argument("etcdserver: given member URLs are invalid")
}

fn not_found() -> Status {
    Status::not_found("etcdserver: member not found")
}

/// As etcd's `types.NewURLs`: at least one, each of a known scheme, with host and port and without a path.
fn are_urls(urls: &[String]) -> bool {
    let is_url = |url: &String| match url.split_once("://") {
        Some(("http" | "https", rest)) => {
            let port = rest.rsplit_once(':').map(|(_, port)| port);
            port.is_some_and(|port| port.parse::<u16>().is_ok())
        }
        Some(("unix" | "unixs", rest)) => !rest.is_empty(),
        _ => false,
    };
    !urls.is_empty() && urls.iter().all(is_url)
}
