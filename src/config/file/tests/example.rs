//! Tests of a file with almost every key, and of minimal files.

use std::time::Duration;

use super::{EXAMPLE, allocate_all, pairs, resources};
use crate::model::device::Health;
use crate::model::preference::Policy;

#[test]
fn reads_every_key() {
    let resources = resources(EXAMPLE);
    let [gpu, widget] = &resources[..] else {
        panic!("{resources:?}")
    };
    assert_eq!(
        gpu.socket.as_str(),
        "simple-device-plugin-example.com_gpu.sock"
    );
    assert_eq!(gpu.devices.as_slice()[3].id, "gpu-n-3".into());
    assert_eq!(*gpu.devices.as_slice()[3].numa, [1]);
    assert_eq!((gpu.preference, gpu.pre_start), (Policy::Packed, true));
    assert_eq!(gpu.removal_grace, Duration::from_secs(60));
    assert_eq!(pairs(&allocate_all(gpu).envs[..1]), ["GPU_0=/dev/0"]);

    assert_eq!(widget.socket.as_str(), "widget.sock");
    let ids: Vec<&str> = widget.devices.as_slice().iter().map(|d| &*d.id).collect();
    assert_eq!(ids, ["w0", "010", "w2"]);
    assert_eq!(widget.devices.as_slice()[0].health, Health::Unhealthy);
    assert_eq!(*widget.devices.as_slice()[0].numa, [0, 1]);
}

#[test]
fn reads_minimal_files() {
    assert!(resources("resources: []").is_empty());
    let [one] = &resources("resources: [{name: a/b}]")[..] else {
        panic!()
    };
    let ids: Vec<&str> = one.devices.as_slice().iter().map(|d| &*d.id).collect();
    // Not simple-device: adding a resource must not change the IDs of the first one.
    assert_eq!(ids, ["b-n-0", "b-n-1"]);
    assert_eq!(one.removal_grace, Duration::from_secs(30));
    let anchors = "resources: [&x {name: a/b, env: &e {A: b}}, {name: a/c, env: *e}]";
    assert_eq!(pairs(&allocate_all(&resources(anchors)[1]).envs), ["A=b"]);
}
