//! Wire types without logic: etcd v3, compiled without protoc.
//!
//! The descriptions in `proto/` are our own; the names, types and numbers in them are etcd's, from
//! `api/{etcdserverpb/rpc,mvccpb/kv,authpb/auth}.proto` and `api/v3{lock,election}` of version 3.7. Every
//! `bytes` field is a [`bytes::Bytes`]: decoding slices the received buffer. **A slice keeps its whole buffer
//! alive**, so what is kept has to be copied once.
//!
//! Clients are generated (`etcdserverpb::kv_client::KvClient`, …), servers are not: the front in
//! `setpoint-store` speaks gRPC itself.

// The generated code is documented by the `.proto` files it is made from.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]

/// KV, Watch, Lease, Cluster, Maintenance and Auth.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// Keys, values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The Lock service.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// The Election service.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// All of the above as protocol buffers describe themselves (`google.protobuf.FileDescriptorSet`), without comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
