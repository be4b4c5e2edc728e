//! The kubelet's pod-resources API: which devices pods hold, live rather than as of the checkpoint's last write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tonic::Code;
use tracing::warn;

use crate::channel::channel_over;
use crate::checkpoint_file;
use crate::foreign::foreign;
use crate::wire::podresources::pod_resources_lister_client::PodResourcesListerClient;
use crate::wire::podresources::{ListPodResourcesRequest, ListPodResourcesResponse};

/// For the connection and the call together; a kubelet answers in a few milliseconds.
const LIST_WITHIN: Duration = Duration::from_secs(5);

/// The kubelet takes 100 calls a second from the whole node (`podresources/constants.go`). All resources share one
/// answer of this age.
const FRESH: Duration = Duration::from_millis(200);

/// The answer's size in bytes: as large a node as its checkpoint may describe.
const ANSWER_SIZE_MAX: usize = 64 << 20;
const _: () = assert!(ANSWER_SIZE_MAX as u64 == checkpoint_file::SIZE_MAX);

/// After this many calls in a row without an answer the API counts as unreachable.
const NO_ANSWERS_MAX: u32 = 3;

/// The API at one socket. A clone shares the last answer.
#[derive(Clone, Debug)]
pub struct PodResources {
    socket: PathBuf,
    last: Arc<Mutex<Last>>,
}

#[derive(Debug, Default)]
struct Last {
    answer: Option<PodDevices>,
    /// Calls since then that were not answered.
    no_answers: u32,
    /// That it is unreachable was logged.
    logged: bool,
}

/// The devices that the kubelet's running pods hold.
#[derive(Clone, Debug)]
pub struct PodDevices {
    /// When the kubelet was asked.
    pub asked: Instant,
    by_resource: Arc<BTreeMap<String, BTreeSet<String>>>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum PodResourcesError {
    /// There is no such API: the socket is missing or cannot be opened, its server does not know the call, or has not
    /// answered several times in a row.
    #[error("the kubelet's pod-resources API cannot be reached: {0}")]
    Unreachable(String),
    /// The API is there and did not answer, for example since its rate limit was reached.
    #[error("the kubelet's pod-resources API did not answer: {0}")]
    NoAnswer(String),
}

impl PodDevices {
    /// Whether a pod holds this device.
    pub fn holds(&self, resource: &str, id: &str) -> bool {
        let devices = self.by_resource.get(resource);
        devices.is_some_and(|devices| devices.contains(id))
    }
}

impl PodDevices {
    /// The devices of this resource that pods hold, by ID.
    pub fn of(&self, resource: &str) -> impl Iterator<Item = &str> {
        let devices = self.by_resource.get(resource).into_iter().flatten();
        devices.map(String::as_str)
    }
}

impl PodResources {
    /// The API at this socket; it need not exist.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            last: Arc::default(),
        }
    }

    /// Asks the kubelet which devices pods hold, or returns the answer of a moment ago.
    ///
    /// # Errors
    /// When the API cannot be reached, or does not answer within 5 s.
    pub async fn list(&self) -> Result<PodDevices, PodResourcesError> {
        let mut last = self.last.lock().await;
        let fresh = last.answer.as_ref();
        if let Some(answer) = fresh.filter(|answer| answer.asked.elapsed() < FRESH) {
            return Ok(answer.clone());
        }
        let late = || PodResourcesError::NoAnswer("it takes longer than 5 s".to_owned());
        let asked = timeout(LIST_WITHIN, self.ask()).await;
        let error = match asked.unwrap_or_else(|_| Err(late())) {
            Ok(answer) => {
                *last = Last {
                    answer: Some(answer.clone()),
                    ..Last::default()
                };
                return Ok(answer);
            }
            Err(PodResourcesError::NoAnswer(error)) if last.no_answers + 1 < NO_ANSWERS_MAX => {
                last.no_answers += 1;
                return Err(PodResourcesError::NoAnswer(error));
            }
            Err(PodResourcesError::NoAnswer(error) | PodResourcesError::Unreachable(error)) => {
                error
            }
        };
        if !std::mem::replace(&mut last.logged, true) {
            let socket = self.socket.display();
            warn!(%socket, error, "POD_RESOURCES_SOCKET cannot be reached: a device pending removal stays until the next pod with devices is admitted");
        }
        Err(PodResourcesError::Unreachable(error))
    }

    async fn ask(&self) -> Result<PodDevices, PodResourcesError> {
        let unreachable = |error: &dyn std::fmt::Display| {
            PodResourcesError::Unreachable(foreign(&error.to_string()))
        };
        let asked = Instant::now();
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| unreachable(&error))?;
        let channel = channel_over(stream).await;
        let channel = channel.map_err(|error| unreachable(&error))?;
        let mut client =
            PodResourcesListerClient::new(channel).max_decoding_message_size(ANSWER_SIZE_MAX);
        match client.list(ListPodResourcesRequest {}).await {
            Ok(response) => Ok(PodDevices {
                asked,
                by_resource: Arc::new(by_resource(response.into_inner())),
            }),
            Err(status) if status.code() == Code::Unimplemented => {
                Err(unreachable(&status.message()))
            }
            Err(status) => Err(PodResourcesError::NoAnswer(format!(
                "{:?}: {}",
                status.code(),
                foreign(status.message())
            ))),
        }
    }
}

fn by_resource(response: ListPodResourcesResponse) -> BTreeMap<String, BTreeSet<String>> {
    let mut by_resource = BTreeMap::<String, BTreeSet<String>>::new();
    let pods = response.pod_resources.into_iter();
    let containers = pods.flat_map(|pod| pod.containers);
    for devices in containers.flat_map(|container| container.devices) {
        let ids = by_resource.entry(devices.resource_name).or_default();
        ids.extend(devices.device_ids);
    }
    by_resource
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::podresources::pod_resources_lister_server::{
        PodResourcesLister, PodResourcesListerServer,
    };
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response, Status};

    /// What a kubelet answers whose rate limit is reached.
    struct Limited;

    #[tonic::async_trait]
    impl PodResourcesLister for Limited {
        async fn list(
            &self,
            _: Request<ListPodResourcesRequest>,
        ) -> Result<Response<ListPodResourcesResponse>, Status> {
            Err(Status::resource_exhausted("rejected by rate limit"))
        }
    }

    #[tokio::test]
    async fn one_call_without_an_answer_says_nothing_and_several_that_there_is_no_api() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kubelet.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(PodResourcesListerServer::new(Limited))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let _server = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(server));
        let api = PodResources::new(socket);
        let mut said = Vec::new();
        for _ in 0..4 {
            said.push(matches!(
                api.list().await,
                Err(PodResourcesError::NoAnswer(_))
            ));
        }
        assert_eq!(said, [true, true, false, false]);
    }

    #[tokio::test]
    async fn no_socket_is_no_api() {
        let api = PodResources::new("/no/such/kubelet.sock".into());
        let error = api.list().await.unwrap_err();
        assert!(
            matches!(error, PodResourcesError::Unreachable(_)),
            "{error}"
        );
    }
}
