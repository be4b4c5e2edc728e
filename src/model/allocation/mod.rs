//! Allocate: what a container receives with the devices that the kubelet assigned to it.

mod outputs;
mod size;

pub(crate) use outputs::Prefixes;
pub use outputs::{DeviceFileRule, MountRule, Outputs};
pub(crate) use size::{ENV_OVERHEAD, ENV_SIZE_MAX, ENVIRONMENT_SIZE_MAX, most_within};

use serde::Serialize;
use thiserror::Error;

use self::size::RESPONSE_SIZE_MAX;
use crate::model::device::{Devices, Health};

/// With more devices than this, the size of the response is checked before the response is built.
const UNCHECKED_DEVICES_MAX: usize = 64;

/// A device file in the container (`v1beta1.DeviceSpec`).
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

/// A file or directory of the host that is mounted into the container (`v1beta1.Mount`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: String,
    /// Absolute path on the host.
    pub host_path: String,
    pub(crate) read_only: bool,
}

/// What one container receives. The entries of each list are in the order of the resource's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pub envs: Vec<(String, String)>,
    /// Annotations for the container runtime. They do not appear in the Pod object.
    pub annotations: Vec<(String, String)>,
    pub device_files: Vec<DeviceFile>,
    pub mounts: Vec<Mount>,
    /// Names of CDI devices.
    pub(crate) cdi_devices: Vec<String>,
}

/// Why Allocate is refused. Pod events show the message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocateError {
    #[error("unknown device {0}")]
    Unknown(String),
    #[error("device {0} is Unhealthy")]
    Unhealthy(String),
    #[error("device {0} is pending removal")]
    Removing(String),
    /// The response exceeds [`RESPONSE_SIZE_MAX`].
    #[error(
        "the Allocate response for {requested} devices exceeds the kubelet's limit of 4 MiB: request {fit} devices or fewer"
    )]
    TooLarge {
        /// The number of requested devices.
        requested: usize,
        /// A number of devices whose response fits, counted from the requested device with the lowest index.
        fit: usize,
    },
}

/// Checks every ID, then returns what a container with these devices receives. Duplicate IDs count once.
///
/// # Errors
/// Returns an error for the first ID in request order that is unknown, unhealthy or pending removal, or if the response
/// is too large.
pub fn allocate(
    devices: &Devices,
    outputs: &Outputs,
    ids: &[String],
) -> Result<Allocation, AllocateError> {
    let mut chosen = Vec::with_capacity(ids.len());
    for id in ids {
        let device = devices
            .get(id)
            .ok_or_else(|| AllocateError::Unknown(id.clone()))?;
        if device.removing {
            return Err(AllocateError::Removing(id.clone()));
        }
        if device.health == Health::Unhealthy {
            return Err(AllocateError::Unhealthy(id.clone()));
        }
        chosen.push(device);
    }
    chosen.sort_by_key(|device| device.index);
    chosen.dedup_by_key(|device| device.index);
    let requested = chosen.len();
    let too_large = |fit| AllocateError::TooLarge { requested, fit };
    // The response for many devices can take gigabytes, so check its size before building it.
    if requested > UNCHECKED_DEVICES_MAX {
        let fit = outputs.max_devices_in_response(&chosen);
        if fit < requested {
            return Err(too_large(fit));
        }
    }
    let allocation = outputs.of(&chosen);
    if allocation.size() > RESPONSE_SIZE_MAX {
        return Err(too_large(outputs.max_devices_in_response(&chosen)));
    }
    Ok(allocation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::CountedDevices;
    use crate::model::numa::NumaNodes;
    use crate::model::template::Template;

    fn devices() -> Devices {
        CountedDevices::new("gpu", "w", NumaNodes::default()).devices(3)
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
        let allocation =
            allocate(&devices(), &outputs(Some("/dev/null")), &ids(&[2, 0, 2])).unwrap();
        assert_eq!(
            allocation.envs,
            [pair("GPU_0", "/dev/0"), pair("GPU_2", "/dev/2")]
        );
        assert_eq!(
            allocation.annotations,
            [
                pair("example.com/gpu-0", "gpu-w-0"),
                pair("example.com/gpu-2", "gpu-w-2")
            ]
        );
        let files: Vec<_> = allocation
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
    fn the_host_path_is_the_container_path_by_default() {
        let allocation = allocate(&devices(), &outputs(None), &ids(&[1])).unwrap();
        assert_eq!(allocation.device_files[0].host_path, "/dev/gpu-1");
    }

    #[test]
    fn empty_outputs_give_an_empty_allocation() {
        let allocation = allocate(&devices(), &Outputs::default(), &ids(&[0])).unwrap();
        assert_eq!(allocation, Allocation::default());
    }

    #[test]
    fn refuses_a_response_above_4_mib_with_the_count_that_fits() {
        let devices = CountedDevices::new("gpu", "worker", NumaNodes::default()).devices(50_000);
        let ids: Vec<String> = devices
            .as_slice()
            .iter()
            .map(|d| d.id.to_string())
            .collect();
        let allocate_first = |count: usize| allocate(&devices, &outputs(None), &ids[..count]);
        let Err(AllocateError::TooLarge {
            requested: 45_000,
            fit,
        }) = allocate_first(45_000)
        else {
            panic!("no refusal");
        };
        assert!(allocate_first(fit).is_ok_and(|allocation| allocation.size() <= RESPONSE_SIZE_MAX));
        assert!(
            matches!(
                allocate_first(fit + 100),
                Err(AllocateError::TooLarge { .. })
            ),
            "{fit}"
        );
    }

    #[test]
    fn does_not_build_a_response_that_is_far_too_large() {
        let devices = CountedDevices::new("gpu", "worker", NumaNodes::default()).devices(50_000);
        let ids: Vec<String> = devices
            .as_slice()
            .iter()
            .map(|d| d.id.to_string())
            .collect();
        let constants = crate::model::template::Constants {
            node: "n",
            resource: "r",
        };
        let all = Template::parse("{ids}", constants).unwrap();
        let outputs = Outputs {
            envs: vec![(Template::indexed("GPU_"), all)],
            ..Outputs::default()
        };
        // 50,000 times 50,000 IDs would be 40 GB.
        let refused = allocate(&devices, &outputs, &ids);
        let Err(AllocateError::TooLarge { fit, .. }) = refused else {
            panic!("no refusal");
        };
        assert!((500..560).contains(&fit), "{fit}");
        assert!(allocate(&devices, &outputs, &ids[..fit]).is_ok());
    }

    #[test]
    fn one_invalid_id_refuses_the_whole_request() {
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
