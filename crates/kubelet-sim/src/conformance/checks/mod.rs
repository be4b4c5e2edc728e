//! The checks, in the order in which they run. Checks that need no restart of the plugin come together.

mod calls;
pub(super) mod growth;
pub(super) mod kill;
mod list;
mod preference;
mod process;
mod registration;
pub(super) mod restart;
mod retry;
pub(super) mod stale;

use std::fmt;

use futures_util::future::LocalBoxFuture;

use super::context::{Context, Resource, Skip};

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Otherwise a real kubelet loses the resource, fails pods or crashes.
    Must,
    /// Otherwise users notice it.
    Should,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Must => "MUST",
            Level::Should => "SHOULD",
        })
    }
}

/// The result of a check, with what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rule holds. The text can be empty.
    Pass(String),
    /// The rule is broken.
    Fail(String),
    /// The check does not apply, or cannot be made.
    Skip(String),
}

impl Verdict {
    fn pass() -> Self {
        Self::Pass(String::new())
    }

    /// Fails with this text if there is one.
    fn from_error(error: Option<String>) -> Self {
        error.map_or_else(Self::pass, Self::Fail)
    }

    /// Returns the result as a word: pass, fail or skip.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Pass(_) => "pass",
            Verdict::Fail(_) => "fail",
            Verdict::Skip(_) => "skip",
        }
    }

    /// Returns what was seen.
    pub fn seen(&self) -> &str {
        match self {
            Verdict::Pass(seen) | Verdict::Fail(seen) | Verdict::Skip(seen) => seen,
        }
    }
}

/// The verdict for each resource, or one for the plugin as a whole.
type Verdicts = Vec<(Option<String>, Verdict)>;
type Outcome = Result<Verdicts, Skip>;

/// One rule for device plugins.
pub struct Check {
    /// A stable name.
    pub id: &'static str,
    /// How bad a failure is.
    pub level: Level,
    /// What a plugin does if the check passes.
    pub statement: &'static str,
    /// What the kubelet does, which is the reason for the check.
    pub rule: &'static str,
    /// Where that can be read: a file below `pkg/kubelet/cm/devicemanager`, or another source.
    pub source: &'static str,
    /// What to do after a failure.
    pub advice: &'static str,
    run: for<'a> fn(&'a mut Context) -> LocalBoxFuture<'a, Outcome>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.id).finish()
    }
}

impl Check {
    pub(super) async fn run(&self, context: &mut Context) -> Verdicts {
        match (self.run)(context).await {
            Ok(verdicts) => verdicts,
            Err(Skip(why)) => plugin(Verdict::Skip(why)),
        }
    }
}

/// Returns all checks in the order in which they run.
pub fn checks() -> impl Iterator<Item = &'static Check> {
    let groups: [&'static [Check]; 10] = [
        &registration::CHECKS,
        &list::CHECKS,
        &calls::CHECKS,
        &preference::CHECKS,
        &restart::CHECKS,
        &stale::CHECKS,
        &retry::CHECKS,
        &process::CHECKS,
        &kill::CHECKS,
        &growth::CHECKS,
    ];
    groups.into_iter().flatten()
}

fn plugin(verdict: Verdict) -> Verdicts {
    vec![(None, verdict)]
}

/// Evaluates each registered resource.
async fn each(context: &mut Context, evaluate: impl Fn(&Resource) -> Verdict) -> Outcome {
    let resources = context.registered().await?;
    let verdict = |resource: &Resource| (Some(resource.name.clone()), evaluate(resource));
    Ok(resources.iter().map(verdict).collect())
}

/// Evaluates each registered resource that has healthy devices by calls to its plugin, which must survive them.
async fn each_by_calls(
    context: &mut Context,
    evaluate: impl AsyncFn(&Resource, &[String]) -> Verdict,
) -> Outcome {
    let mut verdicts = Vec::new();
    for resource in context.registered().await? {
        let ids = resource.healthy_ids();
        let verdict = if ids.is_empty() {
            Verdict::Skip("the resource has no healthy device".to_owned())
        } else {
            evaluate(&resource, &ids).await
        };
        let verdict = match (verdict, context.lost(&resource.name)) {
            (Verdict::Pass(_), Some(lost)) => Verdict::Fail(lost),
            (verdict, _) => verdict,
        };
        verdicts.push((Some(resource.name), verdict));
    }
    Ok(verdicts)
}
