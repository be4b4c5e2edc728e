//! Checks periodically that the kubelet's checkpoint lists every resource. The kubelet can drop a resource while its
//! ListAndWatch stream is open.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use crate::node::checkpoint_file::CheckpointFile;
use crate::supervisor::PluginRegistry;

/// Reads the checkpoint once per `interval` and passes it to every plugin. A checkpoint that cannot be read is ignored.
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
