//! Allocate of one device against the floor, called in turn over one connection each. Servers and caller
//! share a processor: where a scheduler puts them makes more of a difference than what they do.

use std::path::Path;
use std::time::{Duration, Instant};

use kubelet_sim::Kubelet;
use simple_device_plugin::api::allocation_of;
use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::Result;
use crate::empty_service;
use crate::processor::OneProcessor;
use crate::program::{DEADLINE, Load, MeasuredProgram, Outputs, Views};
use crate::table::Figure;

/// Calls in turn, so that what else the machine does hits all alike.
const ROUNDS: usize = 200;
const CALLS: usize = 50;

/// One that is called.
pub struct Called {
    pub client: DevicePluginClient<Channel>,
    pub device: String,
    took: Vec<Duration>,
}

impl Called {
    pub async fn dial(socket: &Path, device: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
        let connected = async {
            loop {
                match endpoint.connect().await {
                    Ok(channel) => break channel,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let channel = timeout(DEADLINE, connected).await?;
        Ok(Self {
            client: DevicePluginClient::new(channel),
            device: device.to_owned(),
            took: Vec::with_capacity(ROUNDS * CALLS),
        })
    }

    async fn round(&mut self) -> Result<()> {
        for _ in 0..CALLS {
            let request = allocation_of(vec![self.device.clone()]);
            let since = Instant::now();
            self.client.allocate(request).await?;
            self.took.push(since.elapsed());
        }
        Ok(())
    }

    fn median(&mut self) -> Duration {
        self.took.sort();
        self.took[self.took.len() / 2]
    }
}

/// A manager of one resource, registered with a kubelet of its own, and the way to call it.
pub struct MeasuredManager {
    pub called: Called,
    _kubelet: Kubelet,
    _running: MeasuredProgram,
}

impl MeasuredManager {
    pub async fn start(program: &Path, dir: &Path, load: Load) -> Result<Self> {
        let (kubelet, running) = load.running(program, dir).await?;
        let device = format!("gpu-worker-{}", load.devices * 2 / 3);
        let called = Called::dial(&dir.join("simple-device-plugin.sock"), &device).await?;
        Ok(Self {
            called,
            _kubelet: kubelet,
            _running: running,
        })
    }
}

pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    let of = |name: &str| dir.path().join(name);
    // Inherited by whoever is started from here on.
    let _shared = OneProcessor::share()?;
    let load = |devices, outputs, views| Load {
        resources: 1,
        devices,
        outputs,
        views,
    };
    let two = load(2, Outputs::None, Views::On(0));
    let mut few = MeasuredManager::start(program, &of("few"), two).await?;
    let two_unseen = load(2, Outputs::None, Views::Off);
    let mut unseen = MeasuredManager::start(program, &of("unseen"), two_unseen).await?;
    let fifty_thousand = load(50_000, Outputs::None, Views::On(0));
    let mut many = MeasuredManager::start(program, &of("many"), fifty_thousand).await?;
    let two_with_all = load(2, Outputs::All, Views::On(0));
    let mut all = MeasuredManager::start(program, &of("all"), two_with_all).await?;
    let socket = of("floor.sock");
    let _floor = empty_service::start(&socket)?;
    let mut floor = Called::dial(&socket, "gpu-worker-1").await?;
    let mut called = [
        &mut floor,
        &mut few.called,
        &mut unseen.called,
        &mut many.called,
        &mut all.called,
    ];
    for _ in 0..ROUNDS {
        for one in &mut called {
            one.round().await?;
        }
        // Whoever was before one leaves it the processor's caches.
        fastrand::shuffle(&mut called);
    }
    let empty = floor.median();
    let against = |called: &mut Called, base: Duration, what: &str| {
        let took = called.median();
        let how = format!("{} µs, {what} {} µs", took.as_micros(), base.as_micros());
        (took.as_secs_f64() / base.as_secs_f64(), how)
    };
    let floor = "an empty service";
    let (ratio, how) = against(&mut few.called, empty, floor);
    let two = Figure::new("Allocate, 2 devices", ratio, 1.15, "×").how(&how);
    let unseen = unseen.called.median();
    let (ratio, how) = against(&mut few.called, unseen, "without HTTP and control socket");
    let seen = Figure::new("Allocate, with HTTP and control socket", ratio, 1.05, "×").how(&how);
    let (ratio, how) = against(&mut many.called, empty, floor);
    let many = Figure::new("Allocate, 50,000 devices", ratio, 1.3, "×").how(&how);
    let (ratio, how) = against(&mut all.called, empty, floor);
    let all = Figure::shown("Allocate with env, annotation, device file", ratio, "×").how(&how);
    Ok(vec![two, seen, many, all])
}
