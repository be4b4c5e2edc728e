//! Sockets of ours: bound and removed without taking anyone's, and who may connect to them.

pub(crate) mod dir_lock;
pub(crate) mod user_namespace;
pub mod own_socket;
pub mod connections;
pub(crate) mod accept;
pub(crate) mod clients;
