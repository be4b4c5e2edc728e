//! What was seen, as a word for a readiness probe.

use crate::observe::Snapshot;

/// A line for each resource that is not ready, which says what it waits for; the error where there is one.
pub(crate) fn evaluate(snapshot: &Snapshot) -> Result<String, String> {
    if snapshot.stopping {
        return Err("stopping\n".to_owned());
    }
    let waiting = snapshot
        .plugins
        .iter()
        .filter_map(|plugin| Some((plugin.name(), snapshot.waits_for(plugin)?)));
    let lines: Vec<String> = waiting
        .map(|(name, what)| format!("{name} {what}\n"))
        .collect();
    let count = snapshot.plugins.len();
    let ready = count - lines.len();
    if lines.is_empty() {
        Ok(format!("ready: {ready} of {count}\n"))
    } else {
        Err(format!("not ready: {ready} of {count}\n{}", lines.concat()))
    }
}
