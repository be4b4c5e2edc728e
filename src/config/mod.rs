//! The configuration: parsed once from variables or a config file, into types that cannot be wrong.

mod by_node;
mod container_limits;
mod environment;
mod error;
mod file;
mod host_paths;
mod limits;
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

/// What goes wrong on purpose, by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredFaults(BTreeMap<ResourceName, Vec<Fault>>);

impl ConfiguredFaults {
    /// The faults of this resource.
    pub(crate) fn of(&self, resource: &ResourceName) -> &[Fault] {
        self.0.get(resource).map_or(&[], Vec::as_slice)
    }
}

/// What the plugins should be like. The supervisor follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPlugins {
    /// In index order.
    pub resources: Vec<Resource>,
    pub faults: ConfiguredFaults,
}

impl From<Vec<Resource>> for DesiredPlugins {
    fn from(resources: Vec<Resource>) -> Self {
        let faults = ConfiguredFaults::default();
        Self { resources, faults }
    }
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace it runs in, for the log.
    pub namespace: String,
    /// The node's name: part of every device's ID.
    pub node: String,
    /// The kubelet's device plugin directory.
    pub plugin_dir: PathBuf,
    /// What is logged, and how.
    pub logs: Logs,
    /// Where to serve HTTP; `None`: nowhere.
    pub http: Option<HttpAddress>,
    /// Where to listen for commands; `None`: nowhere.
    pub control: Option<PathBuf>,
    /// The kubelet's pod-resources API; `None`: it is not asked.
    pub pod_resources: Option<PathBuf>,
    /// What to offer.
    pub plugins: DesiredPlugins,
    /// What works, but probably not as meant.
    pub(crate) warnings: Vec<String>,
}

impl Config {
    /// Reads the variables as this host sees them.
    ///
    /// # Errors
    /// Every error there is.
    pub fn from_variables(environment: &Environment, host: &Host) -> Result<Self, ConfigErrors> {
        Self::read(environment, None, host)
    }

    /// Reads the variables, or the program's variables and the config file.
    ///
    /// # Errors
    /// Every error there is.
    pub fn read(
        environment: &Environment,
        file: Option<&FileText>,
        host: &Host,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let program = program::read(environment, host, &mut errors);
        let (node, allowed) = (&program.node, &program.allowed);
        let settings = if let Some(file) = file {
            variables::none_beside_file(environment, node, &mut errors);
            file::read(file, node, &mut errors)
        } else {
            Some(variables::read(environment, node, &mut errors))
        };
        let plugins =
            settings.and_then(|settings| resolve::resolve(&settings, node, allowed, &mut errors));
        errors.sort_by_line();
        let known = plugins
            .as_ref()
            .map_or(&[][..], |plugins| &plugins.resources);
        let (dir, control) = (&program.plugin_dir, program.control.as_deref());
        socket_paths::validate(dir, known, &mut errors);
        socket_paths::validate_control(control, dir, known, &mut errors);
        let plugins = errors.unless_any(plugins)?;
        let mut warnings = warnings::of(&plugins, host.numa.as_ref());
        warnings.extend(warnings::of_control(control, dir));
        Ok(Self {
            warnings,
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
