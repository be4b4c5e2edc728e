//! General-purpose helpers that do not depend on any other module.

pub(crate) mod backoff;
pub(crate) mod dir_watch;
pub mod file_id;
pub(crate) mod regular_file;
pub(crate) mod retry;
pub mod sanitize;
pub(crate) mod watch_cell;
