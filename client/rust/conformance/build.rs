//! Compiles the contract to descriptors, which the runner needs to convert messages to and from JSON.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../protos");
    println!("cargo::rerun-if-changed={}", protos.display());
    let file = protos.join("palaver/v1/assistant_service.proto");
    let contract = protox::compile([file], [protos])?;
    let out = std::path::Path::new(&std::env::var("OUT_DIR")?).join("contract.binpb");
    Ok(std::fs::write(out, contract.encode_to_vec())?)
}
