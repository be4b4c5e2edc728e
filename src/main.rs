//! The simple-device-plugin program: parses the command line, runs the command and maps its result to an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use simple_device_plugin::cli::Cli;
use simple_device_plugin::config::ConfigErrors;
use simple_device_plugin::node::watcher::DirReplaced;

/// `EX_CONFIG` of sysexits.h: the configuration has errors, and nothing was changed.
const EX_CONFIG: u8 = 78;
/// `EX_TEMPFAIL` of sysexits.h: the device plugin directory was replaced, and only a new container can see the new one.
const EX_TEMPFAIL: u8 = 75;

fn main() -> ExitCode {
    let cli = Cli::parse_arguments();
    let starts_daemon = cli.starts_daemon();
    match cli.run(std::env::vars_os(), &mut anstream::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        // `serve` has already logged this error.
        Err(error) if error.is::<DirReplaced>() => ExitCode::from(EX_TEMPFAIL),
        Err(error) => {
            // If stderr is closed, the exit code is the only report.
            let _ = report(&error, starts_daemon);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigErrors>() {
        EX_CONFIG
    } else {
        1
    }
}

fn report(error: &anyhow::Error, starts_daemon: bool) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    let Some(errors) = error.downcast_ref::<ConfigErrors>() else {
        return writeln!(stderr, "error: {error:#}");
    };
    for warning in errors.warnings() {
        writeln!(stderr, "warning: {warning}")?;
    }
    for error in errors.as_slice() {
        writeln!(stderr, "error: {error}")?;
    }
    let result = if starts_daemon {
        "; nothing was started"
    } else {
        ""
    };
    writeln!(stderr, "{}{result}", errors.summary())
}

/// Returns whether the reader of stdout has closed the pipe, as `head` does. This is not an error.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
