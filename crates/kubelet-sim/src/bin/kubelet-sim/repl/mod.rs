//! `run`: the simulated kubelet for plugins in any language.

mod admission;
mod command;
mod execute;
mod input;
mod session;
mod view;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
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

/// How long the last words may take where nobody reads.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a kubelet until `quit` or `stop`, and does what the lines of standard input say. The kubelet lives here; whoever
/// talks to the terminal does so on a thread of its own, which a reader who does not read holds up, but not the kubelet.
pub async fn run(settings: KubeletSettings, stop: CancellationToken) -> anyhow::Result<()> {
    let here = Handle::current();
    let (end, mut ended) = oneshot::channel();
    let talk = talk(settings, here, stop.clone());
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let talked = runtime
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(talk));
        // Who waits no more has ended already.
        let _ = end.send(talked);
    });
    tokio::select! {
        talked = &mut ended => talked.context("a bug: the talk ended without a word")?,
        () = stop.cancelled() => match timeout(OUTPUT_TIMEOUT, ended).await {
            Ok(talked) => talked.context("a bug: the talk ended without a word")?,
            Err(_) => Ok(()),
        },
    }
}

/// Starts the kubelet on the runtime `here`, and talks about it.
async fn talk(
    settings: KubeletSettings,
    here: Handle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut screen = stdout();
    let dir = settings.dir.display().to_string();
    // Here it may be a real node's, and would be written over.
    checkpoint::read(&settings.dir).with_context(|| {
        let way_out = "if it is another kubelet's, take another directory";
        format!("no kubelet in {dir}: cannot use the checkpoint there; {way_out}")
    })?;
    let behavior = settings.behavior;
    let started = here.spawn(async { Kubelet::start(settings) }).await?;
    let mut kubelet = started.with_context(|| format!("no kubelet in {dir}"))?;
    introduce(&mut screen, behavior, &dir, &kubelet)?;
    let mut session = Session::new(&mut screen, &kubelet, stop);
    let mut lines = input::lines();
    while let ReplExit::Restart = next(&kubelet, &mut session, &mut lines).await? {
        let restarted = here.spawn(kubelet.restart()).await?;
        kubelet = restarted.context("the kubelet does not restart")?;
        session.set_kubelet(&kubelet);
        session.print_line("the kubelet restarted: plugins must register again")?;
    }
    if let Some(crash) = kubelet.crashed().borrow().clone() {
        screen.flush()?;
        return Err(crash).context("a real kubelet would have crashed");
    }
    kubelet.stop().await;
    Ok(())
}

fn introduce(
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
        "{STRONG}A kubelet, {behavior}{STRONG:#}: plugins register at {dir}/{KUBELET_SOCKET}"
    )?;
    let pod_resources = KubeletSettings::new(dir).pod_resources_socket();
    writeln!(
        out,
        "Pod resources are served at {}",
        pod_resources.display()
    )?;
    let held = kubelet.all_assignments();
    if !held.is_empty() {
        writeln!(out, "Pods of an earlier run, from its checkpoint:\n")?;
        view::print_pods(out, &held)?;
        writeln!(out)?;
    }
    writeln!(out, "Type {STRONG}help{STRONG:#} for what it can do.\n")
}

/// Does what the lines say until one of them ends this kubelet's life.
async fn next<W: Write>(
    kubelet: &Kubelet,
    session: &mut Session<'_, W>,
    lines: &mut Lines,
) -> anyhow::Result<ReplExit> {
    loop {
        let Some(line) = session.until(None, next_line(lines)).await? else {
            return Ok(ReplExit::Quit);
        };
        let ended = match line.parse() {
            Ok(ReplCommand::Pod(pod)) => admission::admit(kubelet, &pod, session, lines).await?,
            Ok(ReplCommand::Wait(resource, count)) => {
                wait(kubelet, &resource, count, session).await?
            }
            line => execute(kubelet, line, session)?,
        };
        if let ControlFlow::Break(end) = ended {
            return Ok(end);
        }
    }
}

fn print_help(out: &mut impl Write) -> io::Result<()> {
    let rows = command::HELP.iter();
    columns(out, rows.map(|(line, does)| format!("  {line}\t{does}")))
}

/// The lines that it takes.
pub fn help() -> String {
    let mut text = b"Lines:\n".to_vec();
    // To memory it cannot fail.
    let _ = print_help(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
