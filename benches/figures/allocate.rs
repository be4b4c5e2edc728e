//! The latency of Allocate for one device, compared with an empty gRPC service. Servers and caller share one processor,
//! because their placement by the scheduler would affect the result more than their work.

use std::path::Path;
use std::time::{Duration, Instant};

use kubelet_sim::Kubelet;
use simple_device_plugin::api::allocate_request;
use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::Result;
use crate::empty_service;
use crate::processor::OneProcessor;
use crate::program::{DEADLINE, Load, MeasuredProgram, Outputs, Views};
use crate::table::Figure;

/// The number of rounds. Each round calls all servers, so that other load on the machine affects them equally.
const ROUNDS: usize = 200;
/// The number of calls to each server in a round.
const CALLS: usize = 50;

/// A client of a measured server.
pub struct MeasuredClient {
    pub client: DevicePluginClient<Channel>,
    pub device: String,
    latencies: Vec<Duration>,
}

impl MeasuredClient {
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
            latencies: Vec::with_capacity(ROUNDS * CALLS),
        })
    }

    async fn round(&mut self) -> Result<()> {
        for _ in 0..CALLS {
            let request = allocate_request(vec![self.device.clone()]);
            let since = Instant::now();
            self.client.allocate(request).await?;
            self.latencies.push(since.elapsed());
        }
        Ok(())
    }

    fn median(&mut self) -> Duration {
        self.latencies.sort();
        self.latencies[self.latencies.len() / 2]
    }
}

/// A daemon with one resource, registered with a separate kubelet, and a client of its plugin.
pub struct MeasuredManager {
    pub client: MeasuredClient,
    _kubelet: Kubelet,
    _running: MeasuredProgram,
}

impl MeasuredManager {
    pub async fn start(program: &Path, dir: &Path, load: Load) -> Result<Self> {
        let (kubelet, running) = load.running(program, dir).await?;
        let device = format!("gpu-worker-{}", load.devices * 2 / 3);
        let client = MeasuredClient::dial(&dir.join("simple-device-plugin.sock"), &device).await?;
        Ok(Self {
            client,
            _kubelet: kubelet,
            _running: running,
        })
    }
}

pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    // All processes that are started from here on inherit this.
    let _shared = OneProcessor::share()?;
    let load = |devices, outputs, views| Load {
        resources: 1,
        devices,
        outputs,
        views,
    };
    let two = load(2, Outputs::None, Views::On(0));
    let mut few = MeasuredManager::start(program, &path("few"), two).await?;
    let two_without_views = load(2, Outputs::None, Views::Off);
    let mut without_views =
        MeasuredManager::start(program, &path("without-views"), two_without_views).await?;
    let fifty_thousand = load(50_000, Outputs::None, Views::On(0));
    let mut many = MeasuredManager::start(program, &path("many"), fifty_thousand).await?;
    let two_with_all = load(2, Outputs::All, Views::On(0));
    let mut all = MeasuredManager::start(program, &path("all"), two_with_all).await?;
    let socket = path("empty.sock");
    let _server = empty_service::start(&socket)?;
    let mut empty = MeasuredClient::dial(&socket, "gpu-worker-1").await?;
    let mut clients = [
        &mut empty,
        &mut few.client,
        &mut without_views.client,
        &mut many.client,
        &mut all.client,
    ];
    for _ in 0..ROUNDS {
        for client in &mut clients {
            client.round().await?;
        }
        // The previous server affects the processor's caches, so the order changes.
        fastrand::shuffle(&mut clients);
    }
    let empty = empty.median();
    let compare = |client: &mut MeasuredClient, base: Duration, what: &str| {
        let latency = client.median();
        let note = format!("{} µs, {what} {} µs", latency.as_micros(), base.as_micros());
        (latency.as_secs_f64() / base.as_secs_f64(), note)
    };
    let what = "an empty service";
    let (ratio, note) = compare(&mut few.client, empty, what);
    let two = Figure::at_most("Allocate, 2 devices", ratio, 1.15, "×").note(&note);
    let without_views = without_views.client.median();
    let (ratio, note) = compare(
        &mut few.client,
        without_views,
        "without HTTP and control socket",
    );
    let with_views =
        Figure::at_most("Allocate, with HTTP and control socket", ratio, 1.05, "×").note(&note);
    let (ratio, note) = compare(&mut many.client, empty, what);
    let many = Figure::at_most("Allocate, 50,000 devices", ratio, 1.3, "×").note(&note);
    let (ratio, note) = compare(&mut all.client, empty, what);
    let all =
        Figure::without_goal("Allocate with env, annotation, device file", ratio, "×").note(&note);
    Ok(vec![two, with_views, many, all])
}
