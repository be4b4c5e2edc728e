//! Allocate of one device against the floor, called in turn over one connection each. Servers and caller
//! share a processor: where a scheduler puts them makes more of a difference than what they do.

use std::path::Path;
use std::time::{Duration, Instant};

use simple_device_plugin::kubelet::Kubelet;
use simple_device_plugin::wire::allocation_of;
use simple_device_plugin::wire::v1beta1::device_plugin_client::DevicePluginClient;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::Result;
use crate::floor;
use crate::processor::OneProcessor;
use crate::program::{DEADLINE, Load, Outputs, Running};
use crate::table::Figure;

/// Calls in turn, so that what else the machine does hits all alike.
const ROUNDS: usize = 200;
const CALLS: usize = 50;

/// One that is called.
struct Called {
    client: DevicePluginClient<Channel>,
    device: String,
    took: Vec<Duration>,
}

impl Called {
    async fn dial(socket: &Path, device: &str) -> Result<Self> {
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
struct Manager {
    called: Called,
    _kubelet: Kubelet,
    _running: Running,
}

impl Manager {
    async fn start(program: &Path, dir: &Path, devices: usize, outputs: Outputs) -> Result<Self> {
        let load = Load {
            resources: 1,
            devices,
            outputs,
        };
        let (kubelet, running) = load.running(program, dir).await?;
        let device = format!("gpu-worker-{}", devices * 2 / 3);
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
    let mut few = Manager::start(program, &of("few"), 2, Outputs::None).await?;
    let mut many = Manager::start(program, &of("many"), 50_000, Outputs::None).await?;
    let mut all = Manager::start(program, &of("all"), 2, Outputs::All).await?;
    let socket = of("floor.sock");
    let _floor = floor::start(&socket)?;
    let mut floor = Called::dial(&socket, "gpu-worker-1").await?;
    let mut called = [
        &mut floor,
        &mut few.called,
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
    let measured = |called: &mut Called| {
        let took = called.median();
        let how = format!(
            "{} µs, an empty service {} µs",
            took.as_micros(),
            empty.as_micros()
        );
        (took.as_secs_f64() / empty.as_secs_f64(), how)
    };
    let (ratio, how) = measured(&mut few.called);
    let few = Figure::new("Allocate, 2 devices", ratio, 1.15, "×").how(&how);
    let (ratio, how) = measured(&mut many.called);
    let many = Figure::new("Allocate, 50,000 devices", ratio, 1.3, "×").how(&how);
    let (ratio, how) = measured(&mut all.called);
    let all = Figure::shown("Allocate with env, annotation, device file", ratio, "×").how(&how);
    Ok(vec![few, many, all])
}
