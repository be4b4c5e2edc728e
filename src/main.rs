//! The simple-device-plugin program: takes its surroundings, runs a command, decides the exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use simple_device_plugin::cli::Cli;
use simple_device_plugin::config::ConfigErrors;
use simple_device_plugin::node::watcher::DirReplaced;

/// `EX_CONFIG` of sysexits.h: the configuration is wrong, nothing was touched.
const CONFIG: u8 = 78;
/// `EX_TEMPFAIL`: a new container will do better.
const TRY_AGAIN: u8 = 75;

fn main() -> ExitCode {
    let done = Cli::parse().run(std::env::vars_os(), &mut anstream::stdout());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        // Logged already, and by then nobody may be reading stderr.
        Err(error) if error.is::<DirReplaced>() => ExitCode::from(TRY_AGAIN),
        Err(error) => {
            // There is no other way to report it when stderr is closed.
            let _ = report(&error);
            ExitCode::from(code(&error))
        }
    }
}

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigErrors>() {
        CONFIG
    } else {
        1
    }
}

fn report(error: &anyhow::Error) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    let Some(errors) = error.downcast_ref::<ConfigErrors>() else {
        return writeln!(stderr, "error: {error:#}");
    };
    for error in errors.as_slice() {
        writeln!(stderr, "error: {error}")?;
    }
    writeln!(stderr, "{}; nothing was started", errors.summary())
}

/// Whoever read our output has seen enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
