//! Soak test: random commands, reloads and kubelet restarts while pods are admitted and deleted. After a reset, all
//! resources must be as configured.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::support::control::control;
use crate::support::running_node::Node;
use crate::support::soak::{count, seed};
use crate::support::{
    DEADLINE, assert_alive, held, on_another_thread, pod, strict_kubelet, wait_for_node,
};
use enum_map::Enum;
use fastrand::Rng;
use kubelet_sim::Kubelet;
use rustix::process::Signal;
use simple_device_plugin::control::{Refusal, Reply, Request, client};
use simple_device_plugin::fault::InjectionPoint;
use simple_device_plugin::model::device::Health;
use simple_device_plugin::observe::status::WithDevices;
use tokio::task::JoinHandle;

/// The default number of commands, which the variable `COMMANDS` overrides. `make soak` runs 100,000.
const COMMANDS: usize = 10_000;
/// The number of threads that send commands.
const SENDERS: usize = 2;
/// The resources and their device counts. The config file lists the devices of the second resource.
const RESOURCES: [(&str, usize); 3] = [
    ("example.com/gpu", 8),
    ("example.com/nic", 4),
    ("example.com/fpga", 4),
];

/// The number of pauses. In a pause, one thread sets a health fault and waits until it makes devices Unhealthy, while
/// the other sends nothing: such a fault needs a second without other commands. Pods are still admitted and deleted.
const PAUSES: usize = 10;
const FLAPPING: &str = "example.com/nic";

/// How long to wait for a resource that recovers from a fault. A suspended resource takes longer.
const RECOVERY_TIME: Duration = Duration::from_millis(20);

const CONFIG: &str = "
removalGrace: 1s
resources:
  - {name: example.com/gpu, devices: 8, numaNodes: [0, 1], preferredAllocation: packed, preStart: true}
  - {name: example.com/nic, devices: [{id: a}, {id: b}, {id: c, numa: [0]}, {id: '0-1', numa: [0, 1]}]}
  - {name: example.com/fpga, devices: 4, faults: [{on: allocate, delay: 10ms, probability: 0.5, times: unlimited, seed: 7}]}
";

#[tokio::test]
async fn random_commands_and_a_reset_leave_everything_as_configured() {
    let seed = seed("COMMAND_SEED");
    let commands = count("COMMANDS", COMMANDS);
    eprintln!("COMMAND_SEED={seed}");
    let node = Node::with_kubelet(CONFIG, |dir| on_another_thread(|| strict_kubelet(dir)));
    wait_for_configured_devices(&node.kubelet).await;
    let control = control(node.dir.path());
    // Each command holds the lock for reading, and a pause holds it for writing.
    let pause_lock = Arc::new(RwLock::new(()));
    let spawn_sender = |sender: u64| {
        let control = control.clone();
        let pause_lock = Arc::clone(&pause_lock);
        let mut rng = Rng::with_seed(seed.wrapping_add(sender));
        tokio::task::spawn_blocking(move || {
            let commands = commands / SENDERS;
            for count in 1..=commands {
                {
                    let _command = pause_lock.read().expect("no panic");
                    send(&control, &random_request(&mut rng));
                }
                if sender == 1 && count % (commands / PAUSES).max(1) == 0 {
                    let _pause = pause_lock.write().expect("no panic");
                    wait_until_devices_flap(&control);
                }
            }
            // A pod may still be waiting because of a delay fault.
            send(&control, &Request::ClearAll {});
        })
    };
    let senders = [spawn_sender(1), spawn_sender(2)];
    let mut test = CommandTest {
        rng: Rng::with_seed(seed),
        node,
        control,
        pods: BTreeMap::new(),
        admitted: 0,
        kubelets: 1,
        reloads: 0,
    };
    while !senders.iter().all(JoinHandle::is_finished) {
        test = test.step().await;
    }
    for sender in senders {
        sender.await.expect("every command gets a response");
    }
    let (admitted, kubelets, reloads) = (test.admitted, test.kubelets, test.reloads);
    eprintln!(
        "{commands} commands, {admitted} pods admitted, {kubelets} kubelets, {reloads} reloads"
    );
    assert!(admitted > 20, "only {admitted} pods were admitted");
    test.inject_every_kind().await.settle().await;
}

/// Returns the injection points of all faults that were injected so far.
fn injected_points(control: &Path) -> BTreeSet<String> {
    let Some(Reply::Status(status)) = send(
        control,
        &Request::Status {
            devices: WithDevices::None,
        },
    ) else {
        panic!("no status");
    };
    let resources = status.resources.into_iter();
    resources
        .flat_map(|resource| resource.faults_injected.into_keys())
        .collect()
}

/// Adds a health fault without other faults or overrides, and waits until it is injected.
fn wait_until_devices_flap(control: &Path) {
    let resource = FLAPPING.to_owned();
    send(control, &Request::ClearAll {});
    send(control, &Request::Reset { resource });
    let before = health_injections(control);
    let fault = r#"{"on": "health", "devices": "all", "up": "1s", "down": "1s"}"#;
    let flap = Request::Fault {
        resource: FLAPPING.to_owned(),
        fault: serde_json::from_str(fault).expect("a fault"),
    };
    assert!(send(control, &flap).is_some(), "the fault was refused");
    let began = Instant::now();
    while health_injections(control) == before {
        assert!(began.elapsed() < DEADLINE, "no device became Unhealthy");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns how often a health fault was injected into the resource.
fn health_injections(control: &Path) -> u64 {
    let status = send(
        control,
        &Request::Status {
            devices: WithDevices::Of(FLAPPING.to_owned()),
        },
    );
    let Some(Reply::Status(status)) = status else {
        panic!("no status");
    };
    let injected = &status.resources[0].faults_injected;
    injected
        .get(InjectionPoint::Health.as_str())
        .copied()
        .unwrap_or(0)
}

/// Sends a request. The daemon may refuse it for some reasons, but it must respond.
fn send(control: &Path, request: &Request) -> Option<Reply> {
    match client::ask(control, request) {
        Ok(Reply::Refused(
            Refusal::TooManyFaults { .. } | Refusal::Devices { .. } | Refusal::Count { .. },
        )) => None,
        Ok(Reply::Refused(refusal)) => panic!("{request:?}: {refusal}"),
        Ok(reply) => Some(reply),
        Err(error) => panic!("{request:?}: {error}"),
    }
}

fn random_request(rng: &mut Rng) -> Request {
    let resource = rng.choice(&RESOURCES).expect("a resource").0.to_owned();
    match rng.u8(..20) {
        0..=5 => Request::Health {
            resource,
            devices: (*rng
                .choice(&["all", "0", "1-3", "0-1", "a,b", "9"])
                .expect("devices"))
            .to_owned(),
            health: *rng
                .choice(&[Health::Healthy, Health::Unhealthy])
                .expect("a health"),
        },
        6..=9 => Request::Scale {
            resource,
            count: rng.usize(..12),
        },
        10..=11 => Request::Reset { resource },
        12..=16 => Request::Fault {
            resource,
            fault: serde_json::from_str(random_fault(rng)).expect("a fault"),
        },
        17 => Request::Clear { resource },
        18 => Request::ClearAll {},
        _ => Request::Status {
            devices: WithDevices::Of(resource),
        },
    }
}

fn random_fault(rng: &mut Rng) -> &'static str {
    // A resource needs time to recover from these faults. If they were frequent, no pod would ever be admitted.
    let streams = [
        r#"{"on": "stream"}"#,
        r#"{"on": "stream", "times": 2, "after": 1}"#,
        r#"{"on": "registration"}"#,
        r#"{"on": "registration", "for": "50ms", "times": 3}"#,
        r#"{"on": "options", "error": "INTERNAL", "times": 1}"#,
    ];
    let calls = [
        r#"{"on": "allocate", "delay": "10ms", "probability": 0.5, "times": "unlimited"}"#,
        r#"{"on": "allocate", "error": "UNAVAILABLE", "probability": 0.3, "times": "unlimited"}"#,
        r#"{"on": "preferred", "delay": "10ms", "after": 1, "times": "unlimited"}"#,
        r#"{"on": "preferred", "error": "INTERNAL", "times": 1}"#,
        r#"{"on": "pre-start", "error": "ABORTED", "times": 2}"#,
        r#"{"on": "options", "delay": "10ms"}"#,
        r#"{"on": "health", "devices": "all", "up": "1s", "down": "1s"}"#,
        r#"{"on": "health", "devices": "0-1", "up": "1s", "down": "2s", "probability": 0.5}"#,
    ];
    let faults = if rng.u8(..50) == 0 {
        &streams[..]
    } else {
        &calls
    };
    rng.choice(faults).copied().expect("a fault")
}

struct CommandTest {
    rng: Rng,
    node: Node,
    control: PathBuf,
    /// The device IDs that each pod holds.
    pods: BTreeMap<String, Vec<String>>,
    admitted: u32,
    kubelets: u32,
    reloads: u32,
}

impl CommandTest {
    async fn step(mut self) -> Self {
        match self.rng.u8(..200) {
            0 => self = self.restart_kubelet().await,
            1..=3 => {
                // Changes a value that affects neither the pods nor the commands.
                let grace = self.rng.u8(1..9);
                let config =
                    CONFIG.replace("removalGrace: 1s", &format!("removalGrace: 1s{grace}ms"));
                fs::write(&self.node.file, config).expect("a file");
                self.reloads += 1;
            }
            4..=100 => self.admit().await,
            101..=149 => self.delete(),
            150 => self.check_that_held_devices_are_listed(),
            _ => self.start_container().await,
        }
        assert_alive(&self.node.kubelet);
        self
    }

    async fn restart_kubelet(mut self) -> Self {
        self.node = self.node.with_another_kubelet().await;
        self.kubelets += 1;
        self
    }

    async fn admit(&mut self) {
        let (resource, _) = *self.rng.choice(&RESOURCES).expect("a resource");
        let pod = pod(
            &format!("p{}", self.rng.u8(..20)),
            &[(resource, self.rng.usize(1..3))],
        );
        if self.pods.contains_key(&pod.name) {
            return;
        }
        let mut node = self.node.kubelet.node();
        let recovered = node.wait_for(|node| {
            node.get(resource)
                .is_some_and(|shown| shown.allocatable > 0)
        });
        let _ = tokio::time::timeout(RECOVERY_TIME, recovered).await;
        // The kubelet may reject the pod because of a fault or too few devices.
        if self.node.kubelet.admit(&pod).await.is_ok() {
            self.admitted += 1;
            self.pods
                .insert(pod.name.clone(), held(&self.node.kubelet, &pod.name));
        }
    }

    /// Checks that the daemon's status lists every device that a pod holds. A kubelet crashes if such a device is
    /// removed.
    fn check_that_held_devices_are_listed(&self) {
        let Some(Reply::Status(status)) = send(
            &self.control,
            &Request::Status {
                devices: WithDevices::All,
            },
        ) else {
            panic!("no status");
        };
        let devices = status
            .resources
            .iter()
            .flat_map(|resource| &resource.devices);
        let listed: BTreeSet<&str> = devices.flatten().map(|device| &*device.id).collect();
        for (pod, held) in &self.pods {
            let missing: Vec<&String> = held.iter().filter(|id| !listed.contains(&***id)).collect();
            assert!(
                missing.is_empty(),
                "{pod} holds {missing:?}, which are not listed"
            );
        }
    }

    async fn start_container(&mut self) {
        let names: Vec<&String> = self.pods.keys().collect();
        if let Some(name) = self.rng.choice(&names) {
            // A fault may make this fail.
            let _ = self.node.kubelet.start_containers(name).await;
        }
    }

    fn delete(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        if let Some(name) = self.rng.choice(&names) {
            self.node.kubelet.delete(name);
            self.pods.remove(name);
        }
    }

    /// Adds each kind of fault until it is injected, because the random commands may have missed some kinds.
    async fn inject_every_kind(mut self) -> Self {
        // The kubelet makes every kind of call to this plugin.
        let resource = "example.com/gpu".to_owned();
        send(&self.control, &Request::Reset { resource });
        for point in (0..InjectionPoint::LENGTH).map(InjectionPoint::from_usize) {
            let point = point.as_str();
            let options = match point {
                "stream" | "registration" => "",
                "health" => r#", "devices": "all", "up": "1s", "down": "1s""#,
                _ => r#", "delay": "10ms", "times": "unlimited""#,
            };
            let began = Instant::now();
            while !injected_points(&self.control).contains(point) {
                assert!(began.elapsed() < DEADLINE, "no {point} fault was injected");
                let fault = format!(r#"{{"on": "{point}"{options}}}"#);
                let fault = Request::Fault {
                    resource: "example.com/gpu".to_owned(),
                    fault: serde_json::from_str(&fault).expect("a fault"),
                };
                send(&self.control, &fault);
                if point == "options" {
                    // The kubelet asks a plugin for its options when it registers.
                    self = self.restart_kubelet().await;
                }
                self = self.step().await;
            }
            send(&self.control, &Request::ClearAll {});
        }
        self
    }

    /// Resets all resources, deletes all pods, and checks that everything is as configured.
    async fn settle(self) {
        let control = &*self.control;
        let Node {
            kubelet,
            manager,
            dir,
            ..
        } = self.node;
        for (resource, _) in RESOURCES {
            let resource = resource.to_owned();
            send(control, &Request::Reset { resource });
        }
        for pod in self.pods.keys() {
            kubelet.delete(pod);
        }
        wait_for_configured_devices(&kubelet).await;
        let Some(Reply::Status(status)) = send(
            control,
            &Request::Status {
                devices: WithDevices::All,
            },
        ) else {
            panic!("no status");
        };
        for resource in &status.resources {
            assert!(resource.overrides.is_none(), "{resource:?}");
            let configured = usize::from(resource.name == "example.com/fpga");
            assert_eq!(resource.faults.len(), configured, "{resource:?}");
            let devices = resource.devices.as_deref().unwrap_or_default();
            assert!(devices.iter().all(|device| !device.health_overridden
                && !device.fault_unhealthy
                && !device.removing));
        }
        for (resource, _) in RESOURCES {
            let pod = pod(resource, &[(resource, 1)]);
            kubelet.admit(&pod).await.expect("as configured");
        }
        assert_alive(&kubelet);
        manager.signal(Signal::TERM);
        assert!(manager.wait().success());
        drop(dir);
    }
}

/// Waits until the kubelet shows the configured devices.
async fn wait_for_configured_devices(kubelet: &Kubelet) {
    for (resource, count) in RESOURCES {
        wait_for_node(kubelet, resource, count, count).await;
    }
}
