//! Resolves settings into resources, or reports every error in them. Limits, defaults and rules are the same for variables and
//! the config file.

mod devices;
mod faults;
mod outputs;

pub(super) use self::devices::COUNT_DEFAULT;

use std::collections::BTreeMap;
use std::fmt::Display;

use super::error::{ConfigErrors, Reported, all};
use super::host_paths::AllowedHostPaths;
use super::limits::{DeviceCount, RESOURCES_MAX, check_text};
use super::settings::{At, Origin, ResourceSettings, Settings};
use super::{ConfiguredFaults, DesiredPlugins};
use crate::model::device::Devices;
use crate::model::resource_name::ResourceName;
use crate::model::socket_name::{PluginName, SocketName};
use crate::offer::resource::Resource;

/// Resolves the settings of this node, or returns `None` after an error.
pub(super) fn resolve(
    settings: &Settings,
    node: &str,
    allowed: &AllowedHostPaths,
    errors: &mut ConfigErrors,
) -> Option<DesiredPlugins> {
    if let Some(beyond) = settings.resources.get(RESOURCES_MAX) {
        let expected = format!("at most {RESOURCES_MAX} resources");
        errors.add_text("name", &beyond.name, expected);
        return None;
    }
    let mut resolver = Resolver {
        settings,
        node,
        allowed,
        errors,
        names: BTreeMap::new(),
        sockets: BTreeMap::new(),
        devices: DeviceCount::default(),
        rules: 0,
        faults: ConfiguredFaults::default(),
    };
    let resources = settings.resources.iter();
    let resources = all(resources.map(|resource| resolver.resource(resource)));
    let faults = resolver.faults;
    let resources = resources.ok()?;
    Some(DesiredPlugins { resources, faults })
}

/// Resolves the resources in turn and reports their errors.
struct Resolver<'a> {
    settings: &'a Settings,
    node: &'a str,
    allowed: &'a AllowedHostPaths,
    errors: &'a mut ConfigErrors,
    /// The names of the resources so far.
    names: BTreeMap<ResourceName, Origin>,
    /// The sockets of the resources so far.
    sockets: BTreeMap<SocketName, Origin>,
    devices: DeviceCount,
    /// The sum of [`ResourceSettings::rules`] so far.
    rules: usize,
    faults: ConfiguredFaults,
}

impl Resolver<'_> {
    fn resource(&mut self, settings: &ResourceSettings) -> Result<Resource, Reported> {
        // Every part is resolved before the first `?`, so that every error is reported.
        let name = self.name(&settings.name);
        let socket = self.socket(settings, name.as_ref().ok());
        let devices = self.devices(settings, name.as_ref().ok());
        // Invalid devices have been reported and count as no devices here.
        let none = Devices::default();
        let valid_devices = devices.as_ref().map_or(&none, |(devices, _)| devices);
        let outputs = self.outputs(settings, valid_devices);
        let faults = self.faults(settings, devices.as_ref().ok().map(|(devices, _)| devices));
        let (name, faults, (devices, counted)) = (name?, faults?, devices?);
        self.faults.0.insert(name.clone(), faults);
        Ok(Resource {
            name,
            socket: socket?,
            devices: devices.into(),
            counted,
            preference: settings.preferred_allocation.unwrap_or_default(),
            outputs: outputs?,
            pre_start: settings.pre_start.unwrap_or_default(),
            removal_grace: self.settings.removal_grace,
        })
    }

    fn name(&mut self, name: &At<String>) -> Result<ResourceName, Reported> {
        // An empty name in variables has been reported with its position in the list.
        if name.value.is_empty() && matches!(name.origin, Origin::Variable(_)) {
            return Err(Reported);
        }
        let parsed = ResourceName::parse(&name.value)
            .map_err(|expected| self.error("name", name, expected))?;
        if let Some(first) = self.names.get(&parsed) {
            let expected = format!("each resource only once; it is already set in {first}");
            return Err(self.error("name", name, expected));
        }
        self.names.insert(parsed.clone(), name.origin.clone());
        Ok(parsed)
    }

    /// The default contains the resource's name, so that adding another resource renames no socket.
    fn socket(
        &mut self,
        settings: &ResourceSettings,
        resource: Option<&ResourceName>,
    ) -> Result<SocketName, Reported> {
        const KEY: &str = "pluginName";
        let given = self.text(KEY, settings.plugin_name.as_ref())?;
        let socket = match given {
            Some(given) => PluginName::parse(&given.value)
                .and_then(|name| name.own_socket())
                .map_err(|expected| self.error(KEY, given, expected))?,
            None => PluginName::default().shared_socket(resource.ok_or(Reported)?),
        };
        let origin = &given.unwrap_or(&settings.name).origin;
        if let Some(first) = self.sockets.get(&socket) {
            let expected = format!("a unique name; {first} already uses the socket {socket}");
            let value = given.map(|given| &*given.value);
            return Err(self.errors.add_at(origin, KEY, value, expected));
        }
        self.sockets.insert(socket.clone(), origin.clone());
        Ok(socket)
    }

    /// Returns the text, or `None` if it is missing or empty.
    fn text<'s>(
        &mut self,
        key: &str,
        given: Option<&'s At<String>>,
    ) -> Result<Option<&'s At<String>>, Reported> {
        let given = given.filter(|given| !given.value.is_empty());
        given.map_or(Ok(()), |given| self.check_length(key, given))?;
        Ok(given)
    }

    fn check_length(&mut self, key: &str, text: &At<String>) -> Result<(), Reported> {
        check_text(&text.value).map_err(|expected| self.error(key, text, expected))
    }

    fn error(&mut self, key: &str, at: &At<String>, expected: impl Display) -> Reported {
        self.errors.add_text(key, at, expected)
    }
}
