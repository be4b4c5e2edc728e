//! The text of the kubelet's events and of device assignments.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;

use crate::print;
use crate::screen::Screen;
use kubelet_sim::{Assignment, DeviceChange, Event, EventKind};
use simple_device_plugin::cli::print::table;
use simple_device_plugin::cli::style::{BAD, DIM, GOOD, ODD, PLAIN};
use simple_device_plugin::util::sanitize::sanitize;

/// The maximum number of changed devices that an event names; if more changed, it shows only their number.
const CHANGES_SHOWN_MAX: usize = 3;

/// The width of the time at the start of a line, in columns.
const TIME_WIDTH: usize = 11;

/// Prints an event with the time since the kubelet's start.
pub(crate) fn print_event(
    out: &mut Screen<impl Write>,
    since: Duration,
    event: &Event,
) -> io::Result<()> {
    let (style, text) = describe(&event.kind);
    let resource = &event.resource;
    print_line(out, since, &format!("{resource} {style}{text}{style:#}"))
}

/// Prints a line with the time since the kubelet's start.
pub(crate) fn print_line(
    out: &mut Screen<impl Write>,
    since: Duration,
    text: &str,
) -> io::Result<()> {
    let seconds = since.as_secs_f64();
    out.write_wrapped(&format!("{DIM}{seconds:9.3}{DIM:#}  {text}"), TIME_WIDTH)
}

fn describe(kind: &EventKind) -> (Style, String) {
    match kind {
        EventKind::Registered {
            endpoint,
            pre_start,
            preferred,
        } => {
            let options = match (preferred, pre_start) {
                (false, false) => "",
                (true, false) => ", with GetPreferredAllocation",
                (false, true) => ", with PreStartContainer",
                (true, true) => ", with GetPreferredAllocation and PreStartContainer",
            };
            (GOOD, format!("registered at {endpoint}{options}"))
        }
        EventKind::Ignored { endpoint } => {
            let text = format!("registered again at {endpoint}: ignored while its stream is open");
            (ODD, text)
        }
        EventKind::RegistrationFailed { endpoint, error } => {
            (BAD, format!("registration at {endpoint} failed: {error}"))
        }
        EventKind::Listed {
            healthy,
            unhealthy,
            unknown_health,
            changes,
        } => {
            let style = if *unhealthy > 0 { ODD } else { PLAIN };
            let mut text = describe_list(*healthy, *unhealthy) + &describe_changes(changes);
            if let Some(health) = unknown_health {
                text = format!("{text}; the kubelet treats {health:?} as Unhealthy");
            }
            (style, text)
        }
        EventKind::PodKilled { pod, reason } => {
            let kind = reason.reason();
            (BAD, format!("pod {pod} is killed: {kind}: {reason}"))
        }
        EventKind::Disconnected { error } => {
            let reason = match error {
                Some(error) => format!(" with {error}"),
                None => String::new(),
            };
            let text = format!("lost: its stream ended{reason}; all its devices are now Unhealthy");
            (BAD, text)
        }
    }
}

fn describe_list(healthy: usize, unhealthy: usize) -> String {
    match (healthy + unhealthy, unhealthy) {
        (0, _) => "listed no devices".to_owned(),
        (1, 0) => "listed 1 device, healthy".to_owned(),
        (1, _) => "listed 1 device, Unhealthy".to_owned(),
        (all, 0) => format!("listed {all} devices, all healthy"),
        (all, _) => format!("listed {all} devices, {healthy} healthy"),
    }
}

fn describe_changes(changes: &[DeviceChange]) -> String {
    let name = |change: &DeviceChange| format!("{} {}", sanitize(&change.id), change.state);
    match changes.len() {
        0 => String::new(),
        1..=CHANGES_SHOWN_MAX => {
            let names: Vec<String> = changes.iter().map(name).collect();
            format!(": {}", names.join(", "))
        }
        more => format!(", {more} changed"),
    }
}

/// Prints the table of the devices that pods hold.
pub(crate) fn print_pods(out: &mut impl Write, assignments: &[Assignment]) -> io::Result<()> {
    let rows = assignments.iter().map(|assignment| {
        let pod = sanitize(&assignment.pod);
        let container = sanitize(&assignment.container);
        let resource = &assignment.resource;
        let devices = print::format_devices(assignment);
        (PLAIN, format!("{pod}\t{container}\t{resource}\t{devices}"))
    });
    table(out, "POD\tCONTAINER\tRESOURCE\tDEVICES", rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubelet_sim::DeviceState;

    fn list_text(healthy: usize, unhealthy: usize, changed: &[&str]) -> String {
        let change = |id: &&str| DeviceChange {
            id: (*id).to_owned(),
            state: DeviceState::Unhealthy,
        };
        describe(&EventKind::Listed {
            healthy,
            unhealthy,
            unknown_health: None,
            changes: changed.iter().map(change).collect(),
        })
        .1
    }

    #[test]
    fn a_list_names_up_to_three_changed_devices() {
        assert_eq!(list_text(0, 0, &[]), "listed no devices");
        assert_eq!(list_text(4, 0, &[]), "listed 4 devices, all healthy");
        assert_eq!(list_text(0, 1, &[]), "listed 1 device, Unhealthy");
        assert_eq!(
            list_text(2, 1, &["a"]),
            "listed 3 devices, 2 healthy: a Unhealthy"
        );
        assert_eq!(
            list_text(0, 4, &["a", "b", "c", "d"]),
            "listed 4 devices, 0 healthy, 4 changed"
        );
    }

    #[test]
    fn an_unknown_health_is_shown() {
        let listed = EventKind::Listed {
            healthy: 1,
            unhealthy: 1,
            unknown_health: Some("healthy".to_owned()),
            changes: Vec::new(),
        };
        let expected = r#"listed 2 devices, 1 healthy; the kubelet treats "healthy" as Unhealthy"#;
        assert_eq!(describe(&listed).1, expected);
    }

    #[test]
    fn a_registration_shows_the_plugins_options() {
        let registered = EventKind::Registered {
            endpoint: "x.sock".to_owned(),
            pre_start: true,
            preferred: false,
        };
        assert_eq!(
            describe(&registered).1,
            "registered at x.sock, with PreStartContainer"
        );
    }
}
