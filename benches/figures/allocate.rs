//! Allocate of one device against the floor, both called in turn over one connection each. Servers and
//! caller have a processor of their own: where the scheduler puts them makes more of a difference than they do.

use std::path::Path;
use std::time::{Duration, Instant};

use simple_device_plugin::kubelet::Kubelet;
use simple_device_plugin::wire::allocation_of;
use simple_device_plugin::wire::v1beta1::device_plugin_client::DevicePluginClient;
use tonic::transport::{Channel, Endpoint};

use crate::Result;
use crate::floor;
use crate::processors::Processors;
use crate::program::{Load, Outputs, Running};
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
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
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
    let processors = Processors::available()?;
    // Theirs are inherited.
    processors.servers()?;
    let mut few = Manager::start(program, &of("few"), 2, Outputs::None).await?;
    let mut many = Manager::start(program, &of("many"), 50_000, Outputs::None).await?;
    let mut all = Manager::start(program, &of("all"), 2, Outputs::All).await?;
    let socket = of("floor.sock");
    let _floor = floor::start(&socket)?;
    let mut floor = Called::dial(&socket, "gpu-worker-1").await?;
    processors.caller()?;
    for _ in 0..ROUNDS {
        floor.round().await?;
        few.called.round().await?;
        many.called.round().await?;
        all.called.round().await?;
    }
    let empty = floor.median();
    let ratio = |of: &mut Called| of.median().as_secs_f64() / empty.as_secs_f64();
    let how = format!("an empty service: {} µs", empty.as_micros());
    Ok(vec![
        Figure::new("Allocate, 2 devices", ratio(&mut few.called), 1.15, "×").how(&how),
        Figure::new(
            "Allocate, 50,000 devices",
            ratio(&mut many.called),
            1.3,
            "×",
        ),
        Figure::shown(
            "Allocate with env, annotation, device file",
            ratio(&mut all.called),
            "×",
        ),
    ])
}
