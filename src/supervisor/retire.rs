//! Drops devices that are going once nobody can have them any more.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{debug, info};

use crate::checkpoint_file::CheckpointFile;
use crate::lock::lock;
use crate::offer_handle::OfferHandle;
use crate::retirement::Retirement;

/// Between two looks, while devices are going: after the grace, but not all the time and not too rarely.
const LOOK_AGAIN: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(5);

/// Drops devices of one resource for as long as it is polled.
pub async fn retire<T>(
    offer: &OfferHandle,
    retirement: &Mutex<Retirement>,
    checkpoint: &CheckpointFile,
) -> T {
    let mut offers = offer.subscribe();
    loop {
        // Never closed: the handle is ours.
        let going = offers
            .wait_for(|offer| offer.going().next().is_some())
            .await;
        let Ok(grace) = going.map(|offer| offer.resource().removal_grace) else {
            return std::future::pending().await;
        };
        sleep(grace.clamp(*LOOK_AGAIN.start(), *LOOK_AGAIN.end())).await;
        drop_free(offer, retirement, checkpoint).await;
    }
}

/// Looks once. What the kubelet tells nothing of stays.
async fn drop_free(
    offer: &OfferHandle,
    retirement: &Mutex<Retirement>,
    checkpoint: &CheckpointFile,
) {
    let resource = offer.now().resource().clone();
    let is_ready = |now| {
        lock(retirement)
            .ready(resource.removal_grace, now)
            .next()
            .is_some()
    };
    if !is_ready(Instant::now()) {
        return;
    }
    let written = match checkpoint.read().await {
        Ok(written) => written,
        Err(error) => {
            return debug!(resource = %resource.name, %error, "devices stay: the kubelet's checkpoint tells nothing");
        }
    };
    let held = written.checkpoint.of(resource.name.as_str());
    let is_held = |id: &str| held.is_some_and(|known| known.held.contains_key(id));
    // Judged again: the reading took its time.
    let retirement = lock(retirement);
    let ready = retirement.ready(resource.removal_grace, Instant::now());
    let free: BTreeSet<&str> = ready.filter(|id| !is_held(id)).collect();
    if !free.is_empty() {
        info!(resource = %resource.name, devices = free.len(), "dropped devices that nobody holds");
        offer.drop_going(&free);
    }
}
