//! Compiles our own description of etcd's wire API, without `protoc`.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["rpc.proto", "lock.proto", "election.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        // Comments and positions: half of the bytes.
        file.source_code_info = None;
    }
    std::fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(false)
        // Keys, values and blobs are slices of the receive buffer, not copies of it.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
