//! The config file on disk: read at the start, and again when it changes.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use inotify::WatchMask;
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::config::{
    Config, ConfigErrors, DesiredPlugins, Environment, FileText, Host, config_file,
};
use crate::util::dir_watch::DirWatch;
use crate::util::file_id::FileVersion;
use crate::util::regular_file::RegularFile;

/// Whoever writes a file in several steps is done by then.
const SETTLES_WITHIN: Duration = Duration::from_millis(50);

/// The plugins as they should be; send others here and the supervisor follows.
pub type Configured = watch::Sender<Arc<DesiredPlugins>>;

/// How reading the config file again went.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    /// How often it said something else.
    pub changed: u64,
    /// How often it said the same.
    pub unchanged: u64,
    /// How often it had errors.
    pub refused: u64,
    /// What is wrong with it now, and since when.
    pub errors: Option<(String, SystemTime)>,
}

/// Reads the configuration: the variables, and the config file if they name one.
///
/// # Errors
/// Every error there is.
pub fn configuration(environment: &Environment, host: &Host) -> Result<Config, ConfigErrors> {
    Config::read(environment, named(environment).as_ref(), host)
}

/// Reads the config file, if the variables name one.
pub fn named(environment: &Environment) -> Option<FileText> {
    config_file(environment).map(|path| read(&path))
}

/// Reads the config file, which was `known` so far, again at each change and each `hangup`, and sends the
/// resources on where they are others. A file with errors is refused whole, and what was configured
/// before goes on.
pub async fn follow(
    known: Option<FileText>,
    environment: &Environment,
    host: &Host,
    hangup: &Notify,
    configured: &Configured,
    reloads: &watch::Sender<Reloads>,
) -> Infallible {
    let (Some(path), Some(mut known)) = (config_file(environment), known) else {
        loop {
            hangup.notified().await;
            info!("there is no config file to read again");
        }
    };
    let mut watch = FileWatch::new(path.clone());
    let mut asked = false;
    loop {
        let file = read(&path);
        if file != known || asked {
            match validate(environment, host, &file).await {
                Ok(config) => {
                    let read = apply(config, &file.name, configured);
                    reloads.send_modify(|reloads| reloads.note(read));
                }
                // The panic is logged already.
                Err(bug) => error!(%bug, "what was configured before goes on"),
            }
        }
        known = file;
        asked = tokio::select! {
            () = hangup.notified() => true,
            () = watch.changed() => false,
        };
    }
}

/// Validates the file on a thread of its own: a large one takes its time.
async fn validate(
    environment: &Environment,
    host: &Host,
    file: &FileText,
) -> Result<Result<Config, ConfigErrors>, JoinError> {
    let (environment, host, file) = (environment.clone(), host.clone(), file.clone());
    let validating = move || Config::read(&environment, Some(&file), &host);
    tokio::task::spawn_blocking(validating).await
}

/// Sends the resources on; returns whether they are others, or what is wrong in short.
fn apply(
    config: Result<Config, ConfigErrors>,
    file: &str,
    configured: &Configured,
) -> Result<bool, String> {
    let config = config.map_err(|errors| {
        for error in errors.as_slice() {
            error!("{error}");
        }
        error!(
            file,
            "{}: what was configured before goes on",
            errors.summary()
        );
        match errors.as_slice() {
            [first, others @ ..] if !others.is_empty() => {
                format!("{first} (and {} more)", others.len())
            }
            errors => errors.iter().map(ToString::to_string).collect(),
        }
    })?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let plugins = config.plugins;
    let changed = configured.send_if_modified(|before| {
        let changed = **before != plugins;
        if changed {
            *before = plugins.into();
        }
        changed
    });
    let what = if changed { "" } else { ", which says the same" };
    info!(
        file,
        resources = configured.borrow().resources.len(),
        "read the config file again{what}"
    );
    Ok(changed)
}

impl Reloads {
    /// The file was read: it says something else, the same, or has errors.
    fn note(&mut self, read: Result<bool, String>) {
        match &read {
            Ok(true) => self.changed += 1,
            Ok(false) => self.unchanged += 1,
            Err(_) => self.refused += 1,
        }
        let since = self.errors.as_ref().map(|(_, since)| *since);
        let since = since.unwrap_or_else(SystemTime::now);
        self.errors = read.err().map(|summary| (summary, since));
    }
}

fn read(path: &Path) -> FileText {
    // One byte more than allowed, so that a larger file is noticed.
    let limit = FileText::SIZE_MAX as u64 + 1;
    let content = RegularFile::open(path).and_then(|file| file.read_at_most(limit));
    FileText {
        name: path.display().to_string(),
        content: content.map_err(|error| error.to_string()),
    }
}

/// Watches for a file to be written, or put in place: a ConfigMap's new version comes as a new symlink
/// beside it.
struct FileWatch {
    path: PathBuf,
    dir: DirWatch,
    seen: Option<FileVersion>,
}

impl FileWatch {
    fn new(path: PathBuf) -> Self {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new(".")).to_owned();
        Self {
            dir: DirWatch::new(dir, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO),
            seen: FileVersion::at(&path),
            path,
        }
    }

    /// Waits for a reason to read.
    async fn changed(&mut self) {
        loop {
            self.dir.changed(|_| true).await;
            sleep(SETTLES_WITHIN).await;
            self.dir.renew();
            let now = FileVersion::at(&self.path);
            if std::mem::replace(&mut self.seen, now) != now {
                return;
            }
        }
    }
}
