//! What a container gets, as a config file says it: templates, evaluated with the devices they are for.

use std::fmt::Display;

use super::errors::FileErrors;
use super::typed::At;
use crate::config::host_paths::AllowedHostPaths;
use crate::config::resources::{Reported, all};
use crate::config::settings::{DeviceFileSettings, MountSettings, Pairs};
use crate::model::allocation::{DeviceFileRule, MountRule};
use crate::model::device::Device;
use crate::model::template::{Constants, Template};
use crate::util::sanitize::sanitize;

/// Reads the rules of one resource.
pub(crate) struct Rules<'a, 'm> {
    pub(crate) constants: Constants<'a>,
    pub devices: &'a [Device],
    pub allowed: &'a AllowedHostPaths,
    pub errors: &'a mut FileErrors<'m>,
}

impl Rules<'_, '_> {
    /// Names and values; a value that speaks of a device needs a name that does.
    pub(crate) fn pairs(
        &mut self,
        key: &str,
        pairs: Option<&Pairs>,
    ) -> Result<Vec<(Template, Template)>, Reported> {
        all(pairs.map(|pairs| &*pairs.0), |(name, value)| {
            let templates = (self.template(key, name), self.template(key, value));
            let (name_template, value_template) = (templates.0?, templates.1?);
            if value_template.is_per_device() && !name_template.is_per_device() {
                let expected = "a device's placeholder in the name too, or one of all devices, such as {ids}, here";
                return Err(self.error(key, value, expected));
            }
            let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
            self.every(key, name, &name_template, "a name, without '='", is_name)?;
            self.every(key, value, &value_template, "a text without NUL", |value| {
                !value.contains('\0')
            })?;
            Ok((name_template, value_template))
        })
    }

    pub(crate) fn device_file(
        &mut self,
        keys: &DeviceFileSettings,
    ) -> Result<DeviceFileRule, Reported> {
        let paths = self.paths(&keys.host_path, keys.container_path.as_ref());
        let permissions = keys.permissions.as_ref();
        if let Some(given) = permissions.filter(|given| !are_permissions(&given.value)) {
            return Err(self.error("permissions", given, "some of r, w and m"));
        }
        let (container_path, host_path) = paths?;
        Ok(DeviceFileRule {
            container_path,
            host_path,
            permissions: permissions.map_or("rw", |given| &given.value).to_owned(),
        })
    }

    pub fn mount(&mut self, keys: &MountSettings) -> Result<MountRule, Reported> {
        let (container_path, host_path) =
            self.paths(&keys.host_path, keys.container_path.as_ref())?;
        Ok(MountRule {
            container_path,
            host_path,
            read_only: keys.read_only.unwrap_or(true),
        })
    }

    /// `vendor/class=name`, by the Container Device Interface's specification.
    pub(crate) fn cdi_device(&mut self, name: &At<String>) -> Result<Template, Reported> {
        let key = "cdiDevices";
        let template = self.template(key, name)?;
        let expected = "a CDI device's name, as in vendor.example/class=name";
        self.every(key, name, &template, expected, is_cdi_device)?;
        Ok(template)
    }

    /// In the container and on the host.
    fn paths(
        &mut self,
        host: &At<String>,
        container: Option<&At<String>>,
    ) -> Result<(Template, Template), Reported> {
        let host_template = self.template("hostPath", host);
        let at = container.unwrap_or(host);
        let container_template = self.template("containerPath", at)?;
        let host_template = host_template?;
        if host_template.is_per_device() && !container_template.is_per_device() {
            let expected = "a device's placeholder, since hostPath has one";
            return Err(self.error("containerPath", at, expected));
        }
        let absolute = |path: &str| {
            path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..")
        };
        let in_container = self.every(
            "containerPath",
            at,
            &container_template,
            "an absolute path, without ..",
            absolute,
        );
        self.host_path("hostPath", host, &host_template)?;
        in_container?;
        Ok((container_template, host_template))
    }

    /// Evaluates what the host gives away.
    pub fn host_path(
        &mut self,
        key: &str,
        at: &At<String>,
        template: &Template,
    ) -> Result<(), Reported> {
        if template.is_of_container() {
            return Err(self.error(key, at, "a path that depends on nothing but its device"));
        }
        let allowed = self.allowed;
        let expected = "/dev/null, zero, full, random, urandom or a path under ALLOWED_HOST_PATHS";
        self.every(key, at, template, expected, |path| allowed.allow(path))
    }

    /// Evaluates what the template makes of each device.
    fn every(
        &mut self,
        key: &str,
        at: &At<String>,
        template: &Template,
        expected: &str,
        is_good: impl Fn(&str) -> bool,
    ) -> Result<(), Reported> {
        if !template.is_per_device() {
            let text = template.of(&self.devices.iter().collect::<Vec<_>>(), 0);
            let good = template.is_of_all() || is_good(&text);
            return if good {
                Ok(())
            } else {
                Err(self.error(key, at, expected))
            };
        }
        for device in self.devices {
            let text = template.of(&[device], 0);
            if !is_good(&text) {
                let (id, text) = (sanitize(&device.id), sanitize(&text));
                return Err(self.error(
                    key,
                    at,
                    format_args!("{expected}; device {id} makes it \"{text}\""),
                ));
            }
        }
        Ok(())
    }

    fn template(&mut self, key: &str, at: &At<String>) -> Result<Template, Reported> {
        let parsed = Template::parse(&at.value, self.constants);
        let template = parsed.map_err(|expected| self.error(key, at, expected))?;
        let lacking =
            |device: &Device| Some((sanitize(&device.id), template.lacking(device)?.to_owned()));
        let lacks: Vec<_> = self.devices.iter().filter_map(lacking).collect();
        let Some((device, name)) = lacks.first() else {
            return Ok(template);
        };
        let expected = if name == "path" {
            format!("{{path}} only where every device has one; {device} has none")
        } else if lacks.len() == self.devices.len() {
            format!("a placeholder or the name of an attribute, not {{{name}}}")
        } else {
            format!("an attribute that every device has; {device} lacks {name}")
        };
        Err(self.error(key, at, expected))
    }

    fn error(&mut self, key: &str, at: &At<String>, expected: impl Display) -> Reported {
        self.errors.add(at.line, key, Some(&at.value), expected);
        Reported
    }
}

fn are_permissions(text: &str) -> bool {
    let once = |c| text.matches(c).count() == 1;
    !text.is_empty() && text.chars().all(|c| "rwm".contains(c) && once(c))
}

fn is_cdi_device(name: &str) -> bool {
    let made_of = |part: &str, others: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || others.contains(c))
    };
    let Some((vendor, (class, device))) = name
        .split_once('/')
        .and_then(|(vendor, rest)| Some((vendor, rest.split_once('=')?)))
    else {
        return false;
    };
    made_of(vendor, "._-") && made_of(class, "_-") && made_of(device, "._-:")
}
