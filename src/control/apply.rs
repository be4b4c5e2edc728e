//! Applies overrides and faults to a plugin at a client's request. They last until `reset` or a restart.

use tracing::info;

use crate::fault::Fault;
use crate::model::device::Health;
use crate::plugin::PluginHandle;

use super::protocol::{ClearReply, FaultReply, HealthReply, Refusal, ResetReply, ScaleReply};

pub fn health(
    plugin: &PluginHandle,
    devices: &str,
    health: Health,
) -> Result<HealthReply, Refusal> {
    let resource = name(plugin);
    let ids = plugin.set_health(devices, health);
    let ids = ids.map_err(|reason| Refusal::Devices {
        resource: resource.clone(),
        reason,
    })?;
    info!(%resource, devices = ids.len(), health = health.as_str(), "health set at run time");
    let offer = plugin.offer();
    let by_fault = ids
        .iter()
        .filter(|id| offer.fault_unhealthy().contains(*id));
    Ok(HealthReply {
        resource,
        health,
        fault_unhealthy: by_fault.count(),
        devices: ids.len(),
        device: match &*ids {
            [only] => Some(only.to_string()),
            _ => None,
        },
    })
}

pub fn scale(plugin: &PluginHandle, count: usize) -> Result<ScaleReply, Refusal> {
    let resource = name(plugin);
    let scaled = plugin.scale(count);
    scaled.map_err(|reason| Refusal::Count {
        resource: resource.clone(),
        reason,
    })?;
    info!(%resource, count, "number of devices set at run time");
    Ok(ScaleReply {
        resource,
        devices: count,
        pending_removal: plugin.offer().removing().count(),
    })
}

pub fn reset(plugin: &PluginHandle) -> ResetReply {
    plugin.reset();
    let resource = name(plugin);
    info!(%resource, "removed overrides and faults set at run time");
    ResetReply { resource }
}

pub fn fault(plugin: &PluginHandle, fault: Fault) -> Result<FaultReply, Refusal> {
    let (resource, offer) = (name(plugin), plugin.offer());
    let valid = fault.check_devices(offer.devices());
    valid.map_err(|reason| Refusal::Devices {
        resource: resource.clone(),
        reason,
    })?;
    let set = plugin.set_fault(fault);
    let fault = set.map_err(|reason| Refusal::TooManyFaults {
        resource: resource.clone(),
        reason,
    })?;
    info!(%resource, fault = fault.to_string(), "fault set at run time");
    Ok(FaultReply {
        resource,
        never_injected: fault.never_injected(offer.resource().options()),
        fault,
    })
}

/// Removes all faults of the resource, including configured ones.
pub fn clear(plugin: &PluginHandle) -> ClearReply {
    let faults = plugin.clear_faults();
    let resource = name(plugin);
    info!(%resource, count = faults, "faults cleared");
    ClearReply { resource, faults }
}

fn name(plugin: &PluginHandle) -> String {
    plugin.offer().resource().name.to_string()
}
