//! Tests that read config files.

mod errors;
mod example;
mod faults;
mod limits;
mod nodes;
mod outputs;
mod syntax;
mod warnings;

use super::{ConfigErrors, FileText, read};
use crate::config::DesiredPlugins;
use crate::config::host_paths::AllowedHostPaths;
use crate::config::resolve::resolve;
use crate::model::allocation::{Allocation, allocate};
use crate::offer::resource::Resource;

#[track_caller]
fn errors_of(text: &str) -> String {
    read_on("n", text).expect_err(text).to_string()
}

fn read_on(node: &str, text: impl Into<Vec<u8>>) -> Result<DesiredPlugins, ConfigErrors> {
    let file = FileText {
        name: "c.yaml".to_owned(),
        content: Ok(text.into()),
    };
    let mut errors = ConfigErrors::default();
    let allowed = AllowedHostPaths::new(["/opt".into()], None);
    let settings = read(&file, node, &mut errors);
    let plugins = settings.and_then(|settings| resolve(&settings, node, &allowed, &mut errors));
    errors.sort_by_line();
    errors.into_result(plugins)
}

#[track_caller]
fn plugins(text: &str) -> DesiredPlugins {
    read_on("n", text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn resources(text: &str) -> Vec<Resource> {
    plugins(text).resources
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let errors = read_on("n", text).expect_err(text).to_string();
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{errors}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{line}\nlacks {expected}");
    }
}

/// Returns the outputs for a container with all devices.
fn allocate_all(resource: &Resource) -> Allocation {
    let ids: Vec<String> = resource
        .devices
        .as_slice()
        .iter()
        .map(|d| d.id.to_string())
        .collect();
    allocate(&resource.devices, &resource.outputs, &ids).unwrap()
}

fn pairs(pairs: &[(String, String)]) -> Vec<String> {
    pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// A file that uses every key except `faults`.
const EXAMPLE: &str = r#"
removalGrace: 1m
resources:
  - name: example.com/gpu
    devices: 4
    deviceIdPrefix: gpu
    numaNodes: [0, 1]
    preferredAllocation: packed
    envPrefix: GPU
    preStart: true
  - name: ska-sdp.org/widget
    pluginName: widget
    devices:
      - {id: w0, path: /dev/wibble1, health: Unhealthy, numa: [0, 1], attributes: {type: snaffler, model: v1}}
      - {id: 010, path: /dev/wibble2, attributes: {type: snaffler, model: 2}}
      - {id: w2, path: /dev/wibble3, attributes: {type: other, model: v1}}
    env:
      PATHS: "{paths}"
      "DEV_{position}": "{id}"
      "{type|upper}_{id|alnum}": "{numa}"
      PLAIN: 1.50
    annotations: {"widget.example/{index}": "{id} on {node}"}
    deviceFiles: [{hostPath: /dev/null, containerPath: "/dev/widget-{index}", permissions: r}]
    mounts:
      - {hostPath: /opt/widget}
      - {hostPath: "/opt/{id}", containerPath: "/w/{id}", readOnly: false}
    cdiDevices: ["ska-sdp.org/widget={id}", "ska-sdp.org/widget=all"]
nodes:
  - match: gpu-[0-4]*
    resources: [{name: example.com/gpu, devices: 0, envPrefix: ""}, {name: example.com/nic, devices: 1}]
  - match: "*"
    resources: []
"#;
