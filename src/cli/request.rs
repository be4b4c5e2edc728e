//! Sends a request that changes something to the running daemon, and prints its reply.

use std::io::Write;
use std::path::Path;

use anyhow::bail;

use crate::control::{ClearReply, FaultReply, HealthReply, Reply, Request, ScaleReply, client};
use crate::fault::{DELAY_LIMITS, DELAY_LIMITS_REASON};

/// A daemon of this version never replies so.
pub const UNEXPECTED: &str = "the daemon's reply does not fit the command";

/// Asks for it, and prints what was done, for people or as JSON.
pub fn run(
    socket: &Path,
    request: &Request,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let reply = ask(socket, request, json, out)?;
    let shown = if json { as_json(&reply)? } else { text(&reply) };
    Ok(writeln!(out, "{shown}")?)
}

/// Asks, and returns what is no refusal. A refusal is printed as JSON, if that is wanted, and is an error in any case.
pub fn ask(
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

/// The reply without the name of its kind: the command says that.
fn as_json(reply: &Reply) -> serde_json::Result<String> {
    match reply {
        Reply::Health(done) => serde_json::to_string_pretty(done),
        Reply::Scale(done) => serde_json::to_string_pretty(done),
        Reply::Reset(done) => serde_json::to_string_pretty(done),
        Reply::Fault(done) => serde_json::to_string_pretty(done),
        Reply::Clear(done) => serde_json::to_string_pretty(done),
        Reply::Status(_) | Reply::Refused(_) => serde_json::to_string_pretty(reply),
    }
}

fn text(reply: &Reply) -> String {
    match reply {
        Reply::Health(done) => health(done),
        Reply::Scale(done) => scale(done),
        Reply::Reset(done) => format!("{}: as configured", done.resource),
        Reply::Fault(done) => fault(done),
        Reply::Clear(done) if done.is_empty() => "no resources".to_owned(),
        Reply::Clear(done) => done.iter().map(clear).collect::<Vec<_>>().join("\n"),
        Reply::Status(_) | Reply::Refused(_) => UNEXPECTED.to_owned(),
    }
}

fn health(done: &HealthReply) -> String {
    let (resource, health) = (&done.resource, done.health.as_str());
    let many = || format!("{} devices", done.devices);
    let what = done.device.clone().unwrap_or_else(many);
    let by_fault = match (done.fault_unhealthy, done.devices) {
        (0, _) => String::new(),
        (1, 1) => "; a fault keeps it Unhealthy".to_owned(),
        (count, _) => format!("; a fault keeps {count} of them Unhealthy"),
    };
    format!("{resource}: set {what} to {health}{by_fault}")
}

fn scale(done: &ScaleReply) -> String {
    let (resource, count) = (&done.resource, done.devices);
    let devices = if count == 1 { "device" } else { "devices" };
    let removing = match done.pending_removal {
        0 => String::new(),
        removing => format!(", {removing} pending removal"),
    };
    format!("{resource}: scaled to {count} {devices}{removing}")
}

fn fault(done: &FaultReply) -> String {
    let set = format!("{}: {}", done.resource, done.fault);
    let never = done
        .never_injected
        .map(|rpc| format!("it is never injected: {rpc}"));
    let bounds = done
        .fault
        .is_delay()
        .then(|| format!("{DELAY_LIMITS}:\n{DELAY_LIMITS_REASON}"));
    let lines = [set].into_iter().chain(never).chain(bounds);
    lines.collect::<Vec<_>>().join("\n")
}

fn clear(done: &ClearReply) -> String {
    let resource = &done.resource;
    match done.faults {
        0 => format!("{resource}: no faults"),
        1 => format!("{resource}: 1 fault is cleared"),
        count => format!("{resource}: {count} faults are cleared"),
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
    fn says(reply: &Reply, expected: &str) {
        assert_eq!(text(reply), format!("{GPU}: {expected}"));
    }

    #[test]
    fn replies_are_sentences_for_one_and_for_many() {
        let health = |devices: &[&str], fault_unhealthy| {
            Reply::Health(HealthReply {
                resource: GPU.to_owned(),
                health: Health::Healthy,
                devices: devices.len(),
                device: (devices.len() == 1).then(|| devices[0].to_owned()),
                fault_unhealthy,
            })
        };
        says(&health(&["a"], 0), "set a to Healthy");
        says(
            &health(&["a"], 1),
            "set a to Healthy; a fault keeps it Unhealthy",
        );
        says(&health(&["a", "b"], 0), "set 2 devices to Healthy");
        says(
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
        says(&scale(1, 3), "scaled to 1 device, 3 pending removal");
        says(&scale(6, 0), "scaled to 6 devices");
        let clear = |faults: &[usize]| {
            let cleared = faults.iter().map(|faults| ClearReply {
                resource: GPU.to_owned(),
                faults: *faults,
            });
            Reply::Clear(cleared.collect())
        };
        says(&clear(&[0]), "no faults");
        says(&clear(&[1]), "1 fault is cleared");
        says(&clear(&[2]), "2 faults are cleared");
        assert_eq!(text(&clear(&[])), "no resources");
    }

    #[test]
    fn a_fault_that_is_never_injected_or_cut_says_so() {
        let set = |fault: &str, never_injected| {
            Reply::Fault(Box::new(FaultReply {
                resource: GPU.to_owned(),
                fault: serde_json::from_str(fault).expect("a fault"),
                never_injected,
            }))
        };
        says(&set(r#"{"on": "stream"}"#, None), "stream");
        let delay = set(
            r#"{"on": "pre-start", "delay": "1s"}"#,
            Some(UncalledRpc::PreStart),
        );
        let expected = format!(
            "pre-start --delay 1s\nit is never injected: preStart is false, so the kubelet does not call PreStartContainer\n{DELAY_LIMITS}:\n{DELAY_LIMITS_REASON}"
        );
        says(&delay, &expected);
    }

    #[test]
    fn a_refusal_says_what_there_is() {
        let no_resource = |known: &[&str], more| Refusal::NoSuchResource {
            resource: "a/b".to_owned(),
            known: known.iter().map(ToString::to_string).collect(),
            more,
        };
        for (refusal, expected) in [
            (no_resource(&[], 0), "no resource a/b; there are: none"),
            (
                no_resource(&["c/d", "e/f"], 0),
                "no resource a/b; there are: c/d, e/f",
            ),
            (
                no_resource(&["c/d"], 7),
                "no resource a/b; there are: c/d and 7 more",
            ),
        ] {
            assert_eq!(refusal.to_string(), expected);
        }
    }
}
