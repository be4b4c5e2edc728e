//! One plugin, run again and again, and the pauses between.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::net::own_socket::BindError;
use crate::node::watcher::KubeletSocket;
use crate::offer::Offer;
use crate::offer::resource::Resource;
use crate::plugin::record::Cause;
use crate::plugin::{Ended, PluginHandle, PluginInstance, RunError, RunMemory};
use crate::util::backoff::Backoff;
use crate::util::sanitize::sanitize;

/// A stream that lived this long makes the next trouble the first one.
const LONG_LIFE: Duration = Duration::from_secs(60);

/// While another plugin has the socket.
const TAKEN_PAUSE: Duration = Duration::from_secs(2);

/// Runs one plugin over and over until `stop`.
pub async fn run(mut plugin: PluginInstance, mut memory: RunMemory, stop: CancellationToken) {
    let mut kubelet = plugin.kubelet.clone();
    let handle = plugin.handle.clone();
    let mut offer = handle.offer.subscribe();
    let mut tries = Tries::default();
    while !stop.is_cancelled() {
        plugin.resource = Arc::clone(offer.borrow().resource());
        let resource = Arc::clone(&plugin.resource);
        let tried_before = memory.tried;
        kubelet.mark_unchanged();
        let over = stop.child_token();
        let outcome = tokio::select! {
            outcome = caught(plugin.run(&mut memory, &over)) => outcome,
            never = end_when_outdated(&mut offer, &handle, &resource, &over) => match never {},
        };
        if stop.is_cancelled() {
            break;
        }
        if over.is_cancelled() {
            tries = Tries::default();
            continue;
        }
        if memory.tried.is_some() && memory.tried != tried_before {
            tries.start_over();
        }
        let pause = tries.after(&outcome);
        note(&handle, &outcome);
        tries.log(&resource, &outcome, pause);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            () = another(&mut kubelet, memory.tried) => tries.start_over(),
            () = reconfigured(&mut offer, &handle, &resource) => tries = Tries::default(),
        }
    }
}

/// Waits until the configuration changes what only a registration can report.
async fn reconfigured(
    offer: &mut watch::Receiver<Arc<Offer>>,
    handle: &PluginHandle,
    resource: &Resource,
) {
    // Never closed: the handle is ours.
    let _ = offer
        .wait_for(|offer| !offer.resource().registers_like(resource))
        .await;
    info!(resource = %resource.name, "other options or another socket: starting over");
    handle.note(|record, _| record.restarted(Cause::Configuration));
}

/// Ends the run once it must register something else, or the kubelet's checkpoint lacks it.
async fn end_when_outdated(
    offer: &mut watch::Receiver<Arc<Offer>>,
    handle: &PluginHandle,
    resource: &Resource,
    over: &CancellationToken,
) -> Infallible {
    tokio::select! {
        () = reconfigured(offer, handle, resource) => {}
        () = handle.forgotten.notified() => {
            handle.note(|record, _| record.restarted(Cause::Checkpoint));
        }
    }
    over.cancel();
    std::future::pending().await
}

/// Notes a run that failed.
fn note(handle: &PluginHandle, outcome: &Outcome) {
    handle.note(|record, now| match outcome {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let way_out = match error {
                RunError::Bind(BindError::Taken) => "; set a different PLUGIN_NAME",
                _ => "",
            };
            record.failed(format!("{error}{way_out}"), error.registration(), now);
        }
        Err(panic) => {
            record.failed(format!("a bug: {panic}"), None, now);
            record.restarted(Cause::Panic);
        }
    });
}

/// Waits for another kubelet.sock than the one tried. What the watch found before the try does not count: the try may
/// have seen more.
async fn another(kubelet: &mut watch::Receiver<KubeletSocket>, tried: KubeletSocket) {
    while kubelet.changed().await.is_ok() {
        let socket = *kubelet.borrow_and_update();
        if socket.is_some() && socket != tried {
            return;
        }
    }
    // The watcher ended, and with it soon the program.
    std::future::pending::<()>().await;
}

/// How a run ended, why it had no stream, or with which panic.
type Outcome = Result<Result<Ended, RunError>, String>;

/// The tries of one plugin since it last had a long life or a new kubelet.
#[derive(Default)]
struct Tries {
    failed: u32,
    backoff: Backoff,
    /// What the log last said that the plugin waits for.
    waiting_for: Option<&'static str>,
}

impl Tries {
    /// There is a new kubelet: what was with the old one counts no more.
    fn start_over(&mut self) {
        *self = Self {
            waiting_for: self.waiting_for,
            ..Self::default()
        };
    }

    /// Counts a run; returns the pause before the next.
    fn after(&mut self, outcome: &Outcome) -> Duration {
        match outcome {
            Ok(Ok(Ended::ByFault)) => *self = Self::default(),
            Ok(Ok(Ended::After(lived))) if *lived >= LONG_LIFE => *self = Self::default(),
            Ok(Ok(_)) => self.waiting_for = None,
            Ok(Err(_)) | Err(_) => self.failed += 1,
        }
        match outcome {
            Ok(Err(RunError::Bind(BindError::Taken))) => TAKEN_PAUSE,
            _ => self.backoff.pause(fastrand::f64()),
        }
    }

    /// One line for each failure. While it waits for the same thing, later failures are logged at level debug.
    fn log(&mut self, resource: &Resource, outcome: &Outcome, pause: Duration) {
        let (resource, endpoint) = (&resource.name, &resource.socket);
        let attempt = self.failed;
        let again_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => match waiting_for(error) {
                Some(what) if self.waiting_for == Some(what) => {
                    debug!(%resource, %endpoint, %error, attempt, again_ms, "still {what}");
                }
                Some(what) => {
                    warn!(%resource, %endpoint, %error, "{what}");
                    self.waiting_for = Some(what);
                }
                None => {
                    warn!(%resource, %endpoint, %error, attempt, again_ms, "not registered");
                    self.waiting_for = None;
                }
            },
            Err(error) => error!(%resource, error, attempt, again_ms, "a plugin panicked"),
        }
    }
}

/// What the plugin waits for, where that can take as long as it likes.
fn waiting_for(error: &RunError) -> Option<&'static str> {
    match error {
        RunError::NoKubelet(_) => Some("waiting for the kubelet"),
        RunError::Bind(BindError::Taken) => {
            Some("waiting for the socket; set a different PLUGIN_NAME")
        }
        _ => None,
    }
}

/// The output, or what a panic said: a bug in one run must not end the loop.
async fn caught<F: Future>(run: F) -> Result<F::Output, String> {
    let run = AssertUnwindSafe(run).catch_unwind().await;
    run.map_err(|panic| said(&*panic))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    sanitize(text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Host};
    use crate::node::registration::NoKubelet;
    use crate::util::file_id::FileVersion;

    /// A watch that lags behind shows what stood before the try: that is no new kubelet.
    #[tokio::test]
    async fn only_what_is_found_after_the_try_is_another_kubelet() {
        let dir = tempfile::tempdir().unwrap();
        let [old, tried, new] = ["a", "b", "c"].map(|name| {
            let path = dir.path().join(name);
            std::os::unix::net::UnixListener::bind(&path).unwrap();
            FileVersion::of_socket(&path).unwrap()
        });
        let sockets = watch::Sender::new(old);
        let mut kubelet = sockets.subscribe();
        kubelet.mark_unchanged();
        assert!(another(&mut kubelet, tried).now_or_never().is_none());
        for not_another in [tried, None] {
            sockets.send_replace(not_another);
            assert!(another(&mut kubelet, tried).now_or_never().is_none());
        }
        sockets.send_replace(new);
        assert!(another(&mut kubelet, tried).now_or_never().is_some());
    }

    #[test]
    fn what_it_waits_for_is_told_again_when_it_changes() {
        let config = Config::from_variables(
            &Environment::default(),
            &Host {
                hostname: Some("n".to_owned()),
                numa: None,
                ..Host::default()
            },
        );
        let resource = config.unwrap().resources.remove(0);
        let mut tries = Tries::default();
        let mut logged = |error: RunError| {
            let outcome = Ok(Err(error));
            let pause = tries.after(&outcome);
            tries.log(&resource, &outcome, pause);
            tries.waiting_for.map(|what| &what[..22])
        };
        assert_eq!(logged(RunError::NotCalledBack), None);
        assert_eq!(
            logged(BindError::Taken.into()),
            Some("waiting for the socket")
        );
        assert_eq!(
            logged(NoKubelet::Missing.into()),
            Some("waiting for the kubele")
        );
    }

    #[tokio::test]
    async fn a_panic_is_an_outcome_like_others() {
        let index = 3;
        let panicked = caught(async move { ["a"][index] }).await;
        let said = panicked.expect_err("no panic");
        assert!(said.contains("out of bounds"), "{said}");
        assert_eq!(caught(async { "fine" }).await, Ok("fine"));
    }

    #[test]
    fn trouble_is_tried_again_later_and_a_long_life_starts_anew() {
        let mut tries = Tries::default();
        let panicked: Outcome = Err("a bug".to_owned());
        let pauses: Vec<Duration> = (0..4).map(|_| tries.after(&panicked)).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!(tries.failed, 4);
        let after_long_life = tries.after(&Ok(Ok(Ended::After(LONG_LIFE))));
        assert!(after_long_life < pauses[3], "{after_long_life:?}");
        assert_eq!(tries.failed, 0);
        for _ in 0..9 {
            let after_a_fault = tries.after(&Ok(Ok(Ended::ByFault)));
            assert!(after_a_fault < pauses[1], "{after_a_fault:?}");
        }
        let taken: Outcome = Ok(Err(RunError::Bind(BindError::Taken)));
        assert_eq!(tries.after(&taken), TAKEN_PAUSE);
    }
}
