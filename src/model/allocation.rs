//! Allocate: what a container gets with the devices that the kubelet chose for it.

use serde::Serialize;
use thiserror::Error;

use crate::model::device::{Device, Devices, Health, LIST_SIZE_MAX, delimited};
use crate::model::template::Template;

/// The answer for at most this many devices of a container is built before its size is checked.
const FEW: usize = 64;

/// In bytes: a kubelet's gRPC client takes no larger answer to Allocate.
pub(crate) const ANSWER_SIZE_MAX: usize = LIST_SIZE_MAX;

/// In bytes: Linux takes no longer string for a new process, `NAME=value` and its end
/// (`MAX_ARG_STRLEN` in `binfmts.h`, with pages of 4 KiB).
pub(crate) const ENV_SIZE_MAX: usize = 128 * 1024;

/// In bytes: Linux takes no larger arguments and environment for a new process, a quarter of its stack's limit of 8 MiB
/// (`fs/exec.c`). Each variable counts with its `=`, its end and a pointer.
pub(crate) const ENVIRONMENT_SIZE_MAX: usize = 2 * 1024 * 1024;
/// In bytes, of each variable beside its name and value.
pub(crate) const ENV_OVERHEAD: usize = 2 + size_of::<*const u8>();

/// What a container gets with a resource's devices. What speaks of a device is there for each of them,
/// the rest once.
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
    pub(crate) read_only: bool,
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
    pub(crate) read_only: bool,
}

/// What one container gets, each list in the order of the resource's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pub envs: Vec<(String, String)>,
    /// Annotations for the container runtime; the Pod never shows them.
    pub annotations: Vec<(String, String)>,
    pub device_files: Vec<DeviceFile>,
    pub mounts: Vec<Mount>,
    /// Names of CDI devices.
    pub(crate) cdi_devices: Vec<String>,
}

/// Why a container gets nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AllocateError {
    /// No device of this resource has the ID.
    #[error("unknown device {0}")]
    Unknown(String),
    /// The device is unhealthy.
    #[error("device {0} is Unhealthy")]
    Unhealthy(String),
    /// The device is being taken away.
    #[error("device {0} is being removed")]
    Going(String),
    /// The kubelet could not receive the answer.
    #[error(
        "the answer for {asked} devices exceeds the 4 MiB that a kubelet can receive: ask for {fit} or fewer"
    )]
    TooLarge {
        /// For how many devices it was asked.
        asked: usize,
        /// For how many of these, counted from the first of the list, an answer is small enough.
        fit: usize,
    },
}

/// Checks every ID, then tells what a container with these devices gets. An ID named twice counts once.
///
/// # Errors
/// The first ID, as the kubelet ordered them, that can't be given; or that they are too many for one answer.
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
        if device.removing {
            return Err(AllocateError::Going(id.clone()));
        }
        if device.health == Health::Unhealthy {
            return Err(AllocateError::Unhealthy(id.clone()));
        }
        given.push(device);
    }
    given.sort_by_key(|device| device.index);
    given.dedup_by_key(|device| device.index);
    let asked = given.len();
    let too_large = |fit| AllocateError::TooLarge { asked, fit };
    // The answer for many devices may take gigabytes: check that it fits before it is built.
    if asked > FEW {
        let fit = outputs.most_in_an_answer(&given);
        if fit < asked {
            return Err(too_large(fit));
        }
    }
    let allocation = outputs.of(&given);
    if allocation.size() > ANSWER_SIZE_MAX {
        return Err(too_large(outputs.most_in_an_answer(&given)));
    }
    Ok(allocation)
}

/// Returns `count` if its size is within the limit, else a smaller count that is, near the largest such. The size must not
/// shrink as the count grows.
pub(crate) fn most_within(limit: usize, count: usize, size: impl Fn(usize) -> usize) -> usize {
    let (mut fits, mut fits_size) = (0, 0);
    // Doubling first: what is far too large is not made.
    let mut tried = 1.min(count);
    let (mut over, mut over_size) = loop {
        let tried_size = size(tried);
        if tried_size > limit {
            break (tried, tried_size);
        }
        if tried == count {
            return count;
        }
        (fits, fits_size) = (tried, tried_size);
        tried = count.min(tried * 2);
    };
    // Sizes grow evenly, or nearly so.
    for _ in 0..8 {
        let between = (limit - fits_size) * (over - fits) / (over_size - fits_size);
        if between == 0 || fits + between == over {
            break;
        }
        let tried = fits + between;
        let tried_size = size(tried);
        if tried_size > limit {
            (over, over_size) = (tried, tried_size);
        } else {
            (fits, fits_size) = (tried, tried_size);
        }
    }
    fits
}

/// The variables' way to say what a container gets; `None` is off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefixes {
    /// Env `<prefix>_<index>` = `/dev/<index>`.
    pub env: Option<String>,
    /// Annotation `<prefix>-<index>` = the device's ID.
    pub annotation: Option<String>,
    /// Device file `/dev/<prefix>-<index>`.
    pub(crate) device_file: Option<String>,
    /// The host's file behind every device file; `None`: the same path as in the container.
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
    /// What a container with these devices gets.
    pub fn of(&self, devices: &[&Device]) -> Allocation {
        if self.templates().any(Template::is_of_all) {
            return self.prepared(devices).made(devices);
        }
        self.made(devices)
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let pairs = self.envs.iter().chain(&self.annotations);
        let files = self.device_files.iter().flat_map(DeviceFileRule::paths);
        let mounts = self.mounts.iter().flat_map(MountRule::paths);
        let pairs = pairs.flat_map(|(name, value)| [name, value]);
        pairs.chain(files).chain(mounts).chain(&self.cdi_devices)
    }

    /// With what they say of all these devices made once, and not for each of them.
    fn prepared(&self, devices: &[&Device]) -> Self {
        let mut prepared = self.clone();
        let pairs = prepared.envs.iter_mut().chain(&mut prepared.annotations);
        let pairs = pairs.flat_map(|(name, value)| [name, value]);
        let files = prepared.device_files.iter_mut();
        let files = files.flat_map(|file| [&mut file.container_path, &mut file.host_path]);
        let mounts = prepared.mounts.iter_mut();
        let mounts = mounts.flat_map(|mount| [&mut mount.container_path, &mut mount.host_path]);
        let cdi_devices = prepared.cdi_devices.iter_mut();
        for template in pairs.chain(files).chain(mounts).chain(cdi_devices) {
            *template = template.prepared(devices);
        }
        prepared
    }

    fn made(&self, devices: &[&Device]) -> Allocation {
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

impl Outputs {
    /// How many of these devices, from the first on, a container can get in one answer.
    pub(crate) fn most_in_an_answer(&self, devices: &[&Device]) -> usize {
        let size = |count| self.of(&devices[..count]).size();
        most_within(ANSWER_SIZE_MAX, devices.len(), size)
    }
}

impl Allocation {
    /// The bytes of the answer on the wire, with nothing but this container in it.
    pub fn size(&self) -> usize {
        let text = |text: &str| match text.len() {
            0 => 0,
            len => delimited(len),
        };
        let pair = |(name, value): &(String, String)| delimited(text(name) + text(value));
        let file = |file: &DeviceFile| {
            let paths = text(&file.container_path) + text(&file.host_path);
            delimited(paths + text(&file.permissions))
        };
        let mount = |mount: &Mount| {
            let paths = text(&mount.container_path) + text(&mount.host_path);
            delimited(paths + if mount.read_only { 2 } else { 0 })
        };
        let pairs = self.envs.iter().chain(&self.annotations).map(pair);
        let files = self.device_files.iter().map(file);
        let mounts = self.mounts.iter().map(mount);
        let cdi_devices = self.cdi_devices.iter().map(|name| delimited(text(name)));
        delimited(pairs.chain(files).chain(mounts).chain(cdi_devices).sum())
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
    use crate::model::device::Counted;
    use crate::model::numa::NumaNodes;

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
    fn an_answer_that_the_kubelet_cannot_receive_is_refused_with_the_count_that_fits() {
        let devices = Counted::new("gpu", "worker", NumaNodes::default()).devices(50_000);
        let ids: Vec<String> = devices
            .as_slice()
            .iter()
            .map(|d| d.id.to_string())
            .collect();
        let asked = |count: usize| allocate(&devices, &outputs(None), &ids[..count]);
        let Err(AllocateError::TooLarge { asked: 45_000, fit }) = asked(45_000) else {
            panic!("no refusal");
        };
        assert!(asked(fit).is_ok_and(|given| given.size() <= ANSWER_SIZE_MAX));
        assert!(
            matches!(asked(fit + 100), Err(AllocateError::TooLarge { .. })),
            "{fit}"
        );
    }

    #[test]
    fn what_would_be_far_too_large_is_not_made() {
        let devices = Counted::new("gpu", "worker", NumaNodes::default()).devices(50_000);
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
    fn the_count_that_fits_is_near_the_largest() {
        for (limit, count, expected) in [
            (100, 10, 10),
            (100, 11, 10),
            (99, 11, 9),
            (9, 5, 0),
            (0, 0, 0),
        ] {
            assert_eq!(
                most_within(limit, count, |n| n * 10),
                expected,
                "{limit} {count}"
            );
        }
        let squares = most_within(1_000_000, 5000, |n| n * n);
        assert!((990..=1000).contains(&squares), "{squares}");
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
