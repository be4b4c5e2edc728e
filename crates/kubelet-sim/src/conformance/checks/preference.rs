//! GetPreferredAllocation, if the plugin announces it.

use std::collections::BTreeSet;

use simple_device_plugin::api::PreferenceRequest;
use simple_device_plugin::util::sanitize::sanitize;

use super::{Check, Level, Outcome, Verdict, each_by_calls};
use crate::conformance::context::Context;

const MANAGER: &str = "manager.go";

pub(super) const CHECKS: [Check; 4] = [
    Check {
        id: "preferred-answers",
        level: Level::Must,
        statement: "answers GetPreferredAllocation without an error, if it announces it",
        rule: "An error fails the admission of the pod.",
        source: MANAGER,
        advice: "Return any allocation_size of the available devices if there is no preference, not an error.",
        run: |context| Box::pin(each_preference(context, None)),
    },
    Check {
        id: "preferred-available",
        level: Level::Should,
        statement: "prefers only devices that are available",
        rule: "The kubelet ignores every other ID, so the preference is lost.",
        source: MANAGER,
        advice: "Choose from available_deviceIDs.",
        run: |context| Box::pin(each_preference(context, Some(available))),
    },
    Check {
        id: "preferred-required",
        level: Level::Should,
        statement: "prefers the devices that must be included",
        rule: "The kubelet takes those in any case, so the others do not fit to them.",
        source: MANAGER,
        advice: "Start with must_include_deviceIDs and add others up to allocation_size.",
        run: |context| Box::pin(each_preference(context, Some(required))),
    },
    Check {
        id: "preferred-size",
        level: Level::Should,
        statement: "prefers as many devices as requested",
        rule: "The kubelet chooses the rest at random, and ignores what is too many.",
        source: MANAGER,
        advice: "Return allocation_size different IDs.",
        run: |context| Box::pin(each_preference(context, Some(size))),
    },
];

/// Returns what is wrong with the preferred IDs.
type Evaluate = fn(&PreferenceRequest, &[String]) -> Option<String>;

/// Evaluates the answers to several requests for each resource. Without `evaluate`, only errors are failures.
async fn each_preference(context: &mut Context, evaluate: Option<Evaluate>) -> Outcome {
    each_by_calls(context, async |resource, ids| {
        if !resource.options.get_preferred_allocation_available {
            return Verdict::Skip("the plugin does not announce it".to_owned());
        }
        for request in requests(ids) {
            let (available, size) = (request.available.len(), request.size);
            let wrong = match (resource.client.preferred(request.clone()).await, evaluate) {
                (Ok(preferred), Some(evaluate)) => evaluate(&request, &preferred),
                (Ok(_), None) => None,
                (Err(error), Some(_)) => return Verdict::Skip(error),
                (Err(error), None) => Some(error),
            };
            if let Some(wrong) = wrong {
                return Verdict::Fail(format!("{size} of {available} devices: {wrong}"));
            }
        }
        Verdict::pass()
    })
    .await
}

/// Returns requests for one device, for half of them with a required one, and for all.
fn requests(ids: &[String]) -> Vec<PreferenceRequest> {
    let request = |size: usize, must_include: &[String]| {
        let mut available = ids.to_vec();
        fastrand::shuffle(&mut available);
        PreferenceRequest {
            available,
            must_include: must_include.to_vec(),
            size,
        }
    };
    let mut requests = vec![request(1, &[]), request(ids.len(), &[])];
    if let [.., second_to_last, last] = ids {
        let half = ids.len().div_ceil(2);
        requests.push(request(half, std::slice::from_ref(last)));
        let mut without = request(1, &[]);
        without.available = vec![second_to_last.clone()];
        requests.push(without);
    }
    requests
}

fn available(request: &PreferenceRequest, preferred: &[String]) -> Option<String> {
    let mut preferred = preferred.iter();
    let unknown = preferred.find(|id| !request.available.contains(id))?;
    Some(format!("{} is not available", sanitize(unknown)))
}

fn required(request: &PreferenceRequest, preferred: &[String]) -> Option<String> {
    let mut required = request.must_include.iter();
    let missing = required.find(|id| !preferred.contains(id))?;
    Some(format!("the required {} is missing", sanitize(missing)))
}

fn size(request: &PreferenceRequest, preferred: &[String]) -> Option<String> {
    let count = preferred.iter().collect::<BTreeSet<_>>().len();
    let is_right = count == request.size && preferred.len() == request.size;
    (!is_right).then(|| format!("{count} different devices are preferred"))
}
