//! What can be seen of one plugin at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::fault::Faults;
use crate::offer::Offer;
use crate::offer::removal::Wait;
use crate::plugin::record::Record;

use super::handle::PluginHandle;

#[derive(Debug)]
pub struct PluginSnapshot {
    pub offer: Arc<Offer>,
    /// What goes wrong with it on purpose.
    pub faults: Faults,
    /// What each device that is pending removal waits for, where that was asked for.
    pub waits: BTreeMap<Box<str>, Wait>,
    /// What became of it.
    pub record: Record,
}

impl PluginSnapshot {
    /// The resource's name.
    pub fn name(&self) -> &str {
        self.offer.resource().name.as_str()
    }

    /// How many of its devices pods can have, and how many they cannot.
    pub(crate) fn healthy_and_not(&self) -> (usize, usize) {
        let devices = self.offer.devices().as_slice();
        let healthy = devices
            .iter()
            .filter(|device| device.is_allocatable())
            .count();
        (healthy, devices.len() - healthy)
    }
}

impl PluginHandle {
    /// Takes a snapshot without what single devices wait for.
    pub(crate) fn snapshot(&self) -> PluginSnapshot {
        PluginSnapshot {
            offer: self.offer(),
            faults: self.injector().faults(),
            waits: BTreeMap::new(),
            record: self.records().borrow().clone(),
        }
    }

    /// Takes a snapshot with what single devices wait for. There may be very many devices.
    pub(crate) fn snapshot_with_waits(&self) -> PluginSnapshot {
        let snapshot = self.snapshot();
        let ids = snapshot.offer.removing().map(|device| &*device.id);
        let grace = snapshot.offer.resource().removal_grace;
        let removal = self.removal();
        let waits = removal.waits(ids, grace, Instant::now()).into_iter();
        let waits = waits.map(|(id, wait)| (id.into(), wait)).collect();
        drop(removal);
        PluginSnapshot { waits, ..snapshot }
    }
}
