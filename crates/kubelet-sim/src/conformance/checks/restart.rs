//! Kubelet restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use simple_device_plugin::util::sanitize::sanitize;
use tokio::time::sleep;

use super::registration::after;
use super::{Check, Level, Outcome, Verdict, plugin};
use crate::conformance::context::{Context, Resource, Skip};

/// How long Allocate is called before the kubelet stops.
const ALLOCATING: Duration = Duration::from_millis(100);
/// The number of concurrent callers of Allocate, so that a call is in progress when the kubelet stops.
const CALLERS: usize = 4;
/// The number of IDs that a failure names.
const IDS_SHOWN: usize = 3;

pub(super) const CHECKS: [Check; 5] = [
    Check {
        id: "kubelet-restart",
        level: Level::Must,
        statement: "registers again within 30 s after a kubelet restart",
        rule: "A starting kubelet removes every socket in the directory, and knows no plugin until it calls \
               Register.",
        source: "plugin/v1beta1/server.go; node tests: 30 s",
        advice: "Watch for the creation of kubelet.sock; then create the socket again, serve it and register.",
        run: |context| Box::pin(kubelet_restart(context)),
    },
    Check {
        id: "same-ids-after-restart",
        level: Level::Must,
        statement: "lists the same device IDs after a kubelet restart",
        rule: "A running pod whose device is missing loses it when it is admitted again, and a missing device with \
               a NUMA node can make the kubelet crash.",
        source: "manager.go, topology_hints.go",
        advice: "Derive the IDs from the hardware, not from a counter or a random number.",
        run: |context| Box::pin(same_ids(context)),
    },
    Check {
        id: "registers-once",
        level: Level::Must,
        statement: "registers each resource once after a kubelet restart",
        rule: "A second registration replaces the first. When the first stream ends, the kubelet disconnects the \
               second one, by the resource's name.",
        source: "plugin/v1beta1/handler.go",
        advice: "Compare the identity of kubelet.sock with the one that was used for the last registration.",
        run: |context| Box::pin(registers_once(context)),
    },
    Check {
        id: "two-restarts",
        level: Level::Must,
        statement: "registers again after two kubelet restarts in a row",
        rule: "A kubelet can restart while the plugin registers.",
        source: "plugin/v1beta1/server.go",
        advice: "Start over when a registration fails or kubelet.sock is created anew.",
        run: |context| Box::pin(two_restarts(context)),
    },
    Check {
        id: "restart-during-allocate",
        level: Level::Must,
        statement: "registers again after a kubelet restart during Allocate",
        rule: "The kubelet's connection ends while the call is in progress.",
        source: "plugin/v1beta1/server.go",
        advice: "Do not exit or block if the caller of Allocate is gone.",
        run: |context| Box::pin(during_allocate(context)),
    },
];

/// What a plugin did after a kubelet restart.
#[derive(Clone, Debug)]
pub(in crate::conformance) struct Observed {
    before: Vec<Resource>,
    returned: Result<Duration, String>,
    after: Vec<Resource>,
    /// The calls of Register for each resource.
    calls: BTreeMap<String, usize>,
}

async fn observe(context: &mut Context) -> Result<Observed, Skip> {
    context
        .once(|seen| &mut seen.restart, observe_restart)
        .await
}

async fn observe_restart(context: &mut Context) -> Result<Observed, Skip> {
    let before = context.registered().await?;
    context.restart_kubelet().await?;
    let returned = context.wait_until_up().await;
    sleep(context.settings.settle).await;
    let known = context.known_resources().into_iter();
    let calls = context.kubelet.log(|log| {
        let counts = known.map(|name| (log.count(&name), name));
        counts.map(|(count, name)| (name, count)).collect()
    });
    Ok(Observed {
        before,
        returned,
        after: context.up(),
        calls,
    })
}

/// Returns an observed restart after which the plugin registered again.
pub(super) async fn returned(context: &mut Context) -> Result<Observed, Skip> {
    let observed = observe(context).await?;
    match observed.returned {
        Ok(_) => Ok(observed),
        Err(_) => Err(Skip(
            "the plugin did not return after a kubelet restart".to_owned(),
        )),
    }
}

async fn kubelet_restart(context: &mut Context) -> Outcome {
    Ok(plugin(match observe(context).await?.returned {
        Ok(took) => Verdict::Pass(after(took)),
        Err(why) if context.exited().is_some() => Verdict::Fail(format!(
            "{why}; Kubernetes starts it again, but waits between starts. To evaluate it with its restarts, run it in a loop"
        )),
        Err(why) => Verdict::Fail(why),
    }))
}

async fn same_ids(context: &mut Context) -> Outcome {
    let observed = returned(context).await?;
    Ok(compare_ids(&observed.before, &observed.after))
}

/// Evaluates for each resource whether its IDs are the same.
pub(super) fn compare_ids(before: &[Resource], after: &[Resource]) -> super::Verdicts {
    let verdict = |resource: &Resource| {
        let now = after.iter().find(|now| now.name == resource.name);
        let now = now.map(Resource::ids).unwrap_or_default();
        let before = resource.ids();
        let missing: BTreeSet<&String> = before.difference(&now).collect();
        let added: BTreeSet<&String> = now.difference(&before).collect();
        let verdict = if missing.is_empty() && added.is_empty() {
            Verdict::pass()
        } else {
            let (missing, added) = (names(missing), names(added));
            Verdict::Fail(format!("missing: {missing}; added: {added}"))
        };
        (Some(resource.name.clone()), verdict)
    };
    before.iter().map(verdict).collect()
}

/// Names the first ones, and the number of the others.
pub(super) fn names<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all
        .into_iter()
        .map(|name| sanitize(name.as_ref()))
        .collect();
    let shown = all.iter().take(IDS_SHOWN).cloned();
    let shown = shown.collect::<Vec<_>>().join(", ");
    match all.len() {
        0 => "none".to_owned(),
        count if count > IDS_SHOWN => format!("{shown} and {} more", count - IDS_SHOWN),
        _ => shown,
    }
}

async fn registers_once(context: &mut Context) -> Outcome {
    let observed = returned(context).await?;
    let verdict = |(name, count): (String, usize)| {
        let verdict =
            Verdict::from_error((count > 1).then(|| format!("{count} calls of Register")));
        (Some(name), verdict)
    };
    Ok(observed.calls.into_iter().map(verdict).collect())
}

async fn two_restarts(context: &mut Context) -> Outcome {
    returned(context).await?;
    context.registered().await?;
    context.restart_kubelet().await?;
    let limit = context.settings.registration;
    let called = context.wait_for_log(limit, |log| log.registrations().next().is_some());
    if !called.await {
        return Ok(plugin(Verdict::Fail(context.missing())));
    }
    restarted(context).await
}

async fn during_allocate(context: &mut Context) -> Outcome {
    returned(context).await?;
    let resources = context.registered().await?;
    let mut calls = Vec::new();
    for resource in resources {
        for _ in 0..CALLERS {
            let (client, ids) = (resource.client.clone(), resource.healthy_ids());
            calls.push(tokio::spawn(async move {
                while client.allocate(vec![ids.clone()]).await.is_ok() {}
            }));
        }
    }
    sleep(ALLOCATING).await;
    let verdict = restarted(context).await;
    for call in calls {
        call.abort();
    }
    verdict
}

async fn restarted(context: &mut Context) -> Outcome {
    context.restart_kubelet().await?;
    Ok(plugin(match context.wait_until_up().await {
        Ok(took) => Verdict::Pass(after(took)),
        Err(why) => Verdict::Fail(why),
    }))
}
