//! The enums of a record whose values appear as names in the status, the log and metric labels.

use enum_map::Enum;

/// The steps of a run, in the order in which a plugin goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// No attempt has begun yet, or the last stream ended.
    Starting,
    /// Waiting for a registration permit, or connecting to the kubelet.
    Connecting,
    /// A fault suspends the registration.
    Suspended,
    /// Binding the plugin's socket.
    Binding,
    /// Waiting because the kubelet may still be disconnecting a previous plugin of this resource.
    Settling,
    /// Calling Register, or waiting for the kubelet to open ListAndWatch.
    Registering,
    /// The kubelet has ListAndWatch open.
    Registered,
    /// Shutting down the server of this run.
    Stopping,
}

impl Step {
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

    /// Returns a verb phrase that says what the plugin does or waits for at this step.
    pub const fn waits_for(self) -> &'static str {
        match self {
            Self::Starting => "is starting",
            Self::Connecting => "waits for the kubelet",
            Self::Suspended => "waits until its registration fault ends or is cleared",
            Self::Binding => "waits for its socket",
            Self::Settling => {
                "waits until the kubelet has disconnected the resource's previous plugin, at most 0.5 s"
            }
            Self::Registering | Self::Registered => "waits for the kubelet to open ListAndWatch",
            Self::Stopping => "is stopping",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum RegistrationResult {
    /// The kubelet opened ListAndWatch.
    Registered,
    /// The kubelet returned an error, or its connection was refused because of a user namespace.
    Refused,
    /// The connection to the kubelet broke during Register.
    Broken,
    /// The kubelet did not respond to Register in time.
    TimedOut,
    /// Register returned OK, but the kubelet did not call GetDevicePluginOptions.
    NotCalledBack,
    /// Register returned OK, but the kubelet did not open ListAndWatch.
    NoStream,
}

impl RegistrationResult {
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

/// Why a plugin was restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum Cause {
    /// The kubelet restarted.
    Kubelet,
    /// The stream ended although the kubelet did not restart.
    Stream,
    /// The registered options or the socket changed.
    Configuration,
    /// The kubelet lacked the resource's devices although the stream was open.
    Checkpoint,
    /// The plugin that had taken the resource over has stopped.
    Takeover,
    /// A fault closed the stream.
    Fault,
    Panic,
}

impl Cause {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Stream => "stream",
            Self::Configuration => "configuration",
            Self::Checkpoint => "checkpoint",
            Self::Takeover => "takeover",
            Self::Fault => "fault",
            Self::Panic => "panic",
        }
    }
}
