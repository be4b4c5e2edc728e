//! Registrations that fail, and connections that end, while the plugin runs.

use std::time::Duration;

use tokio::time::sleep;

use super::registration::after;
use super::{Check, Level, Outcome, Verdict, plugin};
use crate::conformance::context::{Context, Skip};
use crate::conformance::kubelet::Answer;

/// How long a call of Register has been waiting when the kubelet is replaced.
const HANGING: Duration = Duration::from_millis(300);
/// A kubelet disconnects a plugin some milliseconds after its stream ended. Measured: within 20 ms.
const LATE_DISCONNECT: Duration = Duration::from_millis(50);

pub(super) const CHECKS: [Check; 3] = [
    Check {
        id: "refused-registration",
        level: Level::Must,
        statement: "tries again, or exits with an error, after Register was refused",
        rule: "A registration can fail for a short time, for example because the node is busy.",
        source: "plugin/v1beta1/handler.go",
        advice: "Call Register again after a pause.",
        run: |context| Box::pin(refused(context)),
    },
    Check {
        id: "hanging-registration",
        level: Level::Must,
        statement: "registers with a new kubelet if the old one stopped during Register",
        rule: "A kubelet that stops does not answer the calls in progress.",
        source: "plugin/v1beta1/server.go",
        advice: "Set a deadline for Register, and start over when it fails.",
        run: |context| Box::pin(hanging(context)),
    },
    Check {
        id: "stream-cut",
        level: Level::Should,
        statement: "registers again if its connection ends and the kubelet keeps running",
        rule: "The kubelet never opens ListAndWatch again: the devices stay unhealthy until the plugin registers.",
        source: "plugin/v1beta1/client.go, handler.go",
        advice: "Register again after a stream has ended, half a second later.",
        run: |context| Box::pin(stream_cut(context)),
    },
];

/// Starts the kubelet, and the plugin unless someone else runs it, and waits for a call of Register.
async fn start(context: &mut Context, answer: Answer) -> Result<Option<String>, Skip> {
    // The resources must be known, to see when all are registered.
    context.registered().await?;
    context.process = None;
    context.start_kubelet(answer).await?;
    if context.command().is_ok() {
        context.start_plugin()?;
    }
    let limit = context.settings.registration;
    let called = context.wait_for_log(limit, |log| log.registrations().next().is_some());
    Ok((!called.await).then(|| context.missing()))
}

async fn refused(context: &mut Context) -> Outcome {
    if let Some(missing) = start(context, Answer::Refuse).await? {
        return Err(Skip(missing));
    }
    let limit = context.settings.registration;
    context
        .wait_for_log(limit, |log| {
            log.registrations().any(|call| call.answer.is_some())
        })
        .await;
    context.kubelet.set_answer(Answer::Accept);
    let returned = context.wait_until_up().await;
    let exited = context.exited();
    Ok(plugin(match (returned, exited) {
        (Ok(took), _) => Verdict::Pass(after(took)),
        (Err(_), Some(status)) if !status.success() => {
            Verdict::Pass(format!("exited with {status}; Kubernetes starts it again"))
        }
        (Err(why), _) => Verdict::Fail(why),
    }))
}

async fn hanging(context: &mut Context) -> Outcome {
    if let Some(missing) = start(context, Answer::Hang).await? {
        return Err(Skip(missing));
    }
    sleep(HANGING).await;
    context.restart_kubelet().await?;
    Ok(plugin(match context.wait_until_up().await {
        Ok(took) => Verdict::Pass(after(took)),
        Err(why) => Verdict::Fail(why),
    }))
}

async fn stream_cut(context: &mut Context) -> Outcome {
    for resource in context.registered().await? {
        context.kubelet.disconnect(&resource.name);
    }
    Ok(plugin(match context.wait_until_up().await {
        Ok(took) if took < LATE_DISCONNECT => Verdict::Pass(format!(
            "{}, which is so early that a real kubelet may disconnect it",
            after(took)
        )),
        Ok(took) => Verdict::Pass(after(took)),
        Err(why) => Verdict::Fail(why),
    }))
}
