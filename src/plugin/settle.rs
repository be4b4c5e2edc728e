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

/// Which previous plugin the kubelet may still be disconnecting, and so how long to settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    /// The kubelet is not disconnecting a previous plugin.
    No,
    /// The plugin of another process, if the kubelet's checkpoint lists the resource.
    IfListed,
    /// The plugin of another process.
    AfterProcess,
    /// The last run of this plugin, of which the kubelet had healthy devices.
    AfterRun,
    /// Any. Nothing shows when the kubelet has disconnected it.
    WholeTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HowLong {
    NotAtAll,
    /// The kubelet had healthy devices of the resource. It has disconnected their plugin when it has none.
    UntilUnlisted,
    WholeTime,
}

impl Settle {
    /// Returns how to settle after another process may have served the resource's socket too.
    pub(super) fn and_after_process(self) -> Self {
        match self {
            Self::WholeTime => Self::WholeTime,
            Self::No | Self::IfListed | Self::AfterProcess | Self::AfterRun => Self::AfterProcess,
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
        let how_long = self.how_long(settle, resource).await;
        if how_long == HowLong::NotAtAll {
            return Ok(None);
        }
        drop(permit.take());
        self.entered(Step::Settling);
        debug!(resource = %resource.name, "waiting until the kubelet has disconnected the resource's previous plugin, at most 0.5 s");
        let end = Instant::now() + SETTLE_MAX;
        let has_registered = self.has_registered();
        let unlisted = match how_long {
            HowLong::UntilUnlisted => {
                let unlisted = self.unlisted(resource, has_registered);
                timeout_at(end, unlisted).await.ok()
            }
            HowLong::NotAtAll | HowLong::WholeTime => {
                sleep_until(end).await;
                None
            }
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

    async fn how_long(&self, settle: Settle, resource: &Resource) -> HowLong {
        let is_certain = match settle {
            Settle::No => return HowLong::NotAtAll,
            Settle::AfterRun => return HowLong::UntilUnlisted,
            Settle::WholeTime => return HowLong::WholeTime,
            Settle::IfListed => false,
            Settle::AfterProcess => true,
        };
        let read = self.holders.checkpoint.read_recent(None).await;
        let registered = match &read {
            Ok(written) => written.checkpoint.registered(resource.name.as_str()),
            Err(CheckpointError::Missing) => None,
            Err(_) => return HowLong::WholeTime,
        };
        match registered {
            Some(devices) if devices.any_id.is_some() => HowLong::UntilUnlisted,
            Some(_) => HowLong::WholeTime,
            None if is_certain => HowLong::WholeTime,
            None => HowLong::NotAtAll,
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
