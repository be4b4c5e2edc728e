//! What can be seen of the program: readiness, metrics and status over HTTP, and by whom it cannot be held up.

mod support;

use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::Duration;

use simple_device_plugin::device::Health;
use simple_device_plugin::kubelet::{self, Behaviour, Kubelet, Settings};
use simple_device_plugin::record::{Cause, Record, RegistrationResult, Step};
use simple_device_plugin::supervisor::Supervisor;
use support::fakes::{Answer, FakeKubelet, FakePlugin, register};
use support::http::{Http, answer};
use support::{
    Manager, kubelet, plugin_dir, pod, resources, settings, shows, within, write_checkpoint,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const A: &str = "example.com/a";
const B: &str = "example.com/b";
const BOTH: &[(&str, &str)] = &[("RESOURCE_NAME", "example.com/a,example.com/b")];
const ONE: &[(&str, &str)] = &[
    ("RESOURCE_NAME", "example.com/a"),
    ("DEVICE_ID_PREFIX", "a"),
];

/// A manager that looks into the checkpoint all the time.
fn looking(dir: &Path, variables: &[(&str, &str)]) -> Manager {
    let supervisor = Supervisor::new(resources(variables), dir);
    Manager::run(supervisor.looking_every(Duration::from_millis(20)))
}

#[tokio::test]
async fn is_ready_when_every_resource_is_registered_and_streams() {
    let dir = plugin_dir();
    let manager = Manager::start(dir.path(), BOTH);
    let http = Http::of(&manager).await;
    http.readiness(
        503,
        "not ready: 0 of 2\n\
         example.com/a waits for the kubelet: there is no socket kubelet.sock\n\
         example.com/b waits for the kubelet: there is no socket kubelet.sock\n",
    )
    .await;
    let kubelet = kubelet(dir.path());
    kubelet.answer(B, kubelet::Answer::Hang);
    http.readiness(
        503,
        "not ready: 1 of 2\nexample.com/b waits for the kubelet to open ListAndWatch\n",
    )
    .await;
    kubelet.answer(B, kubelet::Answer::Refuse);
    http.readiness(
        503,
        "ListAndWatch: the kubelet refused: Unknown: refused on purpose\n",
    )
    .await;
    kubelet.answer(B, kubelet::Answer::Earnest);
    http.readiness(200, "ready: 2 of 2\n").await;
    kubelet.stop().await;
    http.readiness(503, "not ready: 0 of 2\n").await;
    let kubelet = support::kubelet(dir.path());
    http.readiness(200, "ready: 2 of 2\n").await;
    assert_eq!(http.get("/livez").await, (200, "ok\n".to_owned()));
    manager.stop().await;
    assert_eq!(http.get("/readyz").await, (503, "stopping\n".to_owned()));
    drop(kubelet);
}

#[tokio::test]
async fn says_who_has_its_socket_and_when_it_is_quiet() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let neighbour = StdListener::bind(dir.path().join("simple-device-plugin.sock"));
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(
        503,
        "example.com/a waits for its socket: another process serves this socket; another PLUGIN_NAME is the way out\n",
    )
    .await;
    drop(neighbour);
    manager.is_at(A, Step::Quiet).await;
    let quiet = "example.com/a is quiet, as the kubelet may be taking leave of a predecessor";
    http.readiness(503, quiet).await;
    http.readiness(200, "ready: 1 of 1\n").await;
    assert!(kubelet.lose_stream(A));
    manager.is_at(A, Step::Quiet).await;
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
    // This kubelet writes none.
    http.readiness(200, "ready: 1 of 1\n").await;
    let whole: &[&str] = &["a-n-0", "a-n-1"];
    let waits = |what: &str| {
        format!("not ready: 0 of 1\nexample.com/a waits for the kubelet, whose checkpoint {what}\n")
    };
    for (registered, status, words) in [
        (&[][..], 503, waits("lacks it")),
        (&[(A, whole)], 200, "ready: 1 of 1\n".to_owned()),
        (&[(A, &whole[..1])], 200, "ready: 1 of 1\n".to_owned()),
        // The kubelet takes every device for ill.
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
            .devices(A)
            .set_health(device, Health::Unhealthy)
            .expect("a device");
    }
    write_checkpoint(dir.path(), &[(A, &[])]);
    http.readiness(200, "ready: 1 of 1\n").await;
    manager.stop().await;
}

/// What was written before the stream was opened is of another stream, unless nothing is written for long.
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

/// When it says so, the node has all of it.
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
    assert!(kubelet.lose_stream(A));
    http.readiness(503, "example.com/a starts over: the stream ended\n")
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
    let times = |count| move |record: &Record| record.restarts[Cause::Checkpoint as usize] == count;
    manager.record(A, "a new start", times(1)).await;
    let again = |record: &Record| record.registrations[0] == 2;
    manager.record(A, "another registration", again).await;
    // Many looks later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(kubelet.registered.borrow()[A], 2);
    assert_eq!(kubelet.registered.borrow()[B], 1);
    // Seen, and missing once more.
    write_checkpoint(dir.path(), &[(A, &["a-n-0", "a-n-1"]), b]);
    http.readiness(200, "ready: 2 of 2\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    write_checkpoint(dir.path(), &[b]);
    manager.record(A, "a new start", times(2)).await;
    manager.stop().await;
}

/// A newer kubelet keeps the stream of a plugin whose resource another one took and left: every device is
/// ill until somebody registers again.
#[tokio::test]
async fn a_foreign_plugin_that_came_and_went_is_got_over() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(Settings {
        behaviour: Behaviour::Newer,
        ..settings(dir.path())
    })
    .expect("a kubelet");
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

#[tokio::test]
async fn metrics_say_what_happened() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), BOTH);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    kubelet.admit(&pod("p", &[(A, 2)])).await.expect("admitted");
    manager
        .devices(B)
        .set_health("b-n-0", Health::Unhealthy)
        .expect("a device");
    assert!(kubelet.lose_stream(B));
    manager
        .record(B, "a way back", |record| record.registrations[0] == 2)
        .await;
    http.readiness(200, "ready").await;
    let (status, text) = http.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "devices{resource=\"example.com/a\",health=\"Healthy\"} 2",
        "devices{resource=\"example.com/b\",health=\"Healthy\"} 1",
        "devices{resource=\"example.com/b\",health=\"Unhealthy\"} 1",
        "held_devices{resource=\"example.com/a\"} 2",
        "held_devices{resource=\"example.com/b\"} 0",
        "ready{resource=\"example.com/a\"} 1",
        "registrations_total{resource=\"example.com/a\",result=\"registered\"} 1",
        "registrations_total{resource=\"example.com/b\",result=\"registered\"} 2",
        "registrations_total{resource=\"example.com/b\",result=\"refused\"} 0",
        "restarts_total{resource=\"example.com/b\",cause=\"stream\"} 1",
        "restarts_total{resource=\"example.com/b\",cause=\"kubelet\"} 0",
        "allocate_requests_total{resource=\"example.com/a\",code=\"OK\"} 1",
        "allocate_requests_total{resource=\"example.com/a\",code=\"NotFound\"} 0",
        "allocate_seconds_bucket{le=\"60.0\",resource=\"example.com/a\"} 1",
        "allocate_seconds_count{resource=\"example.com/a\"} 1",
        "allocate_seconds_bucket{le=\"+Inf\",resource=\"example.com/a\"} 1",
        "allocated_devices_total{resource=\"example.com/a\"} 2",
        "config_reloads_total{result=\"refused\"} 0",
        concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        let line = format!("\nsimple_device_plugin_{line}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    let _kubelet = kubelet.restart().await.expect("a new life");
    manager
        .record(A, "a way back", |record| record.registrations[0] == 2)
        .await;
    let (_, text) = http.get("/metrics").await;
    let line = "restarts_total{resource=\"example.com/a\",cause=\"kubelet\"} 1";
    assert!(text.contains(line), "{text}");
    manager.stop().await;
}

/// Every metric that there is is in the README, and none that there is not.
#[tokio::test]
async fn the_readme_has_every_metric() {
    let dir = plugin_dir();
    write_checkpoint(dir.path(), &[]);
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    let (_, text) = http.get("/metrics").await;
    let told = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE simple_device_plugin_"));
    let mut told: Vec<String> = told
        .map(|line| match line.split_once(' ').expect("a type") {
            (name, "counter") => format!("{name}_total"),
            (name, _) => name.to_owned(),
        })
        .collect();
    told.sort();
    let readme = include_str!("../README.md");
    let (_, section) = readme.split_once("| metric |").expect("a table of metrics");
    let rows = section
        .split("\n\n")
        .next()
        .expect("its end")
        .lines()
        .skip(2);
    let name = |row: &str| row.split('`').nth(1).expect("a name").to_owned();
    let mut written: Vec<String> = rows.map(name).collect();
    let bare = |name: &mut String| *name = name.split('{').next().expect("a name").to_owned();
    written.iter_mut().for_each(bare);
    written.sort();
    assert_eq!(written, told);
    manager.stop().await;
}

#[tokio::test]
async fn the_status_tells_of_every_device_and_who_holds_it() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(
        dir.path(),
        &[
            ("NUMA_NODES", "0-1"),
            ("PREFERRED_ALLOCATION", "ordered"),
            ("RESOURCE_NAME", A),
        ],
    );
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
    manager
        .devices(A)
        .set_health("simple-device-n-1", Health::Unhealthy)
        .expect("a device");
    http.readiness(200, "ready").await;
    let (code, text) = http.get("/status").await;
    assert_eq!(code, 200);
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["ready"], true);
    assert!(status["checkpoint"]["asOf"].is_string(), "{text}");
    let resource = &status["resources"][0];
    for (key, value) in [
        ("name", serde_json::json!(A)),
        ("endpoint", "simple-device-plugin.sock".into()),
        ("state", "registered".into()),
        ("registrations", serde_json::json!({"registered": 1})),
        ("healthy", 1.into()),
        ("unhealthy", 1.into()),
        ("held", 1.into()),
        (
            "devices",
            serde_json::json!([
                {"id": "simple-device-n-0", "health": "Healthy", "numa": [0],
                 "heldBy": [{"pod": "p", "container": "main"}]},
                {"id": "simple-device-n-1", "health": "Unhealthy", "numa": [1], "byHand": true},
            ]),
        ),
    ] {
        assert_eq!(resource[key], value, "{key}");
    }
    assert!(
        resource["since"]
            .as_str()
            .is_some_and(|since| since.ends_with('Z'))
    );
    kubelet.stop().await;
    manager
        .record(A, "a lost stream", |record| record.state() == "waiting")
        .await;
    let (_, text) = http.get("/status").await;
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["resources"][0]["ready"], false);
    assert!(
        status["resources"][0]["lastError"]["what"].is_string(),
        "{text}"
    );
    manager.stop().await;
}

#[tokio::test]
async fn http_answers_what_it_is_not_made_for() {
    let dir = plugin_dir();
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    let huge = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (request, status) in [
        ("GET /livez HTTP/1.0\r\n\r\n", 200),
        ("GET /livez?verbose HTTP/1.1\r\nhost: n\r\n\r\n", 200),
        ("HEAD /livez HTTP/1.1\r\nhost: n\r\n\r\n", 200),
        ("GET /../etc/passwd HTTP/1.1\r\nhost: n\r\n\r\n", 404),
        (
            "POST /livez HTTP/1.1\r\nhost: n\r\ncontent-length: 2\r\n\r\n{}",
            405,
        ),
        ("DELETE /status HTTP/1.1\r\nhost: n\r\n\r\n", 405),
        ("\u{16}\u{3}\u{1} hello\r\n\r\n", 400),
        (&huge, 431),
        (&many, 431),
    ] {
        let short = &request[..request.len().min(40)];
        assert_eq!(http.send(request).await.0, status, "{short:?}");
    }
    assert_eq!(
        http.send("HEAD /livez HTTP/1.1\r\nhost: n\r\n\r\n").await.1,
        ""
    );
    manager.stop().await;
}

#[tokio::test]
async fn a_thousand_silent_clients_hold_up_neither_pods_nor_probes() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    let mut silent = Vec::new();
    for number in 0..1000 {
        let mut stream = http.connect().await;
        if number % 2 == 0 {
            stream.write_all(b"GET /livez HT").await.expect("a server");
        }
        silent.push(stream);
    }
    assert_eq!(http.get("/livez").await.0, 200);
    // It was not waited for until they had to go for their silence.
    let newest = silent.last().expect("a thousand").try_read(&mut [0]);
    assert!(newest.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    for round in 0..20 {
        let name = format!("p{round}");
        kubelet
            .admit(&pod(&name, &[(A, 2)]))
            .await
            .expect("admitted");
        kubelet.delete(&name);
        assert_eq!(http.get("/livez").await.0, 200);
    }
    // The oldest had to go, whether they had said something or not.
    for stream in &mut silent[..900] {
        let mut rest = Vec::new();
        let _ = within("an end", stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{rest:?}");
    }
    manager.stop().await;
}

/// One who never ends a request is sent away, with nobody else there.
#[tokio::test]
async fn whoever_says_nothing_has_to_go() {
    let dir = plugin_dir();
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    let mut silent = http.connect().await;
    let mut slow = http.connect().await;
    slow.write_all(b"GET /livez HTTP/1.1\r\n")
        .await
        .expect("a server");
    within("an end of the silent", answer(&mut silent)).await;
    within("an end of the slow", answer(&mut slow)).await;
    manager.stop().await;
}

/// Who asks for much and does not read it gets a place, and others their answers all the same.
#[tokio::test]
async fn slow_readers_do_not_keep_answers_from_others() {
    let dir = plugin_dir();
    let prefix = "p".repeat(180);
    let manager = Manager::start(
        dir.path(),
        &[
            ("RESOURCE_NAME", "x.io/a,x.io/b,x.io/c,x.io/d,x.io/e"),
            ("NUMBER_DEVICES", "20000"),
            ("DEVICE_ID_PREFIX", &prefix),
        ],
    );
    let http = Http::of(&manager).await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut stream = http.connect().await;
        let request = b"GET /status HTTP/1.1\r\nhost: n\r\n\r\n";
        stream.write_all(request).await.expect("a server");
        slow.push(stream);
    }
    http.readiness(503, "not ready").await;
    assert_eq!(http.get("/metrics").await.0, 200);
    let busy = (503, "busy: try again\n".to_owned());
    assert_eq!(http.get("/status").await, busy);
    drop(slow);
    let (status, text) = http.get("/status").await;
    assert_eq!((status, text.matches("\"id\"").count()), (200, 100_000));
    manager.stop().await;
}

#[tokio::test]
async fn registrations_are_counted_by_how_they_went() {
    for (answer, result) in [
        (Answer::Refuse, RegistrationResult::Refused),
        (Answer::Ignore, RegistrationResult::NotCalledBack),
        (Answer::Accept, RegistrationResult::Registered),
    ] {
        let dir = plugin_dir();
        let kubelet = FakeKubelet::serve(dir.path(), move |_| answer);
        let manager = Manager::start(dir.path(), ONE);
        let counted = move |record: &Record| record.registrations[result as usize] > 0;
        let record = manager.record(A, result.as_str(), counted).await;
        let told = u64::from(kubelet.registered.borrow()[A]);
        assert_eq!(record.registrations.iter().sum::<u64>(), told);
        manager.stop().await;
    }
}

#[tokio::test]
async fn other_options_are_a_restart_by_configuration() {
    let dir = plugin_dir();
    let _kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), ONE);
    manager.is_at(A, Step::Registered).await;
    let mut others = resources(ONE);
    others[0].pre_start = true;
    manager.reconfigure(others);
    let again = |record: &Record| record.registrations[0] == 2;
    let record = manager.record(A, "another registration", again).await;
    let mut restarts = [0; Cause::ALL.len()];
    restarts[Cause::Configuration as usize] = 1;
    assert_eq!(record.restarts, restarts);
    manager.stop().await;
}

/// A burst of guests who are sent away leaves no pile of work behind: the places are the work's.
#[tokio::test]
async fn a_burst_of_large_questions_is_no_pile_of_work() {
    let dir = plugin_dir();
    let manager = Manager::start(
        dir.path(),
        &[("RESOURCE_NAME", A), ("NUMBER_DEVICES", "50000")],
    );
    let http = Http::of(&manager).await;
    let mut guests = Vec::new();
    let mut most = 0;
    for _ in 0..200 {
        let mut stream = http.connect().await;
        let request = b"GET /status HTTP/1.1\r\nhost: n\r\n\r\n";
        stream.write_all(request).await.expect("a server");
        guests.push(stream);
        tokio::task::yield_now().await;
        let threads = std::fs::read_dir("/proc/self/task").expect("proc").count();
        most = most.max(threads);
    }
    // The runner's threads of other tests are among them.
    assert!(most < 100, "{most} threads");
    drop(guests);
    assert_eq!(http.get("/livez").await.0, 200);
    manager.stop().await;
}
