//! The command `pod`, and the commands that are executed while `pod` waits for its plugins.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::execute::{ReplExit, execute};
use super::input::{Lines, next_line};
use super::session::Session;
use crate::print;
use kubelet_sim::{Kubelet, Pod};
use simple_device_plugin::cli::style::{BAD, GOOD, ODD};
use simple_device_plugin::util::sanitize::sanitize;

/// How long `pod` waits for plugins before it executes further lines. During this time, the commands of a script run
/// one after the other.
const INPUT_DELAY: Duration = Duration::from_secs(1);

/// Admits a pod, prints the devices that it gets, and starts its containers.
pub(crate) async fn admit<W: Write>(
    kubelet: &Kubelet,
    pod: &Pod,
    session: &mut Session<'_, W>,
    lines: &mut Lines,
) -> io::Result<ControlFlow<ReplExit>> {
    let name = sanitize(&pod.name);
    if kubelet.has_pod(&pod.name) {
        let text = format!("{BAD}pod {name} already exists{BAD:#}: delete it first");
        session.out.write_wrapped(&text, 2)?;
        return Ok(ControlFlow::Continue(()));
    }
    let unregistered_resources = kubelet.unregistered_resources(pod);
    let admitted = wait_for_plugins(kubelet, pod, session, lines, kubelet.admit(pod)).await?;
    let assignments = match admitted {
        ControlFlow::Break(exit) => return Ok(ControlFlow::Break(exit)),
        ControlFlow::Continue(Ok(assignments)) => assignments,
        ControlFlow::Continue(Err(error)) => {
            let reason = error.reason();
            let text = format!("{BAD}pod {name}: {reason}{BAD:#}: {error}");
            session.out.write_wrapped(&text, 2)?;
            return Ok(ControlFlow::Continue(()));
        }
    };
    writeln!(session.out, "{GOOD}pod {name} is admitted{GOOD:#}")?;
    print::print_pod(session.out, pod, &assignments)?;
    for resource in unregistered_resources {
        let resource = sanitize(&resource);
        let effect =
            "the kubelet runs the pod without it; a scheduler would not place the pod here";
        let text = format!("{ODD}no plugin has registered {resource}: {effect}{ODD:#}");
        session.out.write_wrapped(&text, 2)?;
    }
    let started = kubelet.start_containers(&pod.name);
    match wait_for_plugins(kubelet, pod, session, lines, started).await? {
        ControlFlow::Break(exit) => Ok(ControlFlow::Break(exit)),
        ControlFlow::Continue(Ok(())) => Ok(ControlFlow::Continue(())),
        ControlFlow::Continue(Err(status)) => {
            let message = sanitize(status.message());
            let text = format!("{BAD}pod {name}: CreateContainerConfigError{BAD:#}: {message}");
            session.out.write_wrapped(&text, 2)?;
            Ok(ControlFlow::Continue(()))
        }
    }
}

/// Waits for a call to the plugins of a pod. After [`INPUT_DELAY`], executes the commands that arrive during the wait.
async fn wait_for_plugins<W: Write, T>(
    kubelet: &Kubelet,
    pod: &Pod,
    session: &mut Session<'_, W>,
    lines: &mut Lines,
    call: impl Future<Output = T>,
) -> io::Result<ControlFlow<ReplExit, T>> {
    let waiting_for = format!("the plugins of pod {}", sanitize(&pod.name));
    let read_input_at = Instant::now() + INPUT_DELAY;
    tokio::pin!(call);
    loop {
        let line = async {
            sleep_until(read_input_at).await;
            next_line(lines).await
        };
        let step = session.run_until(Some(&waiting_for), async {
            tokio::select! {
                biased;
                response = &mut call => ControlFlow::Break(response),
                line = line => ControlFlow::Continue(line),
            }
        });
        match step.await? {
            None => return Ok(ControlFlow::Break(ReplExit::Quit)),
            Some(ControlFlow::Break(response)) => return Ok(ControlFlow::Continue(response)),
            Some(ControlFlow::Continue(line)) => {
                let executed = execute(kubelet, line.parse(), session).await?;
                if let ControlFlow::Break(exit) = executed {
                    return Ok(ControlFlow::Break(exit));
                }
            }
        }
    }
}
