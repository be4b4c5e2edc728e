//! The answer to a readiness probe.

use crate::observe::Snapshot;

/// Returns the body of `/readyz`: `Err` if the daemon is not ready, with a line for each resource that is not ready.
pub(crate) fn evaluate(snapshot: &Snapshot) -> Result<String, String> {
    if snapshot.stopping {
        return Err("stopping\n".to_owned());
    }
    let waiting = snapshot
        .plugins
        .iter()
        .filter_map(|plugin| Some((plugin.name(), snapshot.waits_for(plugin)?)));
    let lines: Vec<String> = waiting
        .map(|(name, reason)| format!("{name} {reason}\n"))
        .collect();
    let count = snapshot.plugins.len();
    let ready = count - lines.len();
    if lines.is_empty() {
        Ok(format!("ready: {ready} of {count} resources\n"))
    } else {
        Err(format!(
            "not ready: {ready} of {count} resources ready\n{}",
            lines.concat()
        ))
    }
}
