//! The client of the kubelet's pod-resources API, which lists the devices of running pods. The API omits init
//! containers that have ended (`server_v1.go`), so a device that is not listed may still be held.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use crate::api::podresources::{ListPodResourcesRequest, ListPodResourcesResponse};
use crate::node::channel::channel_over;
use crate::util::retry::WarnOnce;
use crate::util::sanitize::sanitize;

/// The limit for the connection and the call together. A kubelet answers in a few milliseconds.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum size of a response in bytes, as in the kubelet's own clients.
const RESPONSE_SIZE_MAX: usize = 16 << 20;

/// A client for the API at one socket. Clones share the last response.
#[derive(Clone, Debug)]
pub struct PodResources {
    socket: PathBuf,
    /// The last response. The lock allows one call at a time, because the kubelet limits the whole node to 100 calls
    /// per second (`podresources/constants.go`).
    last: Arc<Mutex<Option<PodDevices>>>,
    failures: Arc<WarnOnce>,
}

/// The devices that running pods hold.
#[derive(Clone, Debug)]
pub struct PodDevices {
    /// The time before the call was sent.
    requested_at: Instant,
    by_resource: Arc<BTreeMap<String, BTreeSet<String>>>,
}

/// A failed call, as text that is safe to log.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct PodResourcesError(String);

impl PodDevices {
    /// Returns whether a pod holds the device.
    pub fn holds(&self, resource: &str, id: &str) -> bool {
        let devices = self.by_resource.get(resource);
        devices.is_some_and(|devices| devices.contains(id))
    }

    /// Returns the IDs of the devices of `resource` that pods hold.
    pub fn device_ids(&self, resource: &str) -> impl Iterator<Item = &str> {
        let devices = self.by_resource.get(resource).into_iter().flatten();
        devices.map(String::as_str)
    }
}

impl PodResources {
    /// Creates a client. The socket need not exist.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            last: Arc::default(),
            failures: Arc::default(),
        }
    }

    /// Calls List. A caller that waited for another call shares its response if that call was sent after the wait
    /// began. The first failure is logged as a warning, later ones at debug level.
    ///
    /// # Errors
    /// Returns an error if the API cannot be reached or does not answer within 5 s.
    pub async fn list(&self) -> Result<PodDevices, PodResourcesError> {
        let began = Instant::now();
        let listing = async {
            let mut last = self.last.lock().await;
            if let Some(answer) = last.as_ref().filter(|answer| answer.requested_at >= began) {
                return Ok(answer.clone());
            }
            let answer = self.request().await?;
            *last = Some(answer.clone());
            Ok(answer)
        };
        let late = |_| Err(PodResourcesError("no answer within 5 s".to_owned()));
        let answer = timeout(LIST_TIMEOUT, listing).await.unwrap_or_else(late);
        if let Err(error) = &answer {
            let socket = self.socket.display();
            let failure = format!(
                "POD_RESOURCES_SOCKET=\"{socket}\": cannot list the devices of pods; devices pending removal that a deleted pod held stay until the kubelet admits another pod with devices"
            );
            self.failures.log(error, &failure);
        }
        answer
    }

    async fn request(&self) -> Result<PodDevices, PodResourcesError> {
        let failed =
            |error: &dyn std::fmt::Display| PodResourcesError(sanitize(&error.to_string()));
        let requested_at = Instant::now();
        let stream = UnixStream::connect(&self.socket).await;
        let channel = channel_over(stream.map_err(|error| failed(&error))?).await;
        let channel = channel.map_err(|error| failed(&error))?;
        let mut client =
            PodResourcesListerClient::new(channel).max_decoding_message_size(RESPONSE_SIZE_MAX);
        let response = client.list(ListPodResourcesRequest {}).await;
        let response = response
            .map_err(|status| failed(&format!("{:?}: {}", status.code(), status.message())))?;
        Ok(PodDevices {
            requested_at,
            by_resource: Arc::new(by_resource(response.into_inner())),
        })
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

    #[tokio::test]
    async fn a_missing_socket_is_an_error() {
        let api = PodResources::new("/no/such/kubelet.sock".into());
        let error = api.list().await.unwrap_err();
        assert!(error.to_string().starts_with("No such file"), "{error}");
    }
}
