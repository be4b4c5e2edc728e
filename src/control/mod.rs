//! The control socket: a client asks the running daemon.

mod apply;
pub mod client;
mod protocol;
pub mod server;

pub use protocol::{
    ClearReply, FaultReply, HealthReply, Message, Refusal, Reply, Request, ResetReply, ScaleReply,
};
