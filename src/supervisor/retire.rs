//! Drops devices that are pending removal once nobody can have them any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::info;

use crate::holders::{Holders, Said};
use crate::lock::lock;
use crate::plugin::PluginHandle;
use crate::resource::Resource;
use crate::retirement::Evidence;

/// The kubelet is asked this soon after devices are pending removal, and then again at this part of the grace, but not
/// all the time and not too rarely.
const FIRST_PROBE: Duration = Duration::from_millis(50);
const PROBES_IN_A_GRACE: u32 = 6;
const PROBE_AGAIN_MAX: Duration = Duration::from_secs(5);

/// Drops devices of one resource for as long as it is polled.
pub async fn retire<T>(handle: &PluginHandle, holders: &Holders) -> T {
    let mut offers = handle.offer.subscribe();
    loop {
        // Never closed: the handle is ours.
        let _ = offers
            .wait_for(|offer| offer.going().next().is_some())
            .await;
        let mut pause = FIRST_PROBE;
        while offers.borrow_and_update().going().next().is_some() {
            sleep(pause).await;
            let resource = handle.offer.now().resource().clone();
            drop_free(handle, holders, &resource).await;
            pause =
                (resource.removal_grace / PROBES_IN_A_GRACE).clamp(FIRST_PROBE, PROBE_AGAIN_MAX);
        }
    }
}

/// Asks once. A device of which the kubelet says nothing stays.
async fn drop_free(handle: &PluginHandle, holders: &Holders, resource: &Resource) {
    if !lock(&handle.retirement).has_pending() {
        return;
    }
    let said = holders.ask(&resource.name).await;
    let name = resource.name.as_str();
    let mut retirement = lock(&handle.retirement);
    match &said {
        Said::Nothing => retirement.observed(&Evidence::Nothing),
        Said::NoAnswer => retirement.observed(&Evidence::NoAnswer),
        Said::Checkpoint(written) => {
            let known = written.checkpoint.of(name);
            let holds = |id: &str| known.is_some_and(|known| known.held.contains_key(id));
            retirement.observed(&Evidence::Checkpoint(&holds));
        }
        Said::Listed(devices) => {
            let holds = |id: &str| devices.holds(name, id);
            retirement.observed(&Evidence::PodResources(devices.asked, &holds));
        }
    }
    let free: BTreeSet<&str> = retirement
        .free(resource.removal_grace, Instant::now())
        .collect();
    if !free.is_empty() {
        info!(resource = %resource.name, devices = free.len(), "dropped devices that nobody holds");
        handle.offer.drop_going(&free);
    }
}
