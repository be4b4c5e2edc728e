//! The command `wait`, and the commands that need no response from a plugin.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::timeout;

use super::command::{ReplCommand, ReplCommandError};
use super::session::Session;
use super::{print_help, view};
use kubelet_sim::{Event, EventKind, Kubelet};
use simple_device_plugin::cli::style::{BAD, DIM};
use simple_device_plugin::util::sanitize::sanitize;

/// The time limit of `wait`, so that a script always ends.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long `lose` waits. The kubelet needs some milliseconds.
const DISCONNECT_MAX: Duration = Duration::from_secs(5);

/// Why the prompt stops the kubelet.
pub(crate) enum ReplExit {
    Restart,
    Quit,
}

/// Executes a command, or prints the error of an invalid line. `pod` and `wait` are rejected here, because this is
/// called for them only while another pod waits for its plugins.
pub(crate) async fn execute<W: Write>(
    kubelet: &Kubelet,
    command: Result<ReplCommand, ReplCommandError>,
    session: &mut Session<'_, W>,
) -> io::Result<ControlFlow<ReplExit>> {
    match command {
        Ok(ReplCommand::Quit) => return Ok(ControlFlow::Break(ReplExit::Quit)),
        Ok(ReplCommand::Restart) => return Ok(ControlFlow::Break(ReplExit::Restart)),
        Ok(ReplCommand::Blank) => {}
        Ok(ReplCommand::Help) => print_help(session.out)?,
        Ok(ReplCommand::Status) => print_status(kubelet, session)?,
        Ok(ReplCommand::Delete { pod }) => delete_pod(kubelet, &pod, session.out)?,
        Ok(ReplCommand::Lose { resource }) => {
            return disconnect_plugin(kubelet, &resource, session).await;
        }
        Ok(ReplCommand::Pod(_) | ReplCommand::Wait { .. }) => {
            let reason =
                "a pod is waiting for its plugins; end the wait with lose, restart or quit";
            let text = format!("{BAD}not now{BAD:#}: {reason}");
            session.out.write_wrapped(&text, 2)?;
        }
        Err(error) => {
            let text = format!("{BAD}{error}{BAD:#}");
            session.out.write_wrapped(&text, 2)?;
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn print_status<W: Write>(kubelet: &Kubelet, session: &mut Session<'_, W>) -> io::Result<()> {
    if kubelet.node().borrow().is_empty() {
        return writeln!(session.out, "{DIM}no plugin has registered yet{DIM:#}");
    }
    session.print_node()?;
    let assignments = kubelet.all_assignments();
    if assignments.is_empty() {
        return writeln!(session.out, "{DIM}no pod holds a device{DIM:#}");
    }
    writeln!(session.out)?;
    view::print_pods(session.out, &assignments)
}

/// Waits until the resource has at least `count` allocatable devices, at most for [`WAIT_MAX`].
pub(crate) async fn wait<W: Write>(
    kubelet: &Kubelet,
    resource: &str,
    count: usize,
    session: &mut Session<'_, W>,
) -> io::Result<ControlFlow<ReplExit>> {
    let mut node = kubelet.node();
    let enough = node.wait_for(|node| node.get(resource).is_some_and(|n| n.allocatable >= count));
    let name = sanitize(resource);
    let waited = session.run_until(Some(&name), timeout(WAIT_MAX, enough));
    match waited.await? {
        None => return Ok(ControlFlow::Break(ReplExit::Quit)),
        Some(Ok(_)) => {}
        Some(Err(_)) => {
            let seconds = WAIT_MAX.as_secs();
            let text = format!(
                "{BAD}{name}: fewer than {count} devices allocatable after {seconds} s{BAD:#}"
            );
            session.out.write_wrapped(&text, 2)?;
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn delete_pod(kubelet: &Kubelet, pod: &str, out: &mut impl Write) -> io::Result<()> {
    let name = sanitize(pod);
    if !kubelet.has_pod(pod) {
        return writeln!(out, "{BAD}no pod {name}{BAD:#}");
    }
    let holds_devices = !kubelet.assignments(pod).is_empty();
    kubelet.delete(pod);
    let freed = if holds_devices {
        "; its devices are free for the next pod"
    } else {
        ""
    };
    writeln!(out, "pod {name} is deleted{freed}")
}

/// Closes the connection to a plugin, and waits until the kubelet has marked its devices as unhealthy, so that a `wait`
/// after it waits for the next registration.
async fn disconnect_plugin<W: Write>(
    kubelet: &Kubelet,
    resource: &str,
    session: &mut Session<'_, W>,
) -> io::Result<ControlFlow<ReplExit>> {
    let mut events = kubelet.events();
    let name = sanitize(resource);
    if !kubelet.disconnect_plugin(resource) {
        writeln!(session.out, "{BAD}{name}: no plugin is connected{BAD:#}")?;
        return Ok(ControlFlow::Continue(()));
    }
    let disconnected = async {
        while let Ok(Event { resource, kind }) = events.recv().await {
            if resource == name && matches!(kind, EventKind::Disconnected { .. }) {
                break;
            }
        }
    };
    let waited = session.run_until(None, timeout(DISCONNECT_MAX, disconnected));
    Ok(match waited.await? {
        None => ControlFlow::Break(ReplExit::Quit),
        Some(_) => ControlFlow::Continue(()),
    })
}
