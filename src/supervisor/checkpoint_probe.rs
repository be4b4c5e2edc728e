//! Checks that the kubelet's checkpoint lists every resource with the devices of its plugin. The kubelet can drop a
//! resource, and another plugin can take it over, while the ListAndWatch stream is open.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::node::checkpoint_file::CheckpointFile;
use crate::supervisor::PluginRegistry;

/// How long after a write the checkpoint is read. It also limits how often, because the file can be large and the
/// kubelet writes it for each device list and each pod.
const READ_AFTER_WRITE: Duration = Duration::from_secs(1);

/// Reads the checkpoint once per `interval` and passes it to every plugin. A checkpoint that cannot be read is ignored.
pub async fn run(
    plugins: &PluginRegistry,
    checkpoint: &CheckpointFile,
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

/// Reads the checkpoint after the kubelet has written it, and passes it to every plugin; again later if that was too
/// early for a plugin. `writes` changes when the kubelet may have written it. `has_api`: whether the pod-resources API is
/// configured.
pub async fn follow(
    plugins: &PluginRegistry,
    checkpoint: &CheckpointFile,
    mut writes: watch::Receiver<()>,
    has_api: bool,
) -> Infallible {
    let mut checked = None;
    loop {
        let mut version = checkpoint.version();
        if version == checked {
            if writes.changed().await.is_err() {
                // The watcher has ended, so the program will soon end too.
                return std::future::pending().await;
            }
            continue;
        }
        sleep(READ_AFTER_WRITE).await;
        let mut is_too_early = false;
        if let Ok(written) = checkpoint.read().await {
            version = Some(written.version);
            for plugin in plugins.all().iter() {
                is_too_early |= !plugin.check_owner(&written, has_api);
            }
        }
        if !is_too_early {
            checked = version;
        }
    }
}
