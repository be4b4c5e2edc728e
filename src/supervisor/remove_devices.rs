//! Removes devices that are pending removal from the list when no pod holds them or can still get them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{debug, info};

use crate::node::holders::Holders;
use crate::offer::resource::Resource;
use crate::plugin::PluginHandle;

/// How long after devices become pending removal the checkpoint is first read.
const FIRST_PROBE: Duration = Duration::from_millis(50);
/// Later reads divide the grace into this many parts, within [`FIRST_PROBE`] and [`PROBE_AGAIN_MAX`].
const PROBES_PER_GRACE: u32 = 6;
const PROBE_AGAIN_MAX: Duration = Duration::from_secs(5);

/// The minimum interval between calls of the pod-resources API; a longer removal grace is used instead.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);

/// Removes devices of one resource for as long as the future is polled.
pub async fn run(handle: &PluginHandle, holders: &Holders) -> Infallible {
    let mut offers = handle.offers();
    loop {
        // Cannot fail: `handle` keeps the sender alive.
        let _ = offers
            .wait_for(|offer| offer.removing().next().is_some())
            .await;
        let mut pause = FIRST_PROBE;
        while offers.borrow_and_update().removing().next().is_some() {
            sleep(pause).await;
            let resource = handle.offer().resource().clone();
            if handle.removal().has_pending() {
                remove_free(handle, holders, &resource).await;
                forget_deleted_pods(handle, holders, &resource).await;
            }
            pause = (resource.removal_grace / PROBES_PER_GRACE).clamp(FIRST_PROBE, PROBE_AGAIN_MAX);
        }
    }
}

/// Reads the checkpoint and removes the devices that are free. If it cannot be read, all devices stay.
async fn remove_free(handle: &PluginHandle, holders: &Holders, resource: &Resource) {
    let name = &resource.name;
    let began = Instant::now();
    let read = holders.checkpoint.read().await;
    let mut removal = handle.removal();
    match read {
        Ok(written) => {
            let known = written.checkpoint.get(name.as_str());
            removal.checkpoint_read(began, |id| {
                known.is_some_and(|known| known.held.contains_key(id))
            });
        }
        Err(error) => {
            debug!(resource = %name, %error, "cannot read the kubelet's checkpoint; devices pending removal stay in the list");
            removal.checkpoint_not_read();
        }
    }
    let free = removal.removable(resource.removal_grace, Instant::now());
    let free: BTreeSet<&str> = free.collect();
    if !free.is_empty() {
        info!(resource = %name, devices = free.len(), "removed devices that no pod holds");
        handle.remove_pending(&free);
    }
}

/// Makes the kubelet remove deleted pods from its checkpoint, which it otherwise does only when it admits the next
/// pod with devices. A pod-resources `List` makes the kubelet forget deleted pods, and any device list makes it write
/// its checkpoint.
///
/// Only the checkpoint then decides: the answer of `List` omits init containers and may come from another kubelet.
async fn forget_deleted_pods(handle: &PluginHandle, holders: &Holders, resource: &Resource) {
    let Some(pod_resources) = &holders.pod_resources else {
        return;
    };
    let (name, grace) = (&resource.name, resource.removal_grace);
    let held = handle
        .removal()
        .held_by_checkpoint(grace, grace.max(ASK_AGAIN_MIN), Instant::now());
    if held.is_empty() {
        return;
    }
    match pod_resources.list().await {
        Ok(devices) if held.iter().all(|id| devices.holds(name.as_str(), id)) => {}
        Ok(_) => handle.repeat_list(),
        Err(error) => {
            debug!(resource = %name, %error, "cannot list pod resources; devices of deleted pods stay in the list");
        }
    }
}
