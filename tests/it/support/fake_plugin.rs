//! A fake device plugin whose behavior is set by the test, including behavior that a plugin must avoid.

use std::path::Path;
use std::pin::Pin;

use simple_device_plugin::api::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use simple_device_plugin::api::v1beta1::{self, Empty};
use simple_device_plugin::api::{self, PreferenceRequest};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::within;

/// The device IDs to send on the ListAndWatch stream, or an error. `None` ends the stream.
type Listed = Option<Result<Vec<String>, Status>>;

/// A running fake plugin.
#[allow(dead_code, reason = "only the tests of kubelet-sim read some fields")]
pub struct FakePlugin {
    pub list: watch::Sender<Listed>,
    /// Whether the plugin responds to Allocate; while false, calls wait.
    pub answers: watch::Sender<bool>,
    /// The number of Allocate calls.
    pub allocates: watch::Receiver<u32>,
    /// The device IDs of each Allocate call, sorted.
    pub allocated: watch::Receiver<Vec<Vec<String>>>,
    /// The number of Allocate calls that the kubelet canceled.
    pub canceled: watch::Receiver<u32>,
    /// The device IDs of each response to GetPreferredAllocation; `None` for an error.
    pub preferred: watch::Sender<Option<Vec<String>>>,
    /// The calls of GetPreferredAllocation, with sorted IDs.
    pub questions: watch::Receiver<Vec<PreferenceRequest>>,
    /// The number of ListAndWatch calls.
    pub streams: watch::Receiver<u32>,
    /// The number of open ListAndWatch streams.
    pub open: watch::Receiver<u32>,
    /// The device IDs of each PreStartContainer call.
    pub started: watch::Receiver<Vec<Vec<String>>>,
    _server: AbortOnDropHandle<()>,
}

struct FakeService {
    options: Result<v1beta1::DevicePluginOptions, Status>,
    list: watch::Receiver<Listed>,
    streams: watch::Sender<u32>,
    open: watch::Sender<u32>,
    started: watch::Sender<Vec<Vec<String>>>,
    answers: watch::Receiver<bool>,
    allocates: watch::Sender<u32>,
    allocated: watch::Sender<Vec<Vec<String>>>,
    canceled: watch::Sender<u32>,
    preferred: watch::Receiver<Option<Vec<String>>>,
    questions: watch::Sender<Vec<PreferenceRequest>>,
}

/// Counts an open stream until it is dropped.
struct OpenStream(watch::Sender<u32>);

impl OpenStream {
    fn new(count: &watch::Sender<u32>) -> Self {
        count.send_modify(|open| *open += 1);
        Self(count.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Counts a call as canceled if it is dropped before it is answered.
struct Unanswered<'a> {
    canceled: &'a watch::Sender<u32>,
    is_answered: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.canceled.send_modify(|count| *count += 1);
        }
    }
}

impl FakePlugin {
    pub fn serve(dir: &Path, endpoint: &str, ids: &[&str]) -> Self {
        Self::with_options(
            dir,
            endpoint,
            ids,
            Ok(v1beta1::DevicePluginOptions::default()),
        )
    }

    pub fn with_options(
        dir: &Path,
        endpoint: &str,
        ids: &[&str],
        options: Result<v1beta1::DevicePluginOptions, Status>,
    ) -> Self {
        let listener = UnixListener::bind(dir.join(endpoint)).expect("a free path");
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let (list, lists) = watch::channel(Some(Ok(ids)));
        let (streams, counted) = watch::channel(0);
        let (open, opened) = watch::channel(0);
        let (started, starts) = watch::channel(Vec::new());
        let answers = watch::Sender::new(true);
        let (allocates, asked) = watch::channel(0);
        let (allocated, allocated_ids) = watch::channel(Vec::new());
        let (canceled, canceled_calls) = watch::channel(0);
        let (questions, asked_questions) = watch::channel(Vec::new());
        let preferred = watch::Sender::new(Some(Vec::new()));
        let service = FakeService {
            options,
            answers: answers.subscribe(),
            allocates,
            allocated,
            canceled,
            preferred: preferred.subscribe(),
            questions,
            list: lists,
            streams,
            open,
            started,
        };
        let served = Server::builder()
            .add_service(DevicePluginServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let server = tokio::spawn(async { served.await.expect("a server") });
        Self {
            list,
            answers,
            allocates: asked,
            allocated: allocated_ids,
            canceled: canceled_calls,
            preferred,
            questions: asked_questions,
            streams: counted,
            open: opened,
            started: starts,
            _server: AbortOnDropHandle::new(server),
        }
    }

    /// Ends the stream, and waits until the kubelet has closed its side.
    pub async fn end_stream(&mut self) {
        self.list.send_replace(None);
        let closed = self.open.wait_for(|open| *open == 0);
        within("the end of the stream", closed)
            .await
            .expect("a plugin");
    }
}

#[tonic::async_trait]
impl DevicePlugin for FakeService {
    type ListAndWatchStream =
        Pin<Box<dyn Stream<Item = Result<v1beta1::ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<v1beta1::DevicePluginOptions>, Status> {
        self.options.clone().map(Response::new)
    }

    async fn list_and_watch(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        self.streams.send_modify(|count| *count += 1);
        // The ID `a@1` means device a on NUMA node 1.
        let device = |id: String| {
            let (id, node) = match id.split_once('@') {
                Some((id, node)) => (id.to_owned(), node.parse().ok()),
                None => (id, None),
            };
            v1beta1::Device {
                id,
                health: "Healthy".to_owned(),
                topology: node.map(|id| v1beta1::TopologyInfo {
                    nodes: vec![v1beta1::NumaNode { id }],
                }),
            }
        };
        let response = move |ids: Vec<String>| v1beta1::ListAndWatchResponse {
            devices: ids.into_iter().map(device).collect(),
        };
        let open = OpenStream::new(&self.open);
        let lists = WatchStream::new(self.list.clone());
        let lists = lists.map_while(|list| list).map(move |list| {
            let _until_dropped = &open;
            list.map(&response)
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<v1beta1::PreferredAllocationRequest>,
    ) -> Result<Response<v1beta1::PreferredAllocationResponse>, Status> {
        for mut question in api::preference_requests(request.into_inner()) {
            question.available.sort();
            question.must_include.sort();
            self.questions.send_modify(|asked| asked.push(question));
        }
        let preferred = self.preferred.borrow().clone();
        let preferred = preferred.ok_or_else(|| Status::unknown("on purpose"))?;
        let response = api::preferred_allocation_response(std::iter::once(preferred));
        Ok(Response::new(response))
    }

    async fn allocate(
        &self,
        request: Request<v1beta1::AllocateRequest>,
    ) -> Result<Response<v1beta1::AllocateResponse>, Status> {
        let containers = request.into_inner().container_requests;
        self.allocated.send_modify(|allocated| {
            let ids = containers.iter().flat_map(|c| &c.devices_ids);
            let mut ids: Vec<String> = ids.cloned().collect();
            ids.sort();
            allocated.push(ids);
        });
        self.allocates.send_modify(|count| *count += 1);
        let mut call = Unanswered {
            canceled: &self.canceled,
            is_answered: false,
        };
        let mut answers = self.answers.clone();
        // An error means that the test dropped the plugin.
        let _ = answers.wait_for(|answers| *answers).await;
        call.is_answered = true;
        let nothing = |_| v1beta1::ContainerAllocateResponse::default();
        Ok(Response::new(v1beta1::AllocateResponse {
            container_responses: containers.into_iter().map(nothing).collect(),
        }))
    }

    async fn pre_start_container(
        &self,
        request: Request<v1beta1::PreStartContainerRequest>,
    ) -> Result<Response<v1beta1::PreStartContainerResponse>, Status> {
        self.started
            .send_modify(|started| started.push(request.into_inner().devices_ids));
        Ok(Response::new(v1beta1::PreStartContainerResponse {}))
    }
}
