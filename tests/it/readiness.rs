//! `/readyz` tells what a resource waits for, and takes the kubelet's checkpoint into account.

use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::Duration;

use crate::support::client::register;
use crate::support::fake_kubelet::{Answer, FakeKubelet};
use crate::support::fake_plugin::FakePlugin;
use crate::support::http::{Http, Observed};
use crate::support::{
    A, B, BOTH, Manager, ONE, kubelet, kubelet_with, plugin_dir, resources, shows, write_checkpoint,
};
use kubelet_sim::Behavior;
use simple_device_plugin::model::device::Health;
use simple_device_plugin::plugin::record::{Cause, Record, RegistrationResult, Step};
use simple_device_plugin::supervisor::Supervisor;

/// A manager that reads the checkpoint every 20 ms.
fn looking(dir: &Path, variables: &[(&str, &str)]) -> Manager {
    let supervisor = Supervisor::new(resources(variables), dir);
    Manager::run(supervisor.with_probe_interval(Duration::from_millis(20)))
}

#[tokio::test]
async fn is_ready_when_every_resource_is_registered_and_streams() {
    let Observed { dir, manager, http } = Observed::of(BOTH).await;
    http.readiness(
        503,
        "not ready: 0 of 2\n\
         example.com/a waits for the kubelet: there is no socket kubelet.sock\n\
         example.com/b waits for the kubelet: there is no socket kubelet.sock\n",
    )
    .await;
    let kubelet = kubelet(dir.path());
    kubelet.set_registration_mode(B, kubelet_sim::RegistrationMode::Hang);
    http.readiness(
        503,
        "not ready: 1 of 2\nexample.com/b waits for the kubelet to open ListAndWatch\n",
    )
    .await;
    kubelet.set_registration_mode(B, kubelet_sim::RegistrationMode::Refuse);
    http.readiness(
        503,
        "ListAndWatch: the kubelet refused the registration: Unknown: refused on purpose\n",
    )
    .await;
    kubelet.set_registration_mode(B, kubelet_sim::RegistrationMode::Normal);
    http.readiness(200, "ready: 2 of 2\n").await;
    kubelet.stop().await;
    http.readiness(503, "not ready: 0 of 2\n").await;
    let kubelet = crate::support::kubelet(dir.path());
    http.readiness(200, "ready: 2 of 2\n").await;
    assert_eq!(http.get("/livez").await, (200, "ok\n".to_owned()));
    manager.stop().await;
    assert_eq!(http.get("/readyz").await, (503, "stopping\n".to_owned()));
    drop(kubelet);
}

#[tokio::test]
async fn says_who_has_its_socket_and_when_it_settles() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let neighbour = StdListener::bind(dir.path().join("simple-device-plugin.sock"));
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(
        503,
        "example.com/a waits for its socket: another process serves this socket; set a different PLUGIN_NAME\n",
    )
    .await;
    drop(neighbour);
    manager.is_at(A, Step::Settling).await;
    let settling = "example.com/a waits 0.5 s because the kubelet may still be disconnecting a previous plugin";
    http.readiness(503, settling).await;
    http.readiness(200, "ready: 1 of 1\n").await;
    assert!(kubelet.disconnect_plugin(A));
    manager.is_at(A, Step::Settling).await;
    http.readiness(200, "ready: 1 of 1\n").await;
    manager.stop().await;
}

#[tokio::test]
async fn no_resources_are_ready() {
    let dir = plugin_dir();
    let manager = Manager::of(dir.path(), Vec::new());
    let http = Http::of(&manager).await;
    http.readiness(200, "ready: 0 of 0\n").await;
    manager.stop().await;
}

#[tokio::test]
async fn the_checkpoint_has_its_word_where_there_is_one() {
    let dir = plugin_dir();
    let _kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    // This kubelet writes no checkpoint.
    http.readiness(200, "ready: 1 of 1\n").await;
    let whole: &[&str] = &["a-n-0", "a-n-1"];
    let waits = |what: &str| {
        format!("not ready: 0 of 1\nexample.com/a waits for the kubelet, whose checkpoint {what}\n")
    };
    for (registered, status, words) in [
        (&[][..], 503, waits("lacks it")),
        (&[(A, whole)], 200, "ready: 1 of 1\n".to_owned()),
        (&[(A, &whole[..1])], 200, "ready: 1 of 1\n".to_owned()),
        // The kubelet has every device as Unhealthy.
        (&[(A, &[])], 503, waits("lacks it")),
        (
            &[(A, &["of-another"])],
            503,
            waits("has another plugin's devices"),
        ),
    ] {
        write_checkpoint(dir.path(), registered);
        http.readiness(status, &words).await;
    }
    for device in ["a-n-0", "a-n-1"] {
        manager
            .plugin(A)
            .set_health(device, Health::Unhealthy)
            .expect("a device");
    }
    write_checkpoint(dir.path(), &[(A, &[])]);
    http.readiness(200, "ready: 1 of 1\n").await;
    manager.stop().await;
}

/// A checkpoint from before the stream was opened belongs to another stream, unless the kubelet writes none for long.
#[tokio::test]
async fn an_old_checkpoint_proves_nothing() {
    let dir = plugin_dir();
    write_checkpoint(dir.path(), &[(A, &["a-n-0", "a-n-1"])]);
    let _kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    manager.is_at(A, Step::Registered).await;
    let words = "example.com/a waits for the kubelet to write its checkpoint\n";
    http.readiness(503, words).await;
    write_checkpoint(dir.path(), &[]);
    let words = "example.com/a waits for the kubelet, whose checkpoint lacks it\n";
    http.readiness(503, words).await;
    write_checkpoint(dir.path(), &[(A, &["a-n-0", "a-n-1"])]);
    http.readiness(200, "ready: 1 of 1\n").await;
    manager.stop().await;
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready: 1 of 1\n").await;
    manager.stop().await;
}

/// When the manager is ready, the node shows every device.
#[tokio::test]
async fn is_never_ready_before_the_node_is() {
    let dir = plugin_dir();
    let mut kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    for _ in 0..3 {
        kubelet = kubelet.restart().await.expect("a new life");
        http.readiness(503, "not ready").await;
        http.readiness(200, "ready").await;
        let node = kubelet.node().borrow().clone();
        assert_eq!(node[A].allocatable, 2);
    }
    manager.stop().await;
}

#[tokio::test]
async fn a_lost_stream_is_told_as_long_as_nothing_else_is() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    assert!(kubelet.disconnect_plugin(A));
    http.readiness(
        503,
        "example.com/a registers again: the ListAndWatch stream ended\n",
    )
    .await;
    http.readiness(200, "ready").await;
    manager.stop().await;
}

#[tokio::test]
async fn starts_over_once_when_the_checkpoint_lacks_it() {
    let dir = plugin_dir();
    let kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let manager = looking(dir.path(), BOTH);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready: 2 of 2\n").await;
    let b: (&str, &[&str]) = (B, &["b-n-0", "b-n-1"]);
    write_checkpoint(dir.path(), &[b]);
    let times = |count| move |record: &Record| record.restarts[Cause::Checkpoint] == count;
    manager.record(A, "a new start", times(1)).await;
    let again = |record: &Record| record.registrations[RegistrationResult::Registered] == 2;
    manager.record(A, "another registration", again).await;
    // The manager has read the checkpoint many times since.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(kubelet.registered.borrow()[A], 2);
    assert_eq!(kubelet.registered.borrow()[B], 1);
    // The checkpoint has the resource, and then lacks it again.
    write_checkpoint(dir.path(), &[(A, &["a-n-0", "a-n-1"]), b]);
    http.readiness(200, "ready: 2 of 2\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    write_checkpoint(dir.path(), &[b]);
    manager.record(A, "a new start", times(2)).await;
    manager.stop().await;
}

/// A newer kubelet keeps the stream of a plugin whose resource another plugin took over and left: every device is
/// Unhealthy until a plugin registers again. The checkpoint shows that at the next write, at the latest when the grace
/// of the other plugin is over.
#[tokio::test]
async fn a_foreign_plugin_that_came_and_went_is_got_over() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.behavior = Behavior::Newer;
        settings.endpoint_stop_grace_period = Duration::from_millis(300);
    });
    let manager = looking(dir.path(), ONE);
    shows(&kubelet, A, 2, 2).await;
    let mut foreign = FakePlugin::serve(dir.path(), "foreign.sock", &["x"]);
    register(dir.path(), A, "foreign.sock")
        .await
        .expect("registered");
    shows(&kubelet, A, 1, 1).await;
    foreign.end_stream().await;
    drop(foreign);
    shows(&kubelet, A, 2, 2).await;
    manager.stop().await;
}
