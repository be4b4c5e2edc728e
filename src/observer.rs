//! All that there is to see of the program, gathered at one moment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{CheckpointFile, Known, Standing, Written};
use crate::config_file::Reloads;
use crate::offer::Offer;
use crate::record::Record;
use crate::supervisor::Present;

/// Whoever asks is told without the checkpoint rather than late.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(1);

/// What does not change while it runs.
#[derive(Debug)]
pub struct Program {
    /// The namespace it runs in.
    pub namespace: String,
    /// The node's name.
    pub node: String,
    /// The kubelet's device plugin directory.
    pub plugin_dir: PathBuf,
    /// The config file, if there is one.
    pub config_file: Option<PathBuf>,
    /// When it started.
    pub started: SystemTime,
}

/// Where to look. A clone looks at the same.
#[derive(Clone, Debug)]
pub struct Observer {
    /// What stays.
    pub program: Arc<Program>,
    /// The plugins.
    pub present: Present,
    /// The kubelet's word.
    pub checkpoint: CheckpointFile,
    /// How reading the config file again went.
    pub reloads: watch::Receiver<Reloads>,
    /// Is cancelled when it stops.
    pub stop: CancellationToken,
}

/// What was seen.
#[derive(Debug)]
pub struct View {
    /// What stays.
    pub program: Arc<Program>,
    /// The plugins in the order of their resources.
    pub plugins: Vec<PluginView>,
    /// The kubelet's word, or why there is none.
    pub checkpoint: Result<Written, String>,
    /// How reading the config file again went.
    pub reloads: Reloads,
    /// It is about to end.
    pub stopping: bool,
}

/// One plugin.
#[derive(Debug)]
pub struct PluginView {
    /// What it offers.
    pub offer: Arc<Offer>,
    /// What became of it.
    pub record: Record,
}

impl Observer {
    /// Looks.
    pub async fn look(&self) -> View {
        let checkpoint = match timeout(CHECKPOINT_WITHIN, self.checkpoint.read()).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => Err("reading it takes too long".to_owned()),
        };
        let present = Arc::clone(&self.present.borrow());
        let plugins = present.iter().map(|plugin| PluginView {
            offer: plugin.offer.now(),
            record: plugin.record.borrow().clone(),
        });
        View {
            plugins: plugins.collect(),
            program: Arc::clone(&self.program),
            checkpoint,
            reloads: self.reloads.borrow().clone(),
            stopping: self.stop.is_cancelled(),
        }
    }
}

impl View {
    /// What the kubelet wrote of this plugin's resource.
    pub fn known(&self, plugin: &PluginView) -> Option<&Known> {
        let written = self.checkpoint.as_ref().ok()?;
        written.checkpoint.of(plugin.name())
    }

    /// What a plugin waits for until pods can have its devices; `None`: it is ready.
    pub fn waits_for(&self, plugin: &PluginView) -> Option<String> {
        let by_the_kubelet = || match self.standing(plugin)? {
            Standing::Listed => None,
            Standing::Lacking => Some("waits for the kubelet's checkpoint, which lacks it"),
            Standing::OfAnother => {
                Some("waits for the kubelet's checkpoint, which has another plugin's devices")
            }
        };
        let own = plugin.record.waits_for();
        own.or_else(|| by_the_kubelet().map(str::to_owned))
    }

    /// Where the checkpoint cannot be read, the open stream is all there is to tell.
    fn standing(&self, plugin: &PluginView) -> Option<Standing> {
        let written = self.checkpoint.as_ref().ok()?;
        let devices = plugin.offer.devices();
        Some(written.checkpoint.standing(plugin.name(), devices))
    }

    /// Whether pods can have the devices of every resource, and will for some time.
    pub fn is_ready(&self) -> bool {
        let waits = |plugin| self.waits_for(plugin).is_some();
        !self.stopping && !self.plugins.iter().any(waits)
    }
}

impl PluginView {
    /// The resource's name.
    pub fn name(&self) -> &str {
        self.offer.resource().name.as_str()
    }
}
