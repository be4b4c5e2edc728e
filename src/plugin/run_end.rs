//! How a run ended, as a value that the restart loop logs, counts and remembers.

use thiserror::Error;

use crate::fault::Suspension;
use crate::net::own_socket::BindError;
use crate::net::user_namespace::REMEDY;
use crate::node::registration::{NoKubelet, RegisterError};
use crate::plugin::record::{Cause, RegistrationResult};

use super::stream::EndedStream;

/// How a run ended. Its display text appears in the log and in the status.
#[derive(Debug, Error)]
pub(crate) enum RunEnd {
    /// The run was asked to stop. The stream is `None` if the kubelet cannot know the plugin yet.
    #[error("stopped")]
    Stopped(Option<EndedStream>),
    #[error(transparent)]
    NoKubelet(#[from] NoKubelet),
    #[error("{0}{remedy}", remedy = remedy(.0))]
    NotBound(BindError),
    /// The plugin did not call Register.
    #[error(transparent)]
    ServedByAnother(#[from] ServedByAnother),
    #[error(transparent)]
    NotRegistered(NotRegistered),
    /// The kubelet closed the stream or its connection, or the server failed.
    #[error("the ListAndWatch stream ended")]
    StreamEnded(EndedStream),
    #[error("a stream fault closed ListAndWatch")]
    StreamDropped(EndedStream),
    /// The suspensions delay the next registration.
    #[error("a registration fault closed ListAndWatch")]
    Suspended(EndedStream, Vec<Suspension>),
    /// The text is the panic's message.
    #[error("the plugin panicked, please report this bug: {0}")]
    Panicked(String),
}

/// Another plugin has registered the resource. The text is the ID of one of its devices, escaped.
#[derive(Debug, Error)]
#[error(
    "another plugin serves the resource now, for example device {0}; stop it, or set a different RESOURCE_NAME"
)]
pub(crate) struct ServedByAnother(pub String);

fn remedy(error: &BindError) -> &'static str {
    match error {
        BindError::Taken => "; set a different PLUGIN_NAME (pluginName in the config file)",
        BindError::NotASocket | BindError::Io(_) => "",
    }
}

/// Why the registration failed.
#[derive(Debug, Error)]
pub(crate) enum NotRegistered {
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The plugin refused the kubelet's connection, because the kubelet's UID is not mapped in this user namespace.
    #[error(
        "the kubelet is outside of this pod's user namespace, so its connection was refused; {REMEDY}"
    )]
    UserNamespace,
    /// Kubelets newer than 1.36.2 do this while they hold an older connection to the socket.
    #[error(
        "the kubelet answered Register with OK, but did not call GetDevicePluginOptions or has disconnected"
    )]
    NotCalledBack,
    #[error("the kubelet answered Register with OK, but did not open ListAndWatch")]
    NoStream,
}

impl NotRegistered {
    /// Returns the result for the registration counters.
    pub fn result(&self) -> RegistrationResult {
        match self {
            Self::Register(RegisterError::Refused(_)) | Self::UserNamespace => {
                RegistrationResult::Refused
            }
            Self::Register(RegisterError::Broken) => RegistrationResult::Broken,
            Self::Register(RegisterError::TimedOut) => RegistrationResult::TimedOut,
            Self::NotCalledBack => RegistrationResult::NotCalledBack,
            Self::NoStream => RegistrationResult::NoStream,
        }
    }
}

impl RunEnd {
    /// Returns the result of a registration that failed; `None` if the run did not register or succeeded.
    pub fn registration(&self) -> Option<RegistrationResult> {
        match self {
            Self::NotRegistered(error) => Some(error.result()),
            _ => None,
        }
    }

    /// Returns the cause of the restart that follows. `None` if it is not known yet: after a lost stream, only the next
    /// connection shows whether the kubelet restarted.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::StreamDropped(_) | Self::Suspended(..) => Some(Cause::Fault),
            Self::Panicked(_) => Some(Cause::Panic),
            _ => None,
        }
    }
}
