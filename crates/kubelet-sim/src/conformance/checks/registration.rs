//! What a plugin sends to Register, and how it answers the kubelet meanwhile.

use std::time::Duration;

use simple_device_plugin::api::VERSION;
use simple_device_plugin::model::resource_name::ResourceName;
use simple_device_plugin::model::socket_name::KUBELET_SOCKET;
use simple_device_plugin::util::sanitize::sanitize;
use tokio::time::Instant;

use super::{Check, Level, Outcome, Verdict, plugin};
use crate::conformance::context::{Context, Skip};
use crate::conformance::kubelet::{Answer, Log, Registration};

pub(super) const CHECKS: [Check; 10] = [
    Check {
        id: "registers-early-kubelet",
        level: Level::Must,
        statement: "registers when the kubelet runs before the plugin starts",
        rule: "The kubelet never looks for plugins; it knows only those that call Register.",
        source: "plugin/v1beta1/server.go",
        advice: "Call Register on kubelet.sock at the start, after the plugin's own socket is served.",
        run: |context| Box::pin(registers_early(context)),
    },
    Check {
        id: "registration-version",
        level: Level::Must,
        statement: "registers with the version v1beta1",
        rule: "The kubelet refuses any other version.",
        source: "plugin/v1beta1/server.go",
        advice: "Set RegisterRequest.version to v1beta1.",
        run: |context| Box::pin(each_call(context, version)),
    },
    Check {
        id: "registration-endpoint",
        level: Level::Should,
        statement: "registers the file name of its socket in the directory",
        rule: "The kubelet joins its directory and the endpoint. The API defines the endpoint as a name, not a path.",
        source: "RegisterRequest in api.proto; plugin/v1beta1/server.go",
        advice: "Set RegisterRequest.endpoint to a file name, such as gpu.sock, without a directory.",
        run: |context| Box::pin(each_call(context, endpoint)),
    },
    Check {
        id: "registration-resource-name",
        level: Level::Must,
        statement: "registers a valid extended resource name",
        rule: "The kubelet refuses a name that is no extended resource name.",
        source: "plugin/v1beta1/server.go; IsExtendedResourceName in pkg/apis/core/v1/helper",
        advice: "Use a name such as example.com/gpu.",
        run: |context| Box::pin(each_call(context, resource_name)),
    },
    Check {
        id: "answers-during-registration",
        level: Level::Must,
        statement: "answers the kubelet while its call of Register is in progress",
        rule: "Inside Register, the kubelet dials the plugin's socket for 10 s and calls \
               GetDevicePluginOptions. If either fails, Register fails.",
        source: "plugin/v1beta1/handler.go, client.go",
        advice: "Serve the socket from another thread before calling Register.",
        run: |context| Box::pin(each_call(context, answers)),
    },
    Check {
        id: "socket-ready-to-register",
        level: Level::Should,
        statement: "serves its socket before it calls Register",
        rule: "If the first attempt to dial fails, grpc-go waits for a second before the next one.",
        source: "plugin/v1beta1/client.go",
        advice: "Call Register only after the socket accepts connections.",
        run: |context| Box::pin(each_call(context, socket_ready)),
    },
    Check {
        id: "registration-options",
        level: Level::Should,
        statement: "registers with the options that GetDevicePluginOptions returns",
        rule: "The kubelet uses the options of the call and ignores those of the request.",
        source: "plugin/v1beta1/handler.go",
        advice: "Set RegisterRequest.options to the answer of GetDevicePluginOptions.",
        run: |context| Box::pin(each_call(context, options)),
    },
    Check {
        id: "first-list",
        level: Level::Must,
        statement: "sends its first list soon after the kubelet opened ListAndWatch",
        rule: "The Node has no devices of the resource before the first list.",
        source: "plugin/v1beta1/client.go; node tests: 30 s",
        advice: "Send the complete list as the first message of ListAndWatch, before waiting for changes.",
        run: |context| Box::pin(each_call(context, first_list)),
    },
    Check {
        id: "stays-registered",
        level: Level::Must,
        statement: "keeps ListAndWatch open",
        rule: "When the stream ends, all devices are unhealthy, and the kubelet never opens it again.",
        source: "plugin/v1beta1/client.go, handler.go",
        advice: "Return from ListAndWatch only when the kubelet has closed the connection, and do not exit.",
        run: |context| Box::pin(stays_registered(context)),
    },
    Check {
        id: "registers-late-kubelet",
        level: Level::Must,
        statement: "registers when the kubelet starts after the plugin",
        rule: "During an upgrade of the node, kubelet.sock can be missing for minutes.",
        source: "plugin/v1beta1/server.go",
        advice: "Wait until kubelet.sock is created, and try again; do not exit.",
        run: |context| Box::pin(registers_late(context)),
    },
];

/// Starts the kubelet and then the plugin, and returns the calls of Register. They need not be valid.
async fn early(context: &mut Context) -> Result<Vec<Registration>, Skip> {
    context.once(|seen| &mut seen.early, observe_early).await
}

async fn observe_early(context: &mut Context) -> Result<Vec<Registration>, Skip> {
    context.start_kubelet(Answer::Accept).await?;
    if context.command().is_ok() {
        context.start_plugin()?;
    }
    let limit = context.settings.registration;
    let called = context.wait_for_log(limit, |log| log.registrations().next().is_some());
    if !called.await {
        context.give_up();
        return Err(Skip(context.missing()));
    }
    context.wait_until_settled().await;
    // The reason is in the log: a plugin that sends no list fails a check of its own.
    if context.known_resources().is_empty() {
        context.give_up();
    }
    Ok(context
        .kubelet
        .log(|log| log.newest().into_values().cloned().collect()))
}

/// Returns all calls of Register some time after the first lists. The plugin ran meanwhile and was left alone.
pub(super) async fn watched(context: &mut Context) -> Result<Vec<Registration>, Skip> {
    context
        .once(|seen| &mut seen.watched, observe_watched)
        .await
}

async fn observe_watched(context: &mut Context) -> Result<Vec<Registration>, Skip> {
    let calls = |log: &Log| log.registrations().cloned().collect::<Vec<_>>();
    let first_list = |log: &Log| log.registrations().filter_map(|r| r.lists.first_at).max();
    let first = context.kubelet.log(first_list);
    let end = first.unwrap_or_else(Instant::now) + context.settings.watch;
    // How a plugin exited is seen later.
    let _ = context
        .runs_for(end.saturating_duration_since(Instant::now()))
        .await;
    Ok(context.kubelet.log(calls))
}

async fn stays_registered(context: &mut Context) -> Outcome {
    let newest = early(context).await?;
    let calls = watched(context).await?;
    let exited = context.exited();
    let verdict = |resource: &str| {
        if let Some(status) = exited {
            return Verdict::Fail(format!("the plugin exited: {status}"));
        }
        let mut calls = calls.iter().filter(|call| call.resource() == resource);
        let has_list = calls.clone().any(|call| call.lists.first_at.is_some());
        let ended = calls.find_map(|call| call.lists.first_at.and(call.ended_by_plugin()));
        match ended {
            Some(ended) => Verdict::Fail(format!("ListAndWatch ended: {ended}")),
            None if has_list => Verdict::pass(),
            None => Verdict::Skip("the plugin sent no list".to_owned()),
        }
    };
    let names = newest.iter().map(Registration::resource);
    Ok(names
        .map(|name| (Some(sanitize(name)), verdict(name)))
        .collect())
}

async fn registers_early(context: &mut Context) -> Outcome {
    Ok(plugin(match early(context).await {
        Ok(registrations) => {
            let names = registrations.iter().map(|r| sanitize(r.resource()));
            Verdict::Pass(names.collect::<Vec<_>>().join(", "))
        }
        Err(Skip(why)) => Verdict::Fail(why),
    }))
}

async fn registers_late(context: &mut Context) -> Outcome {
    // The resources must be known, to see when all are registered.
    early(context).await?;
    context.clear().await?;
    context.start_plugin()?;
    let away = context.settings.kubelet_away;
    if let Err(status) = context.runs_for(away).await {
        let seen = format!("the plugin exited without a kubelet: {status}");
        return Ok(plugin(Verdict::Fail(seen)));
    }
    context.start_kubelet(Answer::Accept).await?;
    Ok(plugin(match context.wait_until_up().await {
        Ok(took) => Verdict::Pass(after(took)),
        Err(why) => Verdict::Fail(why),
    }))
}

/// Describes how long a registration took.
pub(super) fn after(took: Duration) -> String {
    format!("registered after {} ms", took.as_millis())
}

/// Evaluates the newest call of Register for each resource.
async fn each_call(context: &mut Context, evaluate: fn(&Registration) -> Verdict) -> Outcome {
    let registrations = early(context).await?;
    let verdict = |r: &Registration| (Some(sanitize(r.resource())), evaluate(r));
    Ok(registrations.iter().map(verdict).collect())
}

fn version(registration: &Registration) -> Verdict {
    let version = &registration.request.version;
    Verdict::from_error(
        (version != VERSION).then(|| format!("the version is \"{}\"", sanitize(version))),
    )
}

fn endpoint(registration: &Registration) -> Verdict {
    let endpoint = &registration.request.endpoint;
    let is_file_name = !endpoint.is_empty() && !endpoint.contains('/') && endpoint.len() <= 255;
    let is_valid = is_file_name && ![".", "..", KUBELET_SOCKET].contains(&&**endpoint);
    let text = format!("the endpoint is \"{}\"", sanitize(endpoint));
    if is_valid {
        Verdict::Pass(text)
    } else {
        Verdict::Fail(text)
    }
}

fn resource_name(registration: &Registration) -> Verdict {
    let parsed = ResourceName::parse(registration.resource());
    Verdict::from_error(parsed.err().map(|expected| format!("expected {expected}")))
}

fn answers(registration: &Registration) -> Verdict {
    if !registration.called_back {
        return Verdict::Skip("the kubelet refuses the request".to_owned());
    }
    match &registration.answer {
        Some(Ok(())) => Verdict::pass(),
        Some(Err(error)) => Verdict::Fail(error.clone()),
        None => Verdict::Fail("the call of Register did not end".to_owned()),
    }
}

fn socket_ready(registration: &Registration) -> Verdict {
    match (&registration.answer, &registration.first_dial_error) {
        (Some(Ok(())), None) => Verdict::pass(),
        (Some(Ok(())), Some(error)) => Verdict::Fail(format!(
            "the first attempt to dial the socket failed: {error}"
        )),
        _ => Verdict::Skip("the registration failed".to_owned()),
    }
}

fn options(registration: &Registration) -> Verdict {
    let Some(answered) = registration.options else {
        return Verdict::Skip("the registration failed".to_owned());
    };
    let requested = registration.request.options.unwrap_or_default();
    Verdict::from_error((requested != answered).then(|| {
        format!(
            "the request has pre_start_required={} and get_preferred_allocation_available={}, \
             the answer has {} and {}",
            requested.pre_start_required,
            requested.get_preferred_allocation_available,
            answered.pre_start_required,
            answered.get_preferred_allocation_available
        )
    }))
}

fn first_list(registration: &Registration) -> Verdict {
    if !matches!(registration.answer, Some(Ok(()))) {
        return Verdict::Skip("the registration failed".to_owned());
    }
    match (registration.lists.first_at, &registration.ended) {
        (Some(first), _) => {
            let took = first.saturating_duration_since(registration.at).as_millis();
            Verdict::Pass(format!("{took} ms after Register was called"))
        }
        (None, Some(ended)) => Verdict::Fail(format!("ListAndWatch ended without a list: {ended}")),
        (None, None) => Verdict::Fail("no list was sent".to_owned()),
    }
}
