//! Compiles the device plugin API without `protoc`: protox reads the `.proto`, tonic writes the Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let api = "proto/deviceplugin/v1beta1/api.proto";
    println!("cargo::rerun-if-changed={api}");
    let descriptors = protox::compile([api], ["proto"])?;
    // In an order of its own: what a container gets is the same bytes every time.
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
