//! What is set by hand: it lies over the configuration until it is taken back, or until a restart.

use tracing::info;

use crate::device::Health;
use crate::foreign::foreign;
use crate::plugin::PluginHandle;

/// Sets the health of these devices; says what is now, or what is wrong.
pub fn health(plugin: &PluginHandle, devices: &str, health: Health) -> Result<String, String> {
    let ids = plugin.offer.set_health(devices, health);
    let ids = ids.map_err(|error| foreign(&error.to_string()))?;
    let (resource, health) = (name(plugin), health.as_str());
    info!(%resource, devices = ids.len(), "set by hand: {health}");
    let what = match &*ids {
        [only] => format!("{only} is"),
        many => format!("{} devices are", many.len()),
    };
    Ok(format!("{resource}: {what} {health} by hand"))
}

/// Sets the number of devices.
pub fn devices(plugin: &PluginHandle, count: usize) -> Result<String, String> {
    let set = plugin.offer.set(|offer| offer.with_count(count));
    set.map_err(|error| error.to_string())?;
    let resource = name(plugin);
    info!(%resource, count, "set by hand: the number of devices");
    let going = plugin.offer.now().going().count();
    let going = match going {
        0 => String::new(),
        going => format!(", {going} going"),
    };
    let devices = if count == 1 { "device" } else { "devices" };
    Ok(format!("{resource}: {count} {devices} by hand{going}"))
}

/// Takes back what was set by hand.
pub fn config(plugin: &PluginHandle) -> String {
    let set = plugin
        .offer
        .set(|offer| Ok::<_, std::convert::Infallible>(offer.as_configured()));
    let Ok(()) = set;
    let resource = name(plugin);
    info!(%resource, "as configured: what was set by hand is taken back");
    format!("{resource}: as configured")
}

fn name(plugin: &PluginHandle) -> String {
    plugin.offer.now().resource().name.to_string()
}
