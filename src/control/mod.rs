//! The control socket, on which commands send requests to the running daemon.

mod apply;
pub mod client;
mod protocol;
pub mod server;

pub use protocol::{
    ClearReply, FaultReply, HealthReply, Message, Refusal, Reply, Request, ResetReply, ScaleReply,
};
