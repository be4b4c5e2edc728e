//! The resources that tests configure, on node `n` by default.

use std::time::Duration;

use simple_device_plugin::config::{Config, Environment, FileText, Host};
use simple_device_plugin::offer::resource::Resource;

/// The daemon's default resource, and its socket.
pub const RESOURCE: &str = "example.com/simple-device";
pub const SOCKET: &str = "simple-device-plugin.sock";

pub const GPU: &str = "example.com/gpu";
pub const A: &str = "example.com/a";
pub const B: &str = "example.com/b";

/// The variables of resource a, whose devices are `a-n-0` and `a-n-1`.
pub const ONE: &[(&str, &str)] = &[
    ("RESOURCE_NAME", "example.com/a"),
    ("DEVICE_ID_PREFIX", "a"),
];
/// The variables of resources a and b.
pub const BOTH: &[(&str, &str)] = &[("RESOURCE_NAME", "example.com/a,example.com/b")];

/// Reads the configuration from variables, on a node.
pub fn config_of_variables(variables: &[(&str, &str)], node: &str) -> Config {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), value.into());
    read(&variables.iter().map(owned).collect(), None, node)
}

/// Reads the configuration from the text of a config file, on a node.
pub fn config_of_file(text: &str, node: &str) -> Config {
    let file = FileText {
        name: "config.yaml".to_owned(),
        content: Ok(text.into()),
    };
    read(&Environment::default(), Some(&file), node)
}

fn read(environment: &Environment, file: Option<&FileText>, node: &str) -> Config {
    let host = Host {
        hostname: Some(node.to_owned()),
        ..Host::default()
    };
    let config = Config::read(environment, file, &host);
    config.unwrap_or_else(|errors| panic!("{errors}\n{environment:?} {file:?}"))
}

/// Reads the resources from variables.
pub fn resources(variables: &[(&str, &str)]) -> Vec<Resource> {
    config_of_variables(variables, "n").plugins.resources
}

/// Reads the resources from the text of a config file, and sets a removal grace of 50 ms to keep tests short.
pub fn from_file(text: &str) -> Vec<Resource> {
    let mut resources = config_of_file(text, "n").plugins.resources;
    for resource in &mut resources {
        resource.removal_grace = Duration::from_millis(50);
    }
    resources
}

/// Returns the text of a config file with resource a and this number of devices, all on NUMA node 0.
pub fn counted(count: usize) -> String {
    format!("resources: [{{name: {A}, devices: {count}, numaNodes: [0]}}]")
}
