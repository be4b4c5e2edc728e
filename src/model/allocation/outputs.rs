//! The configured outputs of a resource: what a container receives with its devices.

use super::{Allocation, DeviceFile, Mount};
use crate::model::device::Device;
use crate::model::template::Template;

/// What a container receives with a resource's devices. A rule whose templates depend on the device applies once per
/// device, any other rule once per container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Environment variables: name and value.
    pub envs: Vec<(Template, Template)>,
    /// Annotations: key and value.
    pub annotations: Vec<(Template, Template)>,
    pub device_files: Vec<DeviceFileRule>,
    pub mounts: Vec<MountRule>,
    /// Names of CDI devices.
    pub(crate) cdi_devices: Vec<Template>,
}

/// The template of a [`DeviceFile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFileRule {
    pub container_path: Template,
    pub host_path: Template,
    /// A subset of `rwm`.
    pub permissions: String,
}

/// The template of a [`Mount`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRule {
    pub container_path: Template,
    pub host_path: Template,
    pub(crate) read_only: bool,
}

/// The settings of the outputs that have a prefix. Without a prefix, there is no such output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefixes {
    /// Sets the environment variable `<prefix>_<index>` to `/dev/<index>`.
    pub env: Option<String>,
    /// Sets the annotation `<prefix>-<index>` to the device ID.
    pub annotation: Option<String>,
    /// Adds the device file `/dev/<prefix>-<index>`.
    pub(crate) device_file: Option<String>,
    /// The host path of every device file. `None` means the same path as in the container.
    pub(crate) device_file_host_path: Option<String>,
}

impl From<Prefixes> for Outputs {
    fn from(prefixes: Prefixes) -> Self {
        let env = |prefix| {
            (
                Template::indexed(&format!("{prefix}_")),
                Template::indexed("/dev/"),
            )
        };
        let annotation = |prefix| (Template::indexed(&format!("{prefix}-")), Template::id());
        let host_path = prefixes
            .device_file_host_path
            .as_deref()
            .map(Template::verbatim);
        let device_file = |prefix| {
            let container_path = Template::indexed(&format!("/dev/{prefix}-"));
            DeviceFileRule {
                host_path: host_path.unwrap_or_else(|| container_path.clone()),
                container_path,
                permissions: "rw".to_owned(),
            }
        };
        Self {
            envs: prefixes.env.map(env).into_iter().collect(),
            annotations: prefixes.annotation.map(annotation).into_iter().collect(),
            device_files: prefixes.device_file.map(device_file).into_iter().collect(),
            ..Self::default()
        }
    }
}

impl Outputs {
    /// Returns what a container with these devices receives.
    pub fn of(&self, devices: &[&Device]) -> Allocation {
        if self.templates().any(Template::uses_all_devices) {
            return self.with_all_devices_rendered(devices).render(devices);
        }
        self.render(devices)
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let pairs = self.envs.iter().chain(&self.annotations);
        let files = self.device_files.iter().flat_map(DeviceFileRule::paths);
        let mounts = self.mounts.iter().flat_map(MountRule::paths);
        let pairs = pairs.flat_map(|(name, value)| [name, value]);
        pairs.chain(files).chain(mounts).chain(&self.cdi_devices)
    }

    /// Renders the placeholders for all devices, such as `{ids}`, once instead of for each device.
    fn with_all_devices_rendered(&self, devices: &[&Device]) -> Self {
        let mut rendered = self.clone();
        let pairs = rendered.envs.iter_mut().chain(&mut rendered.annotations);
        let pairs = pairs.flat_map(|(name, value)| [name, value]);
        let files = rendered.device_files.iter_mut();
        let files = files.flat_map(|file| [&mut file.container_path, &mut file.host_path]);
        let mounts = rendered.mounts.iter_mut();
        let mounts = mounts.flat_map(|mount| [&mut mount.container_path, &mut mount.host_path]);
        let cdi_devices = rendered.cdi_devices.iter_mut();
        for template in pairs.chain(files).chain(mounts).chain(cdi_devices) {
            *template = template.with_all_devices_rendered(devices);
        }
        rendered
    }

    fn render(&self, devices: &[&Device]) -> Allocation {
        let pairs = |rules: &[(Template, Template)]| {
            let pair = |(name, value): &(Template, Template), position| {
                (name.of(devices, position), value.of(devices, position))
            };
            apply_rules(rules, devices, |(name, value)| [name, value], pair)
        };
        Allocation {
            envs: pairs(&self.envs),
            annotations: pairs(&self.annotations),
            device_files: apply_rules(
                &self.device_files,
                devices,
                DeviceFileRule::paths,
                |rule, position| DeviceFile {
                    container_path: rule.container_path.of(devices, position),
                    host_path: rule.host_path.of(devices, position),
                    permissions: rule.permissions.clone(),
                },
            ),
            mounts: apply_rules(&self.mounts, devices, MountRule::paths, |rule, position| {
                Mount {
                    container_path: rule.container_path.of(devices, position),
                    host_path: rule.host_path.of(devices, position),
                    read_only: rule.read_only,
                }
            }),
            cdi_devices: apply_rules(
                &self.cdi_devices,
                devices,
                |name| [name, name],
                |name, position| name.of(devices, position),
            ),
        }
    }
}

impl DeviceFileRule {
    fn paths(&self) -> [&Template; 2] {
        [&self.container_path, &self.host_path]
    }
}

impl MountRule {
    fn paths(&self) -> [&Template; 2] {
        [&self.container_path, &self.host_path]
    }
}

/// Applies rules that depend on the device to each device, device by device, and then every other rule once.
fn apply_rules<R, T>(
    rules: &[R],
    devices: &[&Device],
    texts: impl Fn(&R) -> [&Template; 2],
    make: impl Fn(&R, usize) -> T,
) -> Vec<T> {
    if rules.is_empty() {
        return Vec::new();
    }
    let per_device = |rule: &&R| texts(rule).iter().any(|text| text.is_per_device());
    let of_devices = (0..devices.len()).flat_map(|position| {
        rules
            .iter()
            .filter(per_device)
            .map(move |rule| (rule, position))
    });
    let once = rules
        .iter()
        .filter(|rule| !per_device(rule) && !devices.is_empty());
    of_devices
        .chain(once.map(|rule| (rule, 0)))
        .map(|(rule, position)| make(rule, position))
        .collect()
}
