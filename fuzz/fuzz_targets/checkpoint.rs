//! Parses arbitrary bytes as the kubelet's checkpoint.

#![no_main]

use kubelet_sim::checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Both parsers must return, with a checkpoint or an error.
    let _ = checkpoint::parse(bytes);
    let _ = simple_device_plugin::node::checkpoint::parse(bytes);
});
