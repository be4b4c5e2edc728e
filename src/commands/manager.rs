//! No command: the manager itself.

use rustix::process::{Resource as Limit, Rlimit, getrlimit, setrlimit};
use tracing::{error, info, warn};

use crate::config::{Config, Environment, Host};
use crate::config_file;
use crate::logging;
use crate::signals::Asked;
use crate::supervisor::Supervisor;

/// Serves every resource until it is asked to stop.
pub async fn run(environment: Environment, host: Host, asked: Asked) -> anyhow::Result<()> {
    let file = config_file::named(&environment);
    let config = Config::read(&environment, file.as_ref(), &host)?;
    let _logging = logging::start(&config.logs, "warn,simple_device_plugin=info")?;
    raise_open_files();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = config.namespace,
        node = config.node,
        plugin_dir = %config.plugin_dir.display(),
        resources = config.resources.len(),
        "simple-device-plugin"
    );
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let supervisor = Supervisor::new(config.resources, config.plugin_dir);
    let configured = supervisor.configured();
    let ended = tokio::select! {
        ended = supervisor.run(asked.stop) => ended,
        never = config_file::follow(file, &environment, &host, &asked.hangup, &configured) => never,
    };
    if let Err(replaced) = &ended {
        error!("{replaced}");
    }
    Ok(ended?)
}

/// A resource takes a handful of descriptors, and the usual limit is for a resource or two hundred.
fn raise_open_files() {
    let limit = getrlimit(Limit::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Limit::Nofile, raised) {
        warn!(%error, "cannot raise the limit on open files");
    }
}
