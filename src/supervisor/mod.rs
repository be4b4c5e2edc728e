//! Runs one plugin per resource, each in a loop of its own, and one watch for all of them. Which resources
//! there are can change meanwhile.

mod keeper;
mod retire;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::checkpoint::{self, Held};
use crate::device::Device;
use crate::offer_handle::OfferHandle;
use crate::plugin::{Past, PluginInstance};
use crate::plugin_dir::PluginDir;
use crate::resource::Resource;
use crate::resource_name::ResourceName;
use crate::retirement::Retirement;
use crate::watcher::{DirReplaced, KubeletWatcher, Sight};

/// How many instances connect and register at a time.
const TURNS: usize = 4;

/// Leaving takes 4 s at most; whoever is not done then is aborted.
const STOP_WITHIN: Duration = Duration::from_millis(4500);

/// The resources as they should be; send others here and the supervisor follows.
pub type Configured = watch::Sender<Arc<[Resource]>>;

/// All plugins of the process.
pub struct Supervisor {
    watcher: KubeletWatcher,
    configured: Configured,
    plugins: Plugins,
}

impl Supervisor {
    /// One plugin for each resource, in this plugin dir. Nothing is touched yet.
    pub fn new(resources: Vec<Resource>, plugin_dir: impl Into<PathBuf>) -> Self {
        let dir = PluginDir::new(plugin_dir);
        let watcher = KubeletWatcher::new(dir.clone());
        let offer =
            |resource: &Resource| (resource.name.clone(), OfferHandle::new(resource.clone()));
        let plugins = Plugins {
            offers: resources.iter().map(offer).collect(),
            dir,
            kubelet: watcher.subscribe(),
            turns: Arc::new(Semaphore::new(TURNS)),
            leave: CancellationToken::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            started: false,
        };
        Self {
            watcher,
            configured: Configured::new(resources.into()),
            plugins,
        }
    }

    /// Where other resources are sent to.
    pub fn configured(&self) -> Configured {
        self.configured.clone()
    }

    /// The offer of the resource with this name.
    pub fn offer(&self, resource: &str) -> Option<OfferHandle> {
        let mut offers = self.plugins.offers.iter();
        offers
            .find(|(name, _)| name.as_str() == resource)
            .map(|(_, offer)| offer.clone())
    }

    /// Runs until `stop`, then lets every plugin leave; at most 5 s after `stop` it returns.
    ///
    /// # Errors
    /// When the plugin dir was replaced, so that nothing can be registered from here any more.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), DirReplaced> {
        let mut configured = self.configured.subscribe();
        let watching = self.watcher.run();
        tokio::pin!(watching);
        // Nothing runs yet that it could hold up.
        let mut held = as_told(checkpoint::held(self.plugins.dir.path()));
        let ended = loop {
            let resources = Arc::clone(&configured.borrow_and_update());
            self.plugins.become_these(&resources, held);
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                replaced = &mut watching => break Err(replaced),
                // Never closed: we have a sender ourselves.
                Ok(()) = configured.changed() => {}
            }
            held = as_told(checkpoint::held_aside(self.plugins.dir.path()).await);
        };
        self.plugins.leave().await;
        ended
    }
}

/// The plugins that run, and what each of them needs.
struct Plugins {
    dir: PluginDir,
    kubelet: watch::Receiver<Sight>,
    turns: Arc<Semaphore>,
    leave: CancellationToken,
    offers: BTreeMap<ResourceName, OfferHandle>,
    running: BTreeMap<ResourceName, Running>,
    tasks: JoinSet<()>,
    /// Whether those of the start are started.
    started: bool,
}

/// A plugin that runs.
struct Running {
    /// Lets it leave.
    leave: CancellationToken,
    /// Is cancelled when it has left.
    left: CancellationToken,
}

impl Plugins {
    /// Starts, changes and ends plugins until there is one for each of these resources. Those that stay the
    /// same do not notice. What pods hold of a new one is told too.
    fn become_these(&mut self, resources: &[Resource], mut held: Held) {
        // Those that left by now.
        while self.tasks.try_join_next().is_some() {}
        if resources.is_empty() {
            info!("no resources: nothing to register");
        }
        let leaving = self.end_all_but(resources);
        for resource in resources {
            if self.running.contains_key(&resource.name) {
                self.offers[&resource.name].reconfigure(resource);
            } else {
                let held = held.remove(resource.name.as_str()).unwrap_or_default();
                self.start(resource, &held, leaving.clone());
            }
        }
        self.started = true;
    }

    /// Lets the plugins of other resources leave; returns what tells that they have.
    fn end_all_but(&mut self, resources: &[Resource]) -> Vec<CancellationToken> {
        let stays = |name: &ResourceName| resources.iter().any(|resource| resource.name == *name);
        self.offers.retain(|name, _| stays(name));
        let (stay, gone) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|(name, _)| stays(name));
        self.running = stay;
        let gone: BTreeMap<ResourceName, Running> = gone;
        let ended = gone.into_iter().map(|(name, running)| {
            info!(resource = %name, "not configured any more: leaving");
            running.leave.cancel();
            running.left
        });
        ended.collect()
    }

    /// Starts a plugin once these others have left: they may have had its socket.
    fn start(&mut self, resource: &Resource, held: &[Device], others: Vec<CancellationToken>) {
        let offer = self.offers.entry(resource.name.clone());
        let offer = offer
            .or_insert_with(|| OfferHandle::new(resource.clone()))
            .clone();
        offer.hold(held);
        let retirement = Arc::new(Mutex::new(Retirement::default()));
        let plugin = PluginInstance {
            resource: Arc::clone(offer.now().resource()),
            offer: offer.subscribe(),
            retirement: Arc::clone(&retirement),
            dir: self.dir.clone(),
            kubelet: self.kubelet.clone(),
            turns: Arc::clone(&self.turns),
        };
        let running = Running {
            leave: self.leave.child_token(),
            left: CancellationToken::new(),
        };
        let (leave, left) = (running.leave.clone(), running.left.clone().drop_guard());
        // One that comes by a reload may have been here a moment ago.
        let past = if self.started {
            Past::of_a_successor()
        } else {
            Past::default()
        };
        let dir = self.dir.clone();
        self.tasks.spawn(async move {
            let _left = left;
            for other in others {
                other.cancelled().await;
            }
            tokio::select! {
                () = keeper::keep(plugin, past, leave) => {}
                never = retire::retire(&offer, &retirement, &dir) => never,
            }
        });
        self.running.insert(resource.name.clone(), running);
    }

    /// Lets every plugin leave.
    async fn leave(&mut self) {
        self.leave.cancel();
        let all_left = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_WITHIN, all_left).await.is_err() {
            error!("some plugins did not leave in time: they are aborted");
            self.tasks.shutdown().await;
        }
    }
}

/// What pods hold, as far as the kubelet tells.
fn as_told(held: io::Result<Held>) -> Held {
    held.unwrap_or_else(|error| {
        debug!(%error, "the kubelet's checkpoint tells nothing");
        Held::default()
    })
}
