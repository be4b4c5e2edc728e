//! Checks that the kubelet has the devices of every plugin. The kubelet can drop a resource, and another plugin can take
//! it over, while the ListAndWatch stream is open.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::node::checkpoint_file::CheckpointFile;
use crate::node::holders::Holders;
use crate::supervisor::PluginRegistry;

/// How long after a write the checkpoint is read. It also limits how often, because the file can be large and the
/// kubelet writes it for each device list and each pod.
const READ_AFTER_WRITE: Duration = Duration::from_secs(1);

/// Once per `interval`, compares what the kubelet lists with the devices of every plugin.
pub async fn run(plugins: &PluginRegistry, holders: &Holders, interval: Duration) -> Infallible {
    loop {
        sleep(interval).await;
        let allocatable = holders.allocatable_recent().await;
        let written = holders.checkpoint.read().await.ok();
        let checkpoint = written.as_ref().map(|written| &*written.checkpoint);
        for plugin in plugins.all().iter() {
            plugin.check_listing(allocatable.as_ref(), checkpoint);
        }
    }
}

/// Reads the checkpoint after the kubelet has written it, and passes it to every plugin; again later if that was too
/// early for a plugin. `writes` changes when the kubelet may have written it, and at each poll of the directory.
pub async fn follow(
    plugins: &PluginRegistry,
    checkpoint: &CheckpointFile,
    mut writes: watch::Receiver<()>,
) -> Infallible {
    let mut checked = None;
    while writes.changed().await.is_ok() {
        while checkpoint.version() != checked {
            sleep(READ_AFTER_WRITE).await;
            let Ok(written) = checkpoint.read().await else {
                // The next poll tries again.
                break;
            };
            let mut is_too_early = false;
            for plugin in plugins.all().iter() {
                is_too_early |= !plugin.check_owner(&written);
            }
            if !is_too_early {
                checked = Some(written.version);
            }
        }
    }
    // The watcher has ended, so the program will soon end too.
    std::future::pending().await
}
