//! Log lines: to stderr, for people or as JSON, and one for each panic.

use std::io::{self, IsTerminal};

use anyhow::anyhow;
use tracing::error;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logs};
use crate::foreign::foreign;

/// Lines that wait for a reader of stderr; what comes beyond them is lost.
const LINES_MAX: usize = 1024;

/// Starts to log, until the guard is dropped; `unless_told` are the directives where the variables have
/// none. A thread of its own writes: a stderr that nobody reads, or that is gone, holds up nothing.
///
/// # Errors
/// When the directives can't be read, or something else logs already.
pub fn start(logs: &Logs, unless_told: &str) -> anyhow::Result<WorkerGuard> {
    let directives = logs.directives.as_deref().unwrap_or(unless_told);
    let (stderr, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .finish(io::stderr());
    let mut lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse(directives)?)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(stderr);
    if !io::stderr().is_terminal() {
        lines = lines.with_ansi(false);
    }
    let started = match logs.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!(error))?;
    std::panic::set_hook(Box::new(|panic| {
        error!(
            error = foreign(&panic.to_string()),
            "a bug: please report it"
        );
    }));
    Ok(guard)
}
