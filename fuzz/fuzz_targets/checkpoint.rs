//! Any bytes as the kubelet's checkpoint.

#![no_main]

use kubelet_sim::checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Whatever it holds, it is read or refused.
    let _ = checkpoint::parse(bytes);
    let _ = simple_device_plugin::node::checkpoint::parse(bytes);
});
