//! Drops devices that are pending removal once nobody can have them any more.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{debug, info};

use crate::node::holders::Holders;
use crate::offer::resource::Resource;
use crate::plugin::PluginHandle;

/// The first probe comes this soon after devices are pending removal, the others at this part of the grace.
const FIRST_PROBE: Duration = Duration::from_millis(50);
const PROBES_IN_A_GRACE: u32 = 6;
const PROBE_AGAIN_MAX: Duration = Duration::from_secs(5);

/// Between two questions to the kubelet whether pods of its checkpoint are deleted, if the grace is shorter.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);

/// Drops devices of one resource for as long as it is polled.
pub async fn run(handle: &PluginHandle, holders: &Holders) -> Infallible {
    let mut offers = handle.offers();
    loop {
        // Never closed: the handle is ours.
        let _ = offers
            .wait_for(|offer| offer.removing().next().is_some())
            .await;
        let mut pause = FIRST_PROBE;
        while offers.borrow_and_update().removing().next().is_some() {
            sleep(pause).await;
            let resource = handle.offer().resource().clone();
            if handle.removal().has_pending() {
                drop_free(handle, holders, &resource).await;
                forget_deleted_pods(handle, holders, &resource).await;
            }
            pause =
                (resource.removal_grace / PROBES_IN_A_GRACE).clamp(FIRST_PROBE, PROBE_AGAIN_MAX);
        }
    }
}

/// Reads the checkpoint once. What cannot be read frees nothing.
async fn drop_free(handle: &PluginHandle, holders: &Holders, resource: &Resource) {
    let name = &resource.name;
    let began = Instant::now();
    let read = holders.checkpoint.read().await;
    let mut removal = handle.removal();
    match read {
        Ok(written) => {
            let known = written.checkpoint.of(name.as_str());
            removal.checkpoint_read(began, |id| {
                known.is_some_and(|known| known.held.contains_key(id))
            });
        }
        Err(error) => {
            debug!(resource = %name, %error, "devices pending removal stay");
            removal.checkpoint_not_read();
        }
    }
    let free = removal.droppable(resource.removal_grace, Instant::now());
    let free: BTreeSet<&str> = free.collect();
    if !free.is_empty() {
        info!(resource = %name, devices = free.len(), "dropped devices that nobody holds");
        handle.drop_removing(&free);
    }
}

/// On a node where no pod with devices comes, a deleted pod stays in the checkpoint. Asking for the pod resources makes the kubelet
/// forget it, and a list, also the same one, makes it write that down. What the checkpoint then says is the proof: the answer
/// itself leaves out init containers, and may be another kubelet's.
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
        Err(error) => debug!(resource = %name, %error, "devices of deleted pods stay"),
    }
}
