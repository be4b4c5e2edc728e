//! Applies what a client requests: overrides and faults, which last until `reset` or a restart.

use tracing::info;

use crate::fault::{BOUNDS, BOUNDS_FOR, CallFault, Fault};
use crate::model::device::Health;
use crate::plugin::PluginHandle;
use crate::util::sanitize::sanitize;

/// Sets the health of these devices; says what is now, or what is wrong.
pub fn health(plugin: &PluginHandle, devices: &str, health: Health) -> Result<String, String> {
    let ids = plugin.set_health(devices, health);
    let ids = ids.map_err(|error| sanitize(&error.to_string()))?;
    let (resource, health) = (name(plugin), health.as_str());
    info!(%resource, devices = ids.len(), "health set at run time: {health}");
    let what = match &*ids {
        [only] => only.to_string(),
        many => format!("{} devices", many.len()),
    };
    let offer = plugin.offer();
    let by_fault = ids
        .iter()
        .filter(|id| offer.fault_unhealthy().contains(*id));
    let by_fault = match by_fault.count() {
        0 => String::new(),
        1 if ids.len() == 1 => "; a fault keeps it Unhealthy".to_owned(),
        count => format!("; a fault keeps {count} of them Unhealthy"),
    };
    Ok(format!("{resource}: set {what} to {health}{by_fault}"))
}

/// Sets the number of devices.
pub fn scale(plugin: &PluginHandle, count: usize) -> Result<String, String> {
    plugin.scale(count).map_err(|error| error.to_string())?;
    let resource = name(plugin);
    info!(%resource, count, "number of devices set at run time");
    let removing = plugin.offer().removing().count();
    let removing = match removing {
        0 => String::new(),
        removing => format!(", {removing} pending removal"),
    };
    let devices = if count == 1 { "device" } else { "devices" };
    Ok(format!("{resource}: scaled to {count} {devices}{removing}"))
}

/// Removes what was set at run time.
pub fn reset(plugin: &PluginHandle) -> String {
    plugin.reset();
    let resource = name(plugin);
    info!(%resource, "as configured: overrides and faults set at run time are removed");
    format!("{resource}: as configured")
}

/// Sets one more fault.
pub fn fault(plugin: &PluginHandle, fault: Fault) -> Result<String, String> {
    let offer = plugin.offer();
    fault
        .check_devices(offer.devices())
        .map_err(|error| sanitize(&error.to_string()))?;
    let fault = plugin.set_fault(fault).map_err(|error| error.to_string())?;
    let resource = name(plugin);
    info!(%resource, %fault, "fault set at run time");
    let never = fault
        .never_injected(offer.resource().options())
        .map(|why| format!("it is never injected: {why}"));
    let is_delay = matches!(fault.on.call(), Some(CallFault::Delay(_)));
    let bounds = is_delay.then(|| format!("{BOUNDS}:\n{BOUNDS_FOR}"));
    let lines = [format!("{resource}: {fault}")]
        .into_iter()
        .chain(never)
        .chain(bounds);
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Takes all faults away, those of the configuration too.
pub fn clear(plugin: &PluginHandle) -> String {
    let count = plugin.clear_faults();
    let resource = name(plugin);
    info!(%resource, count, "faults are cleared");
    match count {
        0 => format!("{resource}: no faults"),
        1 => format!("{resource}: 1 fault is cleared"),
        count => format!("{resource}: {count} faults are cleared"),
    }
}

fn name(plugin: &PluginHandle) -> String {
    plugin.offer().resource().name.to_string()
}
