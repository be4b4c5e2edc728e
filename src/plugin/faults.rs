//! What faults do to a plugin when they strike.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use crate::fault::handle::FaultHandle;
use crate::fault::{BOUNDS, Delays, FaultId, Flaps, Grant, Judged, Target, Withheld};
use crate::util::lock::lock;

use super::{End, PluginHandle};

/// Each list makes the kubelet write its checkpoint: devices that flap make no more than two a second.
const LISTS_APART: Duration = Duration::from_millis(500);

impl PluginHandle {
    /// What comes before a call is judged: a delay, or instead of an answer a refusal. Nobody waits on once it is
    /// `ending`, or all that delays the call are cleared.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn before(
        &self,
        target: Target,
        ending: &CancellationToken,
    ) -> Result<(), Status> {
        let struck = self.faults.call(target);
        if !struck.delays.is_empty() {
            self.delay(target, &struck.delays, ending).await;
        }
        match struck.refusal {
            // It may have been cleared meanwhile.
            Some((id, refusal)) if self.faults.has(id) => {
                self.struck(target, format_args!("refused with {}", refusal.code));
                Err(Status::new(refusal.code.number().into(), refusal.message))
            }
            _ => Ok(()),
        }
    }

    async fn delay(
        &self,
        target: Target,
        delays: &[(FaultId, Duration)],
        ending: &CancellationToken,
    ) {
        let wanted: Duration = delays.iter().map(|(_, delay)| *delay).sum();
        let ids: Vec<FaultId> = delays.iter().map(|(id, _)| *id).collect();
        let _until_answered = Delayed {
            faults: &self.faults,
            ids: &ids,
        };
        let granted = Granted::new(Arc::clone(&self.delays), wanted);
        let length = granted.grant.length;
        if length < wanted {
            let (resource, fault) = (self.name(), target.as_str());
            warn!(%resource, fault, ?wanted, granted = ?length, "a delay is cut: {BOUNDS}");
        }
        if length.is_zero() {
            return self.faults.take_back(&ids);
        }
        for _ in &ids {
            self.struck(target, format_args!("delayed, in all by {length:?}"));
        }
        tokio::select! {
            () = sleep(length) => {}
            () = ending.cancelled() => {}
            () = self.faults.gone(&ids) => {}
        }
    }

    /// By what the next registration is withheld.
    pub(super) fn withhold(&self, judged: &mut Judged) -> Vec<Withheld> {
        let withheld = self.faults.registration(judged);
        for each in &withheld {
            let how_long = each
                .until
                .map_or("until it is cleared".to_owned(), |until| {
                    format!("for {:.0?}", until.duration_since(Instant::now()))
                });
            self.struck(Target::Registration, format_args!("withheld {how_long}"));
        }
        withheld
    }

    /// Whether a registration is still withheld by this.
    pub(super) fn is_withheld(&self, by: &Withheld) -> bool {
        by.until.is_none_or(|until| until > Instant::now()) && self.faults.has(by.id)
    }

    /// Waits until a registration is withheld by this no more.
    pub(super) async fn lifted(&self, withheld: &Withheld) {
        let ids = [withheld.id];
        tokio::select! {
            () = until(withheld.until) => {}
            () = self.faults.gone(&ids) => {}
        }
    }

    /// Waits until a fault ends the open stream. Each is judged once for each stream, as soon as it is there.
    pub(super) async fn end_stream(&self, judged: &mut Judged) -> End {
        let mut changes = self.faults.subscribe();
        loop {
            changes.mark_unchanged();
            judged.retain(|id| self.faults.has(*id));
            let withheld = self.withhold(judged);
            if !withheld.is_empty() {
                return End::Withheld(withheld);
            }
            let dropped = self.faults.stream(judged);
            for _ in 0..dropped {
                self.struck(Target::Stream, format_args!("dropped"));
            }
            if dropped > 0 {
                return End::Dropped;
            }
            // Never closed: the handle is ours.
            let _ = changes.changed().await;
        }
    }

    /// Lets devices flap for as long as it is polled.
    pub async fn flap(&self) -> Infallible {
        let mut flaps = Flaps::default();
        let mut changes = self.faults.subscribe();
        loop {
            changes.mark_unchanged();
            let offer = self.offer.now();
            for fell in self.faults.flap(&mut flaps, offer.devices()) {
                let devices = if fell == 1 {
                    "device falls"
                } else {
                    "devices fall"
                };
                self.struck(Target::Health, format_args!("{fell} {devices} ill"));
            }
            self.offer.set_ill(flaps.ill());
            if flaps.next().is_some() {
                sleep(LISTS_APART).await;
            }
            tokio::select! {
                () = until(flaps.next()) => {}
                // Never closed: the handle is ours.
                _ = changes.changed() => {}
            }
        }
    }

    /// Counted and told, each.
    fn struck(&self, target: Target, how: std::fmt::Arguments) {
        self.note(|record, _| record.struck(target));
        warn!(resource = %self.name(), fault = target.as_str(), "a fault strikes: {how}");
    }

    fn name(&self) -> String {
        self.offer.now().resource().name.to_string()
    }
}

/// A call that waits, until it is answered or given up.
struct Delayed<'a> {
    faults: &'a FaultHandle,
    ids: &'a [FaultId],
}

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.faults.delayed(self.ids);
    }
}

/// A delay that was granted; what is not spent is given back, however the call ends.
struct Granted {
    delays: Arc<Mutex<Delays>>,
    grant: Grant,
}

impl Granted {
    fn new(delays: Arc<Mutex<Delays>>, wanted: Duration) -> Self {
        let grant = lock(&delays).grant(wanted, Instant::now());
        Self { delays, grant }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        lock(&self.delays).over(&self.grant, Instant::now());
    }
}

/// That moment, or never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
