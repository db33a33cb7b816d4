//! Compiles our own description of etcd's wire API, without `protoc`.

fn main() {}
