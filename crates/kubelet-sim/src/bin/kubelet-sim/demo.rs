//! `demo`: a device plugin's whole job on a simulated kubelet, in a directory of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kubelet_sim::{Assignment, Kubelet, KubeletSettings, NodeResources, Pod};
use rustix::process::{Pid, Signal, kill_process};
use simple_device_plugin::cli::style::{GOOD, STRONG};
use simple_device_plugin::config::{Environment, any_set, config_file};
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::print;
use super::screen::Screen;

/// The plugin that is shown where none is named.
const DAEMON: &str = "simple-device-plugin";

/// What it serves where no variable of a resource is set: two resources over two NUMA nodes.
const DEMO_VARIABLES: [(&str, &str); 8] = [
    ("RESOURCE_NAME", "example.com/gpu,example.com/nic"),
    ("NUMBER_DEVICES", "4,2"),
    ("NUMA_NODES", "0-1"),
    ("PREFERRED_ALLOCATION", "packed"),
    ("ENV_PREFIX", "GPU,NIC"),
    ("ANNOTATION_PREFIX", "example.com/gpu,example.com/nic"),
    ("DEVICE_FILE_PREFIX", "gpu,nic"),
    ("DEVICE_FILE_HOST_PATH", "/dev/null"),
];

/// Everything here takes milliseconds; past this it has failed.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// A plugin with several resources registers them one after the other: past this, no more come.
const REGISTRATIONS_SETTLE: Duration = Duration::from_millis(300);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// For the plugin to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

const POD: &str = "demo";
/// How many devices of each resource the pod asks for, where there are so many.
const POD_DEVICES: usize = 2;

/// Shows it, and stays up with `hold`.
pub async fn run(
    environment: Environment,
    command: Vec<OsString>,
    hold: bool,
    mut out: Screen<impl Write>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("no temporary directory for the kubelet")?;
    let mut shown = Vec::new();
    if command.is_empty() && !any_set(&environment) && config_file(&environment).is_none() {
        writeln!(out, "No resource is set, so these are shown:\n")?;
        for (name, value) in DEMO_VARIABLES {
            writeln!(out, "  {name}={value}")?;
            shown.push((name, value));
        }
        writeln!(out)?;
    }
    let settings = KubeletSettings::new(dir.path());
    let text = format!("A kubelet in {}", dir.path().display());
    out.write_wrapped(&text, 2)?;
    let mut command = plugin(command, &settings)?;
    command.envs(shown);
    let kubelet = Kubelet::start(settings)?;
    let started = Instant::now();
    let mut plugin = PluginProcess::start(command)?;
    let story = stop.run_until_cancelled(story(kubelet, started, &dir, hold, &mut out, &stop));
    let told = tokio::select! {
        told = story => told.unwrap_or(Ok(())),
        ended = plugin.ended() => Err(anyhow::anyhow!("the plugin ended by itself, with {}", ended?)),
    };
    plugin.end().await?;
    told
}

/// The command, in an environment in which it finds the kubelet.
fn plugin(command: Vec<OsString>, settings: &KubeletSettings) -> anyhow::Result<Command> {
    let mut words = command.into_iter();
    let mut plugin = Command::new(words.next().unwrap_or_else(daemon));
    let dir = settings.dir.to_str().context("a directory in UTF-8")?;
    // Only what is UTF-8 can have the placeholder.
    plugin.args(words.map(|word| match word.into_string() {
        Ok(word) => word.replace("{dir}", dir).into(),
        Err(word) => word,
    }));
    plugin
        .env("DEVICE_PLUGIN_PATH", dir)
        .env("POD_RESOURCES_SOCKET", settings.pod_resources_socket())
        .env("HTTP_ADDRESS", "")
        .env("CONTROL_SOCKET", "");
    if std::env::var_os("RUST_LOG").is_none() {
        plugin.env("RUST_LOG", "error");
    }
    Ok(plugin)
}

/// Our own daemon: the one beside this program, or one that the shell would find.
fn daemon() -> OsString {
    let beside = std::env::current_exe().map(|this| this.with_file_name(DAEMON));
    let beside = beside.ok().filter(|path| path.exists());
    beside.map_or_else(|| DAEMON.into(), Into::into)
}

async fn story(
    kubelet: Kubelet,
    started: Instant,
    dir: &tempfile::TempDir,
    hold: bool,
    out: &mut Screen<impl Write>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (before_restart, registered) = all_registered(&kubelet, out).await?;
    let took = milliseconds(registered - started);
    writeln!(out, "{GOOD}All resources registered{GOOD:#} after {took}\n")?;
    print::print_node(out, &before_restart)?;

    let pod = pod(&before_restart);
    if pod.requests.is_empty() {
        bail!("no resource has a healthy device to give to a pod");
    }
    let before = kubelet.admit(&pod).await;
    let before = before.context("the pod is not admitted")?;
    let started = kubelet.start_container(POD).await;
    started.context("the container does not start")?;
    show_pod(out, &pod, &before)?;

    let kubelet = kubelet.restart().await?;
    let restarted = Instant::now();
    all_back(&kubelet, &before_restart, out).await?;
    let took = milliseconds(restarted.elapsed());
    writeln!(
        out,
        "\nThe kubelet restarted; {GOOD}all resources back{GOOD:#} after {took}\n"
    )?;
    print::print_node(out, &kubelet.node().borrow())?;
    show_kept(out, &before, &kubelet.assignments(POD))?;
    if hold {
        let dir = dir.path().display();
        writeln!(out, "\nStaying up until Ctrl-C: see the sockets in {dir}")?;
        out.flush()?;
        stop.cancelled().await;
    }
    Ok(())
}

/// Waits for the first resource, and then until no more come. Returns them, and when the last one came.
async fn all_registered(
    kubelet: &Kubelet,
    out: &mut Screen<impl Write>,
) -> anyhow::Result<(NodeResources, Instant)> {
    let mut follow = kubelet.node();
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut changed_last = Instant::now();
    loop {
        let node = follow.borrow_and_update().clone();
        out.show_progress(format_args!("{} resources registered", node.len()))?;
        let until = if node.is_empty() {
            deadline
        } else {
            changed_last + REGISTRATIONS_SETTLE
        };
        match timeout_at(until.into(), follow.changed()).await {
            Ok(changed) => {
                changed?;
                changed_last = Instant::now();
            }
            Err(_) if node.is_empty() => {
                let seconds = STEP_TIMEOUT.as_secs();
                bail!(
                    "no plugin registered within {seconds} s; it must register at kubelet.sock in the directory above"
                );
            }
            Err(_) => return Ok((node, changed_last)),
        }
    }
}

/// Waits until the node shows what it showed before.
async fn all_back(
    kubelet: &Kubelet,
    before: &NodeResources,
    out: &mut Screen<impl Write>,
) -> anyhow::Result<()> {
    out.show_progress("waiting for the resources")?;
    let mut follow = kubelet.node();
    let back = follow.wait_for(|node| node == before);
    let back = timeout_at((Instant::now() + STEP_TIMEOUT).into(), back).await;
    let node = kubelet.node().borrow().clone();
    let missing = || {
        let missing = before
            .iter()
            .find(|(name, shown)| node.get(*name) != Some(shown));
        let name = missing.map_or("a resource", |(name, _)| name);
        let seconds = STEP_TIMEOUT.as_secs();
        format!(
            "{name} is not back within {seconds} s after the kubelet's restart: its plugin must register again"
        )
    };
    back.with_context(missing)??;
    Ok(())
}

fn pod(node: &NodeResources) -> Pod {
    let wanted = |(name, shown): (&String, &kubelet_sim::Quantities)| {
        let count = shown.allocatable.min(POD_DEVICES);
        (count > 0).then(|| (name.clone(), count))
    };
    Pod {
        name: POD.to_owned(),
        requests: node.iter().filter_map(wanted).collect(),
    }
}

fn show_pod(out: &mut Screen<impl Write>, pod: &Pod, got: &[Assignment]) -> anyhow::Result<()> {
    let asks: Vec<String> = pod
        .requests
        .iter()
        .map(|(r, n)| format!("{n} {r}"))
        .collect();
    let asks = asks.join(", ");
    let text = format!("Pod {STRONG}{POD}{STRONG:#} asks for {asks}; its container gets");
    writeln!(out)?;
    out.write_wrapped(&text, 2)?;
    writeln!(out)?;
    Ok(print::print_assignments(out, got)?)
}

fn show_kept(
    out: &mut Screen<impl Write>,
    before: &[Assignment],
    after: &[Assignment],
) -> anyhow::Result<()> {
    let held = |assignments: &[Assignment]| -> BTreeMap<String, BTreeSet<String>> {
        let ids = |a: &Assignment| a.ids().into_iter().map(str::to_owned).collect();
        assignments
            .iter()
            .map(|a| (a.resource.clone(), ids(a)))
            .collect()
    };
    let (before, after) = (held(before), held(after));
    anyhow::ensure!(
        before == after,
        "the pod held {before:?} and now holds {after:?}"
    );
    let ids: Vec<String> = after.into_values().flatten().collect();
    let ids = ids.join(", ");
    let text = format!("Pod {STRONG}{POD}{STRONG:#} {GOOD}kept its devices{GOOD:#}: {ids}");
    writeln!(out)?;
    Ok(out.write_wrapped(&text, 2)?)
}

fn milliseconds(took: Duration) -> String {
    format!("{} ms", took.as_millis())
}

/// The plugin's process; it ends with its owner.
struct PluginProcess(Child);

impl PluginProcess {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let child = command.spawn();
        let name = Path::new(command.get_program()).display();
        Ok(Self(child.with_context(|| format!("cannot start {name}"))?))
    }

    /// Waits for its end.
    async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Asks it to end, and waits for that.
    async fn end(&mut self) -> anyhow::Result<()> {
        if self.0.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.0), Signal::TERM)?;
            let ended = timeout_at((Instant::now() + STOP_TIMEOUT).into(), self.ended()).await;
            let seconds = STOP_TIMEOUT.as_secs();
            ended.with_context(|| {
                format!("the plugin does not end within {seconds} s after SIGTERM")
            })??;
        }
        Ok(())
    }
}

impl Drop for PluginProcess {
    fn drop(&mut self) {
        // It has ended by itself, or is not to outlive us.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
