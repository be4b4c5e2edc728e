//! `kubelet`: the embedded kubelet for plugins of others, in any language.

mod input;
mod line;
mod session;
mod view;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::print;
use super::screen::patient_stdout;
use super::style::{BAD, DIM, GOOD, ODD, STRONG};
use crate::foreign::foreign;
use crate::kubelet::{Behaviour, Kubelet, Pod, Settings, checkpoint};
use crate::socket_name::KUBELET_SOCKET;

use line::{Line, LineError};
use session::Session;

/// Lines wait so long for a pod's plugins, so that those of a script are done one after another.
const PATIENCE: Duration = Duration::from_secs(1);

/// For the `wait` of a script.
const WAIT_MAX: Duration = Duration::from_secs(60);

type Lines = mpsc::Receiver<String>;

/// Runs a kubelet until `quit` or `stop`, and does what the lines of standard input say.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let (mut screen, _writing) = patient_stdout(stop.clone());
    let out = &mut screen;
    let dir = settings.dir.display().to_string();
    let behaviour = match settings.behaviour {
        Behaviour::V1_36 => "1.36",
        Behaviour::Newer => "newer than 1.36.2",
    };
    // Here it may be a real node's, and would be written over.
    checkpoint::read(&settings.dir).with_context(|| {
        let way_out = "if it is another kubelet's, take another directory";
        format!("no kubelet in {dir}: cannot use the checkpoint there; {way_out}")
    })?;
    let mut kubelet = Kubelet::start(settings).with_context(|| format!("no kubelet in {dir}"))?;
    writeln!(
        out,
        "{STRONG}A kubelet, {behaviour}{STRONG:#}: plugins register at {dir}/{KUBELET_SOCKET}"
    )?;
    let held = kubelet.all_assignments();
    if !held.is_empty() {
        writeln!(out, "Pods of an earlier run, from its checkpoint:\n")?;
        view::pods(out, &held)?;
        writeln!(out)?;
    }
    writeln!(out, "Type {STRONG}help{STRONG:#} for what it can do.\n")?;
    let mut session = Session::new(out, &kubelet, stop);
    let mut lines = input::lines();
    loop {
        match next(&kubelet, &mut session, &mut lines).await? {
            End::Quit => break,
            End::Restart => {
                let restarted = kubelet.restart().await;
                kubelet = restarted.context("the kubelet does not restart")?;
                session.follow(&kubelet);
                session.tell("the kubelet restarted: plugins must register again")?;
            }
        }
    }
    kubelet.stop().await;
    Ok(())
}

/// What ends a kubelet's life.
enum End {
    Restart,
    Quit,
}

/// Does what the lines say until one of them ends this kubelet's life.
async fn next<W: Write>(
    kubelet: &Kubelet,
    session: &mut Session<'_, W>,
    lines: &mut Lines,
) -> anyhow::Result<End> {
    loop {
        let Some(line) = session.until(None, received(lines)).await? else {
            return Ok(End::Quit);
        };
        let ended = match line.parse() {
            Ok(Line::Pod(pod)) => admit(kubelet, &pod, session, lines).await?,
            Ok(Line::Wait(resource, count)) => wait(kubelet, &resource, count, session).await?,
            line => carry_out(kubelet, line, session)?,
        };
        if let ControlFlow::Break(end) = ended {
            return Ok(end);
        }
    }
}

/// The next line; none comes when standard input has ended, and the kubelet goes on.
async fn received(lines: &mut Lines) -> String {
    match lines.recv().await {
        Some(line) => line,
        None => std::future::pending().await,
    }
}

/// Does what a line says that needs no plugin.
fn carry_out<W: Write>(
    kubelet: &Kubelet,
    line: Result<Line, LineError>,
    session: &mut Session<'_, W>,
) -> io::Result<ControlFlow<End>> {
    match line {
        Ok(Line::Quit) => return Ok(ControlFlow::Break(End::Quit)),
        Ok(Line::Restart) => return Ok(ControlFlow::Break(End::Restart)),
        Ok(Line::Blank) => {}
        Ok(Line::Help) => print_help(session.out)?,
        Ok(Line::Status) => status(kubelet, session)?,
        Ok(Line::Delete(pod)) => delete(kubelet, &pod, session.out)?,
        Ok(Line::Lose(resource)) => lose(kubelet, &resource, session.out)?,
        Ok(Line::Pod(_) | Line::Wait(..)) => {
            let way_out = "a pod waits for its plugins; lose, restart and quit end that";
            session
                .out
                .wrapped(&format!("{BAD}not now{BAD:#}: {way_out}"), 2)?;
        }
        Err(error) => session.out.wrapped(&format!("{BAD}{error}{BAD:#}"), 2)?,
    }
    Ok(ControlFlow::Continue(()))
}

/// Waits for the plugins of a pod; where they take their time, does what lines say meanwhile.
async fn attend<W: Write, T>(
    kubelet: &Kubelet,
    pod: &Pod,
    session: &mut Session<'_, W>,
    lines: &mut Lines,
    plugins: impl Future<Output = T>,
) -> io::Result<ControlFlow<End, T>> {
    let waiting_for = format!("the plugins of pod {}", foreign(&pod.name));
    tokio::pin!(plugins);
    loop {
        let late_line = async {
            sleep(PATIENCE).await;
            received(lines).await
        };
        let step = session.until(Some(&waiting_for), async {
            tokio::select! {
                biased;
                answer = &mut plugins => ControlFlow::Break(answer),
                line = late_line => ControlFlow::Continue(line),
            }
        });
        match step.await? {
            None => return Ok(ControlFlow::Break(End::Quit)),
            Some(ControlFlow::Break(answer)) => return Ok(ControlFlow::Continue(answer)),
            Some(ControlFlow::Continue(line)) => {
                if let ControlFlow::Break(end) = carry_out(kubelet, line.parse(), session)? {
                    return Ok(ControlFlow::Break(end));
                }
            }
        }
    }
}

fn print_help(out: &mut impl Write) -> io::Result<()> {
    let rows = line::HELP.iter();
    print::columns(out, rows.map(|(line, does)| format!("  {line}\t{does}")))
}

/// The lines that it takes.
pub fn help() -> String {
    let mut text = b"Lines:\n".to_vec();
    // To memory it cannot fail.
    let _ = print_help(&mut text);
    String::from_utf8_lossy(&text).into_owned()
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
    lines: &mut Lines,
) -> io::Result<ControlFlow<End>> {
    let name = foreign(&pod.name);
    if !kubelet.assignments(&pod.name).is_empty() {
        let text = format!("{BAD}pod {name} is there already{BAD:#}: delete it first");
        session.out.wrapped(&text, 2)?;
        return Ok(ControlFlow::Continue(()));
    }
    let not_offered = kubelet.not_offered(pod);
    let admitted = attend(kubelet, pod, session, lines, kubelet.admit(pod)).await?;
    let got = match admitted {
        ControlFlow::Break(end) => return Ok(ControlFlow::Break(end)),
        ControlFlow::Continue(Ok(got)) => got,
        ControlFlow::Continue(Err(error)) => {
            let refused = format!("{BAD}pod {name}: UnexpectedAdmissionError{BAD:#}: {error}");
            session.out.wrapped(&refused, 2)?;
            return Ok(ControlFlow::Continue(()));
        }
    };
    writeln!(session.out, "{GOOD}pod {name} is admitted{GOOD:#}")?;
    print::assignments(session.out, &got)?;
    for resource in not_offered {
        let resource = foreign(&resource);
        let runs = "a kubelet runs the pod without it, a scheduler would not have placed it";
        let text = format!("{ODD}no plugin offers {resource}: {runs}{ODD:#}");
        session.out.wrapped(&text, 2)?;
    }
    let started = kubelet.start_container(&pod.name);
    match attend(kubelet, pod, session, lines, started).await? {
        ControlFlow::Break(end) => Ok(ControlFlow::Break(end)),
        ControlFlow::Continue(Ok(())) => Ok(ControlFlow::Continue(())),
        ControlFlow::Continue(Err(status)) => {
            let message = foreign(status.message());
            let text = format!("{BAD}pod {name}: CreateContainerConfigError{BAD:#}: {message}");
            session.out.wrapped(&text, 2)?;
            Ok(ControlFlow::Continue(()))
        }
    }
}

/// Waits until so many devices can be had, but not for ever.
async fn wait<W: Write>(
    kubelet: &Kubelet,
    resource: &str,
    count: usize,
    session: &mut Session<'_, W>,
) -> io::Result<ControlFlow<End>> {
    let mut node = kubelet.node();
    let enough = node.wait_for(|node| node.get(resource).is_some_and(|n| n.allocatable >= count));
    let name = foreign(resource);
    let waited = session.until(Some(&name), timeout(WAIT_MAX, enough));
    match waited.await? {
        None => return Ok(ControlFlow::Break(End::Quit)),
        Some(Ok(_)) => {}
        Some(Err(_)) => {
            let seconds = WAIT_MAX.as_secs();
            let text = format!("{BAD}{name}: not {count} allocatable after {seconds} s{BAD:#}");
            session.out.wrapped(&text, 2)?;
        }
    }
    Ok(ControlFlow::Continue(()))
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
