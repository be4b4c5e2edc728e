//! The devices of a resource: counted ones, or a list.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::resources::{FileReader, TakenByFile, filled};
use super::typed::At;
use crate::config::limits::{TEXT_MAX, text_expected};
use crate::config::resources::{NUMBER_DEVICES_DEFAULT, Reported, all};
use crate::config::settings::{DeviceSettings, DevicesSetting, Pairs, ResourceSettings};
use crate::model::device::{Counted, Detail, Device, Devices, Health, LIST_SIZE_MAX};
use crate::model::numa::{NUMA_NODE_MAX, NumaNodes};
use crate::model::resource_name::ResourceName;
use crate::model::template::{PLACEHOLDERS, is_attribute};

impl FileReader<'_, '_> {
    pub(super) fn devices(
        &mut self,
        keys: &ResourceSettings,
        name: Option<&ResourceName>,
        taken: &mut TakenByFile,
    ) -> Result<(Devices, Option<Counted>), Reported> {
        let numa = self.numa("numaNodes", keys.numa_nodes.as_deref().unwrap_or_default());
        let known_numa = numa.as_deref().ok().unwrap_or_default();
        let (line, count) = match &keys.devices {
            Some(At {
                value: DevicesSetting::List(list),
                ..
            }) => {
                let counted = taken.devices.add(list.len());
                counted.map_err(|expected| self.report(self.line, "devices", None, expected))?;
                let listed = self.list(list, known_numa)?;
                return numa.map(|_| (listed, None));
            }
            Some(At {
                value: DevicesSetting::Count(count),
                line,
            }) => (*line, *count),
            None => (self.line, NUMBER_DEVICES_DEFAULT),
        };
        let prefix = filled(keys.device_id_prefix.as_ref()).map(|prefix| &*prefix.value);
        // Always the resource's own, so that another resource that comes changes no IDs.
        let prefix = prefix
            .or(name.map(ResourceName::name_part))
            .ok_or(Reported)?;
        let (node, dealt) = (self.common.node, NumaNodes::dealing(known_numa.to_vec()));
        let counted = Counted::new(prefix, node, dealt);
        counted
            .list_size(count)
            .map_err(|expected| self.report(line, "devices", Some(&count.to_string()), expected))?;
        let all = taken.devices.add(count);
        all.map_err(|expected| self.report(line, "devices", Some(&count.to_string()), expected))?;
        numa.map(|_| (counted.devices(count), Some(counted)))
    }

    fn list(&mut self, list: &[DeviceSettings], numa: &[u16]) -> Result<Devices, Reported> {
        let mut ids = BTreeMap::new();
        let mut size = 0;
        let mut read = |(index, keys): (usize, &DeviceSettings)| {
            let device = self.device(index, keys, numa);
            if keys.id.value.is_empty() {
                return Err(self.error("id", &keys.id, "an ID"));
            }
            if let Some(first) = ids.get(&keys.id.value) {
                let expected = format!("each ID once; line {first} has it already");
                return Err(self.error("id", &keys.id, expected));
            }
            ids.insert(keys.id.value.clone(), keys.id.line);
            let device = device?;
            size += device.list_size();
            if size > LIST_SIZE_MAX && size - device.list_size() <= LIST_SIZE_MAX {
                return Err(self.error(
                    "id",
                    &keys.id,
                    format_args!("at most {index} devices with such IDs, or the list passes the kubelet's 4 MiB"),
                ));
            }
            Ok(device)
        };
        // Collected first: an error in one device must not hide those of the next.
        let devices: Vec<Result<Device, Reported>> =
            list.iter().enumerate().map(&mut read).collect();
        Ok(Devices::from_list(
            devices.into_iter().collect::<Result<_, Reported>>()?,
        ))
    }

    fn device(
        &mut self,
        index: usize,
        keys: &DeviceSettings,
        dealt: &[u16],
    ) -> Result<Device, Reported> {
        if let Some(text) = keys.texts().find(|text| text.value.len() > TEXT_MAX) {
            let expected = text_expected();
            return Err(self.report(text.line, "devices", None, expected));
        }
        let attributes = keys
            .attributes
            .as_ref()
            .map(|pairs| self.attributes(pairs))
            .transpose();
        let numa: Arc<[u16]> = match &keys.numa {
            Some(nodes) => self.numa("numa", nodes)?.into(),
            None => index
                .checked_rem(dealt.len())
                .map(|turn| dealt[turn])
                .into_iter()
                .collect(),
        };
        let detail = Detail {
            path: keys.path.as_ref().map(|path| path.value.clone()),
            attributes: attributes?.unwrap_or_default(),
        };
        Ok(Device {
            health: keys.health.unwrap_or(Health::Healthy),
            detail: (detail != Detail::default()).then(|| detail.into()),
            ..Device::new(&*keys.id.value, index, numa)
        })
    }

    fn attributes(&mut self, pairs: &Pairs) -> Result<BTreeMap<String, String>, Reported> {
        let mut read = |(name, value): &(At<String>, At<String>)| {
            if PLACEHOLDERS.contains(&&*name.value) {
                return Err(self.error(
                    "attributes",
                    name,
                    "another name: this one is a placeholder's",
                ));
            }
            if !is_attribute(&name.value) {
                return Err(self.error(
                    "attributes",
                    name,
                    "a name of letters, digits, '.', '_', '-' and '/'",
                ));
            }
            Ok((name.value.clone(), value.value.clone()))
        };
        let read = all(Some(&pairs.0), &mut read)?;
        Ok(read.into_iter().collect())
    }

    fn numa(&mut self, key: &str, nodes: &[At<u16>]) -> Result<Vec<u16>, Reported> {
        let mut read = |node: &At<u16>| {
            if node.value > NUMA_NODE_MAX {
                let expected = format!("a NUMA node from 0 to {NUMA_NODE_MAX}");
                return Err(self.report(node.line, key, Some(&node.value.to_string()), expected));
            }
            Ok(node.value)
        };
        all(Some(nodes), &mut read)
    }
}
