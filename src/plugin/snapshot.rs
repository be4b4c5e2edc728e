//! A consistent view of one plugin for readiness, metrics and status.

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
    pub faults: Faults,
    /// What each device that is pending removal waits for. Empty unless [`PluginHandle::snapshot_with_waits`] took the
    /// snapshot.
    pub waits: BTreeMap<Box<str>, Wait>,
    pub record: Record,
}

impl PluginSnapshot {
    pub fn name(&self) -> &str {
        self.offer.resource().name.as_str()
    }

    /// Returns the number of healthy devices, and of all others.
    pub(crate) fn count_by_health(&self) -> (usize, usize) {
        let devices = self.offer.devices().as_slice();
        let healthy = devices
            .iter()
            .filter(|device| device.is_allocatable())
            .count();
        (healthy, devices.len() - healthy)
    }
}

impl PluginHandle {
    /// Takes a snapshot without `waits`.
    pub(crate) fn snapshot(&self) -> PluginSnapshot {
        PluginSnapshot {
            offer: self.offer(),
            faults: self.injector().faults(),
            waits: BTreeMap::new(),
            record: self.records().borrow().clone(),
        }
    }

    /// Takes a snapshot with `waits`, which visits every device.
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
