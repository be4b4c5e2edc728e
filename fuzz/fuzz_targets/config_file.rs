//! Reads arbitrary bytes as a config file. The result must be valid resources, or errors whose lines are in the file.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use simple_device_plugin::config::{Config, Environment, FileText, Host, Place};
use simple_device_plugin::model::device::{Device, LIST_SIZE_MAX};

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
        ..Host::default()
    };
    let file = FileText {
        name: "config.yaml".to_owned(),
        content: Ok(bytes.to_vec()),
    };
    match Config::read(&Environment::default(), Some(&file), &host) {
        Ok(config) => config.plugins.resources.iter().for_each(|resource| {
            assert!(resource.devices.list_size() <= LIST_SIZE_MAX);
            let devices: Vec<&Device> = resource.devices.as_slice().iter().take(3).collect();
            let outputs = resource.outputs.of(&devices);
            for file in outputs.device_files {
                assert!(file.container_path.starts_with('/'));
                let harmless = [
                    "/dev/null",
                    "/dev/zero",
                    "/dev/full",
                    "/dev/random",
                    "/dev/urandom",
                ];
                assert!(
                    harmless
                        .iter()
                        .any(|path| is_same_file(path, &file.host_path)),
                    "{}",
                    file.host_path
                );
            }
        }),
        Err(errors) => {
            assert!(!errors.as_slice().is_empty());
            let lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
            for error in errors.as_slice() {
                if let Place::File { line, .. } = error.place {
                    assert!((1..=lines).contains(&line), "{error}");
                }
            }
        }
    }
    Corpus::Keep
});

/// Returns whether the path names the file after `.`, `..` and empty parts are resolved.
fn is_same_file(file: &str, path: &str) -> bool {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    path.starts_with('/') && format!("/{}", parts.join("/")) == file
}
