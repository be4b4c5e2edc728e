//! Asks the kubelet whose devices it has while another plugin has taken a resource over. When the other plugin stops,
//! the kubelet disconnects the resource by name, and gives its devices to no pod until a plugin registers it again.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;
use tracing::info;

use crate::node::checkpoint::ListingStatus;
use crate::node::holders::Holders;
use crate::plugin::PluginHandle;
use crate::plugin::record::Record;

/// The pause between two questions. All resources share the answers.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// How many answers in a row must have no device. A plugin whose devices are all Unhealthy for a moment looks the same
/// as one that has stopped.
const ANSWERS_NEEDED: u32 = 3;

/// Whose healthy devices the kubelet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    This,
    Other,
    Nobody,
}

impl From<ListingStatus<'_>> for Owner {
    fn from(status: ListingStatus) -> Self {
        match status {
            ListingStatus::Listed => Self::This,
            ListingStatus::OtherDevices(_) => Self::Other,
            ListingStatus::NoneHealthy | ListingStatus::Lacking => Self::Nobody,
        }
    }
}

/// The kubelet's answers since the takeover.
#[derive(Debug, Default)]
struct Answers {
    /// Whether the pod-resources API has listed the other plugin's devices. It lists no device with an empty topology,
    /// so an answer without devices counts only after that.
    api_has_listed_other: bool,
    /// How many answers in a row had no device.
    without_devices: u32,
}

impl Answers {
    /// Returns the API's answer, or the checkpoint's if the API's does not count.
    fn choose(&mut self, api: Option<Owner>, checkpoint: Option<Owner>) -> Option<Owner> {
        self.api_has_listed_other |= api == Some(Owner::Other);
        api.filter(|owner| *owner != Owner::Nobody || self.api_has_listed_other)
            .or(checkpoint)
    }

    /// Returns whether the other plugin has stopped, according to this answer and those before.
    fn show_stop(&mut self, owner: Owner) -> bool {
        self.without_devices = match owner {
            Owner::Nobody => self.without_devices + 1,
            Owner::This | Owner::Other => 0,
        };
        self.without_devices == ANSWERS_NEEDED
    }
}

/// Follows one resource for as long as the future is polled.
pub async fn run(handle: &PluginHandle, holders: &Holders) -> Infallible {
    let mut records = handle.records();
    loop {
        // Cannot fail: `handle` keeps the sender alive.
        let _ = records.wait_for(Record::is_taken_over).await;
        let mut answers = Answers::default();
        while records.borrow().is_taken_over() {
            sleep(ASK_INTERVAL).await;
            let (api, checkpoint) = ask(handle, holders).await;
            let Some(owner) = answers.choose(api, checkpoint) else {
                continue;
            };
            if owner == Owner::This {
                info!(resource = %handle.offer().resource().name, "the kubelet lists this plugin's devices again");
                handle.not_taken_over();
            } else if answers.show_stop(owner) {
                handle.other_plugin_stopped();
                answers = Answers::default();
            }
        }
    }
}

/// Returns what the pod-resources API and the checkpoint say, if they can be read.
async fn ask(handle: &PluginHandle, holders: &Holders) -> (Option<Owner>, Option<Owner>) {
    let listed = holders.allocatable_recent().await;
    let written = holders.checkpoint.read_recent(None).await.ok();
    let offer = handle.offer();
    let (name, devices) = (offer.resource().name.as_str(), offer.devices());
    (
        listed.map(|listed| listed.listing_status(name, devices).into()),
        written.map(|written| written.checkpoint.listing_status(name, devices).into()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use Owner::{Nobody, Other, This};

    /// Returns at which answers the other plugin has stopped.
    fn stops(owners: &[Owner]) -> Vec<usize> {
        let mut answers = Answers::default();
        let stops = (0..owners.len()).filter(|index| answers.show_stop(owners[*index]));
        stops.collect()
    }

    #[test]
    fn three_answers_in_a_row_without_devices_show_that_the_other_plugin_has_stopped() {
        assert!(stops(&[Other, Nobody, Nobody, Other, Nobody, Nobody]).is_empty());
        assert_eq!(stops(&[Nobody, Nobody, Nobody]), [2]);
        assert_eq!(stops(&[Nobody, Nobody, This, Nobody, Nobody, Nobody]), [5]);
    }

    #[test]
    fn the_checkpoint_decides_until_the_api_has_listed_the_other_plugin() {
        let mut answers = Answers::default();
        assert_eq!(answers.choose(Some(Nobody), Some(Other)), Some(Other));
        assert_eq!(answers.choose(Some(This), Some(Other)), Some(This));
        assert_eq!(answers.choose(None, Some(Nobody)), Some(Nobody));
        assert_eq!(answers.choose(None, None), None);
        assert_eq!(answers.choose(Some(Other), None), Some(Other));
        assert_eq!(answers.choose(Some(Nobody), Some(Other)), Some(Nobody));
    }
}
