//! What the variables say for every node, for a config file that says the same.

use std::collections::{BTreeMap, BTreeSet};

use super::environment::{Environment, Host};
use super::error::ConfigErrors;
use super::host_paths::AllowedHostPaths;
use super::program::{self, config_file};
use super::resolve::resolve;
use super::settings::ResourceSettings;
use super::socket_paths;
use super::variables;
use crate::model::device::Device;
use crate::offer::resource::Resource;

/// The node that stands for all that no variable names: the name of a variable has no `=`.
const OTHERS: &str = "=";

/// What the variables say for every node.
#[derive(Debug)]
pub(crate) struct ByNode {
    /// For the nodes that some variable names.
    pub named: BTreeMap<String, Vec<ResourceSettings>>,
    /// For all others.
    pub others: Vec<ResourceSettings>,
    /// The files of the host that `ALLOWED_HOST_PATHS` must allow for a config file that says the same.
    pub host_paths: BTreeSet<String>,
}

/// Reads the variables for every node.
///
/// # Errors
/// Every error there is, for any node.
pub(crate) fn by_node(environment: &Environment, host: &Host) -> Result<ByNode, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    if let Some(file) = config_file(environment) {
        let expected = "to be unset: check --yaml prints the variables as a config file";
        errors.add("CONFIG_FILE", &file.to_string_lossy(), expected);
        return Err(errors);
    }
    let program = program::read(environment, host, &mut errors);
    let mut paths = BTreeSet::new();
    let mut read = |node: &str, place: Option<&str>| {
        let mut of_node = ConfigErrors::default();
        let settings = variables::read(environment, node, &mut of_node);
        let resources = resolve(&settings, node, &program.allowed, &mut of_node);
        let resources = resources.unwrap_or_default().resources;
        socket_paths::validate(&program.plugin_dir, &resources, &mut of_node);
        paths.extend(resources.iter().flat_map(host_paths));
        errors.add_of_node(of_node, place);
        settings.resources
    };
    let nodes = variables::nodes(environment).into_iter();
    let nodes: Vec<&str> = nodes.filter(|node| program::is_node_name(node)).collect();
    let place = (!nodes.is_empty()).then_some("on nodes that no variable names");
    let others = read(OTHERS, place);
    let named = nodes.into_iter().map(|node| {
        let resources = read(node, Some(&format!("on node {node}")));
        (node.to_owned(), resources)
    });
    let named = named.collect();
    let allowed = AllowedHostPaths::new([], host.resolve);
    paths.retain(|path| !allowed.allow(path));
    errors.unless_any(Some(ByNode {
        named,
        others,
        host_paths: paths,
    }))
}

/// The files behind the devices, or behind the first that there could be.
fn host_paths(resource: &Resource) -> Vec<String> {
    let first = [Device::new("", 0, [].into())];
    let devices = match resource.devices.as_slice() {
        [] => &first,
        devices => devices,
    };
    let paths = |device| {
        let files = resource.outputs.of(&[device]).device_files.into_iter();
        files.map(|file| file.host_path)
    };
    devices.iter().flat_map(paths).collect()
}
