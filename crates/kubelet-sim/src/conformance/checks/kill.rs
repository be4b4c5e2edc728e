//! A plugin that is killed and started again.

use std::time::Duration;

use tokio::time::sleep;

use super::registration::after;
use super::restart::compare_ids;
use super::{Check, Level, Outcome, Verdict, plugin};
use crate::conformance::context::{Context, Resource, Skip};
use crate::conformance::kubelet::Log;

/// How long the end of the killed plugin's streams is awaited.
const STREAMS_END: Duration = Duration::from_secs(5);

pub(super) const CHECKS: [Check; 2] = [
    Check {
        id: "kill-and-start",
        level: Level::Must,
        statement: "registers again when it is started after a kill -9",
        rule: "A killed plugin leaves its socket file on disk.",
        source: "plugin/v1beta1/server.go",
        advice: "Remove a socket without a listener before binding it.",
        run: |context| Box::pin(kill_and_start(context)),
    },
    Check {
        id: "same-ids-after-kill",
        level: Level::Must,
        statement: "lists the same device IDs after a kill -9",
        rule: "Running pods keep their devices only if the IDs are the same.",
        source: "manager.go",
        advice: "Derive the IDs from the hardware, not from a counter or a random number.",
        run: |context| Box::pin(same_ids(context)),
    },
];

/// What a plugin did after it was killed and started again.
#[derive(Clone, Debug)]
pub(in crate::conformance) struct Observed {
    before: Vec<Resource>,
    returned: Result<Duration, String>,
    after: Vec<Resource>,
}

async fn observe(context: &mut Context) -> Result<Observed, Skip> {
    context.once(|seen| &mut seen.kill, observe_kill).await
}

async fn observe_kill(context: &mut Context) -> Result<Observed, Skip> {
    context.command()?;
    context.registered().await?;
    // A plugin may send its complete list soon after the first one.
    sleep(context.settings.settle).await;
    let before = context.registered().await?;
    context.process = None;
    let all_down = |log: &Log| log.newest().values().all(|r| !r.is_up());
    context.wait_for_log(STREAMS_END, all_down).await;
    context.start_plugin()?;
    let returned = context.wait_until_up().await;
    sleep(context.settings.settle).await;
    Ok(Observed {
        before,
        returned,
        after: context.up(),
    })
}

async fn kill_and_start(context: &mut Context) -> Outcome {
    Ok(plugin(match observe(context).await?.returned {
        Ok(took) => Verdict::Pass(after(took)),
        Err(why) => Verdict::Fail(why),
    }))
}

async fn same_ids(context: &mut Context) -> Outcome {
    let observed = observe(context).await?;
    if observed.returned.is_err() {
        return Err(Skip(
            "the plugin did not return after it was killed".to_owned(),
        ));
    }
    Ok(compare_ids(&observed.before, &observed.after))
}
