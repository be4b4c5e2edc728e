//! Reads the config file at the start, and again when it changes.

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

/// The delay between an event and reading the file, for writers that need several steps.
const WRITE_DELAY: Duration = Duration::from_millis(50);

/// The channel through which a new configuration reaches the supervisor.
pub type Configured = watch::Sender<Arc<DesiredPlugins>>;

/// The results of reading the config file again.
#[derive(Clone, Debug, Default)]
pub struct Reloads {
    /// Number of reloads that changed the configuration.
    pub changed: u64,
    /// Number of reloads without a change.
    pub unchanged: u64,
    /// Number of reloads that were refused because of errors.
    pub refused: u64,
    /// The first error of the current file, and when reloads started to fail. `None` if the current file is in use.
    pub errors: Option<(String, SystemTime)>,
    /// When a reload last succeeded. `None` before the first one.
    pub last_success: Option<SystemTime>,
}

/// Reads the variables, and the config file if they name one.
///
/// # Errors
/// Returns every error in the variables and the file.
pub fn configuration(environment: &Environment, host: &Host) -> Result<Config, ConfigErrors> {
    Config::read(environment, named_file(environment).as_ref(), host)
}

/// Reads the config file from disk, if the variables name one.
pub fn named_file(environment: &Environment) -> Option<FileText> {
    config_file(environment).map(|path| read(&path))
}

/// Reads the config file at each change and each `hangup`, and sends changed resources to the supervisor. `known` is the file
/// as last read. A file with any error is refused, and the previous configuration stays in effect.
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
            info!("ignored SIGHUP: there is no config file to reload");
        }
    };
    let mut watch = FileWatch::new(path.clone());
    let mut requested = false;
    loop {
        let reading = path.clone();
        // A hung disk blocks only this task, and no plugin.
        let read = tokio::task::spawn_blocking(move || read(&reading));
        let file = read.await.unwrap_or_else(|_| known.clone());
        if file != known || requested {
            match validate(environment, host, &file).await {
                Ok(config) => {
                    let applied = apply(config, &file.name, configured);
                    let now = SystemTime::now();
                    reloads.send_modify(|reloads| reloads.record(applied, now));
                }
                // The panic itself has been logged.
                Err(bug) => error!(
                    %bug,
                    "cannot validate the config file: a bug, please report it; the previous configuration stays in effect"
                ),
            }
        }
        known = file;
        requested = tokio::select! {
            () = hangup.notified() => true,
            () = watch.changed() => false,
        };
    }
}

/// Validates the file on a separate thread, because a large file takes a while.
async fn validate(
    environment: &Environment,
    host: &Host,
    file: &FileText,
) -> Result<Result<Config, ConfigErrors>, JoinError> {
    let (environment, host, file) = (environment.clone(), host.clone(), file.clone());
    let read = move || Config::read(&environment, Some(&file), &host);
    tokio::task::spawn_blocking(read).await
}

/// Sends the configuration to the supervisor and returns whether it changed. If it has errors, logs them and returns a summary.
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
            "{}: the previous configuration stays in effect",
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
    let result = if changed { "" } else { ", no changes" };
    info!(
        file,
        resources = configured.borrow().resources.len(),
        "reloaded the config file{result}"
    );
    Ok(changed)
}

impl Reloads {
    /// Records a result of [`apply`].
    fn record(&mut self, applied: Result<bool, String>, now: SystemTime) {
        match applied {
            Ok(changed) => {
                let count = if changed {
                    &mut self.changed
                } else {
                    &mut self.unchanged
                };
                *count += 1;
                (self.errors, self.last_success) = (None, Some(now));
            }
            Err(summary) => {
                self.refused += 1;
                let since = self.errors.as_ref().map_or(now, |(_, since)| *since);
                self.errors = Some((summary, since));
            }
        }
    }
}

fn read(path: &Path) -> FileText {
    // One byte more than allowed, to detect a file that is too large.
    let limit = FileText::SIZE_MAX as u64 + 1;
    let content = RegularFile::open(path).and_then(|file| file.read_at_most(limit));
    FileText {
        name: path.display().to_string(),
        content: content.map_err(|error| error.to_string()),
    }
}

/// Watches for a file to be written or replaced. The kubelet updates a ConfigMap by renaming a symlink in the same directory.
struct FileWatch {
    path: PathBuf,
    dir: DirWatch,
    last: Option<FileVersion>,
}

impl FileWatch {
    fn new(path: PathBuf) -> Self {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new(".")).to_owned();
        Self {
            dir: DirWatch::new(dir, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO),
            last: FileVersion::at(&path),
            path,
        }
    }

    /// Waits until the file has another version.
    async fn changed(&mut self) {
        loop {
            self.dir.changed(|_| true).await;
            sleep(WRITE_DELAY).await;
            self.dir.renew();
            let now = FileVersion::at(&self.path);
            if std::mem::replace(&mut self.last, now) != now {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_last_until_a_reload_succeeds() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut reloads = Reloads::default();
        let refused = |text: &str| Err(text.to_owned());
        reloads.record(refused("first"), at(1));
        assert_eq!(reloads.last_success, None);
        reloads.record(Ok(true), at(2));
        assert_eq!(
            (&reloads.errors, reloads.last_success),
            (&None, Some(at(2)))
        );
        reloads.record(refused("second"), at(3));
        reloads.record(refused("third"), at(4));
        assert_eq!(reloads.errors, Some(("third".to_owned(), at(3))));
        assert_eq!(reloads.last_success, Some(at(2)));
        reloads.record(Ok(false), at(5));
        assert_eq!(
            (&reloads.errors, reloads.last_success),
            (&None, Some(at(5)))
        );
        assert_eq!(
            (reloads.changed, reloads.unchanged, reloads.refused),
            (1, 1, 3)
        );
    }
}
