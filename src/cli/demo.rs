//! `demo`: the manager's whole job on an embedded kubelet, in a directory of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::print;
use super::screen::Screen;
use super::style::{GOOD, STRONG};
use crate::cli::logging;
use crate::config::reload::configuration;
use crate::config::{Config, Environment, Host, any_set, config_file};
use crate::kubelet::{Assignment, Kubelet, Node, Pod, Settings};
use crate::offer::resource::Resource;
use crate::supervisor::Supervisor;

/// What is shown where no variable of a resource is set: two resources over two NUMA nodes.
const SHOWN: [(&str, &str); 8] = [
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
const DEADLINE: Duration = Duration::from_secs(30);

const POD: &str = "demo";
/// How many devices of each resource the pod asks for, where there are so many.
const POD_DEVICES: usize = 2;

/// Shows it, and stays up with `hold`.
pub async fn run(
    mut environment: Environment,
    host: Host,
    hold: bool,
    out: &mut Screen<impl Write>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("no temporary directory for the embedded kubelet")?;
    environment.insert("DEVICE_PLUGIN_PATH".to_owned(), dir.path().into());
    if !any_set(&environment) && config_file(&environment).is_none() {
        writeln!(out, "No resource is set, so these are shown:\n")?;
        for (name, value) in SHOWN {
            writeln!(out, "  {name}={value}")?;
            environment.insert(name.to_owned(), value.into());
        }
        writeln!(out)?;
    }
    let config = configuration(&environment, &host)?;
    let _logging = logging::start(&config.logs, "error")?;
    show(&config, hold, out, stop).await
}

async fn show(
    config: &Config,
    hold: bool,
    out: &mut Screen<impl Write>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let dir = config.plugin_dir.display();
    out.wrapped(&format!("A kubelet for node {} in {dir}", config.node), 2)?;
    let mut kubelet = Kubelet::start(Settings::new(&config.plugin_dir))?;
    let supervisor = Supervisor::new(config.resources.clone(), &config.plugin_dir);
    let leave = CancellationToken::new();
    let story = async {
        let _then_leave = leave.clone().drop_guard();
        let since = Instant::now();
        let node = all_shown(&kubelet, &config.resources, out).await?;
        let took = since_ms(since);
        writeln!(out, "{GOOD}All resources registered{GOOD:#} after {took}\n")?;
        print::node(out, &node)?;

        let pod = pod(&config.resources);
        anyhow::ensure!(
            !pod.requests.is_empty(),
            "no resource has a device to give to a pod: the demo needs a NUMBER_DEVICES above 0"
        );
        let before = kubelet
            .admit(&pod)
            .await
            .context("the pod is not admitted")?;
        kubelet
            .start_container(POD)
            .await
            .context("the container does not start")?;
        show_pod(out, &pod, &before)?;

        kubelet = kubelet.restart().await?;
        let since = Instant::now();
        let node = all_shown(&kubelet, &config.resources, out).await?;
        writeln!(
            out,
            "\nThe kubelet restarted; {GOOD}all resources back{GOOD:#} after {}\n",
            since_ms(since)
        )?;
        print::node(out, &node)?;
        show_kept(out, &before, &kubelet.assignments(POD))?;
        if hold {
            writeln!(out, "\nStaying up until Ctrl-C: see the sockets in {dir}")?;
            out.flush()?;
            stop.cancelled().await;
        }
        anyhow::Ok(())
    };
    let (told, left) = tokio::join!(
        stop.run_until_cancelled(story),
        supervisor.run(leave.clone())
    );
    left?;
    told.unwrap_or(Ok(()))
}

/// Waits until the node shows every resource whole.
async fn all_shown(
    kubelet: &Kubelet,
    resources: &[Resource],
    out: &mut Screen<impl Write>,
) -> anyhow::Result<Node> {
    let mut follow = kubelet.node();
    let deadline = Instant::now() + DEADLINE;
    loop {
        let node = follow.borrow_and_update().clone();
        let mut missing = resources
            .iter()
            .filter(|resource| !is_whole(&node, resource));
        let Some(first) = missing.next() else {
            return Ok(node);
        };
        let (whole, all) = (resources.len() - 1 - missing.count(), resources.len());
        out.waiting(format_args!(
            "waiting for the resources: {whole} of {all} registered"
        ))?;
        let changed = timeout_at(deadline.into(), follow.changed()).await;
        changed.with_context(|| {
            let (name, s) = (&first.name, DEADLINE.as_secs());
            format!("{name} is not registered after {s} s; with RUST_LOG=debug it tells why")
        })??;
    }
}

fn is_whole(node: &Node, resource: &Resource) -> bool {
    let shown = node.get(resource.name.as_str());
    let healthy = resource
        .devices
        .as_slice()
        .iter()
        .filter(|device| device.can_be_given());
    shown.is_some_and(|shown| shown.allocatable == healthy.count())
}

fn pod(resources: &[Resource]) -> Pod {
    let wanted = |resource: &Resource| {
        let count = resource.devices.len().min(POD_DEVICES);
        (count > 0).then(|| (resource.name.to_string(), count))
    };
    Pod {
        name: POD.to_owned(),
        requests: resources.iter().filter_map(wanted).collect(),
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
    out.wrapped(&text, 2)?;
    writeln!(out)?;
    Ok(print::assignments(out, got)?)
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
    Ok(out.wrapped(&text, 2)?)
}

fn since_ms(since: Instant) -> String {
    format!("{} ms", since.elapsed().as_millis())
}
