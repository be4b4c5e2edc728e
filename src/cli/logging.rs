//! Log lines: to stderr, for people or as JSON, and one for each panic.

use std::io::{self, IsTerminal};

use anyhow::anyhow;
use tracing::error;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Logs};
use crate::util::sanitize::sanitize;

/// Lines that wait for a reader of stderr; what comes beyond them is lost.
const LINES_MAX: usize = 1024;

/// The finest level of any target.
fn most(levels: &Targets) -> LevelFilter {
    let default = levels.default_level().unwrap_or(LevelFilter::OFF);
    let each = levels.iter().map(|(_, level)| level);
    each.fold(default, std::cmp::max)
}

/// Starts to log, until the guard is dropped; `default_levels` are the levels by target where the variables
/// have none. A thread of its own writes: a stderr that nobody reads, or that is gone, holds up nothing.
///
/// # Errors
/// When `default_levels` can't be read, or something else logs already.
pub fn start(logs: &Logs, default_levels: &str) -> anyhow::Result<WorkerGuard> {
    let levels = logs
        .levels
        .clone()
        .map_or_else(|| default_levels.parse::<Targets>(), Ok)?;
    let (stderr, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .finish(io::stderr());
    let mut lines = tracing_subscriber::fmt()
        // What nobody wants is not even asked for: h2 has a hundred lines for each call.
        .with_max_level(most(&levels))
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(stderr);
    if !io::stderr().is_terminal() {
        lines = lines.with_ansi(false);
    }
    let started = match logs.format {
        LogFormat::Text => lines.finish().with(levels).try_init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .finish()
            .with(levels)
            .try_init(),
    };
    started.map_err(|error| anyhow!(error))?;
    std::panic::set_hook(Box::new(|panic| {
        error!(
            error = sanitize(&panic.to_string()),
            "a bug: please report it"
        );
    }));
    Ok(guard)
}
