//! Sockets of ours: bound and removed without taking anyone's, and who may connect to them.

pub(crate) mod accept;
pub(crate) mod clients;
pub mod connections;
pub(crate) mod dir_lock;
pub mod own_socket;
pub(crate) mod user_namespace;
