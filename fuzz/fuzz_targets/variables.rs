//! Reads lines of `NAME=VALUE` as the environment. The result must be a valid configuration, or errors with a text.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::{Corpus, fuzz_target};
use simple_device_plugin::config::{Config, Environment, Host};
use simple_device_plugin::model::allocation::allocate;
use simple_device_plugin::model::device::LIST_SIZE_MAX;

/// Inputs with longer numbers are rejected: they configure many devices, which is slow and finds no further errors.
const DIGITS_MAX: usize = 4;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    if bytes
        .chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit())
        .any(|run| run.len() > DIGITS_MAX)
    {
        return Corpus::Reject;
    }
    let host = Host {
        hostname: Some("worker".to_owned()),
        numa: "0-1".parse().ok(),
        ..Host::default()
    };
    match Config::from_variables(&environment(bytes), &host) {
        Ok(config) => check_resources(&config),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
    Corpus::Keep
});

fn environment(bytes: &[u8]) -> Environment {
    let pair = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        let name = String::from_utf8(line[..at].to_vec()).ok()?;
        Some((name, OsString::from_vec(line[at + 1..].to_vec())))
    };
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(pair)
        .collect()
}

/// Checks that the resources are within their limits, can be allocated, and have different sockets.
fn check_resources(config: &Config) {
    assert!(!config.plugins.resources.is_empty());
    for resource in &config.plugins.resources {
        assert!(resource.devices.list_size() <= LIST_SIZE_MAX);
        for device in resource.devices.as_slice().iter().take(3) {
            let ids = [device.id.to_string()];
            allocate(&resource.devices, &resource.outputs, &ids)
                .expect("the device is in the list");
        }
        let has_same_socket = |other: &&simple_device_plugin::offer::resource::Resource| {
            other.socket == resource.socket
        };
        assert_eq!(
            config
                .plugins
                .resources
                .iter()
                .filter(has_same_socket)
                .count(),
            1
        );
    }
}
