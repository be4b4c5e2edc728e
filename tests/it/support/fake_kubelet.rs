//! A fake kubelet whose responses to Register are set by the test, including responses of no real kubelet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::v1beta1::registration_server::{Registration, RegistrationServer};
use simple_device_plugin::api::v1beta1::{self, Empty};
use simple_device_plugin::model::socket_name::KUBELET_SOCKET;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::client::dial;

/// How a fake kubelet responds to Register.
#[derive(Clone, Copy)]
pub enum Answer {
    /// Returns an error.
    Refuse,
    /// Never returns.
    Hang,
    /// Returns OK without calling the plugin, as newer kubelets may do.
    Ignore,
    /// Returns OK after GetDevicePluginOptions, and does not call ListAndWatch.
    OptionsOnly,
    /// Returns OK after GetDevicePluginOptions and ListAndWatch. Dials the endpoint only once.
    Accept,
    /// Returns OK after GetDevicePluginOptions and ListAndWatch, and closes the connection 20 ms later.
    Hangup,
}

/// A running fake kubelet.
pub struct FakeKubelet {
    /// The number of Register calls, by resource.
    pub registered: watch::Receiver<BTreeMap<String, u32>>,
    /// The resources whose ListAndWatch stream the kubelet opened, in order.
    pub streaming: watch::Receiver<Vec<String>>,
    /// The number of Register calls in progress, and the highest number so far.
    pub in_flight: watch::Receiver<(usize, usize)>,
    server: AbortOnDropHandle<()>,
}

struct FakeRegistrar {
    dir: PathBuf,
    answer: Box<dyn Fn(&str) -> Answer + Send + Sync>,
    registered: watch::Sender<BTreeMap<String, u32>>,
    streaming: watch::Sender<Vec<String>>,
    in_flight: watch::Sender<(usize, usize)>,
    /// The open ListAndWatch streams, kept so that they do not end.
    streams: Mutex<Vec<Streaming<v1beta1::ListAndWatchResponse>>>,
}

impl FakeKubelet {
    pub fn serve(dir: &Path, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(dir.join(KUBELET_SOCKET)).expect("a free path");
        let (registered, counted) = watch::channel(BTreeMap::new());
        let (streaming, streams) = watch::channel(Vec::new());
        let (in_flight, counts) = watch::channel((0, 0));
        let registrar = FakeRegistrar {
            dir: dir.to_owned(),
            answer: Box::new(answer),
            registered,
            streaming,
            in_flight,
            streams: Mutex::default(),
        };
        let served = Server::builder()
            .add_service(RegistrationServer::from_arc(Arc::new(registrar)))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let server = tokio::spawn(async { served.await.expect("a server") });
        Self {
            registered: counted,
            streaming: streams,
            in_flight: counts,
            server: AbortOnDropHandle::new(server),
        }
    }

    /// Stops the kubelet. As after the exit of a process, its socket file stays and refuses connections.
    pub async fn stop(self) {
        self.server.abort();
        let ended = self.server.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }
}

#[tonic::async_trait]
impl Registration for FakeRegistrar {
    async fn register(
        &self,
        request: Request<v1beta1::RegisterRequest>,
    ) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.in_flight.send_modify(|(now, most)| {
            *now += 1;
            *most = (*now).max(*most);
        });
        let answer = self.answer(request).await;
        self.in_flight.send_modify(|(now, _)| *now -= 1);
        answer
    }
}

impl FakeRegistrar {
    async fn answer(&self, request: v1beta1::RegisterRequest) -> Result<Response<Empty>, Status> {
        let resource = request.resource_name.clone();
        self.registered
            .send_modify(|counts| *counts.entry(resource.clone()).or_default() += 1);
        match (self.answer)(&resource) {
            Answer::Refuse => return Err(Status::unknown("refused\non purpose")),
            Answer::Hang => std::future::pending().await,
            Answer::Ignore => return Ok(Response::new(Empty {})),
            Answer::OptionsOnly | Answer::Accept | Answer::Hangup => {}
        }
        let broken = |error| Status::unknown(format!("not served: {error}"));
        let channel = dial(&self.dir.join(&request.endpoint))
            .await
            .map_err(broken)?;
        let mut plugin = DevicePluginClient::new(channel);
        plugin.get_device_plugin_options(Empty {}).await?;
        let answer = (self.answer)(&resource);
        if matches!(answer, Answer::Hangup) {
            let stream = plugin.list_and_watch(Empty {}).await?;
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                drop((stream, plugin));
            });
            return Ok(Response::new(Empty {}));
        }
        if matches!(answer, Answer::Accept) {
            let stream = plugin.list_and_watch(Empty {}).await?.into_inner();
            self.streams.lock().expect("no panic").push(stream);
            self.streaming
                .send_modify(|streaming| streaming.push(resource));
        }
        Ok(Response::new(Empty {}))
    }
}
