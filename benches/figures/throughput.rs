//! The throughput of Allocate with many calls in flight over one connection, compared with an empty gRPC service.
//! Servers and caller share one processor, as in `allocate`.

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use simple_device_plugin::api::allocate_request;

use crate::Result;
use crate::allocate::{MeasuredClient, MeasuredManager};
use crate::empty_service;
use crate::processor::OneProcessor;
use crate::program::{Load, Outputs, Views};
use crate::table::Figure;

const IN_FLIGHT: usize = 32;

/// The number of rounds. Each round calls both servers, so that other load on the machine affects them equally.
const ROUNDS: usize = 200;
/// The number of calls to each server in a round.
const CALLS: usize = 640;

/// The durations of all rounds and calls.
#[derive(Default)]
struct Durations {
    rounds: Vec<Duration>,
    calls: Vec<Duration>,
}

impl Durations {
    /// Returns the calls per second of the median round.
    #[expect(clippy::cast_precision_loss, reason = "some hundred calls")]
    fn per_second(&mut self) -> f64 {
        self.rounds.sort();
        CALLS as f64 / self.rounds[ROUNDS / 2].as_secs_f64()
    }

    fn percentile_99(&mut self) -> Duration {
        self.calls.sort();
        self.calls[self.calls.len() * 99 / 100]
    }
}

/// Makes the calls of a round, with [`IN_FLIGHT`] of them in flight.
async fn round(measured: &MeasuredClient, durations: &mut Durations) -> Result<()> {
    let call = || {
        let mut client = measured.client.clone();
        let request = allocate_request(vec![measured.device.clone()]);
        async move {
            let since = Instant::now();
            client.allocate(request).await.map(|_| since.elapsed())
        }
    };
    let began = Instant::now();
    let mut in_flight: FuturesUnordered<_> = (0..IN_FLIGHT).map(|_| call()).collect();
    let mut left = CALLS - IN_FLIGHT;
    while let Some(duration) = in_flight.next().await {
        durations.calls.push(duration?);
        if left > 0 {
            left -= 1;
            in_flight.push(call());
        }
    }
    durations.rounds.push(began.elapsed());
    Ok(())
}

pub async fn measure(program: &std::path::Path) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    // All processes that are started from here on inherit this.
    let _shared = OneProcessor::share()?;
    let load = Load {
        resources: 1,
        devices: 2,
        outputs: Outputs::None,
        views: Views::On(0),
    };
    let manager = MeasuredManager::start(program, &dir.path().join("manager"), load).await?;
    let socket = dir.path().join("empty.sock");
    let _server = empty_service::start(&socket)?;
    let empty_client = MeasuredClient::dial(&socket, "gpu-worker-1").await?;
    let (mut ours, mut empty) = (Durations::default(), Durations::default());
    for _ in 0..ROUNDS {
        round(&manager.client, &mut ours).await?;
        round(&empty_client, &mut empty).await?;
    }
    let (rate, empty_rate) = (ours.per_second(), empty.per_second());
    let rate_note = format!("{rate:.0}, an empty service {empty_rate:.0}");
    let rate = Figure::at_least(
        "Allocate per second, 32 in flight",
        rate / empty_rate,
        0.9,
        "×",
    );
    let (slow, empty_slow) = (ours.percentile_99(), empty.percentile_99());
    let slow_note = format!(
        "{} µs, an empty service {} µs",
        slow.as_micros(),
        empty_slow.as_micros()
    );
    let slow = slow.as_secs_f64() / empty_slow.as_secs_f64();
    let slow = Figure::at_most("Allocate, 32 in flight, 99th percentile", slow, 1.15, "×");
    Ok(vec![rate.note(&rate_note), slow.note(&slow_note)])
}
