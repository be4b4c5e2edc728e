//! One plugin while it runs: how others see it and change it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use crate::fault::{Delays, Fault, TooManyFaults};
use crate::model::device::{Device, Health};
use crate::model::selection::SelectionError;
use crate::node::checkpoint::Checkpoint;
use crate::offer::removal::Removal;
use crate::offer::resource::Resource;
use crate::offer::{CountError, Offer};
use crate::plugin::record::Record;
use crate::util::watch_cell::WatchCell;

use super::injector::FaultInjector;

/// A clone is another handle to the same plugin.
#[derive(Clone, Debug)]
pub struct PluginHandle {
    offer: WatchCell<Arc<Offer>>,
    injector: FaultInjector,
    /// When devices that are pending removal can be dropped.
    removal: Arc<Mutex<Removal>>,
    /// What became of it.
    record: WatchCell<Record>,
    /// The kubelet's checkpoint lacks it.
    forgotten: Arc<Notify>,
}

impl PluginHandle {
    /// A plugin for this resource, without faults. `delays` are those of all plugins together.
    pub(crate) fn new(resource: Resource, delays: Arc<Mutex<Delays>>) -> Self {
        let record = WatchCell::new(Record::new(SystemTime::now()));
        Self {
            injector: FaultInjector::new(resource.name.clone(), delays, record.clone()),
            offer: WatchCell::new(Arc::new(Offer::new(resource))),
            removal: Arc::default(),
            record,
            forgotten: Arc::default(),
        }
    }

    /// The offer as it is now.
    pub fn offer(&self) -> Arc<Offer> {
        Arc::clone(&self.offer.borrow())
    }

    /// Follows the offer.
    pub fn offers(&self) -> watch::Receiver<Arc<Offer>> {
        self.offer.subscribe()
    }

    /// Follows what becomes of the plugin.
    pub fn records(&self) -> watch::Receiver<Record> {
        self.record.subscribe()
    }

    pub(crate) fn injector(&self) -> &FaultInjector {
        &self.injector
    }

    pub(crate) fn removal(&self) -> MutexGuard<'_, Removal> {
        self.removal.lock()
    }

    /// Notes something at this moment.
    pub(crate) fn note(&self, what: impl FnOnce(&mut Record, SystemTime)) {
        self.record.update(|record| what(record, SystemTime::now()));
    }

    /// Counts something without waking those who follow the record: there can be very many calls.
    pub(super) fn count(&self, what: impl FnOnce(&mut Record)) {
        self.record.update_silently(what);
    }

    /// Replaces the configuration by another one of the same resource. Faults that both have go on.
    pub(crate) fn configure(&self, resource: &Resource, faults: &[Fault]) {
        self.injector.configure(faults);
        self.offer.reconfigure(resource);
    }

    /// Adds the devices that pods hold to the list, also where the configuration lacks them.
    pub(super) fn hold(&self, held: &[Device]) {
        self.offer.add_held(held);
    }

    /// Drops these of the devices that are pending removal.
    pub(crate) fn drop_removing(&self, ids: &BTreeSet<&str>) {
        self.offer.drop_removing(ids);
    }

    /// Sends the same list once more.
    pub(crate) fn repeat_list(&self) {
        self.offer.repeat();
    }

    /// Makes devices flap, by its faults, for as long as it is polled.
    pub(crate) async fn flap(&self) -> Infallible {
        self.injector.flap(&self.offer).await
    }

    /// Sets the health of devices (see [`crate::model::selection`]) and returns their IDs.
    ///
    /// # Errors
    /// When no such device is there.
    pub fn set_health(
        &self,
        devices: &str,
        health: Health,
    ) -> Result<Vec<Box<str>>, SelectionError> {
        self.offer.set_health(devices, health)
    }

    /// Sets the number of devices.
    ///
    /// # Errors
    /// If the devices are a list, or the list would pass the kubelet's 4 MiB.
    pub(crate) fn scale(&self, count: usize) -> Result<(), CountError> {
        self.offer.set(|offer| offer.with_count(count))
    }

    /// Back to the configuration: overrides and faults set at run time are removed, configured faults begin anew.
    pub(crate) fn reset(&self) {
        let Ok(()) = self
            .offer
            .set(|offer| Ok::<_, Infallible>(offer.as_configured()));
        self.injector.reset();
    }

    /// Adds a fault; returns it with its seed.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set_fault(&self, fault: Fault) -> Result<Fault, TooManyFaults> {
        self.injector.set(fault)
    }

    /// Removes all faults, the configured ones too; returns how many.
    pub(crate) fn clear_faults(&self) -> usize {
        self.injector.clear()
    }

    /// Looks for the resource in the kubelet's checkpoint. Where it is missing repeatedly, the plugin starts over, once.
    pub(crate) fn compare_with(&self, checkpoint: &Checkpoint) {
        let offer = self.offer();
        let standing = checkpoint.standing(offer.resource().name.as_str(), offer.devices());
        let forgotten = self
            .record
            .update(|record| record.checkpoint_read(standing, SystemTime::now()));
        if forgotten {
            // It is heard: a plugin that is registered listens.
            self.forgotten.notify_waiters();
        }
    }

    /// Waits until the kubelet's checkpoint lacks the resource repeatedly.
    pub(crate) async fn forgotten(&self) {
        self.forgotten.notified().await;
    }
}
