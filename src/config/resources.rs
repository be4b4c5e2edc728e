//! The resources, each parsed from its variables, then validated together.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Display;
use std::path::Path;

use super::error::ConfigErrors;
use super::limits::{DeviceCount, TEXT_MAX, text_expected};
use super::names;
use super::program::Program;
use super::values;
use super::variables::ResourceVariables;
use crate::model::allocation::{Outputs, Prefixes};
use crate::model::device::{Counted, Devices};
use crate::model::numa::NumaNodes;
use crate::model::preference::Policy;
use crate::model::resource_name::{ResourceName, ResourceNameError};
use crate::model::socket_name::{KUBELET_SOCKET, PluginName, SOCKET_PATH_MAX, SocketName};
use crate::offer::resource::{REMOVAL_GRACE_DEFAULT, Resource};

pub(crate) const NUMBER_DEVICES_DEFAULT: usize = 2;
const DEVICE_ID_PREFIX_DEFAULT: &str = "simple-device";

/// Every resource; `None` where there is an error.
pub fn read(
    all: &[ResourceVariables],
    program: &Program,
    errors: &mut ConfigErrors,
) -> Option<Vec<Resource>> {
    let mut taken = TakenByVariables::default();
    let read = |variables| {
        let several = all.len() > 1;
        VariablesReader {
            variables,
            several,
            errors,
        }
        .resource(program, &mut taken)
    };
    // Collected first: an error in one resource must not hide those of the next.
    let resources: Vec<Result<Resource, Reported>> = all.iter().map(read).collect();
    resources.into_iter().collect::<Result<_, Reported>>().ok()
}

/// Reports where the longest of the sockets' paths, the kubelet's among them, is too long for a socket.
pub(crate) fn validate_paths(dir: &Path, resources: &[Resource], errors: &mut ConfigErrors) {
    let names = resources.iter().map(|resource| resource.socket.as_str());
    let longest = names.chain([KUBELET_SOCKET]).max_by_key(|name| name.len());
    let Some(longest) = longest else { return };
    let length = dir.join(longest).as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let expected = format!(
            "a directory in which {longest} has a path of at most {SOCKET_PATH_MAX} bytes, not {length}"
        );
        errors.add("DEVICE_PLUGIN_PATH", &dir.to_string_lossy(), expected);
    }
}

/// Reports where the control socket has the path of another one.
pub(crate) fn validate_control(
    control: Option<&Path>,
    dir: &Path,
    resources: &[Resource],
    errors: &mut ConfigErrors,
) {
    let names = resources.iter().map(|resource| resource.socket.as_str());
    let mut others = names.chain([KUBELET_SOCKET]).map(|name| dir.join(name));
    if let Some(control) = control.filter(|control| others.any(|other| other == *control)) {
        let expected = "a path that is neither the kubelet's socket nor a plugin's";
        errors.add("CONTROL_SOCKET", &control.to_string_lossy(), expected);
    }
}

/// The value is wrong, and its error is reported already.
pub(crate) struct Reported;

/// Every one of them; an error in one must not hide those of the next.
pub fn all<T, R>(
    list: Option<&[T]>,
    read: impl FnMut(&T) -> Result<R, Reported>,
) -> Result<Vec<R>, Reported> {
    let read: Vec<_> = list.unwrap_or_default().iter().map(read).collect();
    read.into_iter().collect()
}

/// Reads one resource; what is wrong goes to the errors.
struct VariablesReader<'a> {
    variables: &'a ResourceVariables,
    several: bool,
    errors: &'a mut ConfigErrors,
}

impl VariablesReader<'_> {
    fn resource(
        &mut self,
        program: &Program,
        taken: &mut TakenByVariables,
    ) -> Result<Resource, Reported> {
        // All of it is read before anything is given up, so that every error is reported.
        let name = self.resource_name(taken);
        let socket = self.socket(name.as_ref().ok(), taken);
        let devices = self.devices(name.as_ref().ok(), &program.node, taken);
        let preference = self.value(names::PREFERRED_ALLOCATION, str::parse::<Policy>);
        let outputs = self.outputs();
        let (name, socket, (devices, counted)) = (name?, socket?, devices?);
        Ok(Resource {
            name,
            socket,
            devices: devices.into(),
            counted: Some(counted),
            preference: preference?.unwrap_or_default(),
            outputs: outputs?,
            pre_start: false,
            removal_grace: REMOVAL_GRACE_DEFAULT,
            faults: Vec::new(),
        })
    }

    fn resource_name(&mut self, taken: &mut TakenByVariables) -> Result<ResourceName, Reported> {
        let name = self
            .value(names::RESOURCE_NAME, ResourceName::parse)?
            .ok_or_else(|| self.error(names::RESOURCE_NAME, "", ResourceNameError::NotQualified))?;
        let variable = self.full_name(names::RESOURCE_NAME);
        if let Some(first) = taken.names.get(&name) {
            let expected = format!("each resource once; {first} has it already");
            return Err(self.error(names::RESOURCE_NAME, name.as_str(), expected));
        }
        taken.names.insert(name.clone(), variable);
        Ok(name)
    }

    /// `<PLUGIN_NAME>.sock` where the name is the resource's own, else one that carries the resource.
    fn socket(
        &mut self,
        resource: Option<&ResourceName>,
        taken: &mut TakenByVariables,
    ) -> Result<SocketName, Reported> {
        let given = self.value(names::PLUGIN_NAME, PluginName::parse)?;
        let own = given.is_some() && self.variables[names::PLUGIN_NAME].own;
        let plugin = given.unwrap_or_default();
        let socket = if own || !self.several {
            plugin
                .own_socket()
                .map_err(|expected| self.error(names::PLUGIN_NAME, plugin.as_str(), expected))?
        } else {
            plugin.shared_socket(resource.ok_or(Reported)?)
        };
        if taken.sockets.contains(&socket) {
            let expected = format!("a name of its own; another resource has {socket}");
            return Err(self.error(names::PLUGIN_NAME, plugin.as_str(), expected));
        }
        taken.sockets.insert(socket.clone());
        Ok(socket)
    }

    fn devices(
        &mut self,
        resource: Option<&ResourceName>,
        node: &str,
        taken: &mut TakenByVariables,
    ) -> Result<(Devices, Counted), Reported> {
        let count = self.value(names::NUMBER_DEVICES, values::count);
        let numa = self.value(names::NUMA_NODES, str::parse::<NumaNodes>);
        let prefix = self.text(names::DEVICE_ID_PREFIX)?;
        let prefix = match (prefix, resource) {
            (Some(prefix), _) => Ok(prefix),
            (None, Some(resource)) if self.several => Ok(resource.name_part().to_owned()),
            (None, None) if self.several => Err(Reported),
            (None, _) => Ok(DEVICE_ID_PREFIX_DEFAULT.to_owned()),
        };
        let count = count?.unwrap_or(NUMBER_DEVICES_DEFAULT);
        // If the prefix or NUMA list is invalid, size the list as if it were empty: a count that is too large even then is still an error.
        let known_prefix = prefix.as_deref().unwrap_or_default();
        let known_numa = numa.as_ref().ok().and_then(Option::as_ref).cloned();
        let counted = Counted::new(known_prefix, node, known_numa.unwrap_or_default());
        let mut refused = |expected: &dyn Display| {
            let found = self.variables.get(names::NUMBER_DEVICES);
            let value = found.map_or_else(|| count.to_string(), |found| found.value.clone());
            self.error(names::NUMBER_DEVICES, &value, expected)
        };
        let size = counted.list_size(count);
        size.map_err(|expected| refused(&expected))?;
        let all = taken.devices.add(count);
        all.map_err(|expected| refused(&expected))?;
        prefix.and(numa)?;
        Ok((counted.devices(count), counted))
    }

    fn outputs(&mut self) -> Result<Outputs, Reported> {
        let env_prefix = self.value(names::ENV_PREFIX, values::env_prefix);
        let annotation_prefix = self.text(names::ANNOTATION_PREFIX);
        let prefix = self.value(names::DEVICE_FILE_PREFIX, values::device_file_prefix);
        let host_path = self.value(names::DEVICE_FILE_HOST_PATH, values::host_path)?;
        Ok(Outputs::from(Prefixes {
            env: env_prefix?,
            annotation: annotation_prefix?,
            device_file: prefix?,
            device_file_host_path: host_path,
        }))
    }

    fn text(&mut self, variable: &str) -> Result<Option<String>, Reported> {
        self.value(variable, |text| Ok::<_, Infallible>(text.to_owned()))
    }

    /// The parsed value; `None` where it is not set or empty.
    fn value<T, E: Display>(
        &mut self,
        variable: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Reported> {
        let found = self.variables.get(variable);
        let Some(found) = found.filter(|found| !found.value.is_empty()) else {
            return Ok(None);
        };
        if found.value.len() > TEXT_MAX {
            return Err(self.error(variable, &found.value, text_expected()));
        }
        match parse(&found.value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(expected) => Err(self.error(variable, &found.value, expected)),
        }
    }

    /// An error under the full name of the variable that gave the value.
    fn error(&mut self, variable: &str, value: &str, expected: impl Display) -> Reported {
        let full_name = self.full_name(variable);
        self.errors.add(&full_name, value, expected);
        Reported
    }

    fn full_name(&self, variable: &str) -> String {
        let found = self.variables.get(variable);
        found.map_or(variable, |found| &found.variable).to_owned()
    }
}

/// The names of the resources so far, with the variables that gave them, and their sockets.
#[derive(Default)]
struct TakenByVariables {
    names: BTreeMap<ResourceName, String>,
    sockets: BTreeSet<SocketName>,
    devices: DeviceCount,
}
