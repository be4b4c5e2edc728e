//! One plugin, as others see it and steer it while it runs.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::checkpoint::{Checkpoint, Standing};
use crate::offer_handle::OfferHandle;
use crate::record::{Record, State};
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

    /// Notes another step of its life.
    pub fn entered(&self, step: State) {
        self.record
            .send_modify(|record| record.entered(step, SystemTime::now()));
    }

    /// Looks for it in the kubelet's checkpoint; where it is missing again and again, it starts over, once.
    pub fn look(&self, checkpoint: &Checkpoint) {
        let offer = self.offer.now();
        let resource = offer.resource().name.as_str();
        let is_there = checkpoint.standing(resource, offer.devices()) != Standing::Lacking;
        let mut forgotten = false;
        self.record.send_if_modified(|record| {
            forgotten = record.looked(is_there);
            forgotten
        });
        if forgotten {
            warn!(%resource, "the kubelet's checkpoint lacks the resource though its stream is open: starting over, once");
            self.forgotten.notify_waiters();
        }
    }
}
