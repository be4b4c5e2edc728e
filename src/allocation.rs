//! Allocate: what a container gets with the devices that the kubelet chose for it.

use thiserror::Error;

use crate::device::{Device, Devices, Health};

/// What each of a resource's devices brings into a container; `None` is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Env `<prefix>_<index>` = `/dev/<index>`.
    pub env_prefix: Option<String>,
    /// Annotation `<prefix>-<index>` = the device's ID.
    pub annotation_prefix: Option<String>,
    /// A device file for each device.
    pub device_file: Option<DeviceFileRule>,
}

/// Where a device's file is, in the container and on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFileRule {
    /// In the container, and on the host unless told otherwise: `/dev/<prefix>-<index>`.
    pub prefix: String,
    /// The host's file behind every one of them; `None`: the same path as in the container.
    pub host_path: Option<String>,
}

/// A device file as the container runtime gets it (`v1beta1.DeviceSpec`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFile {
    /// Absolute path in the container.
    pub container_path: String,
    /// Absolute path on the host.
    pub host_path: String,
    /// A subset of `rwm`.
    pub permissions: String,
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
        if device.health == Health::Unhealthy {
            return Err(AllocateError::Unhealthy(id.clone()));
        }
        given.push(device);
    }
    given.sort_by_key(|device| device.index);
    given.dedup_by_key(|device| device.index);
    Ok(outputs.of(&given))
}

impl Outputs {
    fn of(&self, devices: &[&Device]) -> Allocation {
        let mut allocation = Allocation::default();
        for device in devices {
            allocation.envs.extend(self.env(device));
            allocation.annotations.extend(self.annotation(device));
            allocation.device_files.extend(self.device_file(device));
        }
        allocation
    }

    fn env(&self, device: &Device) -> Option<(String, String)> {
        let (prefix, index) = (self.env_prefix.as_ref()?, device.index);
        Some((format!("{prefix}_{index}"), format!("/dev/{index}")))
    }

    fn annotation(&self, device: &Device) -> Option<(String, String)> {
        let (prefix, index) = (self.annotation_prefix.as_ref()?, device.index);
        Some((format!("{prefix}-{index}"), device.id.to_string()))
    }

    /// The device file of one device; `None` where there are none.
    pub fn device_file(&self, device: &Device) -> Option<DeviceFile> {
        let rule = self.device_file.as_ref()?;
        let container_path = format!("/dev/{}-{}", rule.prefix, device.index);
        Some(DeviceFile {
            host_path: rule
                .host_path
                .clone()
                .unwrap_or_else(|| container_path.clone()),
            container_path,
            permissions: "rw".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numa::NumaNodes;

    fn devices() -> Devices {
        Devices::counted("gpu", "w", 3, &NumaNodes::default())
    }

    fn outputs(host_path: Option<&str>) -> Outputs {
        Outputs {
            env_prefix: Some("GPU".into()),
            annotation_prefix: Some("example.com/gpu".into()),
            device_file: Some(DeviceFileRule {
                prefix: "gpu".into(),
                host_path: host_path.map(str::to_owned),
            }),
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
