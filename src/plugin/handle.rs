//! One plugin, as others see it and steer it while it runs.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::checkpoint::Checkpoint;
use crate::offer_handle::OfferHandle;
use crate::record::Record;
use crate::resource::Resource;

/// A clone is another handle to the same plugin.
#[derive(Clone, Debug)]
pub struct PluginHandle {
    /// What it offers.
    pub offer: OfferHandle,
    /// What became of it.
    pub record: watch::Sender<Record>,
    /// The kubelet's checkpoint lacks it.
    pub forgotten: Arc<Notify>,
}

impl PluginHandle {
    /// Nothing runs yet.
    pub fn new(resource: Resource) -> Self {
        Self {
            offer: OfferHandle::new(resource),
            record: watch::Sender::new(Record::new(SystemTime::now())),
            forgotten: Arc::default(),
        }
    }

    /// Notes something at this moment.
    pub fn note(&self, what: impl FnOnce(&mut Record, SystemTime)) {
        self.record
            .send_modify(|record| what(record, SystemTime::now()));
    }

    /// Looks for it in the kubelet's checkpoint; where it is missing again and again, it starts over, once.
    pub fn look(&self, checkpoint: &Checkpoint) {
        let offer = self.offer.now();
        let resource = offer.resource().name.as_str();
        let standing = checkpoint.standing(resource, offer.devices());
        let mut forgotten = false;
        self.record.send_if_modified(|record| {
            forgotten = record.looked(standing, SystemTime::now());
            forgotten
        });
        if forgotten {
            warn!(%resource, "the kubelet's checkpoint lacks the resource though its stream is open: starting over, once");
            // It is heard: a plugin that is registered listens.
            self.forgotten.notify_waiters();
        }
    }
}
