//! The wait before a registration while the kubelet may still be disconnecting the resource's previous plugin.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::debug;

use crate::node::checkpoint::ListingStatus;
use crate::node::checkpoint_file::CheckpointError;
use crate::node::pod_resources::AllocatableDevices;
use crate::offer::resource::Resource;
use crate::plugin::record::{RegistrationResult, Step};
use crate::util::sanitize::sanitize;

use super::run::PluginInstance;
use super::run_end::ServedByAnother;

/// How long to settle at most. The kubelet disconnects a plugin up to 20 ms after it closed the connection, by resource
/// name, so it would disconnect a plugin that registered in between.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// The limit for one call of the pod-resources API after the plugin has settled.
const CALL_WITHIN: Duration = Duration::from_millis(100);

/// How to settle before a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    Known(SettleTime),
    /// Another process may have served the resource. The kubelet's checkpoint says whether it had healthy devices.
    AfterProcess {
        /// Whether to settle if the checkpoint does not list the resource.
        if_unlisted: bool,
    },
}

/// How long to settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SettleTime {
    /// The kubelet is not disconnecting a previous plugin.
    None,
    /// The kubelet had healthy devices of the previous plugin. It has disconnected that plugin when it has none.
    UntilUnlisted,
    /// Nothing shows when the kubelet has disconnected the previous plugin.
    Whole,
}

impl Settle {
    /// Returns how to settle after another process may have served the resource's socket too.
    pub(super) fn and_after_process(self) -> Self {
        match self {
            Self::Known(SettleTime::Whole) => self,
            _ => Self::AfterProcess { if_unlisted: true },
        }
    }
}

impl PluginInstance {
    /// Settles, without the permit, so that the registrations of other resources are not delayed. Returns when the
    /// plugin had settled, or `None` if it need not.
    pub(super) async fn settle(
        &self,
        resource: &Resource,
        settle: Settle,
        permit: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Option<Instant>, ServedByAnother> {
        let time = self.settle_time(settle, resource).await;
        if time == SettleTime::None {
            return Ok(None);
        }
        drop(permit.take());
        self.entered(Step::Settling);
        debug!(resource = %resource.name, "waiting until the kubelet has disconnected the resource's previous plugin, at most 0.5 s");
        let end = Instant::now() + SETTLE_MAX;
        let has_registered = self.has_registered();
        let unlisted = if time == SettleTime::UntilUnlisted {
            let unlisted = self.unlisted(resource, has_registered);
            timeout_at(end, unlisted).await.ok()
        } else {
            sleep_until(end).await;
            None
        };
        match unlisted {
            Some(disconnected) => disconnected?,
            None if has_registered => self.not_served_by_another(resource).await?,
            None => {}
        }
        let settled_at = Instant::now();
        *permit = self.permit().await;
        Ok(Some(settled_at))
    }

    /// Whether this process has registered the resource before. Only a first registration may take the resource over
    /// from another plugin; otherwise two daemons could take it from each other repeatedly. A failed registration does
    /// not count: after it, the kubelet may not notice that the other plugin has stopped.
    fn has_registered(&self) -> bool {
        self.handle.records().borrow().registrations[RegistrationResult::Registered] > 0
    }

    async fn settle_time(&self, settle: Settle, resource: &Resource) -> SettleTime {
        let if_unlisted = match settle {
            Settle::Known(time) => return time,
            Settle::AfterProcess { if_unlisted } => if_unlisted,
        };
        let read = self.holders.checkpoint.read_recent(None).await;
        let registered = match &read {
            Ok(written) => written.checkpoint.registered(resource.name.as_str()),
            Err(CheckpointError::Missing) => None,
            Err(_) => return SettleTime::Whole,
        };
        match registered {
            Some(devices) if devices.any_id.is_some() => SettleTime::UntilUnlisted,
            None if !if_unlisted => SettleTime::None,
            Some(_) | None => SettleTime::Whole,
        }
    }

    /// Waits until the kubelet has no healthy device of the resource. An error of the API is no answer.
    async fn unlisted(
        &self,
        resource: &Resource,
        has_registered: bool,
    ) -> Result<(), ServedByAnother> {
        let Some(api) = &self.holders.pod_resources else {
            return std::future::pending().await;
        };
        loop {
            // The client limits how often it calls the API.
            let Ok(listed) = api.allocatable().await else {
                continue;
            };
            match self.listing_status(resource, &listed) {
                ListingStatus::Lacking | ListingStatus::NoneHealthy => return Ok(()),
                ListingStatus::Listed => {}
                ListingStatus::OtherDevices(id) if has_registered => {
                    return Err(ServedByAnother(sanitize(id)));
                }
                // The previous plugin had devices that this one lacks. A pod may just be getting one, which must be in
                // the checkpoint when the plugin reads it.
                ListingStatus::OtherDevices(_) => std::future::pending().await,
            }
        }
    }

    async fn not_served_by_another(&self, resource: &Resource) -> Result<(), ServedByAnother> {
        let Some(api) = &self.holders.pod_resources else {
            return Ok(());
        };
        let Ok(Ok(listed)) = timeout(CALL_WITHIN, api.allocatable()).await else {
            return Ok(());
        };
        match self.listing_status(resource, &listed) {
            ListingStatus::OtherDevices(id) => Err(ServedByAnother(sanitize(id))),
            _ => Ok(()),
        }
    }

    fn listing_status<'a>(
        &self,
        resource: &Resource,
        listed: &'a AllocatableDevices,
    ) -> ListingStatus<'a> {
        listed.listing_status(resource.name.as_str(), self.handle.offer().devices())
    }
}
