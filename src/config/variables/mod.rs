//! Reads the variables of resources into settings.

pub(crate) mod names;
mod precedence;

use std::collections::BTreeSet;
use std::fmt::Display;

use self::names::Form;
use self::precedence::{ResourceVariables, VariableValue, by_resource};
use super::environment::Environment;
use super::error::ConfigErrors;
use super::limits;
use super::resolve::COUNT_DEFAULT;
use super::settings::{At, DevicesSetting, Origin, ResourceSettings, Settings};
use super::values;
use crate::model::numa::NumaNodes;
use crate::model::preference::Policy;
use crate::model::resource_name::ResourceName;
use crate::model::socket_name::PluginName;
use crate::offer::resource::REMOVAL_GRACE_DEFAULT;

const DEVICE_ID_PREFIX_DEFAULT: &str = "simple-device";

/// Returns whether any variable of a resource is set, for any node.
pub fn any_set(environment: &Environment) -> bool {
    environment.keys().any(|name| Form::of(name).is_some())
}

/// Returns the nodes that variables of resources name.
pub(super) fn nodes(environment: &Environment) -> BTreeSet<&str> {
    let names = environment.keys();
    names.filter_map(|name| Form::of(name)?.node).collect()
}

/// Reports each variable of a resource that applies to this node. With a config file, none may be set.
pub(super) fn report_beside_file(environment: &Environment, node: &str, errors: &mut ConfigErrors) {
    for (name, value) in environment {
        let applies = |form: &Form| form.node.is_none_or(|of| of == node);
        if Form::of(name).as_ref().is_some_and(applies) {
            errors.add(
                name,
                &value.to_string_lossy(),
                "to be unset, because CONFIG_FILE defines the resources",
            );
        }
    }
}

/// Reads the settings for this node. The number of devices is always set. So are the ID prefix and the plugin name of a
/// resource whose name is valid: their defaults depend on the number of resources.
pub(super) fn read(environment: &Environment, node: &str, errors: &mut ConfigErrors) -> Settings {
    let resources = by_resource(environment, node, errors);
    let several = resources.len() > 1;
    let mut seen = BTreeSet::new();
    let settings = |variables: &ResourceVariables| {
        let name = ResourceName::parse(&variables.name.at.value).ok();
        let name = name.filter(|name| seen.insert(name.clone()));
        let reader = VariablesReader {
            variables,
            several,
            name,
        };
        reader.settings(errors)
    };
    Settings {
        removal_grace: REMOVAL_GRACE_DEFAULT,
        resources: resources.iter().map(settings).collect(),
        warnings: Vec::new(),
    }
}

/// Reads the variables of one resource.
struct VariablesReader<'a> {
    variables: &'a ResourceVariables,
    several: bool,
    /// `None` if it is invalid or a duplicate, which the resolver reports.
    name: Option<ResourceName>,
}

impl VariablesReader<'_> {
    fn settings(&self, errors: &mut ConfigErrors) -> ResourceSettings {
        let count = self.parsed(names::NUMBER_DEVICES, values::count, errors);
        let count = DevicesSetting::Count(count.unwrap_or(COUNT_DEFAULT));
        ResourceSettings {
            name: self.variables.name.at.clone(),
            devices: Some(self.with_origin(names::NUMBER_DEVICES, count)),
            device_id_prefix: self.id_prefix(),
            plugin_name: self.plugin_name(),
            numa_nodes: self.parsed(names::NUMA_NODES, str::parse::<NumaNodes>, errors),
            preferred_allocation: self.parsed(
                names::PREFERRED_ALLOCATION,
                str::parse::<Policy>,
                errors,
            ),
            env_prefix: self.text(names::ENV_PREFIX),
            annotation_prefix: self.text(names::ANNOTATION_PREFIX),
            device_file_prefix: self.text(names::DEVICE_FILE_PREFIX),
            device_file_host_path: self.text(names::DEVICE_FILE_HOST_PATH),
            pre_start: None,
            env: None,
            annotations: None,
            device_files: None,
            mounts: None,
            cdi_devices: None,
            faults: None,
        }
    }

    fn id_prefix(&self) -> Option<At<String>> {
        self.text(names::DEVICE_ID_PREFIX).or_else(|| {
            let default = if self.several {
                self.name.as_ref()?.name_part()
            } else {
                DEVICE_ID_PREFIX_DEFAULT
            };
            Some(self.with_origin(names::DEVICE_ID_PREFIX, default.to_owned()))
        })
    }

    /// If several resources share a plugin name, each gets its own name, made of the plugin name and the resource's name.
    fn plugin_name(&self) -> Option<At<String>> {
        let given = self.value(names::PLUGIN_NAME);
        if let Some(own) = given.filter(|value| value.is_own || !self.several) {
            return Some(own.at.clone());
        }
        let plugin = given.map_or(Ok(PluginName::default()), |value| {
            PluginName::parse(&value.at.value)
        });
        let Ok(plugin) = plugin else {
            // The resolver reports an invalid name.
            return given.map(|value| value.at.clone());
        };
        let name = if self.several {
            plugin.with_resource(self.name.as_ref()?)
        } else {
            plugin
        };
        Some(self.with_origin(names::PLUGIN_NAME, name.as_str().to_owned()))
    }

    /// Returns the parsed value, or `None` if it is unset, empty or invalid.
    fn parsed<T, E: Display>(
        &self,
        variable: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        errors: &mut ConfigErrors,
    ) -> Option<T> {
        let at = &self.value(variable)?.at;
        let parsed = limits::check_text(&at.value)
            .and_then(|()| parse(&at.value).map_err(|expected| expected.to_string()));
        parsed
            .map_err(|expected| errors.add_text(variable, at, expected))
            .ok()
    }

    fn text(&self, variable: &str) -> Option<At<String>> {
        self.value(variable).map(|value| value.at.clone())
    }

    /// Adds the origin of the variable's value, or of its default.
    fn with_origin<T>(&self, variable: &str, value: T) -> At<T> {
        let set = self.variables.others.get(variable);
        let default = || Origin::Variable(variable.into());
        let origin = set.map_or_else(default, |set| set.at.origin.clone());
        At { origin, value }
    }

    /// Returns the value, or `None` if it is unset or empty.
    fn value(&self, variable: &str) -> Option<&VariableValue> {
        let value = self.variables.others.get(variable);
        value.filter(|value| !value.at.value.is_empty())
    }
}
