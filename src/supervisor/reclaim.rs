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
        sleep(ASK_INTERVAL).await;
        if let Ok(listed) = api.allocatable_recent().await {
            handle.check_allocatable(&listed);
        }
    }
}
