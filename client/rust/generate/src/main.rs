//! Generates the Rust code of the contract without protoc: `palaver-generate PROTOS OUT`.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [protos, out] = arguments.as_slice() else {
        return Err("usage: palaver-generate PROTOS OUT".into());
    };
    std::fs::create_dir_all(out)?;
    let contract = protox::compile(proto_files(&protos.join("palaver/v1"))?, [protos])?;
    tonic_prost_build::configure()
        // A newer contract may add events and values.
        .enum_attribute(".", "#[non_exhaustive]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .build_transport(false)
        .out_dir(out)
        .compile_fds(contract)?;
    Ok(())
}

fn proto_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.sort();
    Ok(files)
}
