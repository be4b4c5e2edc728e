//! `demo`: the manager's whole job on an embedded kubelet, in a directory of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::print;
use crate::allocation::Allocation;
use crate::config::{Config, Environment, Host, any_set};
use crate::kubelet::{Assignment, Kubelet, Node, Pod, Settings};
use crate::logging;
use crate::resource::Resource;
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
    out: &mut impl Write,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("no temporary directory for the embedded kubelet")?;
    environment.insert("DEVICE_PLUGIN_PATH".to_owned(), dir.path().into());
    if !any_set(&environment) {
        writeln!(out, "No resource is set, so these are shown:\n")?;
        for (name, value) in SHOWN {
            writeln!(out, "  {name}={value}")?;
            environment.insert(name.to_owned(), value.into());
        }
        writeln!(out)?;
    }
    let config = Config::from_variables(&environment, &host)?;
    let _logging = logging::start(&config.logs, "error")?;
    show(&config, hold, out, stop).await
}

async fn show(
    config: &Config,
    hold: bool,
    out: &mut impl Write,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let dir = config.plugin_dir.display();
    writeln!(out, "A kubelet for node {} in {dir}", config.node)?;
    let mut kubelet = Kubelet::start(Settings::new(&config.plugin_dir))?;
    let supervisor = Supervisor::new(config.resources.clone(), &config.plugin_dir);
    let leave = CancellationToken::new();
    let story = async {
        let _then_leave = leave.clone().drop_guard();
        let since = Instant::now();
        let node = all_shown(&kubelet, &config.resources).await?;
        writeln!(out, "All resources registered after {}\n", since_ms(since))?;
        print::columns(out, quantities(&node))?;

        let pod = pod(&config.resources);
        anyhow::ensure!(
            !pod.requests.is_empty(),
            "no resource has a device to give to a pod"
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
        let node = all_shown(&kubelet, &config.resources).await?;
        writeln!(
            out,
            "\nThe kubelet restarted; all resources back after {}\n",
            since_ms(since)
        )?;
        print::columns(out, quantities(&node))?;
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
async fn all_shown(kubelet: &Kubelet, resources: &[Resource]) -> anyhow::Result<Node> {
    let mut node = kubelet.node();
    let whole = |node: &Node| {
        resources.iter().all(|resource| {
            let quantities = node.get(resource.name.as_str());
            quantities.is_some_and(|shown| shown.allocatable == resource.devices.len())
        })
    };
    let shown = timeout(DEADLINE, node.wait_for(whole)).await;
    Ok(shown
        .context("not every resource was registered in time")??
        .clone())
}

fn quantities(node: &Node) -> Vec<String> {
    let mut rows = vec!["RESOURCE\tCAPACITY\tALLOCATABLE".to_owned()];
    rows.extend(
        node.iter().map(|(resource, shown)| {
            format!("{resource}\t{}\t{}", shown.capacity, shown.allocatable)
        }),
    );
    rows
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

fn show_pod(out: &mut impl Write, pod: &Pod, got: &[Assignment]) -> anyhow::Result<()> {
    let asks: Vec<String> = pod
        .requests
        .iter()
        .map(|(r, n)| format!("{n} {r}"))
        .collect();
    writeln!(
        out,
        "\nPod {POD} asks for {}; its container gets\n",
        asks.join(", ")
    )?;
    let mut rows = Vec::new();
    for assignment in got {
        rows.push(format!("{}\t{}", assignment.resource, devices(assignment)));
        let allocation = Allocation::from(assignment.response.clone());
        let outputs = print::outputs(&allocation).into_iter();
        rows.extend(outputs.map(|(what, value)| format!("  {what}\t{value}")));
    }
    Ok(print::columns(out, rows)?)
}

/// The devices with their NUMA nodes.
fn devices(assignment: &Assignment) -> String {
    let by_node = assignment.devices.iter().map(|(node, ids)| {
        let ids = ids
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        match node {
            -1 => ids,
            node => format!("{ids} (NUMA node {node})"),
        }
    });
    by_node.collect::<Vec<_>>().join(", ")
}

fn show_kept(
    out: &mut impl Write,
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
    writeln!(out, "\nPod {POD} kept its devices: {}", ids.join(", "))?;
    Ok(())
}

fn since_ms(since: Instant) -> String {
    format!("{} ms", since.elapsed().as_millis())
}
