//! `/readyz` says what a resource waits for, and takes the kubelet's checkpoint into account.

use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::Duration;

use crate::support::client::register;
use crate::support::fake_kubelet::{Answer, FakeKubelet};
use crate::support::fake_plugin::FakePlugin;
use crate::support::http::{Http, Observed};
use crate::support::{
    A, B, BOTH, Manager, ONE, kubelet, kubelet_with, plugin_dir, resources, wait_for_node,
    write_checkpoint,
};
use kubelet_sim::{Behavior, RegistrationMode};
use simple_device_plugin::model::device::Health;
use simple_device_plugin::plugin::record::{Cause, Record, RegistrationResult, Step};
use simple_device_plugin::supervisor::Supervisor;

/// Starts a manager that reads the checkpoint every 20 ms.
fn with_frequent_probes(dir: &Path, variables: &[(&str, &str)]) -> Manager {
    let supervisor = Supervisor::new(resources(variables), dir);
    Manager::run(supervisor.with_probe_interval(Duration::from_millis(20)))
}

#[tokio::test]
async fn is_ready_when_every_resource_is_registered_and_streaming() {
    let Observed { dir, manager, http } = Observed::of(BOTH).await;
    let socket = dir.path().join("kubelet.sock");
    let waits = format!(
        "waits for the kubelet: there is no socket {}",
        socket.display()
    );
    let not_ready = format!(
        "not ready: 0 of 2 resources ready\nexample.com/a {waits}\nexample.com/b {waits}\n"
    );
    http.readiness(503, &not_ready).await;
    let kubelet = kubelet(dir.path());
    kubelet.set_registration_mode(B, RegistrationMode::Hang);
    http.readiness(
        503,
        "not ready: 1 of 2 resources ready\nexample.com/b waits for the kubelet to open ListAndWatch\n",
    )
    .await;
    kubelet.set_registration_mode(B, RegistrationMode::Refuse);
    http.readiness(
        503,
        "ListAndWatch: the kubelet refused the registration: Unknown: refused on purpose\n",
    )
    .await;
    kubelet.set_registration_mode(B, RegistrationMode::Normal);
    http.readiness(200, "ready: 2 of 2 resources\n").await;
    kubelet.stop().await;
    http.readiness(503, "not ready: 0 of 2 resources ready\n")
        .await;
    let kubelet = crate::support::kubelet(dir.path());
    http.readiness(200, "ready: 2 of 2 resources\n").await;
    assert_eq!(http.get("/livez").await, (200, "ok\n".to_owned()));
    manager.stop().await;
    assert_eq!(http.get("/readyz").await, (503, "stopping\n".to_owned()));
    drop(kubelet);
}

#[tokio::test]
async fn reports_a_socket_in_use_and_the_settle_time() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let neighbor = StdListener::bind(dir.path().join("simple-device-plugin.sock"));
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(
        503,
        "example.com/a waits for its socket: another process serves this socket; set a different PLUGIN_NAME (pluginName in the config file)\n",
    )
    .await;
    drop(neighbor);
    manager.is_at(A, Step::Settling).await;
    let settling = "example.com/a waits until the kubelet has disconnected the resource's previous plugin, at most 0.5 s";
    http.readiness(503, settling).await;
    http.readiness(200, "ready: 1 of 1 resources\n").await;
    assert!(kubelet.disconnect_plugin(A));
    manager.is_at(A, Step::Settling).await;
    http.readiness(200, "ready: 1 of 1 resources\n").await;
    manager.stop().await;
}

#[tokio::test]
async fn is_ready_without_resources() {
    let dir = plugin_dir();
    let manager = Manager::of(dir.path(), Vec::new());
    let http = Http::of(&manager).await;
    http.readiness(200, "ready: 0 of 0 resources\n").await;
    manager.stop().await;
}

#[tokio::test]
async fn is_not_ready_while_the_checkpoint_lacks_the_devices() {
    let dir = plugin_dir();
    let _kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    // This kubelet has not written a checkpoint.
    http.readiness(200, "ready: 1 of 1 resources\n").await;
    let both: &[&str] = &["a-n-0", "a-n-1"];
    let waits = |reason: &str| {
        format!(
            "not ready: 0 of 1 resources ready\nexample.com/a waits for the kubelet: its checkpoint {reason}\n"
        )
    };
    for (registered, status, body) in [
        (&[][..], 503, waits("does not list this resource's devices")),
        (&[(A, both)], 200, "ready: 1 of 1 resources\n".to_owned()),
        (
            &[(A, &both[..1])],
            200,
            "ready: 1 of 1 resources\n".to_owned(),
        ),
        // In this checkpoint every device is Unhealthy.
        (
            &[(A, &[])],
            503,
            waits("does not list this resource's devices"),
        ),
        (
            &[(A, &["other-device"])],
            503,
            "not ready: 0 of 1 resources ready\nexample.com/a waits for another plugin of the resource to stop: the kubelet's checkpoint lists its devices, for example other-device\n".to_owned(),
        ),
    ] {
        write_checkpoint(dir.path(), registered);
        http.readiness(status, &body).await;
    }
    for device in ["a-n-0", "a-n-1"] {
        manager
            .plugin(A)
            .set_health(device, Health::Unhealthy)
            .expect("a device");
    }
    write_checkpoint(dir.path(), &[(A, &[])]);
    http.readiness(200, "ready: 1 of 1 resources\n").await;
    manager.stop().await;
}

/// A checkpoint that is older than the stream describes an earlier stream. It counts only if the kubelet has written
/// no new one for 5 s.
#[tokio::test]
async fn waits_for_a_checkpoint_that_is_newer_than_the_stream() {
    let dir = plugin_dir();
    write_checkpoint(dir.path(), &[(A, &["a-n-0", "a-n-1"])]);
    let _kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    manager.is_at(A, Step::Registered).await;
    let line = "example.com/a waits for the kubelet to write its checkpoint\n";
    http.readiness(503, line).await;
    write_checkpoint(dir.path(), &[]);
    let line = "example.com/a waits for the kubelet: its checkpoint does not list this resource's devices\n";
    http.readiness(503, line).await;
    write_checkpoint(dir.path(), &[(A, &["a-n-0", "a-n-1"])]);
    http.readiness(200, "ready: 1 of 1 resources\n").await;
    manager.stop().await;
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready: 1 of 1 resources\n").await;
    manager.stop().await;
}

#[tokio::test]
async fn is_ready_only_when_the_node_shows_every_device() {
    let dir = plugin_dir();
    let mut kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    for _ in 0..3 {
        kubelet = kubelet.restart().await.expect("a new kubelet");
        http.readiness(503, "not ready").await;
        http.readiness(200, "ready").await;
        let node = kubelet.node().borrow().clone();
        assert_eq!(node[A].allocatable, 2);
    }
    manager.stop().await;
}

#[tokio::test]
async fn reports_a_lost_stream_until_registered_again() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    // Refused registrations keep the state between the two streams.
    kubelet.set_registration_mode(A, RegistrationMode::Refuse);
    assert!(kubelet.disconnect_plugin(A));
    http.readiness(503, "the kubelet refused the registration")
        .await;
    kubelet.set_registration_mode(A, RegistrationMode::Normal);
    http.readiness(200, "ready").await;
    let restarted = |record: &Record| record.restarts[Cause::Stream] == 1;
    manager.record(A, "a restart", restarted).await;
    manager.stop().await;
}

#[tokio::test]
async fn restarts_once_when_the_checkpoint_lacks_the_resource() {
    let dir = plugin_dir();
    let kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let manager = with_frequent_probes(dir.path(), BOTH);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready: 2 of 2 resources\n").await;
    let b: (&str, &[&str]) = (B, &["b-n-0", "b-n-1"]);
    write_checkpoint(dir.path(), &[b]);
    let times = |count| move |record: &Record| record.restarts[Cause::Checkpoint] == count;
    manager.record(A, "a first restart", times(1)).await;
    let registered_twice =
        |record: &Record| record.registrations[RegistrationResult::Registered] == 2;
    manager
        .record(A, "a second registration", registered_twice)
        .await;
    // The manager reads the checkpoint many times in this time.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(kubelet.registered.borrow()[A], 2);
    assert_eq!(kubelet.registered.borrow()[B], 1);
    // The checkpoint lists the resource, and then lacks it again.
    write_checkpoint(dir.path(), &[(A, &["a-n-0", "a-n-1"]), b]);
    http.readiness(200, "ready: 2 of 2 resources\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    write_checkpoint(dir.path(), &[b]);
    manager.record(A, "a second restart", times(2)).await;
    manager.stop().await;
}

/// Another plugin takes over the resource and stops. A newer kubelet keeps our stream, but every device is Unhealthy
/// until a plugin registers again. The checkpoint shows that at the next write, at the latest when the grace period of
/// the other plugin ends.
#[tokio::test]
async fn recovers_after_another_plugin_took_over_and_stopped() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.behavior = Behavior::Newer;
        settings.endpoint_stop_grace_period = Duration::from_millis(300);
    });
    let manager = with_frequent_probes(dir.path(), ONE);
    wait_for_node(&kubelet, A, 2, 2).await;
    let mut other = FakePlugin::serve(dir.path(), "other.sock", &["x"]);
    register(dir.path(), A, "other.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, A, 1, 1).await;
    other.end_stream().await;
    drop(other);
    wait_for_node(&kubelet, A, 2, 2).await;
    manager.stop().await;
}
