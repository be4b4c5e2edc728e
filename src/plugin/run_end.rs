//! How a run ends: one value that says all of it.

use thiserror::Error;

use crate::fault::Suspension;
use crate::net::own_socket::BindError;
use crate::net::user_namespace::REMEDY;
use crate::node::registration::{NoKubelet, RegisterError};
use crate::plugin::record::{Cause, RegistrationResult};

use super::stream::EndedStream;

/// How a run ended. Its text is what the log and the status say.
#[derive(Debug, Error)]
pub(crate) enum RunEnd {
    /// It was asked to stop; with its stream, if it came to that.
    #[error("stopped")]
    Stopped(Option<EndedStream>),
    #[error(transparent)]
    NoKubelet(#[from] NoKubelet),
    /// There is no socket of its own.
    #[error("{0}{remedy}", remedy = remedy(.0))]
    NotBound(BindError),
    #[error(transparent)]
    NotRegistered(NotRegistered),
    /// Nobody here ended the stream.
    #[error("the stream ended")]
    StreamEnded(EndedStream),
    /// By a fault.
    #[error("a fault dropped the stream")]
    StreamDropped(EndedStream),
    /// By faults, which suspend the next registration.
    #[error("a fault suspends the registration")]
    Suspended(EndedStream, Vec<Suspension>),
    #[error("a bug: {0}")]
    Panicked(String),
}

fn remedy(error: &BindError) -> &'static str {
    match error {
        BindError::Taken => "; set a different PLUGIN_NAME",
        BindError::NotASocket | BindError::Io(_) => "",
    }
}

/// Why the kubelet has not opened a stream.
#[derive(Debug, Error)]
pub(crate) enum NotRegistered {
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The kubelet's connection was refused, since nothing distinguishes it from a stranger's.
    #[error("the kubelet is outside of this pod's user namespace: {REMEDY}")]
    UserNamespace,
    /// A kubelet newer than 1.36.2 answers so while it holds an older connection to the socket.
    #[error("the kubelet answered Register with OK but did not call back, or hung up")]
    NotCalledBack,
    #[error("the kubelet answered Register with OK but opened no ListAndWatch")]
    NoStream,
}

impl NotRegistered {
    /// How the registration counts.
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
    /// How the registration went, if it came to that and failed.
    pub fn registration(&self) -> Option<RegistrationResult> {
        match self {
            Self::NotRegistered(error) => Some(error.result()),
            _ => None,
        }
    }

    /// The cause of the restart that follows, where the end alone tells it: after a lost stream the next connection
    /// tells whether the kubelet is another one.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::StreamDropped(_) | Self::Suspended(..) => Some(Cause::Fault),
            Self::Panicked(_) => Some(Cause::Panic),
            _ => None,
        }
    }
}
