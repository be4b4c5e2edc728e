//! A conformance suite for device plugins: starts a plugin on a probe kubelet, and says what a real kubelet would do to
//! it.
//!
//! [`run`] runs the [`mod@checks`]. Each result is final: a check that cannot be made is skipped with the reason.

mod checks;
mod client;
mod context;
mod kubelet;
mod plugin;
mod report;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use checks::{Check, Level, Verdict, checks};
pub use report::{Finding, Report};

use context::Context;
use plugin::PluginCommand;

/// The deadlines and windows of the checks. [`Settings::default`] returns those of the command line.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a plugin may take to register, and to register again. Default: 30 s, as in Kubernetes' node tests.
    pub registration: Duration,
    /// How long Register tries to connect to the plugin. Default: 10 s, as in the kubelet.
    pub dial_timeout: Duration,
    /// How long a call may take. Default: 10 s. The kubelet has no limit, and admits no other pod meanwhile.
    pub call_timeout: Duration,
    /// How long PreStartContainer may take. Default: 30 s, as in the kubelet.
    pub pre_start_timeout: Duration,
    /// How long after the last registration the resources are complete. Default: 1 s.
    pub settle: Duration,
    /// How long the lists are watched. Default: 5 s.
    pub watch: Duration,
    /// How long the kubelet is away in a restart. Default: 300 ms.
    pub kubelet_restart: Duration,
    /// How long the kubelet is away when the plugin must wait for it. Default: 3 s.
    pub kubelet_away: Duration,
    /// How much of a processor a plugin may use while it waits for the kubelet. Default: 0.2.
    pub processor_share: f64,
    /// How long a plugin may take to notice that its socket was removed. Default: 10 s.
    pub socket_removed: Duration,
    /// How long a second instance runs. Default: 3 s.
    pub second_instance: Duration,
    /// How long a plugin may take to exit after SIGTERM. Default: 10 s.
    pub exit: Duration,
    /// The kubelet restarts after which growth is measured. Default: 20.
    pub restarts: u32,
    /// The time limit of those restarts. Default: 40 s.
    pub restarts_limit: Duration,
    /// The memory growth, in KiB, that is not counted as a leak. Default: 10 MiB.
    pub memory_growth: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registration: Duration::from_secs(30),
            dial_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(10),
            pre_start_timeout: Duration::from_secs(30),
            settle: Duration::from_secs(1),
            watch: Duration::from_secs(5),
            kubelet_restart: Duration::from_millis(300),
            kubelet_away: Duration::from_secs(3),
            processor_share: 0.2,
            socket_removed: Duration::from_secs(10),
            second_instance: Duration::from_secs(3),
            exit: Duration::from_secs(10),
            restarts: 20,
            restarts_limit: Duration::from_secs(40),
            memory_growth: 10 * 1024,
        }
    }
}

/// The plugin to evaluate.
#[derive(Clone, Debug)]
pub struct Target {
    /// The kubelet's directory. It is created if it does not exist, and every socket in it is removed.
    pub dir: PathBuf,
    /// The plugin and its arguments, in which `{dir}` is replaced by the directory. If empty, the plugin is started by
    /// someone else, and checks that start or stop it are skipped.
    pub command: Vec<OsString>,
    /// The variable that is set to the directory for the plugin.
    pub dir_env: String,
}

/// Which checks run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The IDs of the checks to run; all if empty.
    pub only: BTreeSet<String>,
    /// The IDs of the checks not to run.
    pub skip: BTreeSet<String>,
}

impl Selection {
    fn contains(&self, check: &Check) -> bool {
        let only = self.only.is_empty() || self.only.contains(check.id);
        only && !self.skip.contains(check.id)
    }
}

/// What [`run`] reports while it runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// How the plugin finds the kubelet's directory.
    Target(&'a str),
    /// A check starts.
    Started(&'a Check),
    /// A check has a result. If several resources were evaluated, each has its own.
    Finished(&'a Finding),
}

/// Runs the selected checks. Every process of the plugin is ended when this returns or is dropped.
///
/// # Errors
/// Returns an error if the probe kubelet cannot run in the directory, if there is no such program, or if `progress`
/// returns one.
pub async fn run(
    target: Target,
    settings: Settings,
    selection: &Selection,
    mut progress: impl FnMut(Progress<'_>) -> io::Result<()>,
) -> io::Result<Report> {
    let Target {
        dir,
        command,
        dir_env,
    } = target;
    let with_dir = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot use {}: {error}", dir.display()),
        )
    };
    // Before the command, which is tried with a mount of the directory.
    std::fs::create_dir_all(&dir).map_err(with_dir)?;
    let command = (!command.is_empty()).then(|| PluginCommand::new(command, &dir, dir_env));
    if let Some(command) = &command {
        command.check()?;
    }
    let mut context = Context::new(&dir, settings, command).map_err(with_dir)?;
    progress(Progress::Target(&context.describe()))?;
    let mut report = Report::default();
    for check in checks().filter(|check| selection.contains(check)) {
        progress(Progress::Started(check))?;
        context.clear_output();
        let started = Instant::now();
        let findings = check.run(&mut context).await;
        let took = started.elapsed();
        for (resource, verdict) in findings {
            let output = match verdict {
                Verdict::Fail(_) => context.last_lines(),
                Verdict::Pass(_) | Verdict::Skip(_) => Vec::new(),
            };
            let finding = Finding {
                check,
                resource,
                verdict,
                took,
                output,
            };
            progress(Progress::Finished(&finding))?;
            report.findings.push(finding);
        }
    }
    report.is_evaluated = !context.has_given_up();
    context.stop().await;
    Ok(report)
}
