//! Logging to stderr, as text or JSON. A panic is logged, too.

use std::io::{self, IsTerminal};

use anyhow::anyhow;
use tracing::error;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Logs};
use crate::util::sanitize::sanitize;

/// How many lines can wait to be written to stderr. Further lines are dropped.
const BUFFERED_LINES_MAX: usize = 1024;

/// The most verbose level of any target.
fn max_level(levels: &Targets) -> LevelFilter {
    let default = levels.default_level().unwrap_or(LevelFilter::OFF);
    let levels = levels.iter().map(|(_, level)| level);
    levels.fold(default, std::cmp::max)
}

/// Starts logging, until the guard is dropped. `default_levels` are the levels by target if `RUST_LOG` is not set.
/// A separate thread writes the lines, so a blocked or closed stderr delays nothing else.
///
/// # Errors
/// Returns an error if `default_levels` cannot be parsed, or if logging was already started.
pub fn start(logs: &Logs, default_levels: &str) -> anyhow::Result<WorkerGuard> {
    let levels = logs
        .levels
        .clone()
        .map_or_else(|| default_levels.parse::<Targets>(), Ok)?;
    let (stderr, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(BUFFERED_LINES_MAX)
        .finish(io::stderr());
    let mut lines = tracing_subscriber::fmt()
        // Discards unwanted events early: h2 emits about a hundred for each call.
        .with_max_level(max_level(&levels))
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
            "panic: please report this bug"
        );
    }));
    Ok(guard)
}
