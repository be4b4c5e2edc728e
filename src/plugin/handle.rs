//! One plugin, as others see it and steer it while it runs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::fault::handle::FaultHandle;
use crate::fault::{Delays, Fault};
use crate::node::checkpoint::Checkpoint;
use crate::offer::handle::OfferHandle;
use crate::offer::removal::Removal;
use crate::offer::resource::Resource;
use crate::plugin::record::Record;

/// A clone is another handle to the same plugin.
#[derive(Clone, Debug)]
pub struct PluginHandle {
    pub offer: OfferHandle,
    /// What goes wrong with it on purpose.
    pub faults: FaultHandle,
    /// How long calls may be delayed, of all plugins together.
    pub delays: Arc<Mutex<Delays>>,
    /// When devices that are pending removal can be dropped.
    pub removal: Arc<Mutex<Removal>>,
    /// What became of it.
    pub record: watch::Sender<Record>,
    /// The kubelet's checkpoint lacks it.
    pub forgotten: Arc<Notify>,
}

impl PluginHandle {
    pub fn new(resource: Resource, delays: Arc<Mutex<Delays>>) -> Self {
        let faults = FaultHandle::default();
        warn_of_faults(&resource, &faults.configure(&[], &resource.faults));
        Self {
            offer: OfferHandle::new(resource),
            faults,
            delays,
            removal: Arc::default(),
            record: watch::Sender::new(Record::new(SystemTime::now())),
            forgotten: Arc::default(),
        }
    }

    /// Notes something at this moment.
    pub fn note(&self, what: impl FnOnce(&mut Record, SystemTime)) {
        self.record
            .send_modify(|record| what(record, SystemTime::now()));
    }

    /// Another configuration of the same resource. Faults that it has already go on.
    pub fn reconfigure(&self, resource: &Resource) {
        let before = Arc::clone(self.offer.now().resource());
        if before.faults != resource.faults {
            let new = self.faults.configure(&before.faults, &resource.faults);
            warn_of_faults(resource, &new);
        }
        self.offer.reconfigure(resource);
    }

    /// Back to what the configuration says: what was set at run time is taken back, and its faults are as at the start.
    pub fn as_configured(&self) {
        let offer = self
            .offer
            .set(|offer| Ok::<_, Infallible>(offer.as_configured()));
        let Ok(()) = offer;
        self.faults.reset(&self.offer.now().resource().faults);
    }

    /// Looks for the resource in the kubelet's checkpoint. Where it is missing repeatedly, the plugin starts over, once.
    pub(crate) fn compare_with(&self, checkpoint: &Checkpoint) {
        let offer = self.offer.now();
        let resource = offer.resource().name.as_str();
        let standing = checkpoint.standing(resource, offer.devices());
        let mut forgotten = false;
        self.record.send_if_modified(|record| {
            forgotten = record.checkpoint_read(standing, SystemTime::now());
            forgotten
        });
        if forgotten {
            warn!(%resource, "the kubelet's checkpoint lacks the resource though its stream is open: starting over, once");
            // It is heard: a plugin that is registered listens.
            self.forgotten.notify_waiters();
        }
    }
}

/// Logs configured faults, so that failures can be explained.
fn warn_of_faults(resource: &Resource, faults: &[Fault]) {
    for fault in faults {
        warn!(resource = %resource.name, %fault, "a fault is configured");
    }
}
