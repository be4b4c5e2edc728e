//! The client of the kubelet's pod-resources API, which lists the devices of running pods and the devices that the
//! kubelet can allocate.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{sleep_until, timeout};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use crate::api::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse,
};
use crate::model::device::Devices;
use crate::node::channel::channel_over;
use crate::node::checkpoint::ListingStatus;
use crate::util::retry::WarnOnce;
use crate::util::sanitize::sanitize;

/// The limit for the connection and the call together. A kubelet answers in a few milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The minimum pause between two calls of a method. The kubelet limits all clients of the node together to 100 calls per
/// second and bursts of 10 (`podresources/constants.go`). Only GetAllocatableResources is called this often.
const CALL_INTERVAL: Duration = Duration::from_millis(15);

/// The pause after a call is at least this many times as long as the call took, because large answers are expensive.
const PAUSE_PER_CALL: u32 = 2;

/// The maximum pause after a call.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The maximum age of an answer to a caller that does not need the current state.
const RECENT: Duration = Duration::from_secs(1);

/// The maximum size of a response in bytes, which has room for about 40,000 devices. Parsing a larger one would block the
/// thread for too long.
const RESPONSE_SIZE_MAX: usize = 4 << 20;

/// A client for the API at one socket. Clones share the last answers.
#[derive(Clone, Debug)]
pub struct PodResources {
    socket: PathBuf,
    list: Arc<Mutex<Calls<PodDevices>>>,
    allocatable: Arc<Mutex<Calls<AllocatableDevices>>>,
    failures: Arc<WarnOnce>,
}

/// The calls of one method. Its lock allows one at a time.
#[derive(Debug, Default)]
struct Calls<T> {
    /// When the next call may be sent.
    next_at: Option<Instant>,
    last: Option<Answer<T>>,
}

#[derive(Clone, Debug)]
struct Answer<T> {
    /// The time before the call was sent.
    requested_at: Instant,
    result: Result<T, PodResourcesError>,
}

/// The devices that running pods hold. Init containers that have ended are omitted (`server_v1.go`), so a device that is
/// not listed may still be held.
#[derive(Clone, Debug, Default)]
pub struct PodDevices {
    by_resource: Arc<BTreeMap<String, BTreeMap<String, Vec<PodContainer>>>>,
}

/// A container that holds a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodContainer {
    pub namespace: Arc<str>,
    /// The pod's name.
    pub pod: Arc<str>,
    pub container: Arc<str>,
}

/// The healthy devices of every resource, including those that pods hold.
#[derive(Clone, Debug, Default)]
pub struct AllocatableDevices {
    by_resource: Arc<BTreeMap<String, Vec<String>>>,
}

/// A failed call, as text that is safe to log.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct PodResourcesError(String);

impl PodDevices {
    /// Returns whether a pod holds the device.
    pub fn holds(&self, resource: &str, id: &str) -> bool {
        !self.holders(resource, id).is_empty()
    }

    /// Returns the containers that hold the device.
    pub fn holders(&self, resource: &str, id: &str) -> &[PodContainer] {
        let devices = self.by_resource.get(resource);
        devices
            .and_then(|devices| devices.get(id))
            .map_or(&[], Vec::as_slice)
    }

    /// Returns how many devices of `resource` pods hold.
    pub fn count(&self, resource: &str) -> usize {
        self.by_resource.get(resource).map_or(0, BTreeMap::len)
    }

    /// Returns the IDs of the devices of `resource` that pods hold, each once.
    pub fn device_ids(&self, resource: &str) -> impl Iterator<Item = &str> {
        let devices = self.by_resource.get(resource).into_iter().flatten();
        devices.map(|(id, _)| id.as_str())
    }
}

impl AllocatableDevices {
    /// Compares the kubelet's healthy devices with the devices of a resource.
    pub fn listing_status(&self, resource: &str, devices: &Devices) -> ListingStatus<'_> {
        let ids = self.by_resource.get(resource).into_iter().flatten();
        ListingStatus::of(ids, devices)
    }
}

impl PodResources {
    /// Creates a client. The socket need not exist.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            list: Arc::default(),
            allocatable: Arc::default(),
            failures: Arc::default(),
        }
    }

    /// Calls List. Callers that wait at the same time share an answer. The first failure is logged as a warning, later
    /// ones at debug level.
    ///
    /// # Errors
    /// Returns an error if the API cannot be reached, refuses the call or does not answer within 5 s.
    pub async fn list(&self) -> Result<PodDevices, PodResourcesError> {
        let answer = self.list_since(Instant::now()).await;
        if let Err(error) = &answer {
            let socket = self.socket.display();
            let failure = format!(
                "POD_RESOURCES_SOCKET=\"{socket}\": cannot list the devices of pods; devices pending removal that a deleted pod held stay until the kubelet admits another pod with devices"
            );
            self.failures.log(error, &failure);
        }
        answer
    }

    /// Calls List, or returns the answer of a call that was sent at most 1 s ago.
    ///
    /// # Errors
    /// Returns the same errors as [`PodResources::list`].
    pub async fn list_recent(&self) -> Result<PodDevices, PodResourcesError> {
        self.list_since(recently()).await
    }

    /// Calls GetAllocatableResources. Callers that wait at the same time share an answer.
    ///
    /// # Errors
    /// Returns the same errors as [`PodResources::list`].
    pub async fn allocatable(&self) -> Result<AllocatableDevices, PodResourcesError> {
        self.allocatable_since(Instant::now()).await
    }

    /// Calls GetAllocatableResources, or returns the answer of a call that was sent at most 1 s ago.
    ///
    /// # Errors
    /// Returns the same errors as [`PodResources::list`].
    pub async fn allocatable_recent(&self) -> Result<AllocatableDevices, PodResourcesError> {
        self.allocatable_since(recently()).await
    }

    async fn list_since(&self, since: Instant) -> Result<PodDevices, PodResourcesError> {
        let call = async |mut client: Client| client.list(ListPodResourcesRequest {}).await;
        self.ask(&self.list, since, call).await
    }

    async fn allocatable_since(
        &self,
        since: Instant,
    ) -> Result<AllocatableDevices, PodResourcesError> {
        let request = AllocatableResourcesRequest {};
        let call = async |mut client: Client| client.get_allocatable_resources(request).await;
        self.ask(&self.allocatable, since, call).await
    }

    /// Returns the answer of the last call if it was sent at `since` or later; otherwise calls the API.
    async fn ask<R, T: Clone + From<R>>(
        &self,
        calls: &Mutex<Calls<T>>,
        since: Instant,
        call: impl AsyncFnOnce(Client) -> Result<Response<R>, Status>,
    ) -> Result<T, PodResourcesError> {
        let asking = async {
            let mut calls = calls.lock().await;
            if let Some(answer) = &calls.last
                && answer.requested_at >= since
            {
                return answer.result.clone();
            }
            if let Some(next_at) = calls.next_at {
                sleep_until(next_at.into()).await;
            }
            let requested_at = Instant::now();
            // Holds if the caller stops waiting for the answer.
            calls.next_at = Some(requested_at + CALL_INTERVAL);
            // Boxed because each plugin's tasks contain this future, and need its memory only during a call.
            let result = Box::pin(self.call(call)).await.map(T::from);
            let ended_at = Instant::now();
            let pause = PAUSE_PER_CALL * (ended_at - requested_at);
            calls.next_at = Some(ended_at + pause.clamp(CALL_INTERVAL, PAUSE_MAX));
            calls.last = Some(Answer {
                requested_at,
                result: result.clone(),
            });
            result
        };
        let late = |_| Err(PodResourcesError("no answer within 5 s".to_owned()));
        timeout(CALL_TIMEOUT, asking).await.unwrap_or_else(late)
    }

    async fn call<R>(
        &self,
        call: impl AsyncFnOnce(Client) -> Result<Response<R>, Status>,
    ) -> Result<R, PodResourcesError> {
        let failed = |error: &dyn Display| PodResourcesError(sanitize(&error.to_string()));
        let stream = UnixStream::connect(&self.socket).await;
        let channel = channel_over(stream.map_err(|error| failed(&error))?).await;
        let channel = channel.map_err(|error| failed(&error))?;
        let client = PodResourcesListerClient::new(channel);
        let answer = call(client.max_decoding_message_size(RESPONSE_SIZE_MAX)).await;
        let failure =
            |status: Status| failed(&format!("{:?}: {}", status.code(), status.message()));
        answer.map(Response::into_inner).map_err(failure)
    }
}

type Client = PodResourcesListerClient<Channel>;

fn recently() -> Instant {
    let now = Instant::now();
    now.checked_sub(RECENT).unwrap_or(now)
}

impl From<ListPodResourcesResponse> for PodDevices {
    fn from(response: ListPodResourcesResponse) -> Self {
        let mut by_resource = BTreeMap::<String, BTreeMap<String, Vec<PodContainer>>>::new();
        for pod in response.pod_resources {
            let text = |text: &str| Arc::<str>::from(sanitize(text));
            let (namespace, name) = (text(&pod.namespace), text(&pod.name));
            for container in pod.containers {
                let holder = PodContainer {
                    namespace: Arc::clone(&namespace),
                    pod: Arc::clone(&name),
                    container: text(&container.name),
                };
                for devices in container.devices {
                    let held = by_resource.entry(devices.resource_name).or_default();
                    for id in devices.device_ids {
                        let holders = held.entry(id).or_default();
                        // A container's device with several NUMA nodes is listed once per node.
                        if holders.last() != Some(&holder) {
                            holders.push(holder.clone());
                        }
                    }
                }
            }
        }
        Self {
            by_resource: Arc::new(by_resource),
        }
    }
}

impl From<AllocatableResourcesResponse> for AllocatableDevices {
    fn from(response: AllocatableResourcesResponse) -> Self {
        let mut by_resource = BTreeMap::<String, Vec<String>>::new();
        for devices in response.devices {
            if !devices.device_ids.is_empty() {
                let ids = by_resource.entry(devices.resource_name).or_default();
                ids.extend(devices.device_ids);
            }
        }
        Self {
            by_resource: Arc::new(by_resource),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::podresources::{ContainerDevices, ContainerResources, PodResources as Pod};
    use crate::model::device::Device;

    fn devices(resource: &str, ids: &[&str]) -> ContainerDevices {
        ContainerDevices {
            resource_name: resource.to_owned(),
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    #[tokio::test]
    async fn a_missing_socket_is_an_error() {
        let api = PodResources::new("/no/such/kubelet.sock".into());
        let error = api.list().await.unwrap_err();
        assert!(error.to_string().starts_with("No such file"), "{error}");
        assert!(api.allocatable().await.is_err());
    }

    #[test]
    fn returns_the_containers_that_hold_a_device() {
        let container = |name: &str, devices| ContainerResources {
            name: name.to_owned(),
            devices,
        };
        // Device x has two NUMA nodes, and the sidecar shares it.
        let both_nodes = vec![devices("a/b", &["x"]), devices("a/b", &["x", "y"])];
        let containers = vec![
            container("main", both_nodes),
            container("sidecar", vec![devices("a/b", &["x"])]),
        ];
        let held = PodDevices::from(ListPodResourcesResponse {
            pod_resources: vec![Pod {
                name: "p".to_owned(),
                namespace: "n".to_owned(),
                containers,
            }],
        });
        let holders = |id: &str| -> Vec<String> {
            let holders = held.holders("a/b", id).iter();
            holders
                .map(|by| format!("{}/{}/{}", by.namespace, by.pod, by.container))
                .collect()
        };
        assert_eq!(holders("x"), ["n/p/main", "n/p/sidecar"]);
        assert_eq!(holders("y"), ["n/p/main"]);
        assert_eq!(holders("z"), Vec::<String>::new());
        assert_eq!(held.device_ids("a/b").collect::<Vec<_>>(), ["x", "y"]);
        assert!(held.holds("a/b", "x") && !held.holds("a/c", "x"));
    }

    #[test]
    fn compares_the_allocatable_devices_with_those_of_the_plugin() {
        let listed = AllocatableDevices::from(AllocatableResourcesResponse {
            devices: vec![
                devices("a/b", &["x"]),
                devices("a/b", &["y"]),
                devices("a/c", &[]),
            ],
        });
        let own = |ids: &[&str]| {
            let own = ids.iter().map(|id| Device::new(*id, 0, [].into()));
            Devices::from_list(own.collect())
        };
        let status = |resource: &str, ids: &[&str]| listed.listing_status(resource, &own(ids));
        assert_eq!(status("a/b", &["x", "y"]), ListingStatus::Listed);
        assert_eq!(status("a/b", &["x"]), ListingStatus::OtherDevices("y"));
        assert_eq!(status("a/c", &["x"]), ListingStatus::Lacking);
        assert_eq!(status("a/d", &["x"]), ListingStatus::Lacking);
        assert_eq!(status("a/d", &[]), ListingStatus::NoneHealthy);
    }
}
