//! A plugin registers again as soon as the kubelet has disconnected its predecessor, and never before that.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::client::register;
use crate::support::fake_kubelet::{Answer, FakeKubelet};
use crate::support::fake_plugin::FakePlugin;
use crate::support::process::Running;
use crate::support::soak::seed;
use crate::support::{
    DEADLINE, Manager, RESOURCE, allocates, kubelet, kubelet_with, plugin_dir, registrations,
    resources, until, wait_for_node,
};
use fastrand::Rng;
use futures_util::future::join_all;
use kubelet_sim::{Event, EventKind, Kubelet, KubeletSettings};
use simple_device_plugin::node::checkpoint_file;
use simple_device_plugin::node::pod_resources::PodResources;
use simple_device_plugin::plugin::record::Step;
use simple_device_plugin::supervisor::Supervisor;
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

/// After this time with an open stream, the kubelet has certainly received its list.
const STREAM_SETTLES: Duration = Duration::from_millis(1100);
/// How long a plugin settles if nothing shows when the kubelet has disconnected its predecessor.
const WHOLE_TIME: Duration = Duration::from_millis(500);

fn kubelet_with_delay(dir: &Path, millis: u64) -> Kubelet {
    kubelet_with(dir, |settings| {
        settings.disconnect_delay = Duration::from_millis(millis);
    })
}

/// Checks that the kubelet disconnected each plugin once, and before the next one registered. A plugin is connected
/// before and after these events.
fn assert_never_disconnected_late(events: &mut broadcast::Receiver<Event>, context: &str) {
    let mut is_connected = true;
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::Registered { .. } => {
                assert!(
                    !is_connected,
                    "{context}: registered before the disconnect of the predecessor"
                );
                is_connected = true;
            }
            EventKind::Disconnected { .. } => {
                assert!(is_connected, "{context}: disconnected after it registered");
                is_connected = false;
            }
            _ => {}
        }
    }
    assert!(is_connected, "{context}: disconnected after it registered");
}

/// Loses streams, and stops and kills the daemon, at random.
async fn breaks_at_random(dir: &Path, kubelet: &Kubelet, variables: &[(&str, &str)]) {
    let seed = seed("SETTLE_SEED");
    let mut rng = Rng::with_seed(seed);
    let mut running = Running::manager(dir, variables);
    wait_for_node(kubelet, RESOURCE, 2, 2).await;
    let mut events = kubelet.events();
    for step in 0..6 {
        if rng.bool() {
            tokio::time::sleep(STREAM_SETTLES).await;
        }
        let action = rng.u32(..4);
        match action {
            0 | 1 => assert!(kubelet.disconnect_plugin(RESOURCE)),
            2 => {
                running.signal(rustix::process::Signal::TERM);
                running = Running::manager(dir, variables);
            }
            _ => {
                drop(running);
                running = Running::manager(dir, variables);
            }
        }
        wait_for_node(kubelet, RESOURCE, 2, 0).await;
        wait_for_node(kubelet, RESOURCE, 2, 2).await;
        allocates(kubelet).await;
        let context = format!("seed {seed}, step {step}, action {action}");
        assert_never_disconnected_late(&mut events, &context);
    }
}

#[tokio::test]
async fn never_registers_before_an_immediate_disconnect() {
    let dir = plugin_dir();
    let kubelet = kubelet_with_delay(dir.path(), 0);
    breaks_at_random(dir.path(), &kubelet, &[]).await;
}

#[tokio::test]
async fn never_registers_before_a_usual_late_disconnect() {
    let dir = plugin_dir();
    let kubelet = kubelet_with_delay(dir.path(), 20);
    breaks_at_random(dir.path(), &kubelet, &[]).await;
}

#[tokio::test]
async fn never_registers_before_a_very_late_disconnect() {
    let dir = plugin_dir();
    let kubelet = kubelet_with_delay(dir.path(), 200);
    breaks_at_random(dir.path(), &kubelet, &[]).await;
}

/// Another client uses up the rate limit of the pod-resources API, so the daemon's calls are refused.
#[tokio::test]
async fn never_registers_before_the_disconnect_when_the_api_refuses_calls() {
    let dir = plugin_dir();
    let kubelet = kubelet_with_delay(dir.path(), 200);
    let socket = KubeletSettings::new(dir.path()).pod_resources_socket();
    let clients = (0..16).map(|_| {
        let api = PodResources::new(socket.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let _ = api.allocatable().await;
            }
        }))
    });
    let _clients: Vec<_> = clients.collect();
    breaks_at_random(dir.path(), &kubelet, &[]).await;
}

#[tokio::test]
async fn settles_for_the_whole_time_without_the_api() {
    let dir = plugin_dir();
    let kubelet = kubelet_with_delay(dir.path(), 200);
    let missing = dir.path().join("no-such.sock");
    for socket in [None, Some(missing)] {
        let supervisor = Supervisor::new(resources(&[]), dir.path());
        let manager = Manager::run(supervisor.with_pod_resources_socket(socket));
        wait_for_node(&kubelet, RESOURCE, 2, 2).await;
        tokio::time::sleep(STREAM_SETTLES).await;
        let (mut events, began) = (kubelet.events(), Instant::now());
        assert!(kubelet.disconnect_plugin(RESOURCE));
        wait_for_node(&kubelet, RESOURCE, 2, 0).await;
        wait_for_node(&kubelet, RESOURCE, 2, 2).await;
        assert!(began.elapsed() >= WHOLE_TIME);
        allocates(&kubelet).await;
        assert_never_disconnected_late(&mut events, "without the API");
        manager.stop().await;
        wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    }
}

/// A busy machine can make one try slow, but not all of them.
#[tokio::test]
async fn registers_again_without_waiting_for_the_whole_time() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    for attempt in 1.. {
        tokio::time::sleep(STREAM_SETTLES).await;
        let began = Instant::now();
        assert!(kubelet.disconnect_plugin(RESOURCE));
        wait_for_node(&kubelet, RESOURCE, 2, 0).await;
        wait_for_node(&kubelet, RESOURCE, 2, 2).await;
        if attempt > 1 && began.elapsed() < WHOLE_TIME {
            break;
        }
        assert!(attempt < 10, "it was never faster than {WHOLE_TIME:?}");
    }
    assert!(registrations(&kubelet, RESOURCE) > 2);
    manager.stop().await;
}

/// A pod may just have got a device that the plugin does not have, and the kubelet crashes if the list lacks it.
#[tokio::test]
async fn settles_for_the_whole_time_if_the_previous_plugin_had_other_devices() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut previous = FakePlugin::serve(dir.path(), "previous.sock", &["x"]);
    register(dir.path(), RESOURCE, "previous.sock")
        .await
        .expect("registered");
    let checkpoint = dir.path().join(checkpoint_file::FILE);
    until("the checkpoint", || {
        std::fs::read_to_string(&checkpoint).is_ok_and(|text| text.contains("[\"x\"]"))
    })
    .await;
    let began = Instant::now();
    let manager = Manager::start(dir.path(), &[]);
    manager
        .record(RESOURCE, "the settle time", |record| {
            record.is_at(Step::Settling)
        })
        .await;
    previous.end_stream().await;
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    assert!(began.elapsed() >= WHOLE_TIME);
    allocates(&kubelet).await;
    manager.stop().await;
}

/// The list of a stream that has just been opened may not have reached the kubelet, and then the kubelet has no healthy
/// device before it disconnects the plugin.
#[tokio::test]
async fn never_registers_early_after_a_stream_that_ended_at_once() {
    let dir = plugin_dir();
    let kubelet = kubelet_with_delay(dir.path(), 200);
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let mut events = kubelet.events();
    let mut registered = kubelet.events();
    for _ in 0..3 {
        assert!(kubelet.disconnect_plugin(RESOURCE));
        let again = crate::support::happens(&mut registered, RESOURCE, |what| {
            matches!(what, EventKind::Registered { .. })
        });
        again.await;
    }
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    assert_never_disconnected_late(&mut events, "a short stream");
    manager.stop().await;
}

/// Without shared answers, the calls of so many callers would take far longer than the client's limit for one call.
#[tokio::test]
async fn many_callers_share_the_calls_of_the_api() {
    let dir = plugin_dir();
    let _kubelet = kubelet(dir.path());
    let socket = KubeletSettings::new(dir.path()).pod_resources_socket();
    let api = Arc::new(PodResources::new(socket));
    let callers = (0..1000).map(|_| {
        let api = Arc::clone(&api);
        async move { api.allocatable().await.map(drop) }
    });
    for answer in join_all(callers).await {
        answer.expect("an answer");
    }
}

/// The pauses between registrations grow, although the first retry comes at once.
#[tokio::test]
async fn a_kubelet_that_closes_every_stream_at_once_is_not_asked_in_a_busy_loop() {
    let dir = plugin_dir();
    let kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Hangup);
    let manager = Manager::start(dir.path(), &[]);
    let mut registered = kubelet.registered.clone();
    let began = Instant::now();
    let four = registered.wait_for(|counts| counts.get(RESOURCE) == Some(&4));
    let four = tokio::time::timeout(DEADLINE, four).await;
    drop(four.expect("four registrations"));
    // Each retry settles for the whole time, and two of them follow a pause.
    assert!(began.elapsed() >= 3 * WHOLE_TIME);
    manager.stop().await;
}
