//! The settings of resources, from variables or a config file, each value with its origin. The config file is deserialized into
//! these types. `config.schema.json` is generated from them: their doc comments are its descriptions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::limits::devices_expected;
use crate::fault::Fault;
use crate::model::device::Health;
use crate::model::numa::{NUMA_NODE_MAX, NumaNodes};
use crate::model::preference::Policy;

/// The settings of one node.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub removal_grace: Duration,
    pub resources: Vec<ResourceSettings>,
    /// Warnings about settings that have no effect.
    pub warnings: Vec<String>,
}

/// Where a value was set. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A variable's full name, as in `NUMBER_DEVICES_1.worker2`.
    Variable(Arc<str>),
    /// A line of the config file, counted from 1.
    Line(usize),
}

/// A value with its origin. The config file's deserializer yields a tuple of line and value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "(usize, T)")]
pub(crate) struct At<T> {
    pub origin: Origin,
    pub value: T,
}

impl<T> From<(usize, T)> for At<T> {
    fn from((line, value): (usize, T)) -> Self {
        let origin = Origin::Line(line);
        Self { origin, value }
    }
}

/// For errors about another value that conflicts with this one.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::Line(line) => write!(f, "line {line}"),
        }
    }
}

/// One extended resource.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a resource with at least the key name"
)]
pub(crate) struct ResourceSettings {
    /// Name of the extended resource, for example example.com/gpu.
    pub name: At<String>,
    /// Number of devices, or a list of devices. Default: 2.
    pub devices: Option<At<DevicesSetting>>,
    /// Prefix of device IDs, which are `<deviceIdPrefix>-<node>-<index>`, unless devices is a list. Default: the part of the
    /// resource's name after the slash.
    pub(crate) device_id_prefix: Option<At<String>>,
    /// Name of the plugin's socket, `<pluginName>.sock`. Default: `simple-device-plugin-<name>`, with the slash written as
    /// an underscore.
    pub(crate) plugin_name: Option<At<String>>,
    /// NUMA nodes that are assigned in turn to the devices without the key numa. Default: no topology.
    #[serde(default, deserialize_with = "numa_nodes")]
    #[cfg_attr(test, schemars(with = "Option<Vec<u16>>", inner(range(max = 1023))))]
    pub numa_nodes: Option<NumaNodes>,
    /// Which of the available devices the kubelet should allocate first. Default: none.
    pub preferred_allocation: Option<Policy>,
    /// Adds the environment variable `<envPrefix>_<index>=/dev/<index>` for each device of a container. Default: off.
    pub(crate) env_prefix: Option<At<String>>,
    /// Adds the annotation `<annotationPrefix>-<index>=<device ID>` for each device of a container. Default: off.
    pub(crate) annotation_prefix: Option<At<String>>,
    /// Adds the device file `/dev/<deviceFilePrefix>-<index>` for each device of a container. Default: off.
    pub(crate) device_file_prefix: Option<At<String>>,
    /// Host path of all device files that deviceFilePrefix adds. Default: the path in the container.
    pub(crate) device_file_host_path: Option<At<String>>,
    /// Whether the kubelet calls PreStartContainer. Default: false.
    pub pre_start: Option<bool>,
    /// Environment variables of a container. A name with a placeholder of a device, such as {id}, adds one for each device.
    pub env: Option<Pairs>,
    /// Annotations of a container. The container runtime gets them, not the Pod object.
    pub annotations: Option<Pairs>,
    /// Device files of a container.
    pub device_files: Option<Vec<DeviceFileSettings>>,
    /// Files and directories of the host that are mounted into a container.
    pub mounts: Option<Vec<MountSettings>>,
    /// CDI devices of a container, for example vendor.example/class=name. Their specification must exist on the node.
    pub(crate) cdi_devices: Option<Vec<At<String>>>,
    /// Faults to inject.
    pub faults: Option<Vec<At<Fault>>>,
}

/// Number of devices, or a list of devices.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(untagged))]
pub(crate) enum DevicesSetting {
    /// Number of devices, with generated IDs.
    Count(usize),
    /// The devices.
    List(Vec<DeviceSettings>),
}

/// One device of a list.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a device with at least the key id"
)]
pub(crate) struct DeviceSettings {
    /// Device ID, unique in the resource. If it changes, running pods lose their devices.
    pub id: At<String>,
    /// Value of the placeholder {path}.
    pub path: Option<At<String>>,
    /// Health of the device. Default: Healthy.
    pub health: Option<Health>,
    /// NUMA nodes of the device. Default: one of the resource's numaNodes, in turn.
    #[serde(default, deserialize_with = "numa_nodes")]
    #[cfg_attr(test, schemars(with = "Option<Vec<u16>>", inner(range(max = 1023))))]
    pub numa: Option<NumaNodes>,
    /// Values of further placeholders: the attribute model is the value of {model}.
    pub attributes: Option<Pairs>,
}

/// A device file of a container.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a device file with at least the key hostPath"
)]
pub(crate) struct DeviceFileSettings {
    /// Path on the host.
    pub host_path: At<String>,
    /// Path in the container. Default: hostPath.
    pub container_path: Option<At<String>>,
    /// Permissions: one or more of r, w and m. Default: rw.
    #[cfg_attr(test, schemars(regex(pattern = "^[rwm]{1,3}$")))]
    pub permissions: Option<At<String>>,
}

/// A file or directory of the host that is mounted into a container.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a mount with at least the key hostPath"
)]
pub(crate) struct MountSettings {
    /// Path on the host.
    pub host_path: At<String>,
    /// Path in the container. Default: hostPath.
    pub container_path: Option<At<String>>,
    /// Whether the mount is read-only. Default: true.
    pub(crate) read_only: Option<bool>,
}

/// Names and values, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs(pub Vec<(At<String>, At<String>)>);

impl DeviceSettings {
    /// Returns the ID, the path, and the names and values of the attributes.
    pub fn texts(&self) -> impl Iterator<Item = &At<String>> {
        let attributes = self.attributes.iter().flat_map(|pairs| &pairs.0);
        let attributes = attributes.flat_map(|(name, value)| [name, value]);
        std::iter::once(&self.id)
            .chain(&self.path)
            .chain(attributes)
    }
}

impl ResourceSettings {
    /// Returns the number of environment variables, annotations, device files, mounts and CDI devices, before they are
    /// multiplied by devices.
    pub(crate) fn rules(&self) -> usize {
        let pairs = |pairs: &Option<Pairs>| pairs.as_ref().map_or(0, |pairs| pairs.0.len());
        let files = self.device_files.as_ref().map_or(0, Vec::len)
            + self.mounts.as_ref().map_or(0, Vec::len);
        pairs(&self.env)
            + pairs(&self.annotations)
            + files
            + self.cdi_devices.as_ref().map_or(0, Vec::len)
    }

    /// Returns these settings, with the keys that they leave out taken from `base`.
    pub fn over(self, base: Self) -> Self {
        Self {
            name: self.name,
            devices: self.devices.or(base.devices),
            device_id_prefix: self.device_id_prefix.or(base.device_id_prefix),
            plugin_name: self.plugin_name.or(base.plugin_name),
            numa_nodes: self.numa_nodes.or(base.numa_nodes),
            preferred_allocation: self.preferred_allocation.or(base.preferred_allocation),
            env_prefix: self.env_prefix.or(base.env_prefix),
            annotation_prefix: self.annotation_prefix.or(base.annotation_prefix),
            device_file_prefix: self.device_file_prefix.or(base.device_file_prefix),
            device_file_host_path: self.device_file_host_path.or(base.device_file_host_path),
            pre_start: self.pre_start.or(base.pre_start),
            env: self.env.or(base.env),
            annotations: self.annotations.or(base.annotations),
            device_files: self.device_files.or(base.device_files),
            mounts: self.mounts.or(base.mounts),
            cdi_devices: self.cdi_devices.or(base.cdi_devices),
            faults: self.faults.or(base.faults),
        }
    }
}

impl<'de> Deserialize<'de> for DevicesSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountOrList;
        impl<'de> Visitor<'de> for CountOrList {
            type Value = DevicesSetting;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a whole number, 0 or more, or a list of devices")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<DevicesSetting, E> {
                self.visit_u128(count.into())
            }

            fn visit_u128<E: de::Error>(self, count: u128) -> Result<DevicesSetting, E> {
                let count = usize::try_from(count).map_err(|_| E::custom(devices_expected()));
                count.map(DevicesSetting::Count)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<DevicesSetting, A::Error> {
                let mut devices = Vec::new();
                while let Some(device) = list.next_element()? {
                    devices.push(device);
                }
                Ok(DevicesSetting::List(devices))
            }
        }
        deserializer.deserialize_any(CountOrList)
    }
}

/// A number in the range of Linux' NUMA nodes.
#[derive(Deserialize)]
#[serde(try_from = "u16")]
struct NumaNode(u16);

impl TryFrom<u16> for NumaNode {
    type Error = String;

    fn try_from(node: u16) -> Result<Self, String> {
        if node > NUMA_NODE_MAX {
            return Err(format!("a NUMA node from 0 to {NUMA_NODE_MAX}"));
        }
        Ok(Self(node))
    }
}

fn numa_nodes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NumaNodes>, D::Error> {
    let nodes: Option<Vec<NumaNode>> = Option::deserialize(deserializer)?;
    let nodes = nodes.map(|nodes| nodes.into_iter().map(|node| node.0).collect());
    Ok(nodes.map(NumaNodes::new))
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a mapping of names to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator};

    use super::{At, Pairs};
    use crate::config::file::File;

    impl<T: JsonSchema> JsonSchema for At<T> {
        fn schema_name() -> Cow<'static, str> {
            T::schema_name()
        }

        fn inline_schema() -> bool {
            T::inline_schema()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            T::json_schema(generator)
        }
    }

    impl JsonSchema for Pairs {
        fn schema_name() -> Cow<'static, str> {
            "Pairs".into()
        }

        fn inline_schema() -> bool {
            true
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let _ = generator;
            schemars::json_schema!({
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"]}
            })
        }
    }

    /// `UPDATE=1 cargo test schema` updates the file.
    #[test]
    fn the_schema_file_is_up_to_date() {
        let schema = schemars::schema_for!(File);
        let current = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.schema.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == current,
            "run UPDATE=1 cargo test schema to update config.schema.json"
        );
    }
}
