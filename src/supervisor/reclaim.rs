//! Takes a resource back after the plugin that took it over has stopped. The kubelet then disconnects the resource by
//! name, and gives its devices to no pod until a plugin registers it again.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use crate::node::holders::Holders;
use crate::plugin::PluginHandle;
use crate::plugin::record::Record;

/// How often the kubelet is asked while the resource is another plugin's. All resources share the answers.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// How many answers in a row must lack the resource. A plugin whose devices are all Unhealthy for a moment looks the same
/// as one that has stopped.
const ANSWERS_NEEDED: u32 = 3;

/// Watches one resource for as long as the future is polled. Without the pod-resources API it does nothing, because a
/// checkpoint without the resource is noticed anyway.
pub async fn run(handle: &PluginHandle, holders: &Holders) -> Infallible {
    let Some(api) = &holders.pod_resources else {
        return std::future::pending().await;
    };
    let mut records = handle.records();
    loop {
        // Cannot fail: `handle` keeps the sender alive.
        let _ = records.wait_for(Record::can_reclaim).await;
        let mut answers = 0;
        while answers < ANSWERS_NEEDED && records.borrow().can_reclaim() {
            sleep(ASK_INTERVAL).await;
            if let Ok(listed) = api.allocatable_recent().await {
                let is_unlisted = handle.is_unlisted(&listed);
                answers = if is_unlisted { answers + 1 } else { 0 };
            }
        }
        if answers == ANSWERS_NEEDED {
            handle.other_plugin_stopped();
            // The restart loop ends the stream, after which the plugin cannot reclaim.
            sleep(ASK_INTERVAL).await;
        }
    }
}
