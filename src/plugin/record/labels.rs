//! The words of a record: how far a plugin is, how a registration went, why it started over.

use enum_map::Enum;

/// How far a plugin is in its run, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Not tried yet, or not again.
    Starting,
    /// On its way to the kubelet, or in line for it.
    Connecting,
    /// There is a kubelet, but a fault keeps it from registering.
    Suspended,
    /// Making its socket.
    Binding,
    /// Waiting, since the kubelet may still be disconnecting a predecessor.
    Settling,
    /// Register is under way, or ListAndWatch not open yet.
    Registering,
    /// The kubelet has ListAndWatch open.
    Registered,
    /// Ending its run.
    Stopping,
}

impl Step {
    /// As the status and the log have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Suspended => "suspended",
            Self::Binding => "binding",
            Self::Settling => "settling",
            Self::Registering => "registering",
            Self::Registered => "registered",
            Self::Stopping => "stopping",
        }
    }

    /// What it waits for there.
    pub const fn waits_for(self) -> &'static str {
        match self {
            Self::Starting => "waits for its start",
            Self::Connecting => "waits for the kubelet",
            Self::Suspended => "waits until the fault that suspends its registration ends",
            Self::Binding => "waits for its socket",
            Self::Settling => {
                "waits 0.5 s, since the kubelet may still be disconnecting a predecessor"
            }
            Self::Registering | Self::Registered => "waits for the kubelet to open ListAndWatch",
            Self::Stopping => "is stopping",
        }
    }
}

/// How a registration went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum RegistrationResult {
    /// ListAndWatch is open.
    Registered,
    /// The kubelet said no.
    Refused,
    /// The kubelet went meanwhile.
    Broken,
    /// No answer in time.
    TimedOut,
    /// OK, but the kubelet did not ask for the options.
    NotCalledBack,
    /// OK, but the kubelet opened no ListAndWatch.
    NoStream,
}

impl RegistrationResult {
    /// As a metric's label has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::NotCalledBack => "not_called_back",
            Self::NoStream => "no_stream",
        }
    }
}

/// Why a plugin started over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum Cause {
    /// Another kubelet came.
    Kubelet,
    /// The stream ended, and the kubelet is the same.
    Stream,
    /// It must register something else.
    Configuration,
    /// The kubelet's checkpoint lacked the resource.
    Checkpoint,
    /// A fault on demand.
    Fault,
    Panic,
}

impl Cause {
    /// As a metric's label has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Stream => "stream",
            Self::Configuration => "configuration",
            Self::Checkpoint => "checkpoint",
            Self::Fault => "fault",
            Self::Panic => "panic",
        }
    }
}
