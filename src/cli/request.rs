//! Sends a command's request to the running daemon and prints the reply.

use std::io::Write;
use std::path::Path;

use anyhow::bail;

use crate::control::{ClearReply, FaultReply, HealthReply, Reply, Request, ScaleReply, client};
use crate::fault::{DELAY_LIMITS, DELAY_LIMITS_REASON};

/// The error text for a reply of the wrong type, which would be a bug of the daemon.
pub const UNEXPECTED_REPLY: &str = "unexpected reply from the daemon; please report this bug";

/// Sends the request and prints the reply, as text or JSON.
pub fn run(
    socket: &Path,
    request: &Request,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let reply = send(socket, request, json, out)?;
    let output = if json { as_json(&reply)? } else { text(&reply) };
    Ok(writeln!(out, "{output}")?)
}

/// Sends the request and returns the reply. A refusal is returned as an error; with `json`, it is also printed as JSON.
pub fn send(
    socket: &Path,
    request: &Request,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<Reply> {
    let reply = client::ask(socket, request)?;
    if let Reply::Refused(refusal) = reply {
        if json {
            let message = refusal.to_string();
            let refused = serde_json::json!({ "refused": refusal, "message": message });
            writeln!(out, "{refused:#}")?;
        }
        bail!(refusal);
    }
    Ok(reply)
}

/// Formats the reply without the name of its enum variant.
fn as_json(reply: &Reply) -> serde_json::Result<String> {
    match reply {
        Reply::Health(reply) => serde_json::to_string_pretty(reply),
        Reply::Scale(reply) => serde_json::to_string_pretty(reply),
        Reply::Reset(reply) => serde_json::to_string_pretty(reply),
        Reply::Fault(reply) => serde_json::to_string_pretty(reply),
        Reply::Clear(reply) => serde_json::to_string_pretty(reply),
        Reply::Status(_) | Reply::Refused(_) => serde_json::to_string_pretty(reply),
    }
}

fn text(reply: &Reply) -> String {
    match reply {
        Reply::Health(reply) => health(reply),
        Reply::Scale(reply) => scale(reply),
        Reply::Reset(reply) => format!("{}: reset to the configuration", reply.resource),
        Reply::Fault(reply) => fault(reply),
        Reply::Clear(replies) if replies.is_empty() => "no resources are configured".to_owned(),
        Reply::Clear(replies) => replies.iter().map(clear).collect::<Vec<_>>().join("\n"),
        Reply::Status(_) | Reply::Refused(_) => UNEXPECTED_REPLY.to_owned(),
    }
}

fn health(reply: &HealthReply) -> String {
    let (resource, health) = (&reply.resource, reply.health.as_str());
    let count = || format!("{} devices", reply.devices);
    let devices = reply.device.clone().unwrap_or_else(count);
    let by_fault = match (reply.fault_unhealthy, reply.devices) {
        (0, _) => String::new(),
        (1, 1) => "; a fault keeps it Unhealthy".to_owned(),
        (count, _) => format!("; a fault keeps {count} of them Unhealthy"),
    };
    format!("{resource}: set {devices} to {health}{by_fault}")
}

fn scale(reply: &ScaleReply) -> String {
    let (resource, count) = (&reply.resource, reply.devices);
    let devices = if count == 1 { "device" } else { "devices" };
    let removing = match reply.pending_removal {
        0 => String::new(),
        removing => format!(", {removing} pending removal"),
    };
    format!("{resource}: scaled to {count} {devices}{removing}")
}

fn fault(reply: &FaultReply) -> String {
    let set = format!("{}: set fault {}", reply.resource, reply.fault);
    let never = reply
        .never_injected
        .map(|rpc| format!("this fault is never injected: {rpc}"));
    let bounds = reply
        .fault
        .is_delay()
        .then(|| format!("{DELAY_LIMITS}:\n{DELAY_LIMITS_REASON}"));
    let lines = [set].into_iter().chain(never).chain(bounds);
    lines.collect::<Vec<_>>().join("\n")
}

fn clear(reply: &ClearReply) -> String {
    let resource = &reply.resource;
    match reply.faults {
        0 => format!("{resource}: no faults to clear"),
        1 => format!("{resource}: cleared 1 fault"),
        count => format!("{resource}: cleared {count} faults"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Refusal;
    use crate::fault::UncalledRpc;
    use crate::model::device::Health;

    const GPU: &str = "example.com/gpu";

    #[track_caller]
    fn assert_text(reply: &Reply, expected: &str) {
        assert_eq!(text(reply), format!("{GPU}: {expected}"));
    }

    #[test]
    fn replies_have_singular_and_plural_forms() {
        let health = |devices: &[&str], fault_unhealthy| {
            Reply::Health(HealthReply {
                resource: GPU.to_owned(),
                health: Health::Healthy,
                devices: devices.len(),
                device: (devices.len() == 1).then(|| devices[0].to_owned()),
                fault_unhealthy,
            })
        };
        assert_text(&health(&["a"], 0), "set a to Healthy");
        assert_text(
            &health(&["a"], 1),
            "set a to Healthy; a fault keeps it Unhealthy",
        );
        assert_text(&health(&["a", "b"], 0), "set 2 devices to Healthy");
        assert_text(
            &health(&["a", "b"], 1),
            "set 2 devices to Healthy; a fault keeps 1 of them Unhealthy",
        );
        let scale = |devices, pending_removal| {
            Reply::Scale(ScaleReply {
                resource: GPU.to_owned(),
                devices,
                pending_removal,
            })
        };
        assert_text(&scale(1, 3), "scaled to 1 device, 3 pending removal");
        assert_text(&scale(6, 0), "scaled to 6 devices");
        let clear = |faults: &[usize]| {
            let cleared = faults.iter().map(|faults| ClearReply {
                resource: GPU.to_owned(),
                faults: *faults,
            });
            Reply::Clear(cleared.collect())
        };
        assert_text(&clear(&[0]), "no faults to clear");
        assert_text(&clear(&[1]), "cleared 1 fault");
        assert_text(&clear(&[2]), "cleared 2 faults");
        assert_eq!(text(&clear(&[])), "no resources are configured");
    }

    #[test]
    fn the_reply_to_a_fault_names_its_limits() {
        let set = |fault: &str, never_injected| {
            Reply::Fault(Box::new(FaultReply {
                resource: GPU.to_owned(),
                fault: serde_json::from_str(fault).expect("a fault"),
                never_injected,
            }))
        };
        assert_text(&set(r#"{"on": "stream"}"#, None), "set fault stream");
        let delay = set(
            r#"{"on": "pre-start", "delay": "1s"}"#,
            Some(UncalledRpc::PreStart),
        );
        let expected = format!(
            "set fault pre-start --delay 1s\nthis fault is never injected: preStart is false, so the kubelet does not call PreStartContainer\n{DELAY_LIMITS}:\n{DELAY_LIMITS_REASON}"
        );
        assert_text(&delay, &expected);
    }

    #[test]
    fn a_refusal_lists_the_configured_resources() {
        let no_resource = |known: &[&str], more| Refusal::NoSuchResource {
            resource: "a/b".to_owned(),
            known: known.iter().map(ToString::to_string).collect(),
            more,
        };
        for (refusal, expected) in [
            (
                no_resource(&[], 0),
                "resource a/b not found; no resources are configured",
            ),
            (
                no_resource(&["c/d", "e/f"], 0),
                "resource a/b not found; configured: c/d, e/f",
            ),
            (
                no_resource(&["c/d"], 7),
                "resource a/b not found; configured: c/d and 7 more",
            ),
        ] {
            assert_eq!(refusal.to_string(), expected);
        }
    }
}
