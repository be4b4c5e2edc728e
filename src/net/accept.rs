//! Accepts connections and retries failed accepts.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use crate::util::retry::WarnOnce;

/// Keeps the loop from spinning: without free file descriptors, every accept fails immediately.
const RETRY_DELAY: Duration = Duration::from_millis(100);

pub(crate) struct Acceptor {
    message: String,
    failures: WarnOnce,
}

impl Acceptor {
    /// `socket` names the socket in log messages.
    pub fn new(socket: &str) -> Self {
        Self {
            message: format!("cannot accept a connection on {socket}; retrying"),
            failures: WarnOnce::default(),
        }
    }

    /// Returns the next connection. Failures are logged and retried.
    pub async fn accept<C>(
        &mut self,
        mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<C>>,
    ) -> C {
        loop {
            match poll_fn(&mut poll_accept).await {
                Ok(connection) => {
                    self.failures.reset();
                    return connection;
                }
                Err(error) => self.failures.log(&error, &self.message),
            }
            sleep(RETRY_DELAY).await;
        }
    }
}
