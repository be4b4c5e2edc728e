//! How a run ends.

use std::time::Duration;

use thiserror::Error;

use crate::fault::Suspension;
use crate::net::own_socket::BindError;
use crate::net::user_namespace::REMEDY;
use crate::node::registration::{NoKubelet, RegisterError};
use crate::plugin::record::RegistrationResult;

/// Why a run did not come to be registered.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    /// Nobody to register with.
    #[error(transparent)]
    NoKubelet(#[from] NoKubelet),
    /// No socket of its own.
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The kubelet's connection was refused, since nothing distinguishes it from a stranger's.
    #[error("the kubelet is outside of this pod's user namespace: {REMEDY}")]
    UserNamespace,
    /// A kubelet newer than 1.36.2 answers so while it holds an older connection to the socket.
    #[error("the kubelet answered Register with OK but did not call back, or hung up")]
    NotCalledBack,
    /// Registered and then forgotten.
    #[error("the kubelet answered Register with OK but opened no ListAndWatch")]
    NoStream,
}

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself or by `stop`, after its stream was open for this long.
    After(Duration),
    /// By a fault on demand: nothing is wrong.
    ByFault,
}

/// What ended a stream.
pub(super) enum StreamEnd {
    Stop,
    /// It ended by itself.
    Stream,
    /// A fault dropped it.
    Dropped,
    /// Faults suspend the registration.
    Suspended(Vec<Suspension>),
}

impl RunError {
    /// How the registration went, if it came to that.
    pub fn registration(&self) -> Option<RegistrationResult> {
        match self {
            Self::NoKubelet(_) | Self::Bind(_) => None,
            Self::Register(RegisterError::Refused(_)) | Self::UserNamespace => {
                Some(RegistrationResult::Refused)
            }
            Self::Register(RegisterError::Broken) => Some(RegistrationResult::Broken),
            Self::Register(RegisterError::TimedOut) => Some(RegistrationResult::TimedOut),
            Self::NotCalledBack => Some(RegistrationResult::NotCalledBack),
            Self::NoStream => Some(RegistrationResult::NoStream),
        }
    }
}
