//! Generates the kubelet's gRPC APIs. protox parses the `.proto` files, so the build does not need `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let apis = [
        "proto/deviceplugin/v1beta1/api.proto",
        "proto/podresources/v1/api.proto",
    ];
    for api in apis {
        println!("cargo::rerun-if-changed={api}");
    }
    let descriptors = protox::compile(apis, ["proto"])?;
    // BTreeMap has a stable order, so equal Allocate responses encode to the same bytes.
    tonic_prost_build::configure()
        .btree_map(".")
        .codec_path("crate::api::codec::SmallBufferCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
