//! Checks at an interval that the kubelet still has every resource: a stream can be open while it offers none of them.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use crate::node::checkpoint_file::CheckpointFile;
use crate::supervisor::PluginRegistry;

/// Reads the checkpoint at each `interval` and has every plugin look for itself in it. A checkpoint that cannot be read
/// proves nothing.
pub async fn run(
    plugins: PluginRegistry,
    checkpoint: CheckpointFile,
    interval: Duration,
) -> Infallible {
    loop {
        sleep(interval).await;
        if let Ok(written) = checkpoint.read().await {
            for plugin in plugins.all().iter() {
                plugin.check_checkpoint(&written.checkpoint);
            }
        }
    }
}
