//! Leaks: what a plugin uses after many kubelet restarts.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::restart::returned;
use super::{Check, Level, Outcome, Verdict, plugin};
use crate::conformance::context::{Context, Skip};
use crate::conformance::plugin::{Process, Usage};

/// The number of measured restarts below which growth is not evaluated.
const RESTARTS_MIN: u32 = 5;
/// The growth of descriptors below which a plugin may just be busy.
const LEAK_MIN: usize = 5;
/// How long a plugin may take to release what it used for the last restart.
const RELEASE: Duration = Duration::from_millis(500);

const GO: &str = "plugin/v1beta1/server.go";

pub(super) const CHECKS: [Check; 2] = [
    Check {
        id: "no-descriptor-growth",
        level: Level::Should,
        statement: "leaks no file descriptors over 20 kubelet restarts",
        rule: "A plugin runs as long as the node; at its limit of descriptors it can register no more.",
        source: GO,
        advice: "Close the connection to kubelet.sock, the old server and the old watch at each restart.",
        run: |context| Box::pin(descriptors(context)),
    },
    Check {
        id: "no-memory-growth",
        level: Level::Should,
        statement: "leaks no memory over 20 kubelet restarts",
        rule: "A plugin runs as long as the node; at its memory limit it is killed.",
        source: GO,
        advice: "Stop the old server and its threads at each restart.",
        run: |context| Box::pin(memory(context)),
    },
];

/// What a plugin used before and after some restarts.
#[derive(Clone, Copy, Debug)]
pub(in crate::conformance) struct Observed {
    restarts: u32,
    before: Usage,
    after: Usage,
}

async fn observe(context: &mut Context) -> Result<Observed, Skip> {
    context.once(|seen| &mut seen.growth, observe_growth).await
}

async fn observe_growth(context: &mut Context) -> Result<Observed, Skip> {
    context.command()?;
    returned(context).await?;
    context.fresh().await?;
    let deadline = Instant::now() + context.settings.restarts_limit;
    let restarts = context.settings.restarts;
    // The first restarts fill caches and pools.
    for _ in 0..restarts.div_ceil(4) {
        restart(context).await?;
    }
    let before = usage(context).await?;
    let mut count = 0;
    while count < restarts && Instant::now() < deadline {
        restart(context).await?;
        count += 1;
    }
    let after = usage(context).await?;
    if count < RESTARTS_MIN {
        let why = format!("only {count} restarts were possible in the time limit");
        return Err(Skip(why));
    }
    Ok(Observed {
        restarts: count,
        before,
        after,
    })
}

async fn restart(context: &mut Context) -> Result<(), Skip> {
    context.restart_kubelet().await?;
    context.wait_until_up().await.map_err(Skip)?;
    Ok(())
}

async fn usage(context: &mut Context) -> Result<Usage, Skip> {
    sleep(RELEASE).await;
    let usage = context.process.as_ref().map(Process::usage);
    usage.ok_or_else(|| Skip("the plugin does not run".to_owned()))
}

async fn descriptors(context: &mut Context) -> Outcome {
    let observed = observe(context).await?;
    let Observed {
        restarts,
        before,
        after,
    } = observed;
    let (before, after) = (before.descriptors, after.descriptors);
    let seen = format!("{before} and {after} after {restarts} more restarts");
    // One descriptor for every second restart is a leak.
    let leak = usize::try_from(restarts / 2).unwrap_or(usize::MAX);
    Ok(plugin(if after >= before + leak.max(LEAK_MIN) {
        Verdict::Fail(seen)
    } else {
        Verdict::Pass(seen)
    }))
}

async fn memory(context: &mut Context) -> Outcome {
    let observed = observe(context).await?;
    let restarts = observed.restarts;
    let (before, after) = (observed.before.memory, observed.after.memory);
    let seen = format!("{before} and {after} KiB after {restarts} more restarts");
    Ok(plugin(if after > before + context.settings.memory_growth {
        Verdict::Fail(seen)
    } else {
        Verdict::Pass(seen)
    }))
}
