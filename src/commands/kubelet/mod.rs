//! `kubelet`: the embedded kubelet for plugins of others, in any language.

mod input;
mod line;
mod session;
mod view;

use std::io::{self, Write};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::print;
use super::screen::Screen;
use super::style::{BAD, DIM, GOOD, ODD, STRONG};
use crate::foreign::foreign;
use crate::kubelet::{Behaviour, Kubelet, Pod, Settings};
use crate::socket_name::KUBELET_SOCKET;

use line::Line;
use session::Session;

/// Runs a kubelet until `quit` or `stop`, and does what the lines of standard input say.
pub async fn run(
    settings: Settings,
    out: &mut Screen<impl Write>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let dir = settings.dir.display().to_string();
    let behaviour = match settings.behaviour {
        Behaviour::V1_36 => "1.36",
        Behaviour::Newer => "newer than 1.36.2",
    };
    let mut kubelet = Kubelet::start(settings).with_context(|| format!("no kubelet in {dir}"))?;
    writeln!(
        out,
        "{STRONG}A kubelet, {behaviour}{STRONG:#}: plugins register at {dir}/{KUBELET_SOCKET}"
    )?;
    writeln!(out, "Type {STRONG}help{STRONG:#} for what it can do.\n")?;
    let mut session = Session::new(out, &kubelet, stop);
    let mut lines = input::lines();
    loop {
        let Some(line) = session.until(None, next(&mut lines)).await? else {
            break;
        };
        match line.parse() {
            Ok(Line::Blank) => {}
            Ok(Line::Quit) => break,
            Ok(Line::Help) => help(session.out)?,
            Ok(Line::Status) => status(&kubelet, &mut session)?,
            Ok(Line::Pod(pod)) => admit(&kubelet, &pod, &mut session).await?,
            Ok(Line::Delete(pod)) => delete(&kubelet, &pod, session.out)?,
            Ok(Line::Lose(resource)) => lose(&kubelet, &resource, session.out)?,
            Ok(Line::Restart) => {
                let restarted = kubelet.restart().await;
                kubelet = restarted.context("the kubelet does not restart")?;
                session.follow(&kubelet);
                session.tell("the kubelet restarted: plugins must register again")?;
            }
            Err(error) => writeln!(session.out, "{BAD}{error}{BAD:#}")?,
        }
    }
    kubelet.stop().await;
    Ok(())
}

/// The next line; none comes when standard input has ended, and the kubelet goes on.
async fn next(lines: &mut mpsc::Receiver<String>) -> String {
    match lines.recv().await {
        Some(line) => line,
        None => std::future::pending().await,
    }
}

fn help(out: &mut impl Write) -> io::Result<()> {
    let rows = line::HELP.iter();
    print::columns(out, rows.map(|(line, does)| format!("  {line}\t{does}")))
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
    view::pods(session.out, &held)
}

async fn admit<W: Write>(
    kubelet: &Kubelet,
    pod: &Pod,
    session: &mut Session<'_, W>,
) -> anyhow::Result<()> {
    let name = foreign(&pod.name);
    let unknown = kubelet.never_offered(pod);
    let waiting_for = format!("the plugins of pod {name}");
    let admitted = session
        .until(Some(&waiting_for), kubelet.admit(pod))
        .await?;
    let got = match admitted {
        None => return Ok(()),
        Some(Ok(got)) => got,
        Some(Err(error)) => {
            let refused = format!("{BAD}pod {name}: UnexpectedAdmissionError{BAD:#}: {error}");
            return Ok(session.out.wrapped(&refused, 2)?);
        }
    };
    writeln!(session.out, "{GOOD}pod {name} is admitted{GOOD:#}")?;
    print::assignments(session.out, &got)?;
    for resource in unknown {
        let runs = "the pod runs without it, as on a real node";
        let text = format!("{ODD}{resource} was never offered: {runs}{ODD:#}");
        session.out.wrapped(&text, 2)?;
    }
    let started = kubelet.start_container(&pod.name);
    if let Some(Err(status)) = session.until(Some(&waiting_for), started).await? {
        let message = foreign(status.message());
        let text = format!("{BAD}pod {name}: CreateContainerConfigError{BAD:#}: {message}");
        session.out.wrapped(&text, 2)?;
    }
    Ok(())
}

fn delete(kubelet: &Kubelet, pod: &str, out: &mut impl Write) -> io::Result<()> {
    let name = foreign(pod);
    if kubelet.assignments(pod).is_empty() {
        return writeln!(out, "{BAD}pod {name} holds no device{BAD:#}");
    }
    kubelet.delete(pod);
    writeln!(out, "pod {name} is deleted: its devices are free")
}

fn lose(kubelet: &Kubelet, resource: &str, out: &mut impl Write) -> io::Result<()> {
    if kubelet.lose_stream(resource) {
        return Ok(());
    }
    let resource = foreign(resource);
    writeln!(out, "{BAD}{resource} has no plugin here{BAD:#}")
}
