//! Random commands, reloads and restarts while pods come and go; in the end everything is as configured.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use crate::support::control::control;
use crate::support::running_node::Node;
use crate::support::soak::{count, seed};
use crate::support::{DEADLINE, assert_alive, held, pod, shows, strict_kubelet};
use enum_map::Enum;
use fastrand::Rng;
use kubelet_sim::Kubelet;
use rustix::process::Signal;
use simple_device_plugin::control::{Refusal, Reply, Request, client};
use simple_device_plugin::fault::InjectionPoint;
use simple_device_plugin::model::device::Health;
use simple_device_plugin::observe::status::WithDevices;
use tokio::task::JoinHandle;

/// How many commands there are, unless `COMMANDS` says otherwise; `make soak` gives a hundred thousand.
const COMMANDS: usize = 10_000;
const HANDS: usize = 2;
/// The resources and their device counts; the config file lists the devices of the second one.
const RESOURCES: [(&str, usize); 3] = [
    ("example.com/gpu", 8),
    ("example.com/nic", 4),
    ("example.com/fpga", 4),
];

/// Now and then both hands rest until devices have flapped, which takes an undisturbed second. Pods still come and go.
const RESTS: usize = 10;
const FLAPPING: &str = "example.com/nic";

/// A resource comes back from a fault, if nothing keeps it.
const COMES_WITHIN: Duration = Duration::from_millis(20);

const CONFIG: &str = "
removalGrace: 1s
resources:
  - {name: example.com/gpu, devices: 8, numaNodes: [0, 1], preferredAllocation: packed, preStart: true}
  - {name: example.com/nic, devices: [{id: a}, {id: b}, {id: c, numa: [0]}, {id: '0-1', numa: [0, 1]}]}
  - {name: example.com/fpga, devices: 4, faults: [{on: allocate, delay: 10ms, probability: 0.5, times: unlimited, seed: 7}]}
";

#[tokio::test]
async fn ten_thousand_commands_leave_everything_as_configured() {
    let seed = seed("COMMAND_SEED");
    let commands = count("COMMANDS", COMMANDS);
    eprintln!("COMMAND_SEED={seed}");
    let node = Node::with_kubelet(CONFIG, strict_kubelet);
    as_configured(&node.kubelet).await;
    let control = control(node.dir.path());
    let hands_may_act = Arc::new(RwLock::new(()));
    let hand = |hand: u64| {
        let control = control.clone();
        let hands_may_act = Arc::clone(&hands_may_act);
        let mut rng = Rng::with_seed(seed.wrapping_add(hand));
        tokio::task::spawn_blocking(move || {
            let commands = commands / HANDS;
            for count in 1..=commands {
                {
                    let _acts = hands_may_act.read().expect("no panic");
                    give(&control, &random(&mut rng));
                }
                if hand == 1 && count % (commands / RESTS).max(1) == 0 {
                    let _rests = hands_may_act.write().expect("no panic");
                    rest_until_devices_flap(&control);
                }
            }
            // A pod may be waiting for a delay that nobody clears any more.
            give(&control, &Request::ClearAll {});
        })
    };
    let hands = [hand(1), hand(2)];
    let mut story = SteerStory {
        rng: Rng::with_seed(seed),
        node,
        control,
        pods: BTreeMap::new(),
        admitted: 0,
        kubelets: 1,
        reloads: 0,
    };
    while !hands.iter().all(JoinHandle::is_finished) {
        story = story.step().await;
    }
    for hand in hands {
        hand.await.expect("every command is answered");
    }
    let (admitted, kubelets, reloads) = (story.admitted, story.kubelets, story.reloads);
    eprintln!(
        "{commands} commands, {admitted} pods admitted, {kubelets} kubelets, {reloads} reloads"
    );
    assert!(admitted > 20, "few pods came");
    story.inject_the_rest().await.settle().await;
}

/// The kinds of faults that were injected so far.
fn injected(control: &Path) -> BTreeSet<String> {
    let Some(Reply::Status(status)) = give(
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

fn rest_until_devices_flap(control: &Path) {
    let resource = FLAPPING.to_owned();
    give(control, &Request::ClearAll {});
    give(control, &Request::Reset { resource });
    let before = flaps(control);
    let fault = r#"{"on": "health", "devices": "all", "up": "1s", "down": "1s"}"#;
    let flap = Request::Fault {
        resource: FLAPPING.to_owned(),
        fault: serde_json::from_str(fault).expect("a fault"),
    };
    assert!(give(control, &flap).is_some(), "there is room");
    let began = Instant::now();
    while flaps(control) == before {
        assert!(began.elapsed() < DEADLINE, "no device flaps");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How often a fault made devices of the resource Unhealthy.
fn flaps(control: &Path) -> u64 {
    let status = give(
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

/// Gives a command. The program may refuse it, but it must answer.
fn give(control: &Path, request: &Request) -> Option<Reply> {
    match client::ask(control, request) {
        Ok(Reply::Refused(
            Refusal::TooManyFaults { .. } | Refusal::Devices { .. } | Refusal::Count { .. },
        )) => None,
        Ok(Reply::Refused(refusal)) => panic!("{request:?}: {refusal}"),
        Ok(reply) => Some(reply),
        Err(error) => panic!("{request:?}: {error}"),
    }
}

fn random(rng: &mut Rng) -> Request {
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
            fault: serde_json::from_str(fault(rng)).expect("a fault"),
        },
        17 => Request::Clear { resource },
        18 => Request::ClearAll {},
        _ => Request::Status {
            devices: WithDevices::Of(resource),
        },
    }
}

fn fault(rng: &mut Rng) -> &'static str {
    // After these a resource needs a moment to come back: were they as frequent, no pod would ever come.
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

struct SteerStory {
    rng: Rng,
    node: Node,
    control: PathBuf,
    /// What each pod holds.
    pods: BTreeMap<String, Vec<String>>,
    admitted: u32,
    kubelets: u32,
    reloads: u32,
}

impl SteerStory {
    async fn step(mut self) -> Self {
        match self.rng.u8(..200) {
            0 => {
                self.node = self.node.with_another_kubelet().await;
                self.kubelets += 1;
            }
            1..=3 => {
                // Something else than the pods and the hands care for.
                let grace = self.rng.u8(1..9);
                let config =
                    CONFIG.replace("removalGrace: 1s", &format!("removalGrace: 1s{grace}ms"));
                fs::write(&self.node.file, config).expect("a file");
                self.reloads += 1;
            }
            4..=100 => self.admit().await,
            101..=149 => self.delete(),
            150 => self.list_has_what_pods_hold(),
            _ => self.start().await,
        }
        assert_alive(&self.node.kubelet);
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
        // It may be suspended for longer.
        let mut node = self.node.kubelet.node();
        let there = node.wait_for(|node| {
            node.get(resource)
                .is_some_and(|shown| shown.allocatable > 0)
        });
        let _ = tokio::time::timeout(COMES_WITHIN, there).await;
        // Too few devices and faults are no fault.
        if self.node.kubelet.admit(&pod).await.is_ok() {
            self.admitted += 1;
            self.pods
                .insert(pod.name.clone(), held(&self.node.kubelet, &pod.name));
        }
    }

    /// As the program tells it: a kubelet crashes over what is not there any more.
    fn list_has_what_pods_hold(&self) {
        let Some(Reply::Status(status)) = give(
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
            let lacking: Vec<&String> = held.iter().filter(|id| !listed.contains(&***id)).collect();
            assert!(lacking.is_empty(), "{pod} holds {lacking:?}");
        }
    }

    async fn start(&mut self) {
        let names: Vec<&String> = self.pods.keys().collect();
        if let Some(name) = self.rng.choice(&names) {
            // A fault may be in the way.
            let _ = self.node.kubelet.start_container(name).await;
        }
    }

    fn delete(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        if let Some(name) = self.rng.choice(&names) {
            self.node.kubelet.delete(name);
            self.pods.remove(name);
        }
    }

    /// Chance may have left out a kind of fault.
    async fn inject_the_rest(mut self) -> Self {
        // The one whose plugin is asked for everything.
        let resource = "example.com/gpu".to_owned();
        give(&self.control, &Request::Reset { resource });
        for point in (0..InjectionPoint::LENGTH).map(InjectionPoint::from_usize) {
            let point = point.as_str();
            let with = match point {
                "stream" | "registration" => "",
                "health" => r#", "devices": "all", "up": "1s", "down": "1s""#,
                _ => r#", "delay": "10ms", "times": "unlimited""#,
            };
            let began = Instant::now();
            while !injected(&self.control).contains(point) {
                assert!(began.elapsed() < DEADLINE, "{point} is not injected");
                let fault = format!(r#"{{"on": "{point}"{with}}}"#);
                let fault = Request::Fault {
                    resource: "example.com/gpu".to_owned(),
                    fault: serde_json::from_str(&fault).expect("a fault"),
                };
                give(&self.control, &fault);
                self = self.step().await;
            }
            give(&self.control, &Request::ClearAll {});
        }
        self
    }

    /// The overrides are removed, and the pods go.
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
            give(control, &Request::Reset { resource });
        }
        for pod in self.pods.keys() {
            kubelet.delete(pod);
        }
        as_configured(&kubelet).await;
        let Some(Reply::Status(status)) = give(
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
        assert!(manager.ends().success());
        drop(dir);
    }
}

async fn as_configured(kubelet: &Kubelet) {
    for (resource, count) in RESOURCES {
        shows(kubelet, resource, count, count).await;
    }
}
