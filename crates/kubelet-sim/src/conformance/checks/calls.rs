//! Allocate and PreStartContainer, and calls that a plugin need not implement.

use std::time::Instant;

use futures_util::future::join_all;
use simple_device_plugin::api::PreferenceRequest;
use simple_device_plugin::api::v1beta1::ContainerAllocateResponse;
use simple_device_plugin::util::sanitize::sanitize;

use super::{Check, Level, Outcome, Verdict, each_by_calls};
use crate::conformance::context::{Context, Resource};

/// The number of devices for which the contents of Allocate's response are evaluated, one call for each.
const RESPONSES_JUDGED: usize = 16;
/// The number of concurrent calls.
const CONCURRENT: usize = 8;
/// An ID that no plugin lists.
const UNKNOWN_ID: &str = "conformance-suite-unknown-device";

const MANAGER: &str = "manager.go";
const RUNTIME: &str = "ContainerAllocateResponse in api.proto; the container runtime";

pub(super) const CHECKS: [Check; 13] = [
    Check {
        id: "allocate-one",
        level: Level::Must,
        statement: "allocates one device",
        rule: "An error ends the pod as UnexpectedAdmissionError. While Allocate runs, the kubelet admits no other \
               pod of the node.",
        source: MANAGER,
        advice: "Answer Allocate for every healthy device within milliseconds.",
        run: |context| Box::pin(each_by_calls(context, one)),
    },
    Check {
        id: "allocate-all",
        level: Level::Must,
        statement: "allocates all healthy devices to one container, in any order",
        rule: "A container can request every device. The kubelet sends the IDs in random order.",
        source: MANAGER,
        advice: "Accept any combination of healthy devices, in any order.",
        run: |context| Box::pin(each_by_calls(context, all)),
    },
    Check {
        id: "allocate-again",
        level: Level::Must,
        statement: "allocates a device again that was allocated before",
        rule: "The kubelet does not report the end of a pod to the plugin. An app container gets the devices of its init container.",
        source: MANAGER,
        advice: "Keep no record of allocated devices; the kubelet has it.",
        run: |context| Box::pin(each_by_calls(context, again)),
    },
    Check {
        id: "allocate-concurrent",
        level: Level::Should,
        statement: "answers concurrent calls of Allocate",
        rule: "The API does not promise that calls come one after the other.",
        source: "api.proto",
        advice: "Guard shared state with a lock that is held only briefly.",
        run: |context| Box::pin(each_by_calls(context, concurrent)),
    },
    Check {
        id: "container-response",
        level: Level::Must,
        statement: "returns a response for the container of the request",
        rule: "The kubelet sends one container for each call. Without a response the pod ends as \
               UnexpectedAdmissionError.",
        source: MANAGER,
        advice: "Append a ContainerAllocateResponse for each of container_requests, even an empty one.",
        run: |context| Box::pin(each_by_calls(context, container_response)),
    },
    Check {
        id: "response-per-container",
        level: Level::Should,
        statement: "returns one response for each container if a request has two",
        rule: "The API allows several containers in a request, though the kubelet sends one.",
        source: "AllocateRequest in api.proto",
        advice: "Loop over container_requests instead of reading the first one.",
        run: |context| Box::pin(each_by_calls(context, per_container)),
    },
    Check {
        id: "response-paths",
        level: Level::Must,
        statement: "returns absolute paths of device nodes and mounts",
        rule: "The container runtime refuses a relative path: the container is not created.",
        source: RUNTIME,
        advice: "Start host_path and container_path with a slash.",
        run: |context| {
            Box::pin(each_by_calls(context, async |r, ids| {
                responses(r, ids, paths).await
            }))
        },
    },
    Check {
        id: "response-permissions",
        level: Level::Must,
        statement: "returns device permissions of r, w and m, and not empty",
        rule: "With empty or other permissions the container does not start (StartError).",
        source: RUNTIME,
        advice: "Set DeviceSpec.permissions, for example to rw.",
        run: |context| {
            Box::pin(each_by_calls(context, async |r, ids| {
                responses(r, ids, permissions).await
            }))
        },
    },
    Check {
        id: "response-cdi-names",
        level: Level::Must,
        statement: "returns CDI names in the form vendor/class=name",
        rule: "The container runtime cannot resolve another name: CreateContainerError.",
        source: "CDIDevice in api.proto; the CDI specification",
        advice: "Return fully qualified names, for example example.com/gpu=gpu0.",
        run: |context| {
            Box::pin(each_by_calls(context, async |r, ids| {
                responses(r, ids, cdi_names).await
            }))
        },
    },
    Check {
        id: "response-env-names",
        level: Level::Should,
        statement: "returns environment variables whose names a shell can read",
        rule: "No POSIX shell can read a variable whose name has other characters than letters, digits and '_'.",
        source: "POSIX.1, 8.1",
        advice: "Replace '.', '-' and '/' in the names, for example by '_'.",
        run: |context| {
            Box::pin(each_by_calls(context, async |r, ids| {
                responses(r, ids, env_names).await
            }))
        },
    },
    Check {
        id: "unknown-id-refused",
        level: Level::Should,
        statement: "returns an error for a device that it does not list",
        rule: "A container whose device is gone would start without it, and fail later.",
        source: "AllocateRequest in api.proto",
        advice: "Return INVALID_ARGUMENT or NOT_FOUND for an ID that is not in the list.",
        run: |context| Box::pin(each_by_calls(context, unknown_id)),
    },
    Check {
        id: "pre-start-container",
        level: Level::Must,
        statement: "answers PreStartContainer within 30 s, if it requires the call",
        rule: "The kubelet waits for 30 s. An error is CreateContainerConfigError.",
        source: "plugin/v1beta1/client.go",
        advice: "Set pre_start_required only if PreStartContainer is implemented, and answer in time.",
        run: |context| Box::pin(pre_start(context)),
    },
    Check {
        id: "survives-unused-calls",
        level: Level::Must,
        statement: "survives GetPreferredAllocation and PreStartContainer, even if it does not announce them",
        rule: "Any answer is fine, an error too. If the process ends, the kubelet loses the resource.",
        source: "api.proto",
        advice: "Return UNIMPLEMENTED or an empty response; do not panic.",
        run: |context| Box::pin(unused_calls(context)),
    },
];

fn evaluated(result: Result<Vec<ContainerAllocateResponse>, String>) -> Verdict {
    Verdict::from_error(result.err())
}

async fn one(resource: &Resource, ids: &[String]) -> Verdict {
    let started = Instant::now();
    match resource.client.allocate(vec![vec![ids[0].clone()]]).await {
        Ok(_) => Verdict::Pass(format!(
            "answered after {} ms",
            started.elapsed().as_millis()
        )),
        Err(error) => Verdict::Fail(error),
    }
}

async fn all(resource: &Resource, ids: &[String]) -> Verdict {
    let mut ids = ids.to_vec();
    fastrand::shuffle(&mut ids);
    evaluated(resource.client.allocate(vec![ids]).await)
}

async fn again(resource: &Resource, ids: &[String]) -> Verdict {
    let request = || vec![vec![ids[0].clone()]];
    if let Err(error) = resource.client.allocate(request()).await {
        return Verdict::Skip(format!("the first call failed: {error}"));
    }
    evaluated(resource.client.allocate(request()).await)
}

async fn concurrent(resource: &Resource, ids: &[String]) -> Verdict {
    let last = ids[ids.len() - 1].clone();
    if let Err(error) = resource.client.allocate(vec![vec![last]]).await {
        return Verdict::Skip(format!("a single call failed: {error}"));
    }
    let calls = ids.iter().cycle().take(CONCURRENT);
    let calls = calls.map(|id| resource.client.allocate(vec![vec![id.clone()]]));
    let results = join_all(calls).await;
    Verdict::from_error(results.into_iter().find_map(Result::err))
}

async fn container_response(resource: &Resource, ids: &[String]) -> Verdict {
    match resource.client.allocate(vec![vec![ids[0].clone()]]).await {
        Ok(responses) if responses.is_empty() => {
            Verdict::Fail("the response has no container".to_owned())
        }
        Ok(_) => Verdict::pass(),
        Err(error) => Verdict::Skip(error),
    }
}

async fn per_container(resource: &Resource, ids: &[String]) -> Verdict {
    let (first, last) = (ids[0].clone(), ids[ids.len() - 1].clone());
    if let Err(error) = resource.client.allocate(vec![vec![first.clone()]]).await {
        return Verdict::Skip(format!("a single call failed: {error}"));
    }
    match resource
        .client
        .allocate(vec![vec![first], vec![last]])
        .await
    {
        Ok(responses) if responses.len() != 2 => {
            Verdict::Fail(format!("the number of responses is {}", responses.len()))
        }
        Ok(_) => Verdict::pass(),
        Err(error) => Verdict::Fail(error),
    }
}

/// Evaluates the contents of the responses for some devices: `find` returns what is wrong with one.
async fn responses(
    resource: &Resource,
    ids: &[String],
    find: fn(&ContainerAllocateResponse) -> Option<String>,
) -> Verdict {
    for id in ids.iter().take(RESPONSES_JUDGED) {
        match resource.client.allocate(vec![vec![id.clone()]]).await {
            Err(error) => return Verdict::Skip(error),
            Ok(responses) => {
                if let Some(wrong) = responses.iter().find_map(find) {
                    return Verdict::Fail(format!("for {}: {wrong}", sanitize(id)));
                }
            }
        }
    }
    Verdict::pass()
}

fn paths(response: &ContainerAllocateResponse) -> Option<String> {
    let devices = response.devices.iter();
    let devices = devices.flat_map(|device| [&device.host_path, &device.container_path]);
    let mounts = response.mounts.iter();
    let mounts = mounts.flat_map(|mount| [&mount.host_path, &mount.container_path]);
    let relative = devices.chain(mounts).find(|path| !path.starts_with('/'))?;
    Some(format!(
        "the path \"{}\" is not absolute",
        sanitize(relative)
    ))
}

fn permissions(response: &ContainerAllocateResponse) -> Option<String> {
    let is_valid = |text: &str| {
        let mut rest: Vec<char> = text.chars().collect();
        rest.sort_unstable();
        rest.dedup();
        !text.is_empty() && rest.len() == text.len() && text.chars().all(|c| "rwm".contains(c))
    };
    let mut devices = response.devices.iter();
    let wrong = devices.find(|device| !is_valid(&device.permissions))?;
    let (path, text) = (sanitize(&wrong.host_path), sanitize(&wrong.permissions));
    Some(format!("the permissions of {path} are \"{text}\""))
}

fn cdi_names(response: &ContainerAllocateResponse) -> Option<String> {
    let mut names = response.cdi_devices.iter().map(|device| &device.name);
    let wrong = names.find(|name| !is_cdi_name(name))?;
    Some(format!("the CDI name is \"{}\"", sanitize(wrong)))
}

/// Returns whether a name is a qualified CDI device name (`ParseQualifiedName` of the CDI library).
fn is_cdi_name(name: &str) -> bool {
    let Some((kind, device)) = name.split_once('=') else {
        return false;
    };
    let Some((vendor, class)) = kind.split_once('/') else {
        return false;
    };
    let is_word = |word: &str, first: fn(&char) -> bool, others: &str| {
        let ends = [word.chars().next(), word.chars().next_back()];
        let is_inner = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
        ends[0].is_some_and(|c| first(&c))
            && ends[1].is_some_and(|c| c.is_ascii_alphanumeric())
            && word.chars().all(is_inner)
    };
    is_word(vendor, char::is_ascii_alphabetic, "_-.")
        && is_word(class, char::is_ascii_alphabetic, "_-.")
        && is_word(device, char::is_ascii_alphanumeric, "_-.:")
}

fn env_names(response: &ContainerAllocateResponse) -> Option<String> {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let mut names: Vec<&String> = response.envs.keys().collect();
    names.sort();
    let wrong = names.into_iter().find(|name| !is_name(name))?;
    Some(format!("the variable is \"{}\"", sanitize(wrong)))
}

async fn unknown_id(resource: &Resource, _: &[String]) -> Verdict {
    let answer = resource
        .client
        .allocate(vec![vec![UNKNOWN_ID.to_owned()]])
        .await;
    match answer {
        Ok(_) => Verdict::Fail(format!("Allocate of the unknown {UNKNOWN_ID} succeeded")),
        // The answer of a plugin begins with other words.
        Err(error) if error.starts_with("Allocate did not answer") => Verdict::Fail(error),
        Err(_) => match resource.client.options().await {
            Ok(()) => Verdict::pass(),
            Err(error) => Verdict::Fail(format!("the plugin did not survive the call: {error}")),
        },
    }
}

async fn pre_start(context: &mut Context) -> Outcome {
    let limit = context.settings.pre_start_timeout;
    each_by_calls(context, async |resource, ids| {
        if !resource.options.pre_start_required {
            return Verdict::Skip("the plugin does not require it".to_owned());
        }
        let started = Instant::now();
        match resource.client.pre_start(vec![ids[0].clone()], limit).await {
            Ok(()) => Verdict::Pass(format!(
                "answered after {} ms",
                started.elapsed().as_millis()
            )),
            Err(error) => Verdict::Fail(error),
        }
    })
    .await
}

async fn unused_calls(context: &mut Context) -> Outcome {
    let limit = context.settings.call_timeout;
    each_by_calls(context, async |resource, ids| {
        let request = PreferenceRequest {
            available: ids.to_vec(),
            must_include: Vec::new(),
            size: 1,
        };
        // Only what follows matters.
        let _ = resource.client.preferred(request).await;
        let _ = resource.client.pre_start(vec![ids[0].clone()], limit).await;
        Verdict::from_error(resource.client.options().await.err())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::is_cdi_name;

    #[test]
    fn cdi_names_are_qualified() {
        for name in ["example.com/gpu=0", "v/c_d=a:b", "v/c.d=x-1"] {
            assert!(is_cdi_name(name), "{name}");
        }
        for name in [
            "gpu0",
            "example.com/gpu",
            "=0",
            "1v/c=x",
            "v/c=",
            "v/c=-",
            "v/=x",
            "v/c=a=b",
        ] {
            assert!(!is_cdi_name(name), "{name}");
        }
    }
}
