//! The daemon, which runs if no command is given.

use std::path::PathBuf;
use std::time::SystemTime;

use futures_util::future::OptionFuture;
use rustix::process::{Resource as Limit, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cli::logging;
use crate::cli::signals::ProcessSignals;
use crate::config::reload;
use crate::config::{Config, Environment, Host, HttpAddress, config_file};
use crate::control;
use crate::observe::http;
use crate::observe::{Observer, ProgramInfo};
use crate::supervisor::Supervisor;

/// Serves every resource until a signal stops the daemon.
pub async fn run(
    environment: Environment,
    host: Host,
    signals: ProcessSignals,
) -> anyhow::Result<()> {
    let file = reload::named_file(&environment);
    let config = Config::read(&environment, file.as_ref(), &host)?;
    let _logging = logging::start(&config.logs, "warn,simple_device_plugin=info")?;
    raise_open_files_limit();
    log_start(&config);
    let program = program_info(&config, &environment);
    let supervisor = Supervisor::new(config.plugins, config.plugin_dir)
        .with_pod_resources_socket(config.pod_resources);
    let configured = supervisor.configured();
    let reloads = watch::Sender::default();
    let observer = Observer::new(
        program,
        &supervisor,
        reloads.subscribe(),
        signals.stop.clone(),
    );
    let plugins_stopped = CancellationToken::new();
    let clients = serve_clients(
        config.http,
        config.control,
        observer,
        &supervisor,
        &plugins_stopped,
    );
    let supervised = supervisor.run(signals.stop);
    // HTTP and the control socket are served until every plugin has stopped.
    let supervising = async {
        let ended = supervised.await;
        plugins_stopped.cancel();
        ended
    };
    let all = async { tokio::join!(supervising, clients) };
    let (ended, ()) = tokio::select! {
        ended = all => ended,
        never = reload::follow(file, &environment, &host, &signals.hangup, &configured, &reloads) => match never {},
    };
    if let Err(replaced) = &ended {
        error!("{replaced}");
    }
    Ok(ended?)
}

fn program_info(config: &Config, environment: &Environment) -> ProgramInfo {
    ProgramInfo {
        namespace: config.namespace.clone(),
        node: config.node.clone(),
        plugin_dir: config.plugin_dir.clone(),
        config_file: config_file(environment),
        started: SystemTime::now(),
    }
}

fn log_start(config: &Config) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = config.namespace,
        node = config.node,
        plugin_dir = %config.plugin_dir.display(),
        resources = config.plugins.resources.len(),
        "starting simple-device-plugin"
    );
    for warning in config.all_warnings() {
        warn!("{warning}");
    }
}

/// Serves HTTP and the control socket, if they are configured, until `shutdown`.
fn serve_clients(
    http: Option<HttpAddress>,
    control: Option<PathBuf>,
    observer: Observer,
    supervisor: &Supervisor,
    shutdown: &CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let control = control.map(|path| {
        let kubelet_socket = supervisor.kubelet_socket();
        let plugins = supervisor.registry();
        control::server::run(
            path,
            observer.clone(),
            plugins,
            kubelet_socket,
            shutdown.clone(),
        )
    });
    let http = http.map(|address| http::run(address, observer, shutdown.clone()));
    async move {
        tokio::join!(OptionFuture::from(http), OptionFuture::from(control));
    }
}

/// Raises the soft limit to the hard limit. Each resource needs several descriptors, so the usual soft limit of 1024 is
/// enough for about two hundred resources.
fn raise_open_files_limit() {
    let limit = getrlimit(Limit::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Limit::Nofile, raised) {
        warn!(%error, "cannot raise the limit on open files");
    }
}
