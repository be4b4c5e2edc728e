//! Resolves the devices of a resource, which are a count or a list.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Resolver;
use crate::config::error::{Reported, all};
use crate::config::limits::check_text;
use crate::config::settings::{
    At, DeviceSettings, DevicesSetting, Origin, Pairs, ResourceSettings,
};
use crate::model::device::{CountedDevices, Detail, Device, Devices, Health, LIST_SIZE_MAX};
use crate::model::numa::NumaNodes;
use crate::model::resource_name::ResourceName;
use crate::model::template::{PLACEHOLDERS, is_attribute};

pub(crate) const COUNT_DEFAULT: usize = 2;

impl Resolver<'_> {
    /// Returns the devices, and how to generate more of them, unless they are a list.
    pub(super) fn devices(
        &mut self,
        settings: &ResourceSettings,
        name: Option<&ResourceName>,
    ) -> Result<(Devices, Option<CountedDevices>), Reported> {
        match &settings.devices {
            None => self.counted(settings, name, &settings.name.origin, COUNT_DEFAULT),
            Some(At { origin, value }) => match value {
                DevicesSetting::Count(count) => self.counted(settings, name, origin, *count),
                DevicesSetting::List(list) => {
                    let added = self.devices.add(list.len());
                    added.map_err(|expected| {
                        self.errors.add_at(origin, "devices", None, expected)
                    })?;
                    let listed = self.list(list, settings.numa_nodes.as_ref())?;
                    Ok((listed, None))
                }
            },
        }
    }

    fn counted(
        &mut self,
        settings: &ResourceSettings,
        name: Option<&ResourceName>,
        origin: &Origin,
        count: usize,
    ) -> Result<(Devices, Option<CountedDevices>), Reported> {
        let prefix = self.id_prefix(settings, name);
        // If the prefix is invalid, size the list as if it were empty: a count that is too large even then is still an error.
        let known_prefix = prefix.as_deref().unwrap_or_default();
        let numa = settings.numa_nodes.clone().unwrap_or_default();
        let counted = CountedDevices::new(known_prefix, self.node, numa);
        let listed = counted.list_size(count).map_err(|error| error.to_string());
        let added = listed.and_then(|_| self.devices.add(count));
        added.map_err(|expected| {
            let value = count.to_string();
            self.errors
                .add_at(origin, "devices", Some(&value), expected)
        })?;
        let prefix = prefix?;
        let longest = format!("{prefix}-{}-{count}", self.node);
        check_text(&longest).map_err(|expected| {
            let expected = format!("device IDs of {expected}, not {}", longest.len());
            self.errors.add_at(origin, "deviceIdPrefix", None, expected)
        })?;
        Ok((counted.devices(count), Some(counted)))
    }

    /// The default is part of the resource's name, so that adding another resource changes no IDs.
    fn id_prefix(
        &mut self,
        settings: &ResourceSettings,
        name: Option<&ResourceName>,
    ) -> Result<String, Reported> {
        let given = self.text("deviceIdPrefix", settings.device_id_prefix.as_ref())?;
        let given = given.map(|given| &*given.value);
        let prefix = given.or(name.map(ResourceName::name_part));
        prefix.map(str::to_owned).ok_or(Reported)
    }

    fn list(
        &mut self,
        list: &[DeviceSettings],
        numa: Option<&NumaNodes>,
    ) -> Result<Devices, Reported> {
        let mut ids = BTreeMap::new();
        let mut size = 0;
        let resolve = |(index, settings): (usize, &DeviceSettings)| {
            let device = self.device(index, settings, numa);
            let id = &settings.id;
            if id.value.is_empty() {
                return Err(self.error("id", id, "a device ID"));
            }
            if let Some(first) = ids.get(&id.value) {
                let expected = format!("each ID only once; it is already set in {first}");
                return Err(self.error("id", id, expected));
            }
            ids.insert(id.value.clone(), id.origin.clone());
            let device = device?;
            let previous = size;
            size += device.list_size();
            if size > LIST_SIZE_MAX && previous <= LIST_SIZE_MAX {
                let expected = format!(
                    "at most {index} devices with IDs of this length: the kubelet accepts a list of at most 4 MiB"
                );
                return Err(self.error("id", id, expected));
            }
            Ok(device)
        };
        all(list.iter().enumerate().map(resolve)).map(Devices::from_list)
    }

    fn device(
        &mut self,
        index: usize,
        settings: &DeviceSettings,
        shared_numa: Option<&NumaNodes>,
    ) -> Result<Device, Reported> {
        let mut texts = settings.texts();
        texts.try_for_each(|text| self.check_length("devices", text))?;
        let attributes = settings.attributes.as_ref();
        let attributes = attributes.map(|pairs| self.attributes(pairs)).transpose()?;
        let numa: Arc<[u16]> = match &settings.numa {
            Some(nodes) => nodes.as_slice().into(),
            None => shared_numa
                .and_then(|nodes| nodes.node_of(index))
                .into_iter()
                .collect(),
        };
        let detail = Detail {
            path: settings.path.as_ref().map(|path| path.value.clone()),
            attributes: attributes.unwrap_or_default(),
        };
        Ok(Device {
            health: settings.health.unwrap_or(Health::Healthy),
            detail: (detail != Detail::default()).then(|| detail.into()),
            ..Device::new(&*settings.id.value, index, numa)
        })
    }

    fn attributes(&mut self, pairs: &Pairs) -> Result<BTreeMap<String, String>, Reported> {
        let attributes = all(pairs.0.iter().map(|(name, value)| {
            let expected = if PLACEHOLDERS.contains(&&*name.value) {
                "another name: this is the name of a placeholder"
            } else if is_attribute(&name.value) {
                return Ok((name.value.clone(), value.value.clone()));
            } else {
                "a name of letters, digits, '.', '_', '-' and '/'"
            };
            Err(self.error("attributes", name, expected))
        }));
        Ok(attributes?.into_iter().collect())
    }
}
