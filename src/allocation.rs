//! Allocate: what a container gets with the devices that the kubelet chose for it.

use serde::Serialize;
use thiserror::Error;

use crate::device::{Device, Devices, Health};
use crate::template::Template;

/// What a container gets with a resource's devices. What speaks of a device is there for each of them,
/// the rest once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Environment variables: name and value.
    pub envs: Vec<(Template, Template)>,
    /// Annotations: key and value.
    pub annotations: Vec<(Template, Template)>,
    /// Device files.
    pub device_files: Vec<DeviceFileRule>,
    /// Mounts.
    pub mounts: Vec<MountRule>,
    /// Names of CDI devices.
    pub cdi_devices: Vec<Template>,
}

/// A device file before it is known for which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFileRule {
    /// Its path in the container.
    pub container_path: Template,
    /// Its path on the host.
    pub host_path: Template,
    /// A subset of `rwm`.
    pub permissions: String,
}

/// A mount before it is known for which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRule {
    /// Its path in the container.
    pub container_path: Template,
    /// Its path on the host.
    pub host_path: Template,
    /// Whether the container can only read it.
    pub read_only: bool,
}

/// A device file as the container runtime gets it (`v1beta1.DeviceSpec`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceFile {
    /// Absolute path in the container.
    pub container_path: String,
    /// Absolute path on the host.
    pub host_path: String,
    /// A subset of `rwm`.
    pub permissions: String,
}

/// A file or directory of the host in the container (`v1beta1.Mount`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: String,
    /// Absolute path on the host.
    pub host_path: String,
    /// Whether the container can only read it.
    pub read_only: bool,
}

/// What one container gets, each list in the order of the resource's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Environment variables.
    pub envs: Vec<(String, String)>,
    /// Annotations for the container runtime; the Pod never shows them.
    pub annotations: Vec<(String, String)>,
    /// Device files.
    pub device_files: Vec<DeviceFile>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Names of CDI devices.
    pub cdi_devices: Vec<String>,
}

/// Why a container gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocateError {
    /// No device of this resource has the ID.
    #[error("unknown device {0}")]
    Unknown(String),
    /// The device is ill.
    #[error("device {0} is Unhealthy")]
    Unhealthy(String),
    /// The device is being taken away.
    #[error("device {0} is being removed")]
    Going(String),
}

/// Checks every ID, then tells what a container with these devices gets. An ID named twice counts once.
///
/// # Errors
/// The first ID, as the kubelet ordered them, that can't be given.
pub fn allocate(
    devices: &Devices,
    outputs: &Outputs,
    ids: &[String],
) -> Result<Allocation, AllocateError> {
    let mut given = Vec::with_capacity(ids.len());
    for id in ids {
        let device = devices
            .get(id)
            .ok_or_else(|| AllocateError::Unknown(id.clone()))?;
        if device.going {
            return Err(AllocateError::Going(id.clone()));
        }
        if device.health == Health::Unhealthy {
            return Err(AllocateError::Unhealthy(id.clone()));
        }
        given.push(device);
    }
    given.sort_by_key(|device| device.index);
    given.dedup_by_key(|device| device.index);
    Ok(outputs.of(&given))
}

/// The variables' way to say what a container gets; `None` is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// Env `<prefix>_<index>` = `/dev/<index>`.
    pub env: Option<String>,
    /// Annotation `<prefix>-<index>` = the device's ID.
    pub annotation: Option<String>,
    /// Device file `/dev/<prefix>-<index>`.
    pub device_file: Option<String>,
    /// The host's file behind every device file; `None`: the same path as in the container.
    pub device_file_host_path: Option<String>,
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
    /// What a container with these devices gets.
    pub fn of(&self, devices: &[&Device]) -> Allocation {
        let pairs = |rules: &[(Template, Template)]| {
            let pair = |(name, value): &(Template, Template), at| {
                (name.of(devices, at), value.of(devices, at))
            };
            each(rules, devices, |(name, value)| [name, value], pair)
        };
        Allocation {
            envs: pairs(&self.envs),
            annotations: pairs(&self.annotations),
            device_files: each(
                &self.device_files,
                devices,
                DeviceFileRule::paths,
                |rule, at| DeviceFile {
                    container_path: rule.container_path.of(devices, at),
                    host_path: rule.host_path.of(devices, at),
                    permissions: rule.permissions.clone(),
                },
            ),
            mounts: each(&self.mounts, devices, MountRule::paths, |rule, at| Mount {
                container_path: rule.container_path.of(devices, at),
                host_path: rule.host_path.of(devices, at),
                read_only: rule.read_only,
            }),
            cdi_devices: each(
                &self.cdi_devices,
                devices,
                |name| [name, name],
                |name, at| name.of(devices, at),
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

/// What the rules make: device by device what speaks of a device, and once what does not.
fn each<R, T>(
    rules: &[R],
    devices: &[&Device],
    texts: impl Fn(&R) -> [&Template; 2],
    make: impl Fn(&R, usize) -> T,
) -> Vec<T> {
    let per_device = |rule: &&R| texts(rule).iter().any(|text| text.is_per_device());
    let of_devices = (0..devices.len())
        .flat_map(|at| rules.iter().filter(per_device).map(move |rule| (rule, at)));
    let once = rules
        .iter()
        .filter(|rule| !per_device(rule) && !devices.is_empty());
    of_devices
        .chain(once.map(|rule| (rule, 0)))
        .map(|(rule, at)| make(rule, at))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Counted;
    use crate::numa::NumaNodes;

    fn devices() -> Devices {
        Counted::new("gpu", "w", NumaNodes::default()).devices(3)
    }

    fn outputs(host_path: Option<&str>) -> Outputs {
        let file = Template::indexed("/dev/gpu-");
        Outputs {
            envs: vec![(Template::indexed("GPU_"), Template::indexed("/dev/"))],
            annotations: vec![(Template::indexed("example.com/gpu-"), Template::id())],
            device_files: vec![DeviceFileRule {
                container_path: file.clone(),
                host_path: host_path.map_or(file, Template::verbatim),
                permissions: "rw".to_owned(),
            }],
            ..Outputs::default()
        }
    }

    fn ids(indexes: &[usize]) -> Vec<String> {
        indexes.iter().map(|i| format!("gpu-w-{i}")).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_container_gets_each_device_once_in_list_order() {
        let got = allocate(&devices(), &outputs(Some("/dev/null")), &ids(&[2, 0, 2])).unwrap();
        assert_eq!(got.envs, [pair("GPU_0", "/dev/0"), pair("GPU_2", "/dev/2")]);
        assert_eq!(
            got.annotations,
            [
                pair("example.com/gpu-0", "gpu-w-0"),
                pair("example.com/gpu-2", "gpu-w-2")
            ]
        );
        let files: Vec<_> = got
            .device_files
            .iter()
            .map(|f| (&*f.host_path, &*f.container_path, &*f.permissions))
            .collect();
        assert_eq!(
            files,
            [
                ("/dev/null", "/dev/gpu-0", "rw"),
                ("/dev/null", "/dev/gpu-2", "rw")
            ]
        );
    }

    #[test]
    fn the_host_path_is_the_container_path_unless_told() {
        let got = allocate(&devices(), &outputs(None), &ids(&[1])).unwrap();
        assert_eq!(got.device_files[0].host_path, "/dev/gpu-1");
    }

    #[test]
    fn what_is_off_is_not_given() {
        let got = allocate(&devices(), &Outputs::default(), &ids(&[0])).unwrap();
        assert_eq!(got, Allocation::default());
    }

    #[test]
    fn one_bad_id_refuses_all() {
        let mut devices = devices();
        devices.set_health("gpu-w-1", Health::Unhealthy).unwrap();
        let allocate = |ids: &[String]| allocate(&devices, &outputs(None), ids);
        assert_eq!(
            allocate(&ids(&[0, 7])),
            Err(AllocateError::Unknown("gpu-w-7".into()))
        );
        assert_eq!(
            allocate(&ids(&[0, 1])),
            Err(AllocateError::Unhealthy("gpu-w-1".into()))
        );
    }
}
