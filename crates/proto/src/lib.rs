//! Wire types without logic: etcd v3, compiled without protoc.
