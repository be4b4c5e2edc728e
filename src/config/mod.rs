//! Reads the configuration from environment variables or a config file into validated types.

mod by_node;
mod container_limits;
mod environment;
mod error;
mod file;
mod host_paths;
mod limits;
mod misspelled;
mod program;
pub mod reload;
mod resolve;
mod settings;
mod socket_paths;
#[cfg(test)]
mod tests;
mod values;
mod variables;
mod warnings;

pub(crate) use by_node::{ByNode, by_node};
pub use environment::{Environment, Host};
pub use error::{ConfigErrors, Place};
pub use file::FileText;
pub use program::{Logs, config_file, control_socket};
pub(crate) use settings::{At, DevicesSetting, ResourceSettings};
pub(crate) use values::{HttpAddress, LogFormat};
pub use variables::any_set;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::fault::Fault;
use crate::model::resource_name::ResourceName;
use crate::offer::resource::Resource;

/// The configured faults of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredFaults(BTreeMap<ResourceName, Vec<Fault>>);

impl ConfiguredFaults {
    pub(crate) fn of(&self, resource: &ResourceName) -> &[Fault] {
        self.0.get(resource).map_or(&[], Vec::as_slice)
    }
}

/// The configured resources and faults. The supervisor reconciles the running plugins with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPlugins {
    /// Ordered by index, or as in the config file.
    pub resources: Vec<Resource>,
    pub faults: ConfiguredFaults,
}

impl From<Vec<Resource>> for DesiredPlugins {
    fn from(resources: Vec<Resource>) -> Self {
        let faults = ConfiguredFaults::default();
        Self { resources, faults }
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Only logged and shown in the status.
    pub namespace: String,
    /// The node's name, which is part of the ID of each counted device.
    pub node: String,
    /// The kubelet's device plugin directory.
    pub plugin_dir: PathBuf,
    pub logs: Logs,
    /// The address of the HTTP server, or `None` if it is disabled.
    pub http: Option<HttpAddress>,
    /// The path of the control socket, or `None` if it is disabled.
    pub control: Option<PathBuf>,
    /// The socket of the kubelet's pod-resources API, or `None` if it is not used.
    pub pod_resources: Option<PathBuf>,
    pub plugins: DesiredPlugins,
    /// Settings of resources that are valid but probably not intended.
    pub(crate) warnings: Vec<String>,
    /// Variables that are valid but probably not intended. A reload cannot change them.
    environment_warnings: Vec<String>,
}

impl Config {
    /// Reads the configuration from variables alone, even if they name a config file.
    ///
    /// # Errors
    /// Returns every error in the variables.
    pub fn from_variables(environment: &Environment, host: &Host) -> Result<Self, ConfigErrors> {
        Self::read(environment, None, host)
    }

    /// Returns the warnings about the resources, then those about the environment.
    pub(crate) fn all_warnings(&self) -> impl Iterator<Item = &String> {
        self.warnings.iter().chain(&self.environment_warnings)
    }

    /// Reads the program's settings from variables, and the resources from `file` or, if it is `None`, from variables.
    ///
    /// # Errors
    /// Returns every error in the variables and the file.
    pub fn read(
        environment: &Environment,
        file: Option<&FileText>,
        host: &Host,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let program = program::read(environment, host, &mut errors);
        let (node, allowed) = (&program.node, &program.allowed);
        let settings = if let Some(file) = file {
            variables::report_beside_file(environment, node, &mut errors);
            file::read(file, node, &mut errors)
        } else {
            Some(variables::read(environment, node, &mut errors))
        };
        let plugins = settings
            .as_ref()
            .and_then(|settings| resolve::resolve(settings, node, allowed, &mut errors));
        errors.sort_by_line();
        let resources = plugins
            .as_ref()
            .map_or(&[][..], |plugins| &plugins.resources);
        let (dir, control) = (&program.plugin_dir, program.control.as_deref());
        socket_paths::validate(dir, resources, &mut errors);
        socket_paths::validate_control(control, dir, resources, &mut errors);
        let misspelled = misspelled::warnings(environment);
        let plugins = match errors.into_result(plugins) {
            Ok(plugins) => plugins,
            Err(errors) => return Err(errors.with_warnings(misspelled)),
        };
        let mut warnings = warnings::of(&plugins, host.numa.as_ref());
        warnings.extend(settings.iter().flat_map(warnings::of_settings));
        let control_socket = warnings::of_control(control, dir);
        let host_paths = warnings::of_allowed_host_paths(environment, file.is_some());
        let of_environment = control_socket.into_iter().chain(host_paths);
        Ok(Self {
            warnings,
            environment_warnings: of_environment.chain(misspelled).collect(),
            plugins,
            namespace: program.namespace,
            node: program.node,
            plugin_dir: program.plugin_dir,
            logs: program.logs,
            http: program.http,
            control: program.control,
            pod_resources: program.pod_resources,
        })
    }
}
