//! Tests of the key `nodes`.

use super::{EXAMPLE, read_on};

#[test]
fn the_first_matching_node_replaces_keys_and_adds_resources() {
    let on_gpu = read_on("gpu-3.example", EXAMPLE).unwrap().resources;
    let names: Vec<&str> = on_gpu.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        ["example.com/gpu", "ska-sdp.org/widget", "example.com/nic"]
    );
    assert!(on_gpu[0].devices.is_empty() && on_gpu[0].outputs.envs.is_empty());
    assert!(on_gpu[0].pre_start, "keys without an override are kept");
    assert_eq!(read_on("gpu-7", EXAMPLE).unwrap().resources.len(), 2);
}
