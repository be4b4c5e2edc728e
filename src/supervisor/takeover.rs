//! Asks the kubelet which plugin's devices it has while another plugin has taken a resource over. When the other plugin
//! stops, the kubelet disconnects the resource by name, and gives its devices to no pod until a plugin registers it again.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use crate::node::checkpoint::ListingStatus;
use crate::node::holders::Holders;
use crate::plugin::PluginHandle;
use crate::plugin::record::Record;

/// The pause between two questions. All resources share the answers.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// How many answers in a row must lack the resource. A plugin whose devices are all Unhealthy for a moment looks the same
/// as one that has stopped.
const ANSWERS_NEEDED: u32 = 3;

/// Follows one resource for as long as the future is polled. Without the pod-resources API it does nothing, because
/// only the checkpoint then shows which plugin's devices the kubelet has.
pub async fn run(handle: &PluginHandle, holders: &Holders) -> Infallible {
    let Some(api) = &holders.pod_resources else {
        return std::future::pending().await;
    };
    let mut records = handle.records();
    loop {
        // Cannot fail: `handle` keeps the sender alive.
        let _ = records.wait_for(Record::is_taken_over).await;
        let mut lacking = 0;
        while records.borrow().is_taken_over() {
            sleep(ASK_INTERVAL).await;
            let Ok(listed) = api.allocatable_recent().await else {
                continue;
            };
            let offer = handle.offer();
            match listed.listing_status(offer.resource().name.as_str(), offer.devices()) {
                ListingStatus::Lacking => lacking += 1,
                ListingStatus::Listed => handle.not_taken_over(),
                ListingStatus::NoneHealthy | ListingStatus::OtherDevices(_) => lacking = 0,
            }
            if lacking == ANSWERS_NEEDED {
                handle.other_plugin_stopped();
                lacking = 0;
            }
        }
    }
}
