//! The resources of a config file for one node, each evaluated with its lines.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::errors::FileErrors;
use super::keys::{DeviceKeys, DevicesKeys, Pairs, PolicyKey, ResourceKeys};
use super::rules::Rules;
use super::typed::At;
use crate::config::host_paths::AllowedHostPaths;
use crate::config::resources::{NUMBER_DEVICES_DEFAULT, Reported, all};
use crate::config::values;
use crate::fault::{FAULTS_MAX, FLAPS_MAX, Fault, FaultSpec, SpecError, Target};
use crate::model::allocation::{Outputs, Prefixes};
use crate::model::device::{Counted, Detail, Device, Devices, Health, LIST_SIZE_MAX};
use crate::model::numa::{NUMA_NODE_MAX, NumaNodes};
use crate::model::preference::Policy;
use crate::model::resource_name::ResourceName;
use crate::model::selection::SelectionError;
use crate::model::socket_name::{PluginName, SocketName};
use crate::model::template::{Constants, PLACEHOLDERS, is_attribute};
use crate::offer::resource::Resource;

/// In bytes, for an ID, a path or an attribute: as long as a path can be.
const TEXT_MAX: usize = 4096;

/// Each is a plugin of its own.
const RESOURCES_MAX: usize = 1000;

/// Of all resources together; a hundred of a thousand each are many.
const DEVICES_MAX: usize = 300_000;

/// Devices times outputs, for one resource: each is evaluated.
const GIVEN_MAX: usize = 2_000_000;

/// What all resources of a node have in common.
pub(crate) struct Common<'a> {
    pub node: &'a str,
    pub allowed: &'a AllowedHostPaths,
    pub removal_grace: Duration,
}

/// Every resource; `None` where there is an error.
pub fn read(
    resources: &[ResourceKeys],
    common: &Common,
    errors: &mut FileErrors,
) -> Option<Vec<Resource>> {
    if let Some(beyond) = resources.get(RESOURCES_MAX) {
        let expected = format!("at most {RESOURCES_MAX} resources");
        errors.add(beyond.name.line, "name", Some(&beyond.name.value), expected);
        return None;
    }
    let mut taken = TakenByFile::default();
    let read = |keys: &ResourceKeys| {
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
struct TakenByFile {
    names: BTreeMap<ResourceName, usize>,
    sockets: BTreeMap<SocketName, usize>,
    devices: usize,
}

/// Reads one resource; what is wrong goes to the errors.
struct FileReader<'a, 'm> {
    common: &'a Common<'a>,
    errors: &'a mut FileErrors<'m>,
    /// Where the resource begins.
    line: usize,
}

impl FileReader<'_, '_> {
    fn resource(
        &mut self,
        keys: &ResourceKeys,
        taken: &mut TakenByFile,
    ) -> Result<Resource, Reported> {
        // All of it is read before anything is given up, so that every error is told.
        let name = self.name(&keys.name, taken);
        let socket = self.socket(keys.plugin_name.as_ref(), name.as_ref().ok(), taken);
        let devices = self.devices(keys, name.as_ref().ok(), taken);
        // What is not known for another error is taken for nothing.
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
        if let Some(first) = taken.names.insert(parsed.clone(), name.line) {
            let expected = format!("each resource once; line {first} has it already");
            return Err(self.error("name", name, expected));
        }
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

    fn devices(
        &mut self,
        keys: &ResourceKeys,
        name: Option<&ResourceName>,
        taken: &mut TakenByFile,
    ) -> Result<(Devices, Option<Counted>), Reported> {
        let numa = self.numa("numaNodes", keys.numa_nodes.as_deref().unwrap_or_default());
        let known_numa = numa.as_deref().ok().unwrap_or_default();
        let (line, count) = match &keys.devices {
            Some(At {
                value: DevicesKeys::List(list),
                ..
            }) => {
                taken.devices += list.len();
                let listed = self.list(list, known_numa)?;
                return numa.map(|_| (listed, None));
            }
            Some(At {
                value: DevicesKeys::Count(count),
                line,
            }) => (*line, *count),
            None => (self.line, NUMBER_DEVICES_DEFAULT),
        };
        let prefix = filled(keys.device_id_prefix.as_ref()).map(|prefix| &*prefix.value);
        // Always the resource's own, so that another resource that comes changes no IDs.
        let prefix = prefix
            .or(name.map(ResourceName::name_part))
            .ok_or(Reported)?;
        let (node, dealt) = (self.common.node, NumaNodes::dealing(known_numa.to_vec()));
        let counted = Counted::new(prefix, node, dealt);
        counted
            .list_size(count)
            .map_err(|expected| self.report(line, "devices", Some(&count.to_string()), expected))?;
        taken.devices += count;
        if taken.devices > DEVICES_MAX {
            let expected = format!("at most {DEVICES_MAX} devices, of all resources together");
            return Err(self.report(line, "devices", Some(&count.to_string()), expected));
        }
        numa.map(|_| (counted.devices(count), Some(counted)))
    }

    fn list(&mut self, list: &[DeviceKeys], numa: &[u16]) -> Result<Devices, Reported> {
        let mut ids = BTreeMap::new();
        let mut size = 0;
        let mut read = |(index, keys): (usize, &DeviceKeys)| {
            let device = self.device(index, keys, numa);
            if keys.id.value.is_empty() {
                return Err(self.error("id", &keys.id, "an ID"));
            }
            if let Some(first) = ids.insert(keys.id.value.clone(), keys.id.line) {
                let expected = format!("each ID once; line {first} has it already");
                return Err(self.error("id", &keys.id, expected));
            }
            let device = device?;
            size += device.list_size();
            if size > LIST_SIZE_MAX && size - device.list_size() <= LIST_SIZE_MAX {
                return Err(self.error(
                    "id",
                    &keys.id,
                    format_args!("at most {index} devices with such IDs, or the list passes the kubelet's 4 MiB"),
                ));
            }
            Ok(device)
        };
        // Collected first: an error in one device must not hide those of the next.
        let devices: Vec<Result<Device, Reported>> =
            list.iter().enumerate().map(&mut read).collect();
        Ok(Devices::from_list(
            devices.into_iter().collect::<Result<_, Reported>>()?,
        ))
    }

    fn device(
        &mut self,
        index: usize,
        keys: &DeviceKeys,
        dealt: &[u16],
    ) -> Result<Device, Reported> {
        if let Some(text) = keys.texts().find(|text| text.value.len() > TEXT_MAX) {
            let expected = format!("at most {TEXT_MAX} bytes");
            return Err(self.report(text.line, "devices", None, expected));
        }
        let attributes = keys
            .attributes
            .as_ref()
            .map(|pairs| self.attributes(pairs))
            .transpose();
        let numa: Arc<[u16]> = match &keys.numa {
            Some(nodes) => self.numa("numa", nodes)?.into(),
            None => index
                .checked_rem(dealt.len())
                .map(|turn| dealt[turn])
                .into_iter()
                .collect(),
        };
        let detail = Detail {
            path: keys.path.as_ref().map(|path| path.value.clone()),
            attributes: attributes?.unwrap_or_default(),
        };
        Ok(Device {
            health: keys.health.unwrap_or(Health::Healthy),
            detail: (detail != Detail::default()).then(|| detail.into()),
            ..Device::new(&*keys.id.value, index, numa)
        })
    }

    fn attributes(&mut self, pairs: &Pairs) -> Result<BTreeMap<String, String>, Reported> {
        let mut read = |(name, value): &(At<String>, At<String>)| {
            if PLACEHOLDERS.contains(&&*name.value) {
                return Err(self.error(
                    "attributes",
                    name,
                    "another name: this one is a placeholder's",
                ));
            }
            if !is_attribute(&name.value) {
                return Err(self.error(
                    "attributes",
                    name,
                    "a name of letters, digits, '.', '_', '-' and '/'",
                ));
            }
            Ok((name.value.clone(), value.value.clone()))
        };
        let read = all(Some(&pairs.0), &mut read)?;
        Ok(read.into_iter().collect())
    }

    fn numa(&mut self, key: &str, nodes: &[At<u16>]) -> Result<Vec<u16>, Reported> {
        let mut read = |node: &At<u16>| {
            if node.value > NUMA_NODE_MAX {
                let expected = format!("a NUMA node from 0 to {NUMA_NODE_MAX}");
                return Err(self.report(node.line, key, Some(&node.value.to_string()), expected));
            }
            Ok(node.value)
        };
        all(Some(nodes), &mut read)
    }

    fn outputs(&mut self, keys: &ResourceKeys, devices: &Devices) -> Result<Outputs, Reported> {
        if keys.rules() * devices.len() > GIVEN_MAX {
            let expected =
                format!("fewer devices or fewer outputs: together they make more than {GIVEN_MAX}");
            return Err(self.report(self.line, "name", None, expected));
        }
        let prefixed = self.prefixed(keys);
        // Counted devices are all alike: without any, one that there could be is evaluated.
        let stand_in = match &keys.devices {
            Some(At {
                value: DevicesKeys::List(_),
                ..
            }) => Vec::new(),
            _ => vec![Device::new("device-0", 0, [].into())],
        };
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
        keys: &ResourceKeys,
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
    fn prefixed(&mut self, keys: &ResourceKeys) -> Result<Outputs, Reported> {
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

    fn error(&mut self, key: &str, at: &At<String>, expected: impl Display) -> Reported {
        self.report(at.line, key, Some(&at.value), expected)
    }

    fn report(
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

/// A text that is not empty.
fn filled(given: Option<&At<String>>) -> Option<&At<String>> {
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
