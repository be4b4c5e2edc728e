//! What a plugin does while there is no kubelet, but a kubelet.sock on which nobody listens.

use std::time::Duration;

use super::registration::after;
use super::{Check, Level, Outcome, Verdict, plugin};
use crate::conformance::context::{Context, Skip};
use crate::conformance::kubelet::Answer;
use crate::conformance::plugin::{Process, Usage};

const SERVER: &str = "plugin/v1beta1/server.go";

pub(super) const CHECKS: [Check; 4] = [
    Check {
        id: "stale-kubelet-socket",
        level: Level::Must,
        statement: "waits at its start if nobody listens on kubelet.sock, and then registers",
        rule: "A kubelet leaves kubelet.sock on disk when it stops.",
        source: SERVER,
        advice: "Treat a refused connection like a missing socket: wait and try again; do not exit.",
        run: |context| Box::pin(stale(context)),
    },
    Check {
        id: "stale-kubelet-socket-idle",
        level: Level::Should,
        statement: "uses little processor time while it waits at its start",
        rule: "A kubelet can be away for minutes, for example during an upgrade.",
        source: SERVER,
        advice: "Pause between attempts, for example for a second, or watch the directory.",
        run: |context| Box::pin(stale_idle(context)),
    },
    Check {
        id: "kubelet-away",
        level: Level::Must,
        statement: "keeps running while the kubelet is away for some time, and then registers",
        rule: "When the kubelet stops, the streams end. It may start again much later.",
        source: SERVER,
        advice: "Do not exit when ListAndWatch ends; wait for a new kubelet.sock.",
        run: |context| Box::pin(away(context)),
    },
    Check {
        id: "kubelet-away-idle",
        level: Level::Should,
        statement: "uses little processor time while the kubelet is away",
        rule: "A kubelet can be away for minutes, for example during an upgrade.",
        source: SERVER,
        advice: "Pause between attempts, for example for a second, or watch the directory.",
        run: |context| Box::pin(away_idle(context)),
    },
];

/// What a plugin did while it waited for the kubelet.
#[derive(Clone, Debug)]
pub(in crate::conformance) struct Observed {
    /// The processor time that it used, as a share of the time; `None` if it exited or someone else runs it.
    processor: Option<f64>,
    returned: Result<Duration, String>,
}

async fn observe_stale(context: &mut Context) -> Result<Observed, Skip> {
    context.once(|seen| &mut seen.stale, wait_at_start).await
}

async fn wait_at_start(context: &mut Context) -> Result<Observed, Skip> {
    context.clear().await?;
    // Leaves a socket file without a listener.
    context.start_kubelet(Answer::Accept).await?;
    context.kubelet.stop().await;
    context.start_plugin()?;
    wait_for_kubelet(context).await
}

async fn observe_away(context: &mut Context) -> Result<Observed, Skip> {
    context.once(|seen| &mut seen.away, wait_while_away).await
}

async fn wait_while_away(context: &mut Context) -> Result<Observed, Skip> {
    super::restart::returned(context).await?;
    context.registered().await?;
    context.kubelet.stop().await;
    wait_for_kubelet(context).await
}

async fn wait_for_kubelet(context: &mut Context) -> Result<Observed, Skip> {
    // Not measured: what the plugin uses to start, or to close the connections of the stopped kubelet.
    let settle = context.settings.settle;
    if let Err(status) = context.runs_for(settle).await {
        return Ok(Observed::exited(status));
    }
    let window = context.settings.kubelet_away;
    let before = context.process.as_ref().map(Process::usage);
    if let Err(status) = context.runs_for(window).await {
        return Ok(Observed::exited(status));
    }
    let after = context.process.as_ref().map(Process::usage);
    let used = |(before, after): (Usage, Usage)| {
        let used = after.processor.saturating_sub(before.processor);
        used.as_secs_f64() / window.as_secs_f64()
    };
    context.start_kubelet(Answer::Accept).await?;
    Ok(Observed {
        processor: before.zip(after).map(used),
        returned: context.wait_until_up().await,
    })
}

impl Observed {
    fn exited(status: std::process::ExitStatus) -> Self {
        Self {
            processor: None,
            returned: Err(format!("the plugin exited without a kubelet: {status}")),
        }
    }

    fn evaluate(self) -> Verdict {
        match self.returned {
            Ok(took) => Verdict::Pass(after(took)),
            Err(why) => Verdict::Fail(why),
        }
    }

    fn judge_idle(&self, context: &Context) -> Verdict {
        let Some(used) = self.processor else {
            return Verdict::Skip("the processor time could not be measured".to_owned());
        };
        let seconds = context.settings.kubelet_away.as_secs_f32();
        let seen = format!("{:.0} % of a processor for {seconds} s", used * 100.0);
        if used < context.settings.processor_share {
            Verdict::Pass(seen)
        } else {
            Verdict::Fail(seen)
        }
    }
}

async fn stale(context: &mut Context) -> Outcome {
    Ok(plugin(observe_stale(context).await?.evaluate()))
}

async fn stale_idle(context: &mut Context) -> Outcome {
    let observed = observe_stale(context).await?;
    Ok(plugin(observed.judge_idle(context)))
}

async fn away(context: &mut Context) -> Outcome {
    Ok(plugin(observe_away(context).await?.evaluate()))
}

async fn away_idle(context: &mut Context) -> Outcome {
    let observed = observe_away(context).await?;
    Ok(plugin(observed.judge_idle(context)))
}
