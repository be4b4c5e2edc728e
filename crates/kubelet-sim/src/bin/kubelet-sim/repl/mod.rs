//! `run`: a simulated kubelet that executes commands from standard input, for plugins in any language.

mod admission;
mod command;
mod execute;
mod input;
mod session;
mod view;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::screen::{Screen, stdout};
use kubelet_sim::{Behavior, Kubelet, KubeletSettings, checkpoint};
use simple_device_plugin::cli::print::columns;
use simple_device_plugin::cli::style::STRONG;
use simple_device_plugin::model::socket_name::KUBELET_SOCKET;

use command::ReplCommand;
use execute::{ReplExit, execute, wait};
use input::{Lines, next_line};
use session::Session;

/// How long the program waits for its last output to be written when it exits: the reader may be blocked.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a kubelet and a prompt until `quit` or until `stop` is canceled. The kubelet runs on the current runtime and
/// the prompt on a separate thread, so that blocked output does not block the kubelet.
pub(crate) async fn run(settings: KubeletSettings, stop: CancellationToken) -> anyhow::Result<()> {
    let (sender, mut result) = oneshot::channel();
    let running = watch::Sender::new(None);
    let kubelet = running.subscribe();
    let prompt = run_prompt(settings, Handle::current(), stop.clone(), running);
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let result = match runtime {
            Ok(runtime) => runtime.block_on(prompt),
            Err(error) => Err(error.into()),
        };
        // After the timeout below there is no receiver.
        let _ = sender.send(result);
    });
    let ended = "a bug: the prompt's thread ended without a result";
    let result = tokio::select! {
        result = &mut result => result.context(ended)?,
        () = stop.cancelled() => match timeout(OUTPUT_TIMEOUT, result).await {
            Ok(result) => result.context(ended)?,
            Err(_) => Ok(()),
        },
    };
    let kubelet: Option<Arc<Kubelet>> = kubelet.borrow().clone();
    // A kubelet that crashed must not write the checkpoint again, which `stop` could do.
    if let Some(kubelet) = kubelet.filter(|kubelet| kubelet.crashed().borrow().is_none()) {
        kubelet.stop().await;
    }
    result
}

/// Starts a kubelet on the given runtime, and executes commands until the program ends. The running kubelet is sent to
/// `running`; the caller stops it.
async fn run_prompt(
    settings: KubeletSettings,
    kubelet_runtime: Handle,
    stop: CancellationToken,
    running: watch::Sender<Option<Arc<Kubelet>>>,
) -> anyhow::Result<()> {
    let mut screen = stdout();
    let dir = settings.dir.display().to_string();
    // The directory may be that of a real kubelet, whose checkpoint must not be overwritten.
    checkpoint::read(&settings.dir).with_context(|| {
        let remedy = "if it is the checkpoint of a real kubelet, choose another directory";
        format!("cannot start a kubelet in {dir}: cannot use the checkpoint there; {remedy}")
    })?;
    let behavior = settings.behavior;
    let started = kubelet_runtime
        .spawn(async { Kubelet::start(settings) })
        .await?;
    let mut kubelet =
        Arc::new(started.with_context(|| format!("cannot start a kubelet in {dir}"))?);
    running.send_replace(Some(Arc::clone(&kubelet)));
    print_introduction(&mut screen, behavior, &dir, &kubelet)?;
    let mut session = Session::new(&mut screen, &kubelet, stop);
    let mut lines = input::lines();
    while let ReplExit::Restart = execute_lines(&kubelet, &mut session, &mut lines).await? {
        let restarted = kubelet_runtime
            .spawn(async move { kubelet.restart().await })
            .await?;
        kubelet = Arc::new(restarted.context("cannot restart the kubelet")?);
        running.send_replace(Some(Arc::clone(&kubelet)));
        session.set_kubelet(&kubelet);
        session.print_line("the kubelet restarted; plugins must register again")?;
    }
    if let Some(crash) = kubelet.crashed().borrow().clone() {
        screen.flush()?;
        return Err(crash).context("a real kubelet would have crashed");
    }
    Ok(())
}

fn print_introduction(
    out: &mut Screen<impl Write>,
    behavior: Behavior,
    dir: &str,
    kubelet: &Kubelet,
) -> io::Result<()> {
    let behavior = match behavior {
        Behavior::V1_36 => "1.36",
        Behavior::Newer => "newer than 1.36.2",
    };
    writeln!(
        out,
        "{STRONG}Simulated kubelet {behavior}{STRONG:#}: plugins register at {dir}/{KUBELET_SOCKET}"
    )?;
    let pod_resources = KubeletSettings::new(dir).pod_resources_socket();
    writeln!(
        out,
        "The pod-resources API is at {}",
        pod_resources.display()
    )?;
    let assignments = kubelet.all_assignments();
    if !assignments.is_empty() {
        writeln!(out, "Pods in the checkpoint of an earlier run:\n")?;
        view::print_pods(out, &assignments)?;
        writeln!(out)?;
    }
    writeln!(out, "Type {STRONG}help{STRONG:#} for a list of commands.\n")
}

/// Executes the lines of standard input until a command stops the kubelet or the program stops.
async fn execute_lines<W: Write>(
    kubelet: &Kubelet,
    session: &mut Session<'_, W>,
    lines: &mut Lines,
) -> anyhow::Result<ReplExit> {
    loop {
        let Some(line) = session.run_until(None, next_line(lines)).await? else {
            return Ok(ReplExit::Quit);
        };
        let executed = match line.parse() {
            Ok(ReplCommand::Pod(pod)) => admission::admit(kubelet, &pod, session, lines).await?,
            Ok(ReplCommand::Wait { resource, count }) => {
                wait(kubelet, &resource, count, session).await?
            }
            command => execute(kubelet, command, session).await?,
        };
        if let ControlFlow::Break(exit) = executed {
            return Ok(exit);
        }
    }
}

fn print_help(out: &mut impl Write) -> io::Result<()> {
    let rows = command::HELP.iter();
    columns(
        out,
        rows.map(|(syntax, purpose)| format!("  {syntax}\t{purpose}")),
    )?;
    out.write_all(command::HELP_CONTAINERS.as_bytes())
}

/// Returns the list of commands, for the help text of `run`.
pub(crate) fn help() -> String {
    let mut text = b"Commands on standard input:\n".to_vec();
    // Writing to memory cannot fail.
    let _ = print_help(&mut text);
    text.extend(b"\nExample:\n  kubelet-sim run --dir /tmp/plugins");
    String::from_utf8_lossy(&text).into_owned()
}
