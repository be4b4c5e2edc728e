//! The resources of a config file for one node, each evaluated with its lines.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::errors::FileErrors;
use super::rules::Rules;
use super::typed::At;
use crate::config::host_paths::AllowedHostPaths;
use crate::config::limits::{DeviceCount, OUTPUTS_MAX, RESOURCES_MAX, resources_expected};
use crate::config::resources::{Reported, all};
use crate::config::settings::{DevicesSetting, PolicyKey, ResourceSettings};
use crate::config::values;
use crate::fault::{FAULTS_MAX, FLAPS_MAX, Fault, FaultSpec, SpecError, Target};
use crate::model::allocation::{Outputs, Prefixes};
use crate::model::device::{Device, Devices};
use crate::model::preference::Policy;
use crate::model::resource_name::ResourceName;
use crate::model::selection::SelectionError;
use crate::model::socket_name::{PluginName, SocketName};
use crate::model::template::Constants;
use crate::offer::resource::Resource;

/// What all resources of a node have in common.
pub(crate) struct Common<'a> {
    pub node: &'a str,
    pub allowed: &'a AllowedHostPaths,
    pub removal_grace: Duration,
}

/// Every resource; `None` where there is an error.
pub fn read(
    resources: &[ResourceSettings],
    common: &Common,
    errors: &mut FileErrors,
) -> Option<Vec<Resource>> {
    if let Some(beyond) = resources.get(RESOURCES_MAX) {
        let expected = resources_expected();
        errors.add(beyond.name.line, "name", Some(&beyond.name.value), expected);
        return None;
    }
    let mut taken = TakenByFile::default();
    let read = |keys: &ResourceSettings| {
        let line = keys.name.line;
        FileReader {
            common,
            errors,
            line,
        }
        .resource(keys, &mut taken)
    };
    all(Some(resources), read).ok()
}

/// The names and sockets of the resources so far, with their lines.
#[derive(Default)]
pub(super) struct TakenByFile {
    names: BTreeMap<ResourceName, usize>,
    sockets: BTreeMap<SocketName, usize>,
    pub(super) devices: DeviceCount,
}

/// Reads one resource; what is wrong goes to the errors.
pub(super) struct FileReader<'a, 'm> {
    pub(super) common: &'a Common<'a>,
    errors: &'a mut FileErrors<'m>,
    /// Where the resource begins.
    pub(super) line: usize,
}

impl FileReader<'_, '_> {
    fn resource(
        &mut self,
        keys: &ResourceSettings,
        taken: &mut TakenByFile,
    ) -> Result<Resource, Reported> {
        // All of it is read before anything is given up, so that every error is reported.
        let name = self.name(&keys.name, taken);
        let socket = self.socket(keys.plugin_name.as_ref(), name.as_ref().ok(), taken);
        let devices = self.devices(keys, name.as_ref().ok(), taken);
        // What is invalid has its own error and counts as empty here.
        let none = Devices::default();
        let known_devices = devices.as_ref().map_or(&none, |(devices, _)| devices);
        let outputs = self.outputs(keys, known_devices);
        let faults = self.faults(keys, devices.as_ref().ok().map(|(devices, _)| devices));
        let (devices, counted) = devices?;
        Ok(Resource {
            name: name?,
            socket: socket?,
            devices: devices.into(),
            counted,
            preference: keys
                .preferred_allocation
                .map_or_else(Policy::default, Into::into),
            outputs: outputs?,
            pre_start: keys.pre_start.unwrap_or_default(),
            removal_grace: self.common.removal_grace,
            faults: faults?,
        })
    }

    fn name(
        &mut self,
        name: &At<String>,
        taken: &mut TakenByFile,
    ) -> Result<ResourceName, Reported> {
        let parsed = ResourceName::parse(&name.value)
            .map_err(|expected| self.error("name", name, expected))?;
        if let Some(first) = taken.names.get(&parsed) {
            let expected = format!("each resource once; line {first} has it already");
            return Err(self.error("name", name, expected));
        }
        taken.names.insert(parsed.clone(), name.line);
        Ok(parsed)
    }

    /// Never shared, so that a reload moves nobody's socket.
    fn socket(
        &mut self,
        given: Option<&At<String>>,
        resource: Option<&ResourceName>,
        taken: &mut TakenByFile,
    ) -> Result<SocketName, Reported> {
        let (line, socket) = match filled(given) {
            Some(given) => {
                let own = PluginName::parse(&given.value).and_then(|name| name.own_socket());
                (
                    given.line,
                    own.map_err(|expected| self.error("pluginName", given, expected))?,
                )
            }
            None => (
                self.line,
                PluginName::default().shared_socket(resource.ok_or(Reported)?),
            ),
        };
        if let Some(first) = taken.sockets.get(&socket) {
            let expected =
                format!("a name of its own; line {first} has the socket {socket} already");
            return Err(self.report(
                line,
                "pluginName",
                given.map(|given| &*given.value),
                expected,
            ));
        }
        taken.sockets.insert(socket.clone(), line);
        Ok(socket)
    }

    fn outputs(&mut self, keys: &ResourceSettings, devices: &Devices) -> Result<Outputs, Reported> {
        if keys.rules() * devices.len() > OUTPUTS_MAX {
            let expected = format!(
                "fewer devices or fewer outputs: together they make more than {OUTPUTS_MAX}"
            );
            return Err(self.report(self.line, "name", None, expected));
        }
        let prefixed = self.prefixed(keys);
        let stand_in = stand_in(keys);
        let devices = if devices.is_empty() {
            &stand_in
        } else {
            devices.as_slice()
        };
        let mut rules = Rules {
            constants: Constants {
                node: self.common.node,
                resource: &keys.name.value,
            },
            devices,
            allowed: self.common.allowed,
            errors: self.errors,
        };
        let envs = rules.pairs("env", keys.env.as_ref());
        let annotations = rules.pairs("annotations", keys.annotations.as_ref());
        let device_files = all(keys.device_files.as_deref(), |file| rules.device_file(file));
        let mounts = all(keys.mounts.as_deref(), |mount| rules.mount(mount));
        let cdi_devices = all(keys.cdi_devices.as_deref(), |name| rules.cdi_device(name));
        let mut outputs = prefixed?;
        let given =
            filled(keys.device_file_host_path.as_ref()).map(|at| ("deviceFileHostPath", at));
        let prefix = keys
            .device_file_prefix
            .as_ref()
            .map(|at| ("deviceFilePrefix", at));
        for (rule, (key, at)) in std::iter::zip(&outputs.device_files, given.or(prefix)) {
            rules.host_path(key, at, &rule.host_path)?;
        }
        outputs.envs.extend(envs?);
        outputs.annotations.extend(annotations?);
        outputs.device_files.extend(device_files?);
        outputs.mounts.extend(mounts?);
        outputs.cdi_devices.extend(cdi_devices?);
        Ok(outputs)
    }

    fn faults(
        &mut self,
        keys: &ResourceSettings,
        devices: Option<&Devices>,
    ) -> Result<Vec<Fault>, Reported> {
        if let Some(beyond) = keys
            .faults
            .as_ref()
            .and_then(|faults| faults.get(FAULTS_MAX))
        {
            let expected = format!("at most {FAULTS_MAX} faults");
            return Err(self.report(beyond.line, "faults", None, expected));
        }
        let flaps = |at: &&At<FaultSpec>| at.value.rpc == Target::Health;
        if let Some(beyond) = keys.faults.iter().flatten().filter(flaps).nth(FLAPS_MAX) {
            let expected = format!("at most {FLAPS_MAX} faults of health");
            return Err(self.report(beyond.line, "faults", None, expected));
        }
        all(keys.faults.as_deref(), |at| self.fault(at, devices))
    }

    /// Its devices are evaluated where those of the resource are known.
    fn fault(&mut self, at: &At<FaultSpec>, devices: Option<&Devices>) -> Result<Fault, Reported> {
        let words = at.value.to_string();
        let fault = match at.value.clone().fault(devices) {
            // Another node may have more of them: those that are there flap.
            Err(SpecError::Devices(SelectionError::NoIndex { .. })) => at.value.clone().fault(None),
            evaluated => evaluated,
        };
        fault.map_err(|error| self.report(at.line, "faults", Some(&words), error))
    }

    /// What the prefixes say, by the rules of the variables.
    fn prefixed(&mut self, keys: &ResourceSettings) -> Result<Outputs, Reported> {
        let env = self.value("envPrefix", keys.env_prefix.as_ref(), values::env_prefix);
        let device_file = self.value(
            "deviceFilePrefix",
            keys.device_file_prefix.as_ref(),
            values::device_file_prefix,
        );
        let host_path = self.value(
            "deviceFileHostPath",
            keys.device_file_host_path.as_ref(),
            values::host_path,
        );
        Ok(Outputs::from(Prefixes {
            env: env?,
            annotation: filled(keys.annotation_prefix.as_ref()).map(|prefix| prefix.value.clone()),
            device_file: device_file?,
            device_file_host_path: host_path?,
        }))
    }

    /// The parsed value; `None` where it is not there or empty, which is off.
    fn value<T, E: Display>(
        &mut self,
        key: &str,
        given: Option<&At<String>>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Reported> {
        let Some(given) = filled(given) else {
            return Ok(None);
        };
        match parse(&given.value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(expected) => Err(self.error(key, given, expected)),
        }
    }

    pub(super) fn error(&mut self, key: &str, at: &At<String>, expected: impl Display) -> Reported {
        self.report(at.line, key, Some(&at.value), expected)
    }

    pub(super) fn report(
        &mut self,
        line: usize,
        key: &str,
        value: Option<&str>,
        expected: impl Display,
    ) -> Reported {
        self.errors.add(line, key, value, expected);
        Reported
    }
}

/// Counted devices are all alike: without any, one that there could be is evaluated.
fn stand_in(keys: &ResourceSettings) -> Vec<Device> {
    match &keys.devices {
        Some(At {
            value: DevicesSetting::List(_),
            ..
        }) => Vec::new(),
        _ => vec![Device::new("device-0", 0, [].into())],
    }
}

/// A text that is not empty.
pub(super) fn filled(given: Option<&At<String>>) -> Option<&At<String>> {
    given.filter(|given| !given.value.is_empty())
}

impl From<PolicyKey> for Policy {
    fn from(key: PolicyKey) -> Self {
        match key {
            PolicyKey::None => Self::None,
            PolicyKey::Ordered => Self::Ordered,
            PolicyKey::Packed => Self::Packed,
            PolicyKey::Spread => Self::Spread,
        }
    }
}
