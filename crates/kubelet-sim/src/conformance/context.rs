//! The state that the checks share: the probe kubelet, the plugin's process, and what was observed so far.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use simple_device_plugin::api::v1beta1::{DevicePluginOptions, ListAndWatchResponse};
use simple_device_plugin::util::sanitize::sanitize;
use tokio::time::{Instant, sleep_until, timeout};

use super::Settings;
use super::checks::{growth, kill, restart, stale};
use super::client::Client;
use super::kubelet::{Answer, Log, ProbeKubelet, Registration};
use super::plugin::{PluginCommand, Process};

/// How often a plugin that cannot be registered is started before the remaining checks are skipped.
const FAILED_STARTS_MAX: u32 = 2;
/// The interval between checks whether the plugin's process has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Why a check cannot be made.
#[derive(Clone, Debug)]
pub(super) struct Skip(pub(super) String);

/// A resource that is registered, with the list that the kubelet has.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) name: String,
    pub(super) endpoint: String,
    pub(super) options: DevicePluginOptions,
    pub(super) list: Arc<ListAndWatchResponse>,
    pub(super) largest_list: usize,
    pub(super) client: Client,
}

impl Resource {
    /// Returns the IDs of the devices that a kubelet would allocate.
    pub(super) fn healthy_ids(&self) -> Vec<String> {
        let healthy = self
            .list
            .devices
            .iter()
            .filter(|device| device.is_healthy());
        let ids: BTreeSet<&String> = healthy.map(|device| &device.id).collect();
        ids.into_iter().cloned().collect()
    }

    pub(super) fn ids(&self) -> BTreeSet<String> {
        self.list
            .devices
            .iter()
            .map(|device| device.id.clone())
            .collect()
    }
}

/// Observations that several checks share. Each is made once.
#[derive(Debug, Default)]
pub(super) struct Observations {
    pub(super) early: Option<Result<Vec<Registration>, Skip>>,
    pub(super) watched: Option<Result<Vec<Registration>, Skip>>,
    pub(super) stale: Option<Result<stale::Observed, Skip>>,
    pub(super) away: Option<Result<stale::Observed, Skip>>,
    pub(super) restart: Option<Result<restart::Observed, Skip>>,
    pub(super) kill: Option<Result<kill::Observed, Skip>>,
    pub(super) growth: Option<Result<growth::Observed, Skip>>,
}

#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    pub(super) dir: PathBuf,
    pub(super) kubelet: ProbeKubelet,
    pub(super) observations: Observations,
    pub(super) process: Option<Process>,
    command: Option<PluginCommand>,
    /// The resources that the plugin registered at any time.
    resources: BTreeSet<String>,
    failed_starts: u32,
}

impl Context {
    pub(super) fn new(
        dir: &Path,
        settings: Settings,
        command: Option<PluginCommand>,
    ) -> io::Result<Self> {
        Ok(Self {
            kubelet: ProbeKubelet::new(dir, &settings)?,
            settings,
            dir: dir.to_owned(),
            observations: Observations::default(),
            process: None,
            command,
            resources: BTreeSet::new(),
            failed_starts: 0,
        })
    }

    pub(super) fn describe(&self) -> String {
        let dir = self.dir.display();
        match &self.command {
            Some(command) => command.describe(),
            None => format!("Start the plugin now; it must register at {dir}/kubelet.sock"),
        }
    }

    pub(super) fn clear_output(&self) {
        if let Some(command) = &self.command {
            command.clear_output();
        }
    }

    pub(super) fn last_lines(&self) -> Vec<String> {
        let command = self.command.as_ref();
        command.map(PluginCommand::last_lines).unwrap_or_default()
    }

    pub(super) async fn stop(&mut self) {
        self.process = None;
        self.kubelet.stop().await;
    }

    /// Returns an error if the plugin was started by someone else.
    pub(super) fn command(&self) -> Result<&PluginCommand, Skip> {
        let missing = || Skip("needs a command that starts the plugin".to_owned());
        self.command.as_ref().ok_or_else(missing)
    }

    /// Starts the plugin in place of one that may be running, which is killed.
    pub(super) fn start_plugin(&mut self) -> Result<(), Skip> {
        self.process = None;
        let process = self.command()?.start();
        self.process = Some(process.map_err(|error| Skip(format!("cannot start it: {error}")))?);
        Ok(())
    }

    /// Returns an error if the plugin could not be registered before.
    fn can_register(&self) -> Result<(), Skip> {
        if !self.has_given_up() {
            return Ok(());
        }
        Err(Skip("the plugin did not register".to_owned()))
    }

    /// Skips all checks that need a registered plugin from now on.
    pub(super) fn give_up(&mut self) {
        self.failed_starts = FAILED_STARTS_MAX;
    }

    /// Kills the plugin and stops the kubelet, and removes all sockets.
    pub(super) async fn clear(&mut self) -> Result<(), Skip> {
        self.can_register()?;
        self.command()?;
        self.process = None;
        self.kubelet
            .stop_and_clear()
            .await
            .map_err(|error| broken(&error))
    }

    pub(super) async fn start_kubelet(&mut self, answer: Answer) -> Result<(), Skip> {
        self.kubelet
            .start(answer)
            .await
            .map_err(|error| broken(&error))
    }

    /// Stops the kubelet, and starts it again after the usual time.
    pub(super) async fn restart_kubelet(&mut self) -> Result<(), Skip> {
        self.kubelet.stop().await;
        tokio::time::sleep(self.settings.kubelet_restart).await;
        self.start_kubelet(Answer::Accept).await
    }

    /// Returns how the plugin's process has exited, or `None` while it runs or if it was started by someone else.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::exited)
    }

    /// Returns what was observed in this slot before. The first time, it is observed now.
    pub(super) async fn once<T: Clone>(
        &mut self,
        slot: fn(&mut Observations) -> &mut Option<Result<T, Skip>>,
        observe: impl AsyncFnOnce(&mut Self) -> Result<T, Skip>,
    ) -> Result<T, Skip> {
        if let Some(observed) = slot(&mut self.observations) {
            return observed.clone();
        }
        let observed = observe(self).await;
        slot(&mut self.observations).insert(observed).clone()
    }

    /// Returns the plugin's resources, all of them registered. Starts the plugin again if it is not in that state.
    ///
    /// # Errors
    /// Returns an error if the plugin does not register.
    pub(super) async fn registered(&mut self) -> Result<Vec<Resource>, Skip> {
        if self.kubelet.is_running() && self.exited().is_none() && self.are_up() {
            // A resource can have been registered later than the others.
            self.resources.extend(self.kubelet.log(up_names));
            return Ok(self.up());
        }
        self.fresh().await
    }

    /// Returns how the plugin lost a resource without a reason that the suite gave it, or `None` while it is up.
    pub(super) fn lost(&mut self, resource: &str) -> Option<String> {
        if let Some(status) = self.exited() {
            return Some(format!("the plugin exited: {status}"));
        }
        self.kubelet.log(|log| {
            let ended = log.newest().get(resource)?.ended_by_plugin()?;
            Some(format!("ListAndWatch ended: {ended}"))
        })
    }

    /// Returns whether the suite has given up: the plugin could not be registered, again and again.
    pub(super) fn has_given_up(&self) -> bool {
        self.failed_starts >= FAILED_STARTS_MAX
    }

    /// Starts the kubelet and then the plugin, and waits until all resources are registered.
    pub(super) async fn fresh(&mut self) -> Result<Vec<Resource>, Skip> {
        self.can_register()?;
        self.process = None;
        self.start_kubelet(Answer::Accept).await?;
        if self.command.is_some() {
            self.start_plugin()?;
        }
        match self.wait_until_up().await {
            Ok(_) => {
                self.failed_starts = 0;
                Ok(self.up())
            }
            Err(reason) => {
                self.failed_starts += 1;
                Err(Skip(reason))
            }
        }
    }

    /// Waits until all known resources are registered, or any resource if none is known yet. Returns how long that took.
    ///
    /// # Errors
    /// Returns what is missing after the time limit, or that the plugin has exited.
    pub(super) async fn wait_until_up(&mut self) -> Result<Duration, String> {
        let started = Instant::now();
        let known = self.resources.clone();
        let done = move |log: &Log| is_complete(log, &known);
        if !self.wait_for_log(self.settings.registration, done).await {
            return Err(self.missing());
        }
        let took = started.elapsed();
        if self.resources.is_empty() {
            self.wait_until_settled().await;
        } else {
            self.resources.extend(self.kubelet.log(up_names));
        }
        Ok(took)
    }

    /// Waits until no further call of Register has come for some time, and each accepted resource has sent a list.
    pub(super) async fn wait_until_settled(&mut self) {
        let deadline = Instant::now() + self.settings.registration;
        loop {
            let calls = self.kubelet.log(|log| log.registrations().count());
            let answered = |log: &Log| log.registrations().all(|call| call.answer.is_some());
            let changed = move |log: &Log| log.registrations().count() != calls;
            if !self.wait_for_log(self.settings.settle, changed).await && self.kubelet.log(answered)
                || Instant::now() > deadline
            {
                break;
            }
        }
        let have_lists = |log: &Log| log.registrations().all(Registration::needs_no_list);
        self.wait_for_log(self.settings.registration, have_lists)
            .await;
        self.resources.extend(self.kubelet.log(up_names));
    }

    /// Waits until the log satisfies a condition. Returns false after the time limit, and soon after the plugin exited.
    pub(super) async fn wait_for_log(
        &mut self,
        limit: Duration,
        condition: impl Fn(&Log) -> bool,
    ) -> bool {
        let deadline = Instant::now() + limit;
        let mut log = self.kubelet.watch_log();
        loop {
            let exited = self.exited().is_some();
            let until = deadline.min(Instant::now() + POLL_INTERVAL);
            // The kubelet, which has the sender, lives longer than this receiver.
            let satisfied = timeout(until - Instant::now(), log.wait_for(&condition));
            if satisfied.await.is_ok() {
                return true;
            }
            if exited || Instant::now() >= deadline {
                return false;
            }
        }
    }

    /// Waits, and returns early with its status if the plugin exits.
    pub(super) async fn runs_for(&mut self, window: Duration) -> Result<(), ExitStatus> {
        let end = Instant::now() + window;
        loop {
            if let Some(status) = self.exited() {
                return Err(status);
            }
            if Instant::now() >= end {
                return Ok(());
            }
            sleep_until(end.min(Instant::now() + POLL_INTERVAL)).await;
        }
    }

    pub(super) fn known_resources(&self) -> BTreeSet<String> {
        self.resources.clone()
    }

    fn are_up(&self) -> bool {
        !self.resources.is_empty() && self.kubelet.log(|log| is_complete(log, &self.resources))
    }

    /// Returns the resources that are registered now.
    pub(super) fn up(&self) -> Vec<Resource> {
        let registrations: Vec<Registration> = self.kubelet.log(|log| {
            log.newest()
                .into_values()
                .filter(|r| r.is_up())
                .cloned()
                .collect()
        });
        let resources = registrations.into_iter().filter_map(|registration| {
            Some(Resource {
                client: self.kubelet.client(registration.resource())?,
                name: registration.request.resource_name,
                endpoint: registration.request.endpoint,
                options: registration.options.unwrap_or_default(),
                list: registration.lists.last?,
                largest_list: registration.lists.largest,
            })
        });
        resources.collect()
    }

    /// Says what keeps the plugin from being registered.
    pub(super) fn missing(&mut self) -> String {
        if let Some(status) = self.exited() {
            return format!("the plugin exited: {status}");
        }
        let seconds = self.settings.registration.as_secs_f32();
        let newest: BTreeMap<String, String> = self.kubelet.log(|log| {
            let newest = log.newest().into_iter();
            newest
                .map(|(name, r)| (name.to_owned(), state(r)))
                .collect()
        });
        let not_up = |name: &&String| newest.get(*name).is_none_or(|state| state != "registered");
        let missing = self
            .resources
            .iter()
            .find(not_up)
            .or(newest.keys().find(not_up));
        match missing.map(|name| (sanitize(name), newest.get(name))) {
            Some((name, Some(state))) => {
                format!("{name} was not registered within {seconds} s: {state}")
            }
            Some((name, None)) => format!("{name} was not registered within {seconds} s"),
            None => format!("no call of Register within {seconds} s"),
        }
    }
}

fn broken(error: &io::Error) -> Skip {
    Skip(format!("the probe kubelet cannot run: {error}"))
}

fn is_complete(log: &Log, known: &BTreeSet<String>) -> bool {
    let newest = log.newest();
    let is_up = |name: &String| newest.get(&**name).is_some_and(|r| r.is_up());
    if known.is_empty() {
        newest.values().any(|registration| registration.is_up())
    } else {
        known.iter().all(is_up)
    }
}

fn up_names(log: &Log) -> Vec<String> {
    let up = log.newest().into_iter().filter(|(_, r)| r.is_up());
    up.map(|(name, _)| name.to_owned()).collect()
}

fn state(registration: &Registration) -> String {
    match (&registration.answer, &registration.ended) {
        (None, _) => "Register was called and not answered yet".to_owned(),
        (Some(Err(error)), _) => format!("the registration failed: {error}"),
        (Some(Ok(())), Some(ended)) => format!("ListAndWatch ended: {ended}"),
        (Some(Ok(())), None) if registration.lists.last.is_none() => "no list was sent".to_owned(),
        (Some(Ok(())), None) => "registered".to_owned(),
    }
}
