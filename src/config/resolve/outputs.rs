//! Resolves what a container gets, by evaluating templates for each device.

use std::fmt::Display;

use super::Resolver;
use crate::config::error::{ConfigErrors, Reported, all};
use crate::config::host_paths::AllowedHostPaths;
use crate::config::limits::{OUTPUTS_MAX, RULES_MAX};
use crate::config::settings::{
    At, DeviceFileSettings, DevicesSetting, MountSettings, Origin, Pairs, ResourceSettings,
};
use crate::config::values;
use crate::model::allocation::{DeviceFileRule, MountRule, Outputs, Prefixes};
use crate::model::device::{Device, Devices};
use crate::model::template::{Constants, Template};
use crate::util::sanitize::sanitize;

const DEVICE_FILE_PREFIX: &str = "deviceFilePrefix";

impl Resolver<'_> {
    pub(super) fn outputs(
        &mut self,
        settings: &ResourceSettings,
        devices: &Devices,
    ) -> Result<Outputs, Reported> {
        self.rules += settings.rules();
        if self.rules > RULES_MAX {
            let expected = format!(
                "at most {RULES_MAX} entries in env, annotations, deviceFiles, mounts and cdiDevices, for all resources together"
            );
            let origin = &settings.name.origin;
            return Err(self.errors.add_at(origin, "name", None, expected));
        }
        if settings.rules() * devices.len() > OUTPUTS_MAX {
            let expected = format!(
                "fewer devices or fewer outputs: devices times outputs exceed {OUTPUTS_MAX}"
            );
            let origin = &settings.name.origin;
            return Err(self.errors.add_at(origin, "name", None, expected));
        }
        let prefixed = self.prefixed(settings);
        let assumed = assumed_devices(settings);
        let devices = if devices.is_empty() {
            &assumed
        } else {
            devices.as_slice()
        };
        let mut rules = Rules {
            constants: Constants {
                node: self.node,
                resource: &settings.name.value,
            },
            devices,
            allowed: self.allowed,
            errors: self.errors,
        };
        let configured = rules.outputs(settings);
        let mut outputs = prefixed?;
        rules.prefixed_host_path(settings, &outputs)?;
        let configured = configured?;
        outputs.envs.extend(configured.envs);
        outputs.annotations.extend(configured.annotations);
        outputs.device_files.extend(configured.device_files);
        outputs.mounts.extend(configured.mounts);
        outputs.cdi_devices.extend(configured.cdi_devices);
        Ok(outputs)
    }

    /// Returns the outputs of `envPrefix`, `annotationPrefix` and `deviceFilePrefix`.
    fn prefixed(&mut self, settings: &ResourceSettings) -> Result<Outputs, Reported> {
        let env = self.value(
            "envPrefix",
            settings.env_prefix.as_ref(),
            values::env_prefix,
        );
        let annotation = self.text("annotationPrefix", settings.annotation_prefix.as_ref());
        let device_file = self.value(
            DEVICE_FILE_PREFIX,
            settings.device_file_prefix.as_ref(),
            values::device_file_prefix,
        );
        let host_path = self.value(
            "deviceFileHostPath",
            settings.device_file_host_path.as_ref(),
            values::host_path,
        );
        Ok(Outputs::from(Prefixes {
            env: env?,
            annotation: annotation?.map(|prefix| prefix.value.clone()),
            device_file: device_file?,
            device_file_host_path: host_path?,
        }))
    }

    /// Returns the parsed value, or `None` if it is missing or empty.
    fn value<T, E: Display>(
        &mut self,
        key: &str,
        given: Option<&At<String>>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Reported> {
        let Some(given) = self.text(key, given)? else {
            return Ok(None);
        };
        let parsed = parse(&given.value).map_err(|expected| self.error(key, given, expected));
        parsed.map(Some)
    }
}

/// Returns a device with which to validate the outputs of a resource whose count is 0: counted devices are all alike.
fn assumed_devices(settings: &ResourceSettings) -> Vec<Device> {
    match settings.devices.as_ref().map(|at| &at.value) {
        Some(DevicesSetting::List(_)) => Vec::new(),
        _ => vec![Device::new("device-0", 0, [].into())],
    }
}

/// Evaluates the rules of one resource.
struct Rules<'a> {
    constants: Constants<'a>,
    devices: &'a [Device],
    allowed: &'a AllowedHostPaths,
    errors: &'a mut ConfigErrors,
}

impl Rules<'_> {
    fn outputs(&mut self, settings: &ResourceSettings) -> Result<Outputs, Reported> {
        let envs = self.pairs("env", settings.env.as_ref());
        let annotations = self.pairs("annotations", settings.annotations.as_ref());
        let files = settings.device_files.iter().flatten();
        let device_files = all(files.map(|file| self.device_file(file)));
        let mounts = settings.mounts.iter().flatten();
        let mounts = all(mounts.map(|mount| self.mount(mount)));
        let cdi_devices = settings.cdi_devices.iter().flatten();
        let cdi_devices = all(cdi_devices.map(|name| self.cdi_device(name)));
        Ok(Outputs {
            envs: envs?,
            annotations: annotations?,
            device_files: device_files?,
            mounts: mounts?,
            cdi_devices: cdi_devices?,
        })
    }

    /// Checks the host path of `deviceFilePrefix`, if a file sets it. The author of the variables could set
    /// `ALLOWED_HOST_PATHS` too, so they are not checked.
    fn prefixed_host_path(
        &mut self,
        settings: &ResourceSettings,
        outputs: &Outputs,
    ) -> Result<(), Reported> {
        let is_set = |at: &&At<String>| !at.value.is_empty();
        let path = settings.device_file_host_path.as_ref().filter(is_set);
        let path = path.map(|at| ("deviceFileHostPath", at));
        let prefix = settings.device_file_prefix.as_ref();
        let given = path.or(prefix.map(|at| (DEVICE_FILE_PREFIX, at)));
        let given = given.filter(|(_, at)| matches!(at.origin, Origin::Line(_)));
        for (rule, (key, at)) in std::iter::zip(&outputs.device_files, given) {
            self.host_path(key, at, &rule.host_path)?;
        }
        Ok(())
    }

    /// Resolves names and values. A name must depend on the device if its value does.
    fn pairs(
        &mut self,
        key: &str,
        pairs: Option<&Pairs>,
    ) -> Result<Vec<(Template, Template)>, Reported> {
        let pairs = pairs.iter().flat_map(|pairs| &pairs.0);
        all(pairs.map(|(name, value)| {
            let templates = (self.template(key, name), self.template(key, value));
            let (name_template, value_template) = (templates.0?, templates.1?);
            if value_template.is_per_device() && !name_template.is_per_device() {
                let expected = "a placeholder of the device in the name too, or only placeholders of all devices, such as {ids}, in the value";
                return Err(self.error(key, value, expected));
            }
            let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
            self.check(key, name, &name_template, "a name without '='", is_name)?;
            self.check(key, value, &value_template, "a string without NUL characters", |value| {
                !value.contains('\0')
            })?;
            Ok((name_template, value_template))
        }))
    }

    fn device_file(&mut self, settings: &DeviceFileSettings) -> Result<DeviceFileRule, Reported> {
        let paths = self.paths(&settings.host_path, settings.container_path.as_ref());
        let permissions = settings.permissions.as_ref();
        if let Some(given) = permissions.filter(|given| !are_permissions(&given.value)) {
            return Err(self.error("permissions", given, "one or more of r, w and m"));
        }
        let (container_path, host_path) = paths?;
        Ok(DeviceFileRule {
            container_path,
            host_path,
            permissions: permissions.map_or("rw", |given| &given.value).to_owned(),
        })
    }

    fn mount(&mut self, settings: &MountSettings) -> Result<MountRule, Reported> {
        let (container_path, host_path) =
            self.paths(&settings.host_path, settings.container_path.as_ref())?;
        Ok(MountRule {
            container_path,
            host_path,
            read_only: settings.read_only.unwrap_or(true),
        })
    }

    /// `vendor/class=name`, as the Container Device Interface specifies.
    fn cdi_device(&mut self, name: &At<String>) -> Result<Template, Reported> {
        let key = "cdiDevices";
        let template = self.template(key, name)?;
        let expected = "the name of a CDI device, as in vendor.example/class=name";
        self.check(key, name, &template, expected, is_cdi_device)?;
        Ok(template)
    }

    /// Returns the path in the container and the path on the host.
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
            let expected = "a placeholder of the device, because hostPath has one";
            return Err(self.error("containerPath", at, expected));
        }
        let absolute = |path: &str| {
            path.starts_with('/') && path.len() > 1 && !path.split('/').any(|part| part == "..")
        };
        let in_container = self.check(
            "containerPath",
            at,
            &container_template,
            "an absolute path without '..'",
            absolute,
        );
        self.host_path("hostPath", host, &host_template)?;
        in_container?;
        Ok((container_template, host_template))
    }

    /// Checks that every device's host path is allowed.
    fn host_path(
        &mut self,
        key: &str,
        at: &At<String>,
        template: &Template,
    ) -> Result<(), Reported> {
        if template.depends_on_container() {
            return Err(self.error(key, at, "a path that depends only on the device"));
        }
        let allowed = self.allowed;
        let mut expected = AllowedHostPaths::expected();
        if key == DEVICE_FILE_PREFIX {
            expected += "; set deviceFileHostPath or ALLOWED_HOST_PATHS";
        }
        self.check(key, at, template, &expected, |path| allowed.allow(path))
    }

    /// Checks the text of the template for each device.
    fn check(
        &mut self,
        key: &str,
        at: &At<String>,
        template: &Template,
        expected: &str,
        is_valid: impl Fn(&str) -> bool,
    ) -> Result<(), Reported> {
        if !template.is_per_device() {
            let text = template.of(&self.devices.iter().collect::<Vec<_>>(), 0);
            return if template.uses_all_devices() || is_valid(&text) {
                Ok(())
            } else {
                Err(self.error(key, at, expected))
            };
        }
        for device in self.devices {
            let text = template.of(&[device], 0);
            if !is_valid(&text) {
                let (id, text) = (sanitize(&device.id), sanitize(&text));
                return Err(self.error(
                    key,
                    at,
                    format_args!("{expected}; for device {id} it is \"{text}\""),
                ));
            }
        }
        Ok(())
    }

    fn template(&mut self, key: &str, at: &At<String>) -> Result<Template, Reported> {
        let parsed = Template::parse(&at.value, self.constants);
        let template = parsed.map_err(|expected| self.error(key, at, expected))?;
        let lacking = |device: &Device| {
            Some((
                sanitize(&device.id),
                template.missing_value(device)?.to_owned(),
            ))
        };
        let lacks: Vec<_> = self.devices.iter().filter_map(lacking).collect();
        let Some((device, name)) = lacks.first() else {
            return Ok(template);
        };
        let expected = if name == "path" {
            format!("{{path}} only if every device has a path; {device} has none")
        } else if lacks.len() == self.devices.len() {
            format!("a placeholder or an attribute of the devices, not {{{name}}}")
        } else {
            format!("an attribute that every device has; {device} has no {name}")
        };
        Err(self.error(key, at, expected))
    }

    fn error(&mut self, key: &str, at: &At<String>, expected: impl Display) -> Reported {
        self.errors.add_text(key, at, expected)
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
