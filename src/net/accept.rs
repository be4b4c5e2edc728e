//! Accepts connections to our sockets.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;

use crate::util::retry::WarnOnce;

/// While the process is out of file descriptors, accept fails at once, again and again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Accepts connections one after the other.
pub(crate) struct Acceptor {
    failure: String,
    failures: WarnOnce,
}

impl Acceptor {
    /// `socket` is how the log names the socket.
    pub fn new(socket: &str) -> Self {
        Self {
            failure: format!("cannot accept a connection to {socket}: retrying"),
            failures: WarnOnce::default(),
        }
    }

    /// The next connection. What fails is logged and tried again.
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
                Err(error) => self.failures.log(&error, &self.failure),
            }
            sleep(RETRY_DELAY).await;
        }
    }
}
