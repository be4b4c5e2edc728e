//! Compiles the kubelet's APIs without `protoc`: protox reads each `.proto`, tonic writes the Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let apis = [
        "proto/deviceplugin/v1beta1/api.proto",
        "proto/podresources/v1/api.proto",
    ];
    for api in apis {
        println!("cargo::rerun-if-changed={api}");
    }
    let descriptors = protox::compile(apis, ["proto"])?;
    // In an order of its own: what a container gets is the same bytes every time.
    tonic_prost_build::configure()
        .btree_map(".")
        .codec_path("crate::api::codec::SmallBufferCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
