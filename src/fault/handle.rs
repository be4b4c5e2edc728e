//! A resource's faults while the program runs: they are set and evaluated here.

use std::time::Instant;

use tokio::sync::watch;

use crate::fault::{
    Evaluated, Fault, FaultId, Faults, Flaps, InjectionPoint, OfCall, Suspension, TooMany,
};
use crate::model::device::Devices;

/// Seeds that are made up are short, to be given again.
const SEEDS: u64 = 1_000_000;

/// The one place where a resource's faults change. A clone is another handle to the same ones.
#[derive(Clone, Debug, Default)]
pub struct FaultHandle(watch::Sender<Faults>);

impl FaultHandle {
    /// The faults as they are now.
    pub fn now(&self) -> Faults {
        self.0.borrow().clone()
    }

    /// Follows which faults there are.
    pub fn subscribe(&self) -> watch::Receiver<Faults> {
        self.0.subscribe()
    }

    /// Adds a fault at run time; returns it with its seed.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set(&self, fault: Fault) -> Result<Fault, TooMany> {
        let mut outcome = Err(TooMany::Faults);
        self.0.send_if_modified(|faults| {
            let armed = faults.set(fault, seed());
            outcome = armed.map(|armed| armed.fault.clone());
            outcome.is_ok()
        });
        outcome
    }

    /// Those of another configuration than the one before: see [`Faults::configure`].
    pub fn configure(&self, before: &[Fault], configured: &[Fault]) -> Vec<Fault> {
        let mut new = Vec::new();
        self.0
            .send_modify(|faults| new = faults.configure(before, configured, seed));
        new
    }

    /// Back to those of the configuration, from their beginning.
    pub fn reset(&self, configured: &[Fault]) {
        self.0.send_modify(|faults| {
            faults.clear();
            faults.configure(&[], configured, seed);
        });
    }

    /// Takes all away, those of the configuration too; returns how many.
    pub fn clear(&self) -> usize {
        let mut count = 0;
        self.0.send_modify(|faults| count = faults.clear());
        count
    }

    /// Evaluates a call of an RPC.
    pub fn call(&self, point: InjectionPoint) -> OfCall {
        if !self.0.borrow().threaten(point) {
            return OfCall::default();
        }
        self.evaluate(|faults| faults.call(point))
    }

    /// A call that these delayed waits no more.
    pub fn delayed(&self, ids: &[FaultId]) {
        self.evaluate(|faults| faults.delayed(ids));
    }

    /// They were injected into a call without effect: it does not count.
    pub(crate) fn take_back(&self, ids: &[FaultId]) {
        self.evaluate(|faults| faults.take_back(ids));
    }

    /// Evaluates a stream; returns by how many faults it is dropped.
    pub fn stream(&self, evaluated: &mut Evaluated) -> usize {
        self.evaluate(|faults| faults.stream(evaluated))
    }

    /// Evaluates a registration; returns what suspends it.
    pub fn registration(&self, evaluated: &mut Evaluated) -> Vec<Suspension> {
        self.evaluate(|faults| faults.registration(evaluated, Instant::now()))
    }

    /// Follows the devices that flap: see [`Flaps::follow`].
    pub fn flap(&self, flaps: &mut Flaps, devices: &Devices) -> Vec<usize> {
        self.evaluate(|faults| flaps.follow(faults, Instant::now(), devices))
    }

    /// Wakes nobody up: which faults there are stays.
    fn evaluate<T: Default>(&self, evaluate: impl FnOnce(&mut Faults) -> T) -> T {
        let mut evaluated = T::default();
        self.0.send_if_modified(|faults| {
            evaluated = evaluate(faults);
            false
        });
        evaluated
    }

    /// Whether this fault is still there.
    pub fn has(&self, id: FaultId) -> bool {
        self.0.borrow().has(id)
    }

    /// Waits until none of these is there any more.
    pub async fn gone(&self, ids: &[FaultId]) {
        let mut faults = self.subscribe();
        // Never closed: the handle is ours.
        let _ = faults
            .wait_for(|faults| !ids.iter().any(|id| faults.has(*id)))
            .await;
    }
}

fn seed() -> u64 {
    fastrand::u64(..SEEDS)
}
