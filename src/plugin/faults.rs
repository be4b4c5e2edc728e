//! What faults do to a plugin when they strike.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use crate::fault::{Delays, Effect, FaultId, Flaps, Refusal, Strike, Target};
use crate::lock::lock;
use crate::selection::select;

use super::PluginHandle;

/// The faults of one plugin, and what all plugins have in common.
#[derive(Clone, Debug)]
pub struct Injection {
    /// The plugin.
    pub handle: PluginHandle,
    /// How long calls may be delayed, of all plugins together.
    pub delays: Arc<Mutex<Delays>>,
}

/// A registration that a fault withholds.
#[derive(Clone, Copy, Debug)]
pub struct Withheld {
    /// Which fault.
    pub id: FaultId,
    /// `None`: until the fault is cleared.
    until: Option<Instant>,
}

/// Why a fault ends a stream.
#[derive(Clone, Copy, Debug)]
pub enum Ends {
    /// The stream is dropped.
    Dropped,
    /// It is not to be registered.
    Withheld(Withheld),
}

impl Injection {
    /// What comes before a call is judged: a delay, or instead of an answer a refusal. Nobody waits on once it is
    /// `ending`, or the fault is cleared.
    ///
    /// # Errors
    /// The refusal.
    pub async fn before(&self, target: Target, ending: &CancellationToken) -> Result<(), Status> {
        let strikes = self.handle.faults.strike(target, |_| true);
        let wanted: Duration = strikes.iter().filter_map(delay).sum();
        if !wanted.is_zero() {
            self.delay(target, &strikes, wanted, ending).await;
        }
        let mut refusals = strikes.iter().filter_map(refusal);
        for refusal in refusals.clone() {
            self.struck(target, format_args!("refused with {}", refusal.code));
        }
        match refusals.next() {
            Some(refusal) => Err(Status::new(
                refusal.code.number().into(),
                refusal.message.clone(),
            )),
            None => Ok(()),
        }
    }

    async fn delay(
        &self,
        target: Target,
        strikes: &[Strike],
        wanted: Duration,
        ending: &CancellationToken,
    ) {
        let granted = lock(&self.delays).grant(wanted, Instant::now());
        let delaying = strikes.iter().filter(|strike| delay(strike).is_some());
        let ids: Vec<FaultId> = delaying.map(|strike| strike.id).collect();
        if granted < wanted {
            let resource = self.name();
            warn!(%resource, fault = target.as_str(), ?wanted, ?granted, "delays are cut: one call has 60 s at most, and all together 120 s in 5 minutes");
        }
        if granted.is_zero() {
            self.handle
                .faults
                .judge(|faults| ids.iter().for_each(|id| faults.take_back(*id)));
            return;
        }
        for _ in &ids {
            self.struck(target, format_args!("delayed by {granted:?}"));
        }
        tokio::select! {
            () = sleep(granted) => {}
            () = ending.cancelled() => {}
            () = self.handle.faults.gone(&ids) => {}
        }
    }

    /// Whether the next registration is withheld. Each fault is judged once for each registration.
    pub fn withhold(&self, judged: &mut BTreeSet<FaultId>) -> Option<Withheld> {
        let strikes = self.strike(Target::Registration, judged);
        let withheld = strikes.iter().map(|strike| {
            let length = match &strike.effect {
                Effect::Withhold(length) => *length,
                _ => Some(Duration::ZERO),
            };
            let until = length.map(|length| Instant::now() + length);
            let how_long =
                length.map_or("until it is cleared".to_owned(), |l| format!("for {l:?}"));
            self.struck(Target::Registration, format_args!("withheld {how_long}"));
            Withheld {
                id: strike.id,
                until,
            }
        });
        // The longest.
        { withheld }.max_by_key(|withheld| (withheld.until.is_none(), withheld.until))
    }

    /// Waits until a registration is withheld no more.
    pub async fn lifted(&self, withheld: Withheld) {
        let ids = [withheld.id];
        tokio::select! {
            () = until(withheld.until) => {}
            () = self.handle.faults.gone(&ids) => {}
        }
    }

    /// Waits until a fault ends the open stream. Each is judged once for each stream, as soon as it is there.
    pub async fn end_stream(&self, judged: &mut BTreeSet<FaultId>) -> Ends {
        let mut faults = self.handle.faults.subscribe();
        loop {
            faults.mark_unchanged();
            if let Some(withheld) = self.withhold(judged) {
                return Ends::Withheld(withheld);
            }
            let dropped = self.strike(Target::Stream, judged);
            for _ in &dropped {
                self.struck(Target::Stream, format_args!("dropped"));
            }
            if !dropped.is_empty() {
                return Ends::Dropped;
            }
            // Never closed: the handle is ours.
            let _ = faults.changed().await;
        }
    }

    fn strike(&self, target: Target, judged: &mut BTreeSet<FaultId>) -> Vec<Strike> {
        self.handle.faults.strike(target, |id| judged.insert(id))
    }

    /// Counted and told, each.
    fn struck(&self, target: Target, how: std::fmt::Arguments) {
        self.handle.note(|record, _| record.struck(target));
        warn!(resource = %self.name(), fault = target.as_str(), "a fault strikes: {how}");
    }

    fn name(&self) -> String {
        self.handle.offer.now().resource().name.to_string()
    }

    /// Lets devices flap for as long as it is polled.
    pub async fn flap<T>(&self) -> T {
        let PluginHandle { offer, faults, .. } = &self.handle;
        let mut flaps = Flaps::default();
        let mut changes = faults.subscribe();
        loop {
            changes.mark_unchanged();
            // Devices that are not there any more do not fall ill.
            let ids = |meant: &str| {
                let offer = offer.now();
                let selected = select(offer.devices(), meant).unwrap_or_default();
                selected.iter().map(|device| device.id.clone()).collect()
            };
            let fell = faults.judge(|faults| flaps.follow(faults, Instant::now(), ids));
            for (_, count) in fell {
                self.struck(Target::Health, format_args!("{count} devices fall ill"));
            }
            offer.set_ill(flaps.ill());
            tokio::select! {
                () = until(flaps.next()) => {}
                // Never closed: the handle is ours.
                _ = changes.changed() => {}
            }
        }
    }
}

fn delay(strike: &Strike) -> Option<Duration> {
    match strike.effect {
        Effect::Delay(delay) => Some(delay),
        _ => None,
    }
}

fn refusal(strike: &Strike) -> Option<&Refusal> {
    match &strike.effect {
        Effect::Refuse(refusal) => Some(refusal),
        _ => None,
    }
}

/// That moment, or never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
