//! Log lines: to stderr, for people or as JSON, and one for each panic.

use std::io::{self, IsTerminal};

use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::foreign::foreign;

/// Starts to log; `unless_told` are the directives where the variables have none.
///
/// # Errors
/// When the directives can't be read, or something else logs already.
pub fn start(config: &Config, unless_told: &str) -> anyhow::Result<()> {
    let directives = config.log_directives.as_deref().unwrap_or(unless_told);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse(directives)?)
        .with_target(false)
        .with_writer(io::stderr);
    let started = match config.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!(error))?;
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        let at = at.unwrap_or_default();
        error!(
            at,
            error = foreign(&panic.to_string()),
            "a bug: please report it"
        );
    }));
    Ok(())
}
