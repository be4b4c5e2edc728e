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

use std::path::PathBuf;

use crate::offer::resource::Resource;

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
    /// What to offer, in index order.
    pub resources: Vec<Resource>,
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
        let resources =
            settings.and_then(|settings| resolve::resolve(&settings, node, allowed, &mut errors));
        errors.sort_by_line();
        let known = resources.as_deref().unwrap_or_default();
        let (dir, control) = (&program.plugin_dir, program.control.as_deref());
        socket_paths::validate(dir, known, &mut errors);
        socket_paths::validate_control(control, dir, known, &mut errors);
        let resources = errors.unless_any(resources)?;
        let mut warnings = warnings::of(&resources, host.numa.as_ref());
        warnings.extend(warnings::of_control(control, dir));
        Ok(Self {
            warnings,
            resources,
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
