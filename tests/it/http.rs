//! The HTTP server: `/status`, bad requests, and clients that are silent, slow or too many.

use crate::support::control::control;
use crate::support::http::{Http, Observed, answer};
use crate::support::process::Running;
use crate::support::{
    A, Manager, ONE, RESOURCE, kubelet, plugin_dir, pod, text, wait_for_node, within,
};
use futures_util::future::join_all;
use simple_device_plugin::control::{Request, client};
use simple_device_plugin::model::device::Health;
use simple_device_plugin::observe::status::WithDevices;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn the_status_contains_every_device_and_its_holders() {
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
        .plugin(A)
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
                 "heldBy": [{"namespace": "default", "pod": "p", "container": "main"}]},
                {"id": "simple-device-n-1", "health": "Unhealthy", "numa": [1], "healthOverridden": true},
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
async fn bad_requests_get_an_error_status() {
    let Observed {
        manager,
        http,
        dir: _dir,
    } = Observed::of(ONE).await;
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
async fn a_thousand_silent_clients_delay_neither_pods_nor_probes() {
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
    // The server answered before it closed the silent connections.
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
    // The server closed the oldest connections, also those that had sent something.
    for stream in &mut silent[..900] {
        let mut rest = Vec::new();
        let _ = within("an end", stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{rest:?}");
    }
    manager.stop().await;
}

/// The server closes a connection whose request never ends, even if there is no other client.
#[tokio::test]
async fn a_client_that_sends_no_complete_request_is_disconnected() {
    let Observed {
        manager,
        http,
        dir: _dir,
    } = Observed::of(ONE).await;
    let mut silent = http.connect().await;
    let mut slow = http.connect().await;
    slow.write_all(b"GET /livez HTTP/1.1\r\n")
        .await
        .expect("a server");
    within("the end of the silent connection", answer(&mut silent)).await;
    within("the end of the slow connection", answer(&mut slow)).await;
    manager.stop().await;
}

/// Clients that request large responses and do not read them do not block other clients.
#[tokio::test]
async fn slow_readers_do_not_block_other_clients() {
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
    // A slot is free once the responses in progress are built, which may take a while on a busy machine.
    let complete_status = async {
        loop {
            let response = http.get("/status").await;
            if response != busy {
                return response;
            }
        }
    };
    let (status, text) = within("the status", complete_status).await;
    assert_eq!((status, text.matches("\"id\"").count()), (200, 100_000));
    manager.stop().await;
}

/// The limit on large responses counts those being built, even if their clients have disconnected.
#[tokio::test]
async fn a_burst_of_large_requests_uses_few_threads() {
    let Observed {
        manager,
        http,
        dir: _dir,
    } = Observed::of(&[("RESOURCE_NAME", A), ("NUMBER_DEVICES", "50000")]).await;
    let mut clients = Vec::new();
    let mut threads_max = 0;
    for _ in 0..200 {
        let mut stream = http.connect().await;
        let request = b"GET /status HTTP/1.1\r\nhost: n\r\n\r\n";
        stream.write_all(request).await.expect("a server");
        clients.push(stream);
        tokio::task::yield_now().await;
        let threads = std::fs::read_dir("/proc/self/task").expect("proc").count();
        threads_max = threads_max.max(threads);
    }
    // The count includes the threads of other tests.
    assert!(threads_max < 100, "{threads_max} threads");
    drop(clients);
    assert_eq!(http.get("/livez").await.0, 200);
    manager.stop().await;
}

/// Making a response takes much more memory than the response itself, so responses are made one after the other.
#[tokio::test]
async fn many_large_requests_need_little_more_memory_than_one() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let control = control(dir.path());
    let variables = [
        ("HTTP_ADDRESS", "127.0.0.1:0"),
        ("CONTROL_SOCKET", text(&control)),
        ("NUMBER_DEVICES", "100000"),
        ("DEVICE_ID_PREFIX", "d"),
    ];
    let running = Running::manager(dir.path(), &variables);
    let http = Http::of_process(&running);
    wait_for_node(&kubelet, RESOURCE, 100_000, 100_000).await;
    let peak_kib = || {
        let proc = format!("/proc/{}/status", running.child.id());
        let status = std::fs::read_to_string(proc).expect("a process");
        let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = peak.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("KiB")
    };
    let ask = || {
        let control = control.clone();
        let devices = WithDevices::All;
        tokio::task::spawn_blocking(move || client::ask(&control, &Request::Status { devices }))
    };
    let idle = peak_kib();
    assert_eq!(http.get("/status").await.0, 200);
    let one = peak_kib();
    let requests = (0..2).map(|_| async {
        let (by_http, by_socket) = tokio::join!(http.get("/status"), ask());
        assert_eq!(by_http.0, 200);
        by_socket.expect("no panic").expect("a status");
    });
    join_all(requests).await;
    let many = peak_kib();
    assert!(
        many - idle < 3 * (one - idle),
        "the peak is {idle} KiB without a request, {one} KiB with one and {many} KiB with four"
    );
}
