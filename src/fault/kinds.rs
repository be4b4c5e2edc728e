//! The types of a fault: its injection point, its effect and its schedule.

use std::fmt;
use std::time::Duration;

use enum_map::Enum;
use serde::{Deserialize, Serialize};

use crate::api::v1beta1;
use crate::model::device::Devices;
use crate::model::selection::{SelectionError, select};

use super::values::{self, ErrorCode, Probability, Times};

/// A fault to inject into one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub(crate) on: FaultKind,
    pub(crate) schedule: Schedule,
}

/// The injection point of a fault, with its effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Allocate(CallFault),
    Preferred(CallFault),
    PreStart(CallFault),
    Options(CallFault),
    /// Ends the ListAndWatch stream.
    Stream,
    /// Suspends the registration of the resource for this long. `None`: until the fault is cleared.
    Registration {
        duration: Option<Duration>,
    },
    Health(Flap),
}

/// The effect of a fault on a call from the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallFault {
    /// Delays the response.
    Delay(Duration),
    /// Returns this error instead of a response.
    Error {
        code: ErrorCode,
        message: Option<String>,
    },
}

/// Makes devices Unhealthy and Healthy again, repeatedly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flap {
    /// The selected devices, in the syntax of [`crate::model::selection`].
    pub devices: String,
    /// How long the devices stay Healthy before each Unhealthy phase.
    pub up: Duration,
    /// How long the devices stay Unhealthy.
    pub down: Duration,
}

/// Selects the calls, streams, registrations or phases that a fault is injected into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Schedule {
    /// `None`: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<Probability>,
    /// How many calls, streams, registrations or phases are skipped first.
    #[serde(skip_serializing_if = "is_zero")]
    pub after: u64,
    /// `None`: the default of the injection point, see [`Fault::times`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
    /// `None`: random, if there is a probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// What a fault is injected into. The metric `faults_injected_total` has this value as the label `fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InjectionPoint {
    Allocate,
    Preferred,
    PreStart,
    Options,
    Stream,
    Registration,
    Health,
}

/// An RPC that the kubelet never calls, because the plugin's options do not ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UncalledRpc {
    Preferred,
    PreStart,
}

impl fmt::Display for UncalledRpc {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Preferred => {
                "preferredAllocation is none, so the kubelet does not call GetPreferredAllocation"
            }
            Self::PreStart => "preStart is false, so the kubelet does not call PreStartContainer",
        })
    }
}

impl InjectionPoint {
    /// The name on the command line, in the config file and in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allocate => "allocate",
            Self::Preferred => "preferred",
            Self::PreStart => "pre-start",
            Self::Options => "options",
            Self::Stream => "stream",
            Self::Registration => "registration",
            Self::Health => "health",
        }
    }
}

impl Fault {
    pub(crate) fn point(&self) -> InjectionPoint {
        match self.on {
            FaultKind::Allocate(_) => InjectionPoint::Allocate,
            FaultKind::Preferred(_) => InjectionPoint::Preferred,
            FaultKind::PreStart(_) => InjectionPoint::PreStart,
            FaultKind::Options(_) => InjectionPoint::Options,
            FaultKind::Stream => InjectionPoint::Stream,
            FaultKind::Registration { .. } => InjectionPoint::Registration,
            FaultKind::Health(_) => InjectionPoint::Health,
        }
    }

    /// The maximum number of injections. The default is 1, because an unlimited error makes a controller create thousands
    /// of failing pods. Only `health` is unlimited by default.
    pub(super) fn times(&self) -> Times {
        let default = match self.on {
            FaultKind::Health(_) => Times::Unlimited,
            _ => Times::ONCE,
        };
        self.schedule.times.unwrap_or(default)
    }

    /// Checks that the resource has all devices that this fault selects.
    ///
    /// # Errors
    /// Returns an error that names the first part of the selection that matches no device.
    pub(crate) fn check_devices(&self, devices: &Devices) -> Result<(), SelectionError> {
        match &self.on {
            FaultKind::Health(flap) => select(devices, &flap.devices).map(drop),
            _ => Ok(()),
        }
    }

    /// Returns the RPC that the kubelet never calls with these options, if this fault needs that RPC.
    pub(crate) fn never_injected(
        &self,
        options: v1beta1::DevicePluginOptions,
    ) -> Option<UncalledRpc> {
        match self.on {
            FaultKind::Preferred(_) if !options.get_preferred_allocation_available => {
                Some(UncalledRpc::Preferred)
            }
            FaultKind::PreStart(_) if !options.pre_start_required => Some(UncalledRpc::PreStart),
            _ => None,
        }
    }

    pub(crate) fn is_delay(&self) -> bool {
        matches!(self.on.call(), Some(CallFault::Delay(_)))
    }
}

impl FaultKind {
    /// The effect on a call, or `None` if this kind is not about calls.
    pub(crate) fn call(&self) -> Option<&CallFault> {
        match self {
            Self::Allocate(call)
            | Self::Preferred(call)
            | Self::PreStart(call)
            | Self::Options(call) => Some(call),
            Self::Stream | Self::Registration { .. } | Self::Health(_) => None,
        }
    }

    /// The keys and values of this kind, as in the config file.
    pub(super) fn keys(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Allocate(call)
            | Self::Preferred(call)
            | Self::PreStart(call)
            | Self::Options(call) => call.keys(),
            Self::Stream | Self::Registration { duration: None } => Vec::new(),
            Self::Registration {
                duration: Some(duration),
            } => vec![("for", values::format_duration(*duration))],
            Self::Health(flap) => vec![
                ("devices", flap.devices.clone()),
                ("up", values::format_duration(flap.up)),
                ("down", values::format_duration(flap.down)),
            ],
        }
    }
}

impl CallFault {
    /// Returns `None` unless exactly one of `delay` and `error` is set, or if a message comes without an error.
    pub(crate) fn new(
        delay: Option<Duration>,
        error: Option<ErrorCode>,
        message: Option<String>,
    ) -> Option<Self> {
        match (delay, error, message) {
            (Some(delay), None, None) => Some(Self::Delay(delay)),
            (None, Some(code), message) => Some(Self::Error { code, message }),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Delay(delay) => vec![("delay", values::format_duration(*delay))],
            Self::Error { code, message } => {
                let message = message.clone().map(|message| ("message", message));
                std::iter::once(("error", code.to_string()))
                    .chain(message)
                    .collect()
            }
        }
    }
}

/// The arguments of `simple-device-plugin fault`, without the resource.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.point().as_str())?;
        for (key, value) in self.on.keys() {
            let value = shell_quoted(&value);
            match key {
                "devices" => write!(f, " {value}")?,
                _ => write!(f, " --{key} {value}")?,
            }
        }
        write!(f, "{}", self.schedule)
    }
}

/// Options of the command line, each with a leading space.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(probability) = self.probability {
            write!(f, " --probability {probability}")?;
        }
        if self.after > 0 {
            write!(f, " --after {}", self.after)?;
        }
        if let Some(times) = self.times {
            write!(f, " --times {times}")?;
        }
        if let Some(seed) = self.seed {
            write!(f, " --seed {seed}")?;
        }
        Ok(())
    }
}

/// Quotes the text for a POSIX shell, if needed.
fn shell_quoted(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.,/:".contains(c);
    if text.chars().all(is_word) && !text.is_empty() {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "skip_serializing_if passes a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
