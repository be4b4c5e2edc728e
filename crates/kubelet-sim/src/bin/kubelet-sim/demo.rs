//! `demo`: runs a device plugin on a simulated kubelet in a temporary directory, and shows a registration, an
//! allocation and a kubelet restart.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kubelet_sim::{Assignment, Kubelet, KubeletSettings, NodeResources, Pod};
use rustix::process::{Pid, Signal, kill_process_group};
use simple_device_plugin::cli::style::{GOOD, STRONG};
use simple_device_plugin::config::{Environment, any_set, config_file};
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::print;
use super::screen::Screen;

/// The default plugin.
const DAEMON: &str = "simple-device-plugin";

/// The daemon's variables if no resource is configured: two resources, each on two NUMA nodes.
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

/// The time limit of each step. A step normally takes milliseconds.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the Node object must stay unchanged before the registrations count as complete. A plugin may register its
/// resources one after the other.
const REGISTRATIONS_SETTLE: Duration = Duration::from_millis(300);
/// The interval between checks whether the plugin's process has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the plugin may take to exit after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

const POD: &str = "demo";
/// The number of devices of each resource that the pod requests. If there are fewer, it requests all of them.
const POD_DEVICES: usize = 2;

/// Runs the demo. With `hold`, the plugin and the kubelet keep running until `stop` is canceled.
///
/// # Errors
/// Returns an error if a step fails or takes too long, or if the plugin's process exits early.
pub(crate) async fn run(
    environment: Environment,
    command: Vec<OsString>,
    hold: bool,
    mut out: Screen<impl Write>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory for the kubelet")?;
    let mut variables = Vec::new();
    if command.is_empty() && !any_set(&environment) && config_file(&environment).is_none() {
        writeln!(
            out,
            "No resource is configured; the demo uses these variables:\n"
        )?;
        for (name, value) in DEMO_VARIABLES {
            writeln!(out, "  {name}={value}")?;
            variables.push((name, value));
        }
        writeln!(out)?;
    }
    let settings = KubeletSettings::new(dir.path());
    let text = format!("Starting a simulated kubelet in {}", dir.path().display());
    out.write_wrapped(&text, 2)?;
    let mut command = plugin_command(command, &settings)?;
    command.envs(variables);
    let kubelet = Kubelet::start(settings)?;
    let started = Instant::now();
    let mut plugin = PluginProcess::start(command)?;
    let steps = run_steps(kubelet, started, &dir, hold, &mut out, &stop);
    let result = tokio::select! {
        result = stop.run_until_cancelled(steps) => result.unwrap_or(Ok(())),
        ended = plugin.wait() => Err(anyhow::anyhow!("the plugin exited before the end of the demo: {}", ended?)),
    };
    let stopped = plugin.stop().await;
    // The error of the demo is more useful than the error of stopping the plugin.
    result.and(stopped)
}

/// Returns the plugin's command line. The kubelet's directory replaces `{dir}` and is set in the environment.
fn plugin_command(command: Vec<OsString>, settings: &KubeletSettings) -> anyhow::Result<Command> {
    let mut words = command.into_iter();
    let mut plugin = Command::new(words.next().unwrap_or_else(daemon));
    let dir = settings
        .dir
        .to_str()
        .context("the path of the temporary directory is not UTF-8")?;
    // An argument that is not UTF-8 is passed unchanged.
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

/// Returns the daemon's program: the one in the directory of this program, or else the one in `PATH`.
fn daemon() -> OsString {
    let sibling = std::env::current_exe().map(|this| this.with_file_name(DAEMON));
    let sibling = sibling.ok().filter(|path| path.exists());
    sibling.map_or_else(|| DAEMON.into(), Into::into)
}

async fn run_steps(
    kubelet: Kubelet,
    started: Instant,
    dir: &tempfile::TempDir,
    hold: bool,
    out: &mut Screen<impl Write>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (before_restart, registered) = wait_for_registrations(&kubelet, out).await?;
    let took = milliseconds(registered - started);
    writeln!(out, "{GOOD}All resources registered{GOOD:#} after {took}\n")?;
    print::print_node(out, &before_restart)?;

    let pod = demo_pod(&before_restart);
    if pod.containers.iter().all(|c| c.requests.is_empty()) {
        bail!("no resource has a healthy device that a pod could request");
    }
    let before = kubelet.admit(&pod).await;
    let before = before.context("cannot admit the pod")?;
    let started = kubelet.start_containers(POD).await;
    started.context("cannot start the container")?;
    print_pod(out, &pod, &before)?;

    let kubelet = kubelet.restart().await?;
    let restarted = Instant::now();
    wait_for_return(&kubelet, &before_restart, out).await?;
    let took = milliseconds(restarted.elapsed());
    writeln!(
        out,
        "\nThe kubelet restarted; {GOOD}all resources registered again{GOOD:#} after {took}\n"
    )?;
    let node = kubelet.node().borrow().clone();
    print::print_node(out, &node)?;
    print_kept_devices(out, &before, &kubelet.assignments(POD))?;
    if hold {
        let dir = dir.path().display();
        writeln!(out, "\nRunning until Ctrl-C; the sockets are in {dir}")?;
        out.flush()?;
        stop.cancelled().await;
    }
    Ok(())
}

/// Waits until the plugin has registered its resources. Returns the resources and the time of their last change.
async fn wait_for_registrations(
    kubelet: &Kubelet,
    out: &mut Screen<impl Write>,
) -> anyhow::Result<(NodeResources, Instant)> {
    let mut receiver = kubelet.node();
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut last_change = Instant::now();
    loop {
        let node = receiver.borrow_and_update().clone();
        out.show_progress(format_args!("{} resources registered", node.len()))?;
        let until = if node.is_empty() {
            deadline
        } else {
            last_change + REGISTRATIONS_SETTLE
        };
        match timeout_at(until.into(), receiver.changed()).await {
            Ok(changed) => {
                changed?;
                last_change = Instant::now();
            }
            Err(_) if node.is_empty() => {
                let seconds = STEP_TIMEOUT.as_secs();
                bail!(
                    "no plugin registered within {seconds} s; the plugin must register at kubelet.sock in the directory above"
                );
            }
            Err(_) => return Ok((node, last_change)),
        }
    }
}

/// Waits until the node has the same resources as before the kubelet's restart.
async fn wait_for_return(
    kubelet: &Kubelet,
    before: &NodeResources,
    out: &mut Screen<impl Write>,
) -> anyhow::Result<()> {
    out.show_progress("waiting until all resources are registered again")?;
    let mut receiver = kubelet.node();
    let back = receiver.wait_for(|node| node == before);
    let back = timeout_at((Instant::now() + STEP_TIMEOUT).into(), back).await;
    let node = kubelet.node().borrow().clone();
    let missing = || {
        let missing = before
            .iter()
            .find(|(name, quantities)| node.get(*name) != Some(quantities));
        let name = missing.map_or("a resource", |(name, _)| name);
        let seconds = STEP_TIMEOUT.as_secs();
        format!(
            "{name} did not return within {seconds} s after the kubelet restart; its plugin must register again"
        )
    };
    back.with_context(missing)??;
    Ok(())
}

fn demo_pod(node: &NodeResources) -> Pod {
    let mut requests = BTreeMap::new();
    for (resource, quantities) in node {
        let count = quantities.allocatable.min(POD_DEVICES);
        if count > 0 {
            requests.insert(resource.clone(), count);
        }
    }
    Pod::with_one_container(POD, requests)
}

fn print_pod(
    out: &mut Screen<impl Write>,
    pod: &Pod,
    assignments: &[Assignment],
) -> anyhow::Result<()> {
    let requests = pod.containers.iter().flat_map(|c| &c.requests);
    let requests: Vec<String> = requests.map(|(r, n)| format!("{n} {r}")).collect();
    let requests = requests.join(", ");
    let text = format!("Pod {STRONG}{POD}{STRONG:#} requests {requests}; its container gets:");
    writeln!(out)?;
    out.write_wrapped(&text, 2)?;
    writeln!(out)?;
    Ok(print::print_pod(out, pod, assignments)?)
}

/// Compares the pod's devices before and after the kubelet's restart, and prints them.
fn print_kept_devices(
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
        "the pod held {before:?} before the kubelet restart and holds {after:?} after it"
    );
    let ids: Vec<String> = after.into_values().flatten().collect();
    let ids = ids.join(", ");
    let text = format!("Pod {STRONG}{POD}{STRONG:#} {GOOD}kept its devices{GOOD:#}: {ids}");
    writeln!(out)?;
    Ok(out.write_wrapped(&text, 2)?)
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

/// The plugin's process group, which is killed on drop. Signals are sent to the whole group, because the command may be
/// a shell or a build tool that starts the plugin.
struct PluginProcess(Child);

impl PluginProcess {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let child = command.process_group(0).spawn();
        let name = Path::new(command.get_program()).display();
        Ok(Self(child.with_context(|| format!("cannot start {name}"))?))
    }

    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends SIGTERM and waits until the process exits.
    async fn stop(&mut self) -> anyhow::Result<()> {
        if self.0.try_wait()?.is_none() {
            self.signal(Signal::TERM)?;
            let ended = timeout_at((Instant::now() + STOP_TIMEOUT).into(), self.wait()).await;
            let Ok(status) = ended else {
                let seconds = STOP_TIMEOUT.as_secs();
                bail!("the plugin did not exit within {seconds} s after SIGTERM");
            };
            status?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        kill_process_group(Pid::from_child(&self.0), signal)
    }
}

impl Drop for PluginProcess {
    fn drop(&mut self) {
        // Both fail if the processes have already exited.
        let _ = self.signal(Signal::KILL);
        let _ = self.0.wait();
    }
}
