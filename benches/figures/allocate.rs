//! Allocate of one device against the floor, both called in turn over one connection each.

use std::path::Path;
use std::time::{Duration, Instant};

use simple_device_plugin::kubelet::{Kubelet, Settings};
use simple_device_plugin::wire::allocation_of;
use simple_device_plugin::wire::v1beta1::device_plugin_client::DevicePluginClient;
use tonic::transport::{Channel, Endpoint};

use crate::Result;
use crate::floor;
use crate::program::{Load, Running};
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

/// A manager of one resource, registered with a kubelet of its own.
async fn manager(program: &Path, dir: &Path, devices: usize) -> Result<(Kubelet, Running)> {
    let load = Load {
        resources: 1,
        devices,
    };
    let kubelet = Kubelet::start(Settings::new(dir))?;
    let running = load.start(program, dir)?;
    load.whole(&kubelet).await?;
    Ok((kubelet, running))
}

pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    const SOCKET: &str = "simple-device-plugin.sock";
    let dir = tempfile::tempdir()?;
    let [few_dir, many_dir] = ["few", "many"].map(|name| dir.path().join(name));
    let _few = manager(program, &few_dir, 2).await?;
    let _many = manager(program, &many_dir, 50_000).await?;
    let floor = dir.path().join("floor.sock");
    let _floor = floor::start(&floor)?;

    let mut floor = Called::dial(&floor, "gpu-worker-1").await?;
    let mut few = Called::dial(&few_dir.join(SOCKET), "gpu-worker-1").await?;
    let mut many = Called::dial(&many_dir.join(SOCKET), "gpu-worker-34567").await?;
    for _ in 0..ROUNDS {
        floor.round().await?;
        few.round().await?;
        many.round().await?;
    }
    let (floor, few, many) = (floor.median(), few.median(), many.median());
    let ratio = |took: Duration| took.as_secs_f64() / floor.as_secs_f64();
    let floor = format!(
        "median; an empty tonic service takes {} µs",
        floor.as_micros()
    );
    Ok(vec![
        Figure::new("Allocate, 2 devices in the resource", ratio(few), 1.15, "×").how(&floor),
        Figure::new("Allocate, 50,000 devices", ratio(many), 1.3, "×"),
    ])
}
