//! Reads the variables for every node, so that `check --yaml` can print an equivalent config file.

use std::collections::{BTreeMap, BTreeSet};

use super::environment::{Environment, Host};
use super::error::ConfigErrors;
use super::host_paths::AllowedHostPaths;
use super::misspelled;
use super::program::{self, config_file};
use super::resolve::resolve;
use super::settings::ResourceSettings;
use super::socket_paths;
use super::variables;
use crate::model::device::Device;
use crate::offer::resource::Resource;

/// Represents all nodes that no variable names. No variable can name it, because a variable's name has no `=`.
const OTHERS: &str = "=";

/// The settings of the resources on every node.
#[derive(Debug)]
pub(crate) struct ByNode {
    /// The resources on each node that a variable names.
    pub named: BTreeMap<String, Vec<ResourceSettings>>,
    /// The resources on all other nodes.
    pub others: Vec<ResourceSettings>,
    /// The host paths that `ALLOWED_HOST_PATHS` must allow for the equivalent config file.
    pub host_paths: BTreeSet<String>,
    pub warnings: Vec<String>,
}

/// # Errors
/// Returns the errors of every node, or an error if `CONFIG_FILE` is set.
pub(crate) fn by_node(environment: &Environment, host: &Host) -> Result<ByNode, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    if let Some(file) = config_file(environment) {
        let expected = "to be unset, because check --yaml converts variables to a config file";
        errors.add("CONFIG_FILE", &file.to_string_lossy(), expected);
        return Err(errors.with_warnings(misspelled::warnings(environment)));
    }
    let program = program::read(environment, host, &mut errors);
    let mut paths = BTreeSet::new();
    let mut read = |node: &str, which: Option<&str>| {
        let mut node_errors = ConfigErrors::default();
        let settings = variables::read(environment, node, &mut node_errors);
        let resources = resolve(&settings, node, &program.allowed, &mut node_errors);
        let resources = resources.unwrap_or_default().resources;
        socket_paths::validate(&program.plugin_dir, &resources, &mut node_errors);
        paths.extend(resources.iter().flat_map(host_paths));
        errors.add_of_node(node_errors, which);
        settings.resources
    };
    let nodes = variables::nodes(environment).into_iter();
    let nodes: Vec<&str> = nodes.filter(|node| program::is_node_name(node)).collect();
    let which = (!nodes.is_empty()).then_some("on nodes that no variable names");
    let others = read(OTHERS, which);
    let named = nodes.into_iter().map(|node| {
        let resources = read(node, Some(&format!("on node {node}")));
        (node.to_owned(), resources)
    });
    let named = named.collect();
    let allowed = AllowedHostPaths::new([], host.resolve);
    paths.retain(|path| !allowed.allow(path));
    let warnings = misspelled::warnings(environment);
    let read = ByNode {
        named,
        others,
        host_paths: paths,
        warnings: warnings.clone(),
    };
    errors
        .into_result(Some(read))
        .map_err(|errors| errors.with_warnings(warnings))
}

/// Returns the host paths of all device files. For a resource without devices, returns those of one assumed device, with
/// which the config file is validated.
fn host_paths(resource: &Resource) -> Vec<String> {
    let assumed = [Device::new("", 0, [].into())];
    let devices = match resource.devices.as_slice() {
        [] => &assumed,
        devices => devices,
    };
    let paths = |device| {
        let files = resource.outputs.of(&[device]).device_files.into_iter();
        files.map(|file| file.host_path)
    };
    devices.iter().flat_map(paths).collect()
}
