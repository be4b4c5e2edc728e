//! A pod's admission, while its plugins take their time.

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

/// Lines wait so long for a pod's plugins, so that those of a script are done one after another.
const INPUT_DELAY: Duration = Duration::from_secs(1);

/// Admits the pod and starts its container, and shows what it gets.
pub async fn admit<W: Write>(
    kubelet: &Kubelet,
    pod: &Pod,
    session: &mut Session<'_, W>,
    lines: &mut Lines,
) -> io::Result<ControlFlow<ReplExit>> {
    let name = sanitize(&pod.name);
    if !kubelet.assignments(&pod.name).is_empty() {
        let text = format!("{BAD}pod {name} is there already{BAD:#}: delete it first");
        session.out.write_wrapped(&text, 2)?;
        return Ok(ControlFlow::Continue(()));
    }
    let unregistered_resources = kubelet.unregistered_resources(pod);
    let admitted = wait_for_plugins(kubelet, pod, session, lines, kubelet.admit(pod)).await?;
    let got = match admitted {
        ControlFlow::Break(end) => return Ok(ControlFlow::Break(end)),
        ControlFlow::Continue(Ok(got)) => got,
        ControlFlow::Continue(Err(error)) => {
            let reason = error.reason();
            let refused = format!("{BAD}pod {name}: {reason}{BAD:#}: {error}");
            session.out.write_wrapped(&refused, 2)?;
            return Ok(ControlFlow::Continue(()));
        }
    };
    writeln!(session.out, "{GOOD}pod {name} is admitted{GOOD:#}")?;
    print::print_assignments(session.out, &got)?;
    for resource in unregistered_resources {
        let resource = sanitize(&resource);
        let runs = "a kubelet runs the pod without it, a scheduler would not have placed it";
        let text = format!("{ODD}no plugin offers {resource}: {runs}{ODD:#}");
        session.out.write_wrapped(&text, 2)?;
    }
    let started = kubelet.start_container(&pod.name);
    match wait_for_plugins(kubelet, pod, session, lines, started).await? {
        ControlFlow::Break(end) => Ok(ControlFlow::Break(end)),
        ControlFlow::Continue(Ok(())) => Ok(ControlFlow::Continue(())),
        ControlFlow::Continue(Err(status)) => {
            let message = sanitize(status.message());
            let text = format!("{BAD}pod {name}: CreateContainerConfigError{BAD:#}: {message}");
            session.out.write_wrapped(&text, 2)?;
            Ok(ControlFlow::Continue(()))
        }
    }
}

/// Waits for the plugins of a pod; where they take their time, does what lines say meanwhile.
async fn wait_for_plugins<W: Write, T>(
    kubelet: &Kubelet,
    pod: &Pod,
    session: &mut Session<'_, W>,
    lines: &mut Lines,
    plugins: impl Future<Output = T>,
) -> io::Result<ControlFlow<ReplExit, T>> {
    let waiting_for = format!("the plugins of pod {}", sanitize(&pod.name));
    let late = Instant::now() + INPUT_DELAY;
    tokio::pin!(plugins);
    loop {
        let late_line = async {
            sleep_until(late).await;
            next_line(lines).await
        };
        let step = session.until(Some(&waiting_for), async {
            tokio::select! {
                biased;
                answer = &mut plugins => ControlFlow::Break(answer),
                line = late_line => ControlFlow::Continue(line),
            }
        });
        match step.await? {
            None => return Ok(ControlFlow::Break(ReplExit::Quit)),
            Some(ControlFlow::Break(answer)) => return Ok(ControlFlow::Continue(answer)),
            Some(ControlFlow::Continue(line)) => {
                if let ControlFlow::Break(end) = execute(kubelet, line.parse(), session)? {
                    return Ok(ControlFlow::Break(end));
                }
            }
        }
    }
}
