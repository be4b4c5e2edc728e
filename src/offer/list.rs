//! Builds the device list that is advertised to the kubelet.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::device::{Device, Devices, LIST_SIZE_MAX};

/// Returns the configured devices that fit, followed by the known devices that are not configured, as pending removal.
pub(super) fn advertised_devices(configured: &Arc<Devices>, known: &[Device]) -> Arc<Devices> {
    let mut ids = BTreeSet::new();
    let unconfigured = known
        .iter()
        .filter(|device| configured.get(&device.id).is_none() && ids.insert(&device.id));
    let removing: Vec<Device> = unconfigured
        .map(|device| Device {
            removing: true,
            ..device.clone()
        })
        .collect();
    if removing.is_empty() {
        return Arc::clone(configured);
    }
    fit(configured, removing, &Devices::from_list(known.to_vec())).into()
}

/// Adds the devices pending removal to the configured ones. If the list would exceed [`LIST_SIZE_MAX`], configured
/// devices that the kubelet does not know yet are left out.
fn fit(configured: &Devices, removing: Vec<Device>, known: &Devices) -> Devices {
    let is_known = |device: &&Device| known.get(&device.id).is_some();
    let configured = configured.as_slice();
    let mut size: usize = configured
        .iter()
        .filter(is_known)
        .chain(&removing)
        .map(Device::list_size)
        .sum();
    let mut fits = |device: &&Device| {
        let has_room = size + device.list_size() <= LIST_SIZE_MAX;
        size += if has_room { device.list_size() } else { 0 };
        has_room
    };
    let advertised = configured
        .iter()
        .filter(|device| is_known(device) || fits(device));
    Devices::from_list(advertised.cloned().chain(removing).collect())
}
