//! What a fault is: what it is injected into, what it does there, and when.

use std::fmt;
use std::time::Duration;

use enum_map::Enum;
use serde::{Deserialize, Serialize};

use crate::api::v1beta1;
use crate::model::device::Devices;
use crate::model::selection::{SelectionError, select};

use super::values::{self, ErrorCode, Probability, Times};

/// One fault of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub(crate) on: FaultKind,
    pub(crate) schedule: Schedule,
}

/// What a fault is injected into, and what it does there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Allocate(CallFault),
    Preferred(CallFault),
    PreStart(CallFault),
    Options(CallFault),
    /// The stream of ListAndWatch ends.
    Stream,
    /// The resource is not registered for this long. `None`: until the fault is cleared.
    Registration {
        duration: Option<Duration>,
    },
    Health(Flap),
}

/// What happens to a call of the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallFault {
    /// It is answered this much later.
    Delay(Duration),
    /// It gets this error instead of an answer.
    Error {
        code: ErrorCode,
        message: Option<String>,
    },
}

/// Devices that become Unhealthy and Healthy again, repeatedly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flap {
    /// Which devices: see [`crate::model::selection`].
    pub devices: String,
    /// How long they are Healthy.
    pub up: Duration,
    /// How long they are Unhealthy then.
    pub down: Duration,
}

/// Into which calls, streams, registrations or phases a fault is injected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Schedule {
    /// `None`: always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<Probability>,
    /// How many are skipped first.
    #[serde(skip_serializing_if = "is_zero")]
    pub after: u64,
    /// `None`: the default of the kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<Times>,
    /// `None`: a random one, where the probability needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// What a fault is injected into. Injections are counted by it.
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

/// A call that the kubelet never makes, by the options of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UncalledRpc {
    Preferred,
    PreStart,
}

impl fmt::Display for UncalledRpc {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Preferred => "preferredAllocation is none, so the kubelet does not ask for it",
            Self::PreStart => "preStart is false, so the kubelet does not call it",
        })
    }
}

impl InjectionPoint {
    /// As the command line, the config file and the metric's label have it.
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

    /// How often it is injected at most. Without a bound, an error makes a controller create failing pods by the
    /// thousand, so the default is once; devices flap until the fault is cleared.
    pub(super) fn times(&self) -> Times {
        let default = match self.on {
            FaultKind::Health(_) => Times::Unlimited,
            _ => Times::ONCE,
        };
        self.schedule.times.unwrap_or(default)
    }

    /// Checks that the resource has the devices that flap.
    ///
    /// # Errors
    /// The first part of the selection that no device has.
    pub(crate) fn check_devices(&self, devices: &Devices) -> Result<(), SelectionError> {
        match &self.on {
            FaultKind::Health(flap) => select(devices, &flap.devices).map(drop),
            _ => Ok(()),
        }
    }

    /// Why it is never injected, where a kubelet that knows these options does not make the call.
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

    /// Whether it delays calls.
    pub(crate) fn is_delay(&self) -> bool {
        matches!(self.on.call(), Some(CallFault::Delay(_)))
    }
}

impl FaultKind {
    /// What happens to the call, where it is one.
    pub(crate) fn call(&self) -> Option<&CallFault> {
        match self {
            Self::Allocate(call)
            | Self::Preferred(call)
            | Self::PreStart(call)
            | Self::Options(call) => Some(call),
            Self::Stream | Self::Registration { .. } | Self::Health(_) => None,
        }
    }

    /// The keys of the kind with their values.
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
    /// `None` where it is not exactly one of both.
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

/// As the command line has it, without the resource.
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

/// Each part begins with a blank.
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

/// One word for a shell.
fn shell_quoted(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.,/:".contains(c);
    if text.chars().all(is_word) && !text.is_empty() {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
