//! The plugin's sockets and signals.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use simple_device_plugin::net::own_socket::has_listener;
use simple_device_plugin::util::sanitize::sanitize;
use tokio::time::sleep;

use super::restart::names;
use super::{Check, Level, Outcome, Verdict, plugin};
use crate::conformance::context::{Context, Resource, Skip};

/// The interval between checks of a socket.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(super) const CHECKS: [Check; 4] = [
    Check {
        id: "socket-removed",
        level: Level::Should,
        statement: "serves or registers again after its socket was removed",
        rule: "A kubelet that restarts removes the socket, and a plugin that notices only this recovers too.",
        source: "plugin/v1beta1/server.go",
        advice: "Watch the plugin's own socket file, and create it again.",
        run: |context| Box::pin(socket_removed(context)),
    },
    Check {
        id: "second-instance",
        level: Level::Should,
        statement: "leaves the socket and the registration of another running instance alone",
        rule: "Two instances overlap in some updates. A second registration replaces the first, and when the first \
               stream ends, the kubelet disconnects the second one.",
        source: "plugin/v1beta1/handler.go",
        advice: "Connect to the socket before removing it; if a process answers, wait.",
        run: |context| Box::pin(second_instance(context)),
    },
    Check {
        id: "sigterm-exits",
        level: Level::Should,
        statement: "exits within 10 s after SIGTERM",
        rule: "Kubernetes kills a container that does not exit within its grace period.",
        source: "the kubelet's termination of pods",
        advice: "Handle SIGTERM; a process with the ID 1 ignores it by default.",
        run: |context| Box::pin(sigterm_exits(context)),
    },
    Check {
        id: "sigterm-removes-socket",
        level: Level::Should,
        statement: "removes its socket after SIGTERM",
        rule: "The kubelet removes such a socket only when it starts. Until then the next instance must deal with it.",
        source: "plugin/v1beta1/server.go",
        advice: "Remove the socket file on exit, unless another process replaced it.",
        run: |context| Box::pin(sigterm_removes_socket(context)),
    },
];

/// The identity of a file; `None` if it does not exist.
type Identity = Option<(u64, u64, i64, i64)>;

fn identity(path: &Path) -> Identity {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}

/// Returns the socket's path, as the kubelet joins it.
fn socket(context: &Context, resource: &Resource) -> PathBuf {
    context.dir.join(resource.endpoint.trim_start_matches('/'))
}

/// Removes a socket, and nothing else: the endpoint is the plugin's text.
fn remove_socket(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("it is not a socket"));
    }
    fs::remove_file(path)
}

async fn socket_removed(context: &mut Context) -> Outcome {
    let resources = context.registered().await?;
    let mut calls = Vec::new();
    for resource in &resources {
        calls.push(context.kubelet.log(|log| log.count(&resource.name)));
        let removed = remove_socket(&socket(context, resource));
        removed.map_err(|error| Skip(format!("cannot remove the socket: {error}")))?;
    }
    let (started, limit) = (Instant::now(), context.settings.socket_removed);
    loop {
        let missing = resources.iter().zip(&calls).find(|(resource, calls)| {
            let socket = socket(context, resource);
            let is_served = socket.exists() && has_listener(&socket).is_ok_and(|served| served);
            let is_back = context
                .kubelet
                .log(|log| log.count(&resource.name) > **calls);
            !is_served && !is_back
        });
        let Some((resource, _)) = missing else {
            let took = started.elapsed().as_millis();
            return Ok(plugin(Verdict::Pass(format!(
                "served or registered after {took} ms"
            ))));
        };
        if started.elapsed() > limit || context.exited().is_some() {
            let (name, seconds) = (&resource.name, limit.as_secs_f32());
            let seen = format!("{name} was neither served nor registered again within {seconds} s");
            return Ok(plugin(Verdict::Fail(seen)));
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn second_instance(context: &mut Context) -> Outcome {
    context.command()?;
    // A new start, because a plugin may not have its socket any more.
    let resources = context.fresh().await?;
    let sockets: Vec<PathBuf> = resources.iter().map(|r| socket(context, r)).collect();
    let before: Vec<Identity> = sockets.iter().map(|path| identity(path)).collect();
    let count = |context: &Context, resource: &Resource| {
        context.kubelet.log(|log| log.count(&resource.name))
    };
    let calls_before: Vec<usize> = resources.iter().map(|r| count(context, r)).collect();
    let second = context.command()?.start();
    let mut second = second.map_err(|error| Skip(format!("cannot start it: {error}")))?;
    let ran = context.runs_for(context.settings.second_instance).await;
    let calls = resources.iter().map(|r| count(context, r));
    let has_registered: Vec<bool> = calls
        .zip(calls_before)
        .map(|(now, before)| now > before)
        .collect();
    second.terminate();
    second.wait(context.settings.second_instance).await;
    drop(second);
    if let Err(status) = ran {
        return Ok(plugin(Verdict::Fail(format!(
            "the first instance exited: {status}"
        ))));
    }
    for ((resource, socket), (before, has_registered)) in resources
        .iter()
        .zip(&sockets)
        .zip(before.into_iter().zip(has_registered))
    {
        let (name, endpoint) = (&resource.name, sanitize(&resource.endpoint));
        let seen = match identity(socket) {
            None => format!("the second instance removed {endpoint}"),
            now if now != before => format!("the second instance replaced {endpoint}"),
            _ if has_registered => format!("the second instance registered {name} too"),
            _ => continue,
        };
        return Ok(plugin(Verdict::Fail(seen)));
    }
    Ok(plugin(Verdict::pass()))
}

/// Sends SIGTERM to a registered plugin. Returns how long it took to exit, and the sockets it left.
async fn terminate(context: &mut Context) -> Result<(Option<Duration>, Vec<String>), Skip> {
    context.command()?;
    let resources = context.fresh().await?;
    let started = Instant::now();
    let limit = context.settings.exit;
    let Some(process) = &mut context.process else {
        return Err(Skip("the plugin does not run".to_owned()));
    };
    process.terminate();
    let exited = process.wait(limit).await.map(|_| started.elapsed());
    let left = resources
        .iter()
        .filter(|resource| socket(context, resource).exists());
    let left = left.map(|resource| resource.endpoint.clone()).collect();
    Ok((exited, left))
}

async fn sigterm_exits(context: &mut Context) -> Outcome {
    let limit = context.settings.exit.as_secs_f32();
    Ok(plugin(match terminate(context).await?.0 {
        Some(took) => Verdict::Pass(format!("exited after {} ms", took.as_millis())),
        None => Verdict::Fail(format!("it still ran after {limit} s")),
    }))
}

async fn sigterm_removes_socket(context: &mut Context) -> Outcome {
    Ok(plugin(match terminate(context).await? {
        (None, _) => Verdict::Skip("the plugin does not exit after SIGTERM".to_owned()),
        (Some(_), left) if left.is_empty() => Verdict::pass(),
        (Some(_), left) => Verdict::Fail(format!("it left {}", names(left))),
    }))
}
