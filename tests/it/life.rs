//! The life of a plugin: whatever the kubelet and the node do to it, it is back by itself.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::Duration;

use crate::support::fakes::{Answer, FakeKubelet, dial};
use crate::support::{
    DEADLINE, Manager, held, kubelet, plugin_dir, pod, registrations, resources, settings, shows,
    sockets, until, within,
};
use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use kubelet_sim::{Behavior, Kubelet, KubeletSettings};
use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::{
    PreferenceQuestion, allocation_of, preference_of, preferred_ids, v1beta1,
};
use simple_device_plugin::node::checkpoint_file;
use simple_device_plugin::node::plugin_dir::SocketIdentity;
use simple_device_plugin::node::watcher::DirReplaced;
use simple_device_plugin::supervisor::Supervisor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;
use tonic_prost::ProstCodec;

const RESOURCE: &str = "example.com/simple-device";
const SOCKET: &str = "simple-device-plugin.sock";

/// Waits until something is there at the path.
async fn appears(path: &Path) {
    let inotify = Inotify::init().expect("inotify");
    let dir = path.parent().expect("a directory");
    inotify
        .watches()
        .add(dir, WatchMask::CREATE)
        .expect("a watch");
    let mut events = inotify.into_event_stream([0; 1024]).expect("events");
    let created = async {
        while !path.exists() {
            events.next().await.expect("an event").expect("no error");
        }
    };
    within("a socket", created).await;
}

/// Waits until another socket stands at the path.
async fn replaced(path: &Path) {
    let before = SocketIdentity::of(path).expect("a socket");
    let inotify = Inotify::init().expect("inotify");
    let dir = path.parent().expect("a directory");
    inotify
        .watches()
        .add(dir, WatchMask::CREATE)
        .expect("a watch");
    let mut events = inotify.into_event_stream([0; 1024]).expect("events");
    let created = async {
        loop {
            let now = SocketIdentity::of(path).expect("no error");
            if now.is_some() && now != before {
                return;
            }
            events.next().await.expect("an event").expect("no error");
        }
    };
    within("another socket", created).await;
}

/// Whether a pod can be given a device: the kubelet calls the plugin.
async fn allocates(kubelet: &Kubelet) {
    let probe = pod("probe", &[(RESOURCE, 1)]);
    within("an admission", kubelet.admit(&probe))
        .await
        .expect("admitted");
    kubelet.delete("probe");
}

#[tokio::test]
async fn serves_before_it_registers() {
    let dir = plugin_dir();
    let mut kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let manager = Manager::start(dir.path(), &[]);
    let streaming = kubelet
        .streaming
        .wait_for(|streaming| !streaming.is_empty());
    within("the stream", streaming).await.expect("a stream");
    assert_eq!(kubelet.registered.borrow()[RESOURCE], 1);
    manager.stop().await;
}

#[tokio::test]
async fn waits_for_a_late_kubelet_and_a_late_directory() {
    let parent = plugin_dir();
    let dir = parent.path().join("device-plugins");
    let manager = Manager::start(&dir, &[]);
    let kubelet = kubelet(&dir);
    shows(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn a_socket_without_a_listener_is_no_kubelet() {
    let dir = plugin_dir();
    drop(StdListener::bind(dir.path().join("kubelet.sock")).expect("a socket"));
    let manager = Manager::start(dir.path(), &[]);
    let kubelet = kubelet(dir.path());
    shows(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_says_nothing_is_no_kubelet() {
    let dir = plugin_dir();
    let silent = StdListener::bind(dir.path().join("kubelet.sock")).expect("a socket");
    silent.set_nonblocking(true).expect("a listener");
    let silent = tokio::net::UnixListener::from_std(silent).expect("a listener");
    let manager = Manager::start(dir.path(), &[]);
    let (mut first, _) = within("a connection", silent.accept())
        .await
        .expect("a connection");
    // The manager hangs up without having bound anything.
    let hung_up = async { while first.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} };
    within("the end of the connection", hung_up).await;
    assert_eq!(sockets(dir.path()), Vec::<std::path::PathBuf>::new());
    drop(silent);
    let kubelet = kubelet(dir.path());
    shows(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_refused_registration_is_tried_again_and_a_new_kubelet_ends_the_back_off() {
    let dir = plugin_dir();
    let mut refusing = FakeKubelet::serve(dir.path(), |_| Answer::Refuse);
    let manager = Manager::start(dir.path(), &[]);
    let thrice = refusing
        .registered
        .wait_for(|counts| counts.get(RESOURCE) == Some(&3));
    within("three tries", thrice).await.expect("three tries");
    refusing.stop().await;
    let kubelet = kubelet(dir.path());
    shows(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn hanging_registrations_do_not_hold_the_others() {
    let dir = plugin_dir();
    let names: Vec<String> = (0..12).map(|i| format!("example.com/r{i}")).collect();
    let accepted = |resource: &str| resource.ends_with("r10") || resource.ends_with("r11");
    let mut kubelet = FakeKubelet::serve(dir.path(), move |resource| {
        if accepted(resource) {
            Answer::Accept
        } else {
            Answer::Hang
        }
    });
    let manager = Manager::start(dir.path(), &[("RESOURCE_NAME", &names.join(","))]);
    let both = kubelet.streaming.wait_for(|streaming| streaming.len() == 2);
    within("the two that do not hang", both)
        .await
        .expect("streams");
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
}

/// Waits until the resource has been registered twice: once was not enough.
async fn registers_again(kubelet: &mut FakeKubelet) {
    let twice = kubelet
        .registered
        .wait_for(|counts| counts.get(RESOURCE) == Some(&2));
    within("a second try", twice).await.expect("a second try");
}

#[tokio::test]
async fn ok_without_a_call_back_or_a_stream_is_not_registered() {
    for answer in [Answer::Ignore, Answer::OptionsOnly] {
        let dir = plugin_dir();
        let mut kubelet = FakeKubelet::serve(dir.path(), move |_| answer);
        let manager = Manager::start(dir.path(), &[]);
        registers_again(&mut kubelet).await;
        manager.stop().await;
    }
}

#[tokio::test]
async fn two_restarts_in_a_row() {
    let dir = plugin_dir();
    let first = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&first, RESOURCE, 2, 2).await;
    let second = first.restart().await.expect("a second life");
    let third = second.restart().await.expect("a third life");
    shows(&third, RESOURCE, 2, 2).await;
    allocates(&third).await;
    assert_eq!(registrations(&third, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn a_restart_while_stopping() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let (kubelet, ()) = tokio::join!(kubelet.restart(), manager.stop());
    kubelet.expect("a new life");
    assert!(sockets(dir.path()).is_empty());
}

#[tokio::test]
async fn a_deleted_socket_is_bound_anew_under_the_open_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let socket = dir.path().join(SOCKET);
    for _ in 0..3 {
        std::fs::remove_file(&socket).expect("our socket");
        appears(&socket).await;
    }
    let mut client = DevicePluginClient::new(dial(&socket).await.expect("a plugin"));
    client
        .get_device_plugin_options(v1beta1::Empty {})
        .await
        .expect("an answer");
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

/// The kubelet takes leave of the resource 300 ms after it closed the connection; a plugin that
/// registers before then is taken for stopped for ever.
#[tokio::test]
async fn a_lost_stream_is_replaced_after_the_kubelets_late_leave() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(KubeletSettings {
        disconnect_delay: Duration::from_millis(300),
        ..settings(dir.path())
    });
    let kubelet = kubelet.expect("a kubelet");
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    for lives in 2..4 {
        kubelet.disconnect_plugin(RESOURCE);
        shows(&kubelet, RESOURCE, 2, 0).await;
        shows(&kubelet, RESOURCE, 2, 2).await;
        allocates(&kubelet).await;
        assert_eq!(registrations(&kubelet, RESOURCE), lives);
    }
    manager.stop().await;
}

/// Its predecessor left in order, so there is no stale socket to tell of it; but the kubelet's checkpoint does.
#[tokio::test]
async fn a_successor_is_not_hit_by_the_late_leave_of_its_predecessor() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(KubeletSettings {
        disconnect_delay: Duration::from_millis(300),
        ..settings(dir.path())
    });
    let kubelet = kubelet.expect("a kubelet");
    let first = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let checkpoint = dir.path().join(checkpoint_file::FILE);
    until("the checkpoint", || checkpoint.exists()).await;
    first.stop().await;
    let second = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 0).await;
    shows(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 2);
    second.stop().await;
}

#[tokio::test]
async fn a_newer_kubelet_gets_the_resource_back_as_well() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(KubeletSettings {
        behavior: Behavior::Newer,
        ..settings(dir.path())
    });
    let kubelet = kubelet.expect("a kubelet");
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    kubelet.disconnect_plugin(RESOURCE);
    shows(&kubelet, RESOURCE, 2, 0).await;
    shows(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    let kubelet = kubelet.restart().await.expect("a new life");
    shows(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn of_two_that_want_one_socket_the_second_waits_for_its_turn() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let first = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let second = Manager::start(dir.path(), &[("NUMBER_DEVICES", "3")]);
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    first.stop().await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    shows(&kubelet, RESOURCE, 3, 3).await;
    allocates(&kubelet).await;
    assert_eq!(held(&kubelet, "p").len(), 1);
    second.stop().await;
}

#[tokio::test]
async fn of_two_that_start_at_once_one_is_registered() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let managers = [
        Manager::start(dir.path(), &[]),
        Manager::start(dir.path(), &[]),
    ];
    shows(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    for manager in managers {
        manager.stop().await;
    }
}

#[tokio::test]
async fn a_stale_socket_is_removed() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    drop(StdListener::bind(dir.path().join(SOCKET)).expect("a socket"));
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
}

/// In a container the mount goes on to show the removed directory; so does a descriptor.
#[tokio::test]
async fn a_replaced_directory_ends_the_manager() {
    let parent = plugin_dir();
    let dir = parent.path().join("device-plugins");
    let kubelet = kubelet(&dir);
    let open = File::open(&dir).expect("the directory");
    let mounted = format!("/proc/self/fd/{}", open.as_raw_fd());
    let manager = Manager::start(Path::new(&mounted), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    std::fs::remove_dir_all(&dir).expect("the directory");
    assert_eq!(manager.ended().await, Err(DirReplaced));
}

#[tokio::test]
async fn leaving_ends_the_stream_in_order_and_still_allocates() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let mut client =
        DevicePluginClient::new(dial(&dir.path().join(SOCKET)).await.expect("a plugin"));
    let stream = client
        .list_and_watch(v1beta1::Empty {})
        .await
        .expect("a stream");
    let mut stream = stream.into_inner();
    let list = stream.message().await.expect("no error").expect("a list");
    assert_eq!(list.devices.len(), 2);
    let pod_in_flight = async {
        let end = within("the end of the stream", stream.message()).await;
        assert!(matches!(end, Ok(None)), "{end:?}");
        let request = allocation_of(vec!["simple-device-n-1".to_owned()]);
        client
            .allocate(request)
            .await
            .expect("an answer while leaving");
        drop(client);
    };
    tokio::join!(manager.stop(), pod_in_flight);
}

/// A change of kubelet.sock is only noted: whoever relabels it ends no stream.
#[tokio::test]
async fn a_relabelled_kubelet_sock_ends_no_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.path().join("kubelet.sock"), private).expect("a chmod");
    // Events come in order: when the socket is back, the change was seen as well.
    let socket = dir.path().join(SOCKET);
    std::fs::remove_file(&socket).expect("our socket");
    appears(&socket).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

/// Whoever watches the plugin before it registers does not pass for the kubelet.
#[tokio::test]
async fn an_observer_is_not_the_kubelet() {
    let dir = plugin_dir();
    let socket = dir.path().join(SOCKET);
    // Stale, so that the plugin is quiet for half a second before it registers.
    drop(StdListener::bind(&socket).expect("a socket"));
    let mut kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Ignore);
    let manager = Manager::start(dir.path(), &[]);
    replaced(&socket).await;
    let mut observer = DevicePluginClient::new(dial(&socket).await.expect("a plugin"));
    observer
        .get_device_plugin_options(v1beta1::Empty {})
        .await
        .expect("an answer");
    let _stream = observer
        .list_and_watch(v1beta1::Empty {})
        .await
        .expect("a stream");
    registers_again(&mut kubelet).await;
    manager.stop().await;
}

#[tokio::test]
async fn few_register_at_a_time_also_after_a_quiet() {
    let dir = plugin_dir();
    let names: Vec<String> = (0..40).map(|i| format!("x.io/r{i}")).collect();
    for i in 0..40 {
        let stale = format!("simple-device-plugin-x.io_r{i}.sock");
        drop(StdListener::bind(dir.path().join(stale)).expect("a socket"));
    }
    let mut kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let resources = resources(&[("RESOURCE_NAME", &names.join(","))]);
    // Nobody gives a turn away, however slow the machine is.
    let supervisor = Supervisor::new(resources, dir.path()).with_turns_of(DEADLINE);
    let manager = Manager::run(supervisor);
    let all = kubelet
        .streaming
        .wait_for(|streaming| streaming.len() == names.len());
    within("all streams", all).await.expect("streams");
    let (_, most) = *kubelet.in_flight.borrow();
    assert!((1..=4).contains(&most), "{most} registered at once");
    manager.stop().await;
}

#[tokio::test]
async fn of_too_many_connections_the_last_are_refused() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    // The kubelet has one of the sixteen.
    let mut peers = Vec::new();
    for _ in 0..16 {
        peers.push(
            UnixStream::connect(dir.path().join(SOCKET))
                .await
                .expect("a backlog"),
        );
    }
    let mut last = peers.pop().expect("the sixteenth");
    let read = within("the refusal", last.read(&mut [0])).await;
    assert!(!read.is_ok_and(|n| n > 0));
    allocates(&kubelet).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_question_as_large_as_a_kubelet_can_ask_is_answered() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let mut client =
        DevicePluginClient::new(dial(&dir.path().join(SOCKET)).await.expect("a plugin"));
    let ids: Vec<String> = (0..60_000).map(|i| format!("{i:060}")).collect();
    let question = PreferenceQuestion {
        available: ids.clone(),
        must_include: ids,
        size: 1,
    };
    let answer = client
        .get_preferred_allocation(preference_of(question))
        .await;
    assert_eq!(
        preferred_ids(answer.expect("an answer").into_inner()).len(),
        1
    );
    manager.stop().await;
}

/// Peers that connected and say nothing, and one that began an Allocate and never ends it.
///
/// Who has `called` something before might still get an answer, and is waited for.
async fn troublesome_peers(
    socket: &Path,
    called: bool,
) -> (Vec<UnixStream>, AbortOnDropHandle<()>) {
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(UnixStream::connect(socket).await.expect("a plugin"));
    }
    let channel = dial(socket).await.expect("a plugin");
    if called {
        let mut client = DevicePluginClient::new(channel.clone());
        let answer = client.get_device_plugin_options(v1beta1::Empty {}).await;
        answer.expect("an answer");
    }
    let (sent, began) = tokio::sync::oneshot::channel();
    let call = tokio::spawn(async move {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("a connection");
        let mut sent = Some(sent);
        let never = futures_util::stream::poll_fn(move |_| {
            sent.take().map(|sent| sent.send(()));
            std::task::Poll::<Option<v1beta1::AllocateRequest>>::Pending
        });
        let path = "/v1beta1.DevicePlugin/Allocate".parse().expect("a path");
        let codec = ProstCodec::<_, v1beta1::AllocateResponse>::default();
        let request = tonic::Request::new(never);
        // Ends with an error when the connection is closed.
        let _ = client.client_streaming(request, path, codec).await;
    });
    within("the call to begin", began).await.expect("a call");
    (silent, AbortOnDropHandle::new(call))
}

#[tokio::test]
async fn silent_peers_and_hanging_calls_hold_up_nothing() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let _at_restart = troublesome_peers(&dir.path().join(SOCKET), false).await;
    let kubelet = kubelet.restart().await.expect("a new life");
    shows(&kubelet, RESOURCE, 2, 2).await;
    let (silent, call) = troublesome_peers(&dir.path().join(SOCKET), true).await;
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
    // Nothing of the plugin is left to keep them connected.
    for mut peer in silent {
        let end = async { while peer.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} };
        within("the end of a silent connection", end).await;
    }
    within("the end of the hanging call", call)
        .await
        .expect("no panic");
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff",
    ] {
        let mut peer = UnixStream::connect(dir.path().join(SOCKET))
            .await
            .expect("a plugin");
        // It may be closed before all is written.
        let _ = peer.write_all(garbage).await;
        let _ = peer.shutdown().await;
        let mut answer = Vec::new();
        let closed: io::Result<usize> = within("the end", peer.read_to_end(&mut answer)).await;
        drop(closed);
    }
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn one_resources_trouble_is_its_own() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    // What is in the way of the second resource's socket is no socket: it can never bind.
    std::fs::create_dir(dir.path().join("b.sock")).expect("a directory");
    let variables = [
        ("RESOURCE_NAME", "x.io/a,x.io/b,x.io/c"),
        ("PLUGIN_NAME", "a,b,c"),
    ];
    let manager = Manager::start(dir.path(), &variables);
    shows(&kubelet, "x.io/a", 2, 2).await;
    shows(&kubelet, "x.io/c", 2, 2).await;
    assert_eq!(registrations(&kubelet, "x.io/b"), 0);
    std::fs::remove_dir(dir.path().join("b.sock")).expect("still there");
    shows(&kubelet, "x.io/b", 2, 2).await;
    assert_eq!(registrations(&kubelet, "x.io/a"), 1);
    manager.stop().await;
}
