//! The handle through which other modules observe and change a running plugin.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::fault::{Delays, Fault, TooManyFaults};
use crate::model::device::{Device, Health};
use crate::model::selection::SelectionError;
use crate::node::checkpoint::{Checkpoint, ListingStatus};
use crate::node::checkpoint_file::LoadedCheckpoint;
use crate::node::pod_resources::AllocatableDevices;
use crate::offer::removal::Removal;
use crate::offer::resource::Resource;
use crate::offer::{CountError, Offer};
use crate::plugin::record::{Cause, Record};
use crate::util::sanitize::sanitize;
use crate::util::watch_cell::WatchCell;

use super::injector::FaultInjector;

/// Observes and changes one plugin. Clones refer to the same plugin.
#[derive(Clone, Debug)]
pub struct PluginHandle {
    offer: WatchCell<Arc<Offer>>,
    injector: FaultInjector,
    /// Tracks calls and lists, to decide when a device pending removal can be removed from the list.
    removal: Arc<Mutex<Removal>>,
    record: WatchCell<Record>,
    /// Notified when the plugin must restart although the kubelet has its stream open.
    must_restart: Arc<Notify>,
}

impl PluginHandle {
    /// Creates a handle without faults. `delays` is the delay budget that all plugins share.
    pub(crate) fn new(resource: Resource, delays: Arc<Mutex<Delays>>) -> Self {
        let record = WatchCell::new(Record::new(SystemTime::now()));
        Self {
            injector: FaultInjector::new(resource.name.clone(), delays, record.clone()),
            offer: WatchCell::new(Arc::new(Offer::new(resource))),
            removal: Arc::default(),
            record,
            must_restart: Arc::default(),
        }
    }

    pub fn offer(&self) -> Arc<Offer> {
        Arc::clone(&self.offer.borrow())
    }

    /// Returns a receiver of every change to the offer.
    pub fn offers(&self) -> watch::Receiver<Arc<Offer>> {
        self.offer.subscribe()
    }

    /// Returns a receiver of the plugin's record. Counts of Allocate calls change without a notification.
    pub fn records(&self) -> watch::Receiver<Record> {
        self.record.subscribe()
    }

    pub(crate) fn injector(&self) -> &FaultInjector {
        &self.injector
    }

    pub(crate) fn removal(&self) -> MutexGuard<'_, Removal> {
        self.removal.lock()
    }

    /// Changes the record and notifies its receivers. `update` gets the current time.
    pub(crate) fn update_record(&self, update: impl FnOnce(&mut Record, SystemTime)) {
        self.record
            .update(|record| update(record, SystemTime::now()));
    }

    /// Changes the record without notifying its receivers, because there can be many calls per second.
    pub(super) fn update_record_silently(&self, update: impl FnOnce(&mut Record)) {
        self.record.update_silently(update);
    }

    /// Applies a new configuration of the same resource. Faults that are unchanged keep their counts.
    pub(crate) fn configure(&self, resource: &Resource, faults: &[Fault]) {
        self.injector.configure(faults);
        self.offer.reconfigure(resource);
    }

    /// Adds the devices that pods hold to the list, even if they are no longer configured.
    pub(super) fn add_held_devices(&self, held: &[Device]) {
        self.offer.add_held(held);
    }

    /// Removes these devices from the list if they are pending removal.
    pub(crate) fn remove_pending(&self, ids: &BTreeSet<&str>) {
        self.offer.remove_pending(ids);
    }

    /// Sends the unchanged device list again.
    pub(crate) fn repeat_list(&self) {
        self.offer.repeat();
    }

    /// Applies the health faults to the devices for as long as the future is polled.
    pub(crate) async fn flap(&self) -> Infallible {
        self.injector.flap(&self.offer).await
    }

    /// Overrides the health of the selected devices and returns their IDs. The format of `devices` is described in
    /// [`crate::model::selection`].
    ///
    /// # Errors
    /// Returns an error if the selection is invalid or matches no device.
    pub fn set_health(
        &self,
        devices: &str,
        health: Health,
    ) -> Result<Vec<Box<str>>, SelectionError> {
        self.offer.set_health(devices, health)
    }

    /// Overrides the number of devices.
    ///
    /// # Errors
    /// Returns an error if the devices are configured as a list, or if `count` exceeds a size limit.
    pub(crate) fn scale(&self, count: usize) -> Result<(), CountError> {
        self.offer.set(|offer| offer.with_count(count))
    }

    /// Removes all overrides and all faults set at run time, and restores the configured faults with new counts.
    pub(crate) fn reset(&self) {
        let Ok(()) = self
            .offer
            .set(|offer| Ok::<_, Infallible>(offer.without_overrides()));
        self.injector.reset();
    }

    /// Adds a fault and returns it. If it has a probability, it has a seed, which may be random.
    ///
    /// # Errors
    /// Returns an error if the resource already has too many faults.
    pub fn set_fault(&self, fault: Fault) -> Result<Fault, TooManyFaults> {
        self.injector.set(fault)
    }

    /// Removes all faults, including the configured ones, and returns their number.
    pub(crate) fn clear_faults(&self) -> usize {
        self.injector.clear()
    }

    /// Looks for the plugin's devices in the kubelet's lists. If they lack them twice in a row, the plugin restarts once.
    /// The kubelet does not write its checkpoint when it disconnects a plugin, so the API's list can be newer.
    pub(crate) fn check_listing(
        &self,
        allocatable: Option<&AllocatableDevices>,
        checkpoint: Option<&Checkpoint>,
    ) {
        let offer = self.offer();
        let (name, devices) = (offer.resource().name.as_str(), offer.devices());
        let live = allocatable.map(|allocatable| allocatable.listing_status(name, devices));
        let status = live
            .filter(|status| *status == ListingStatus::Lacking)
            .or_else(|| Some(checkpoint?.listing_status(name, devices)));
        let Some(status) = status else {
            return;
        };
        let is_missing = self
            .record
            .update(|record| record.listing_read(status, SystemTime::now()));
        if is_missing {
            // No notification is lost: the restart loop waits for it while the plugin is registered.
            self.must_restart.notify_waiters();
        }
    }

    /// Checks whether the kubelet's checkpoint has another plugin's devices. Returns false if it is too early to tell.
    pub(crate) fn check_owner(&self, written: &LoadedCheckpoint) -> bool {
        let (offer, now) = (self.offer(), Instant::now());
        let is_described = self.record.borrow().is_described_by(written.version, now);
        if is_described != Some(true) {
            return is_described.is_some();
        }
        let resource = &offer.resource().name;
        let status = written
            .checkpoint
            .listing_status(resource.as_str(), offer.devices());
        if let ListingStatus::OtherDevices(id) = status
            && !self.is_taken_over()
        {
            let device = sanitize(id);
            warn!(%resource, device, "another plugin has registered the resource, and the kubelet has its devices; stop it, or set a different RESOURCE_NAME");
            self.update_record(|record, _| record.taken_over(&device));
        }
        true
    }

    /// Returns whether another plugin has taken the resource over.
    pub(super) fn is_taken_over(&self) -> bool {
        self.record.borrow().is_taken_over()
    }

    /// Makes the plugin register again after the plugin that took the resource over has stopped.
    pub(crate) fn other_plugin_stopped(&self) {
        self.update_record(Record::other_plugin_stopped);
        self.must_restart.notify_waiters();
    }

    /// Records that no other plugin has taken the resource over, and sends the device list again, because the kubelet
    /// may have the list of another plugin.
    pub(crate) fn not_taken_over(&self) {
        self.update_record(|record, _| record.not_taken_over());
        self.repeat_list();
    }

    /// Waits until the plugin must restart although the kubelet has its stream open. Returns the cause.
    pub(crate) async fn must_restart(&self) -> Cause {
        self.must_restart.notified().await;
        if self.is_taken_over() {
            Cause::Takeover
        } else {
            Cause::Checkpoint
        }
    }
}
