//! Compiles the device plugin API without `protoc`: protox reads the `.proto`, tonic writes the Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let api = "proto/deviceplugin/v1beta1/api.proto";
    println!("cargo::rerun-if-changed={api}");
    let descriptors = protox::compile([api], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
