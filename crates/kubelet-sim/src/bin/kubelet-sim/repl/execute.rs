//! What each line does that needs no plugin.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::timeout;

use super::command::{ReplCommand, ReplCommandError};
use super::session::Session;
use super::{print_help, view};
use kubelet_sim::Kubelet;
use simple_device_plugin::cli::style::{BAD, DIM};
use simple_device_plugin::util::sanitize::sanitize;

/// For the `wait` of a script.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What ends a kubelet's life.
pub enum ReplExit {
    Restart,
    Quit,
}

/// Does what a line says that needs no plugin.
pub fn execute<W: Write>(
    kubelet: &Kubelet,
    line: Result<ReplCommand, ReplCommandError>,
    session: &mut Session<'_, W>,
) -> io::Result<ControlFlow<ReplExit>> {
    match line {
        Ok(ReplCommand::Quit) => return Ok(ControlFlow::Break(ReplExit::Quit)),
        Ok(ReplCommand::Restart) => return Ok(ControlFlow::Break(ReplExit::Restart)),
        Ok(ReplCommand::Blank) => {}
        Ok(ReplCommand::Help) => print_help(session.out)?,
        Ok(ReplCommand::Status) => status(kubelet, session)?,
        Ok(ReplCommand::Delete(pod)) => delete(kubelet, &pod, session.out)?,
        Ok(ReplCommand::Lose(resource)) => lose(kubelet, &resource, session.out)?,
        Ok(ReplCommand::Pod(_) | ReplCommand::Wait(..)) => {
            let way_out = "a pod waits for its plugins; lose, restart and quit end that";
            session
                .out
                .write_wrapped(&format!("{BAD}not now{BAD:#}: {way_out}"), 2)?;
        }
        Err(error) => session
            .out
            .write_wrapped(&format!("{BAD}{error}{BAD:#}"), 2)?,
    }
    Ok(ControlFlow::Continue(()))
}

fn status<W: Write>(kubelet: &Kubelet, session: &mut Session<'_, W>) -> io::Result<()> {
    if kubelet.node().borrow().is_empty() {
        return writeln!(session.out, "{DIM}no plugin has registered yet{DIM:#}");
    }
    session.print_node()?;
    let held = kubelet.all_assignments();
    if held.is_empty() {
        return writeln!(session.out, "{DIM}no pod holds a device{DIM:#}");
    }
    writeln!(session.out)?;
    view::print_pods(session.out, &held)
}

/// Waits until so many devices can be had, but not for ever.
pub async fn wait<W: Write>(
    kubelet: &Kubelet,
    resource: &str,
    count: usize,
    session: &mut Session<'_, W>,
) -> io::Result<ControlFlow<ReplExit>> {
    let mut node = kubelet.node();
    let enough = node.wait_for(|node| node.get(resource).is_some_and(|n| n.allocatable >= count));
    let name = sanitize(resource);
    let waited = session.until(Some(&name), timeout(WAIT_MAX, enough));
    match waited.await? {
        None => return Ok(ControlFlow::Break(ReplExit::Quit)),
        Some(Ok(_)) => {}
        Some(Err(_)) => {
            let seconds = WAIT_MAX.as_secs();
            let text = format!("{BAD}{name}: not {count} allocatable after {seconds} s{BAD:#}");
            session.out.write_wrapped(&text, 2)?;
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn delete(kubelet: &Kubelet, pod: &str, out: &mut impl Write) -> io::Result<()> {
    let name = sanitize(pod);
    if kubelet.assignments(pod).is_empty() {
        return writeln!(out, "{BAD}pod {name} holds no device{BAD:#}");
    }
    kubelet.delete(pod);
    writeln!(out, "pod {name} is deleted: its devices are free")
}

fn lose(kubelet: &Kubelet, resource: &str, out: &mut impl Write) -> io::Result<()> {
    if kubelet.disconnect_plugin(resource) {
        return Ok(());
    }
    let resource = sanitize(resource);
    writeln!(out, "{BAD}{resource} has no plugin here{BAD:#}")
}
