//! Looks whether the kubelet still has every resource: a stream can be open while it shows none of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::node::checkpoint_file::CheckpointFile;
use crate::plugin::PluginHandle;

/// Looks into the checkpoint again and again. Where it cannot be read, it tells nothing.
pub async fn look_again_and_again(
    plugins: watch::Receiver<Arc<[PluginHandle]>>,
    checkpoint: CheckpointFile,
    every: Duration,
) {
    loop {
        sleep(every).await;
        if let Ok(written) = checkpoint.read().await {
            for plugin in plugins.borrow().iter() {
                plugin.look(&written.checkpoint);
            }
        }
    }
}
