//! What can be configured of a resource, wherever it is said: each value with its origin. The keys of the config file and its
//! JSON schema are generated from these types, their comments are the schema's descriptions.

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

/// What is configured for one node.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub removal_grace: Duration,
    pub resources: Vec<ResourceSettings>,
}

/// Where a value stands. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A variable's full name, as in `NUMBER_DEVICES_1.worker2`.
    Variable(Arc<str>),
    /// A line of the config file, counted from 1.
    Line(usize),
}

/// A value with its origin. The config file's deserializer gives a tuple of line and value.
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

/// In an error about another value.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::Line(line) => write!(f, "line {line}"),
        }
    }
}

/// One extended resource. The variable of a key is its name in capitals.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a resource with the key name and more"
)]
pub(crate) struct ResourceSettings {
    /// The extended resource's name, as in example.com/gpu.
    pub name: At<String>,
    /// How many devices, 2 by default, or a list of them.
    pub devices: Option<At<DevicesSetting>>,
    /// IDs of counted devices are `<deviceIdPrefix>-<node>-<index>`; by default the part of the name after /.
    pub(crate) device_id_prefix: Option<At<String>>,
    /// The plugin's socket is `<pluginName>.sock`.
    pub(crate) plugin_name: Option<At<String>>,
    /// NUMA nodes over which the devices that have none of their own are dealt in turn.
    #[serde(default, deserialize_with = "numa_nodes")]
    #[cfg_attr(test, schemars(with = "Option<Vec<u16>>", inner(range(max = 1023))))]
    pub numa_nodes: Option<NumaNodes>,
    /// Which free devices a pod gets.
    pub preferred_allocation: Option<Policy>,
    /// A container's env `<envPrefix>_<index>=/dev/<index>`.
    pub(crate) env_prefix: Option<At<String>>,
    /// A container's annotation `<annotationPrefix>-<index>=<device ID>`.
    pub(crate) annotation_prefix: Option<At<String>>,
    /// A container's device file `/dev/<deviceFilePrefix>-<index>`.
    pub(crate) device_file_prefix: Option<At<String>>,
    /// The host's file behind each of these; by default the same path.
    pub(crate) device_file_host_path: Option<At<String>>,
    /// Whether the kubelet calls PreStartContainer.
    pub pre_start: Option<bool>,
    /// A container's env; a name with a device's placeholder is one variable per device.
    pub env: Option<Pairs>,
    /// A container's annotations, for the container runtime.
    pub annotations: Option<Pairs>,
    /// A container's device files.
    pub device_files: Option<Vec<DeviceFileSettings>>,
    /// Files and directories of the host in a container.
    pub mounts: Option<Vec<MountSettings>>,
    /// Names of CDI devices whose specification is on the node.
    pub(crate) cdi_devices: Option<Vec<At<String>>>,
    /// What goes wrong on purpose.
    pub faults: Option<Vec<At<Fault>>>,
}

/// How many devices, or a list of them.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(untagged))]
pub(crate) enum DevicesSetting {
    /// So many, with IDs of their own making.
    Count(usize),
    /// These.
    List(Vec<DeviceSettings>),
}

/// One device of a list.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a device with the key id and more"
)]
pub(crate) struct DeviceSettings {
    /// Unique in its resource; it must stay the same, or running pods lose their devices.
    pub id: At<String>,
    /// Stands for `{path}`.
    pub path: Option<At<String>>,
    /// Healthy by default.
    pub health: Option<Health>,
    /// All the NUMA nodes that it is near to.
    #[serde(default, deserialize_with = "numa_nodes")]
    #[cfg_attr(test, schemars(with = "Option<Vec<u16>>", inner(range(max = 1023))))]
    pub numa: Option<NumaNodes>,
    /// Each stands for `{<its name>}`.
    pub attributes: Option<Pairs>,
}

/// A device file.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a device file with the key hostPath and more"
)]
pub(crate) struct DeviceFileSettings {
    /// Its path on the host.
    pub host_path: At<String>,
    /// Its path in the container; by default the same.
    pub container_path: Option<At<String>>,
    /// Some of r, w and m; rw by default.
    #[cfg_attr(test, schemars(regex(pattern = "^[rwm]{1,3}$")))]
    pub permissions: Option<At<String>>,
}

/// A file or directory of the host.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a mount with the key hostPath and more"
)]
pub(crate) struct MountSettings {
    /// Its path on the host.
    pub host_path: At<String>,
    /// Its path in the container; by default the same.
    pub container_path: Option<At<String>>,
    /// Whether the container can only read it; true by default.
    pub(crate) read_only: Option<bool>,
}

/// Names with their values, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs(pub Vec<(At<String>, At<String>)>);

impl DeviceSettings {
    /// All that it says in words of its own.
    pub fn texts(&self) -> impl Iterator<Item = &At<String>> {
        let attributes = self.attributes.iter().flat_map(|pairs| &pairs.0);
        let attributes = attributes.flat_map(|(name, value)| [name, value]);
        std::iter::once(&self.id)
            .chain(&self.path)
            .chain(attributes)
    }
}

impl ResourceSettings {
    /// How many rules there are for what a container gets.
    pub(crate) fn rules(&self) -> usize {
        let pairs = |pairs: &Option<Pairs>| pairs.as_ref().map_or(0, |pairs| pairs.0.len());
        let files = self.device_files.as_ref().map_or(0, Vec::len)
            + self.mounts.as_ref().map_or(0, Vec::len);
        pairs(&self.env)
            + pairs(&self.annotations)
            + files
            + self.cdi_devices.as_ref().map_or(0, Vec::len)
    }

    /// The keys that this names, over those of the other.
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
                f.write_str("a whole number, or a list of devices")
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

/// One of the NUMA nodes that Linux can have.
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
                f.write_str("names with their values")
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

    /// Where editors find it: `KEEP=1 cargo test schema` writes it anew.
    #[test]
    fn the_kept_schema_is_current() {
        let schema = schemars::schema_for!(File);
        let current = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.schema.json");
        if std::env::var_os("KEEP").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == current, "KEEP=1 cargo test schema keeps it");
    }
}
