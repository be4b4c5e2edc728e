//! The variables of resources: names, precedence and lists, and the settings that they make.

pub(crate) mod names;
mod precedence;

use std::collections::BTreeSet;
use std::fmt::Display;

use self::names::Form;
use self::precedence::{Found, ResourceVariables, by_resource};
use super::environment::{Environment, utf8};
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

/// Whether any variable of a resource is set, in a form that concerns some node.
pub fn any_set(environment: &Environment) -> bool {
    environment.keys().any(|name| Form::of(name).is_some())
}

/// The nodes that some variable of a resource names.
pub(super) fn nodes(environment: &Environment) -> BTreeSet<&str> {
    let names = environment.keys();
    names.filter_map(|name| Form::of(name)?.node).collect()
}

/// Reports each variable of a resource that concerns this node: beside a config file there must be none.
pub(super) fn none_beside_file(environment: &Environment, node: &str, errors: &mut ConfigErrors) {
    for (name, value) in environment {
        let concerns = |form: &Form| form.node.is_none_or(|of| of == node);
        if Form::of(name).as_ref().is_some_and(concerns) {
            let value = utf8(name, value, errors);
            errors.add(
                name,
                &value,
                "to be unset: CONFIG_FILE says what the resources are",
            );
        }
    }
}

/// What the variables say for this node. Number, IDs and socket of each resource are spelled out: with variables, their
/// defaults depend on how many resources there are.
pub(super) fn read(environment: &Environment, node: &str, errors: &mut ConfigErrors) -> Settings {
    let resources = by_resource(environment, node, errors);
    let several = resources.len() > 1;
    let mut known = BTreeSet::new();
    let settings = |variables: &ResourceVariables| {
        let name = ResourceName::parse(&variables.name.at.value).ok();
        let name = name.filter(|name| known.insert(name.clone()));
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
    }
}

/// Reads the variables of one resource.
struct VariablesReader<'a> {
    variables: &'a ResourceVariables,
    several: bool,
    /// `None` where it is invalid or another resource has it already, which is reported when it is resolved.
    name: Option<ResourceName>,
}

impl VariablesReader<'_> {
    fn settings(&self, errors: &mut ConfigErrors) -> ResourceSettings {
        let count = self.parsed(names::NUMBER_DEVICES, values::count, errors);
        let count = DevicesSetting::Count(count.unwrap_or(COUNT_DEFAULT));
        ResourceSettings {
            name: self.variables.name.at.clone(),
            devices: Some(self.spelled_out(names::NUMBER_DEVICES, count)),
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
            Some(self.spelled_out(names::DEVICE_ID_PREFIX, default.to_owned()))
        })
    }

    /// A name that serves several resources is made one of each resource's own.
    fn plugin_name(&self) -> Option<At<String>> {
        let given = self.found(names::PLUGIN_NAME);
        if let Some(own) = given.filter(|found| found.own || !self.several) {
            return Some(own.at.clone());
        }
        let plugin = given.map_or(Ok(PluginName::default()), |found| {
            PluginName::parse(&found.at.value)
        });
        let Ok(plugin) = plugin else {
            // An invalid name is reported when it is resolved.
            return given.map(|found| found.at.clone());
        };
        let name = if self.several {
            plugin.with_resource(self.name.as_ref()?)
        } else {
            plugin
        };
        Some(self.spelled_out(names::PLUGIN_NAME, name.as_str().to_owned()))
    }

    /// The parsed value; `None` where it is not set, empty, or an error.
    fn parsed<T, E: Display>(
        &self,
        variable: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        errors: &mut ConfigErrors,
    ) -> Option<T> {
        let at = &self.found(variable)?.at;
        let parsed = limits::check_text(&at.value)
            .and_then(|()| parse(&at.value).map_err(|expected| expected.to_string()));
        parsed
            .map_err(|expected| errors.add_text(variable, at, expected))
            .ok()
    }

    fn text(&self, variable: &str) -> Option<At<String>> {
        self.found(variable).map(|found| found.at.clone())
    }

    /// What the variable says or, where it says nothing, its default.
    fn spelled_out<T>(&self, variable: &str, value: T) -> At<T> {
        let set = self.variables.others.get(variable);
        let default = || Origin::Variable(variable.into());
        let origin = set.map_or_else(default, |found| found.at.origin.clone());
        At { origin, value }
    }

    /// Set, and not to an empty text, which is the default or off.
    fn found(&self, variable: &str) -> Option<&Found> {
        let found = self.variables.others.get(variable);
        found.filter(|found| !found.at.value.is_empty())
    }
}
