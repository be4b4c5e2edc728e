//! The program's own sockets: safe bind and removal, limits on connections, and checks of the peer's user.

pub(crate) mod accept;
pub(crate) mod clients;
pub mod connections;
pub(crate) mod dir_lock;
pub mod own_socket;
pub(crate) mod user_namespace;
