//! Compiles our own description of etcd's wire API, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["rpc.proto", "lock.proto", "election.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // Keys, values and blobs are slices of the receive buffer, not copies of it.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
