//! Soak test: random kubelet restarts, lost streams and failed registrations while pods are admitted and deleted. `make
//! soak` runs more of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::process::Running;
use crate::support::soak::{count, seed};
use crate::support::{
    all_served, happens, held, kubelet, plugin_dir, pod, registrations, settings, sockets, until,
    wait_for_node, within,
};
use fastrand::Rng;
use kubelet_sim::{AdmissionError, EventKind, Kubelet, RegistrationMode};
use tempfile::TempDir;

const RESOURCES: [&str; 4] = [
    "example.com/a",
    "example.com/b",
    "example.com/c",
    "example.com/d",
];
const DEVICES: usize = 8;
const PODS_MAX: usize = 6;

/// The default number of kubelet restarts.
const RESTARTS: usize = 12;
/// The number of kubelet restarts between two lines of progress.
const PROGRESS_EVERY: usize = 100;
/// In KiB. Less growth is not reported as a leak, because an allocator does not return memory at once.
const GROWTH_MAX_KIB: u64 = 1024;

/// Prints the command that repeats a failed run.
struct PrintReplayOnPanic {
    seed: u64,
    restarts: usize,
}

impl Drop for PrintReplayOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "to repeat this run: make soak SEED={} RESTARTS={}",
                self.seed, self.restarts
            );
        }
    }
}

#[tokio::test]
async fn recovers_from_random_restarts_and_failures() {
    let restarts = count("SOAK_RESTARTS", RESTARTS);
    let seed = seed("SOAK_SEED");
    println!("seed {seed}, {restarts} restarts");
    let _replay = PrintReplayOnPanic { seed, restarts };
    let mut node = SoakedNode::start(seed).await;
    while node.restarts < restarts.div_ceil(4) {
        node.step().await;
    }
    // The first measurement is here, because the daemon's initial allocations are not a leak.
    node.settle().await;
    let early = node.measure();
    while node.restarts < restarts {
        node.step().await;
    }
    node.settle().await;
    // The connection of the last registration may still be open.
    until(
        "the descriptors and threads of the first measurement",
        || {
            let now = node.measure();
            now.descriptors <= early.descriptors && now.threads <= early.threads
        },
    )
    .await;
    let late = node.measure();
    println!(
        "{early:?} after a quarter, {late:?} at the end; {:?}",
        node.done
    );
    assert!(
        late.resident_kib <= early.resident_kib + GROWTH_MAX_KIB,
        "resident memory grew"
    );
    node.end().await;
}

/// The resources of the daemon's process.
#[derive(Debug)]
struct Measured {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
}

/// A node whose kubelet, sockets and registrations are broken at random.
struct SoakedNode {
    rng: Rng,
    dir: TempDir,
    kubelet: Option<Kubelet>,
    manager: Running,
    /// The device IDs that each pod must hold.
    pods: BTreeMap<String, Vec<String>>,
    pods_created: usize,
    /// Resources that the test broke since the kubelet started. They may register more than once.
    broken: BTreeSet<&'static str>,
    /// Resources whose registrations the kubelet refuses or leaves hanging.
    blocked: BTreeSet<&'static str>,
    restarts: usize,
    done: BTreeMap<&'static str, usize>,
}

impl SoakedNode {
    async fn start(seed: u64) -> Self {
        let dir = plugin_dir();
        let kubelet = kubelet(dir.path());
        let names = RESOURCES.join(",");
        let devices = DEVICES.to_string();
        let variables = [("RESOURCE_NAME", &*names), ("NUMBER_DEVICES", &*devices)];
        let manager = Running::manager(dir.path(), &variables);
        let mut node = Self {
            rng: Rng::with_seed(seed),
            dir,
            kubelet: Some(kubelet),
            manager,
            pods: BTreeMap::new(),
            pods_created: 0,
            broken: BTreeSet::new(),
            blocked: BTreeSet::new(),
            restarts: 0,
            done: BTreeMap::new(),
        };
        node.settle().await;
        node
    }

    fn kubelet(&self) -> &Kubelet {
        self.kubelet.as_ref().expect("a kubelet")
    }

    /// Runs one random action. With probability 0.5, then waits until everything has recovered.
    async fn step(&mut self) {
        // Each step has its own generator, because how many numbers a step draws depends on timing.
        let mut rng = Rng::with_seed(self.rng.u64(..));
        let resource = RESOURCES[rng.usize(..RESOURCES.len())];
        let action = match rng.u32(..20) {
            0..8 => self.restart().await,
            8 => self.disconnect_plugin(resource).await,
            9 | 10 => self.delete_socket(resource).await,
            11 => self.refuse(resource).await,
            12 => self.hang(resource).await,
            13..17 => self.admit_pod(&mut rng).await,
            _ => self.delete_pod(&mut rng),
        };
        *self.done.entry(action).or_default() += 1;
        if rng.bool() {
            self.settle().await;
        }
    }

    /// Waits until all devices of every resource are allocatable, then checks registrations, pods and sockets.
    async fn settle(&mut self) {
        let devices = DEVICES;
        for resource in std::mem::take(&mut self.blocked) {
            self.kubelet()
                .set_registration_mode(resource, RegistrationMode::Normal);
        }
        for resource in RESOURCES {
            wait_for_node(self.kubelet(), resource, devices, devices).await;
            if !self.broken.contains(resource) {
                assert_eq!(registrations(self.kubelet(), resource), 1, "{resource}");
            }
        }
        for (pod, devices) in &self.pods {
            assert_eq!(&held(self.kubelet(), pod), devices, "{pod}");
        }
        until("every socket", || {
            all_served(self.dir.path(), RESOURCES.len())
        })
        .await;
    }

    async fn restart(&mut self) -> &'static str {
        let kubelet = self.kubelet.take().expect("a kubelet");
        kubelet.stop().await;
        let pods = self.pods.keys().cloned().collect();
        let kubelet = Kubelet::start_with_pods(settings(self.dir.path()), pods);
        self.kubelet = Some(kubelet.expect("a kubelet"));
        self.broken.clear();
        self.blocked.clear();
        self.restarts += 1;
        if self.restarts.is_multiple_of(PROGRESS_EVERY) {
            println!("{} restarts", self.restarts);
        }
        "restart"
    }

    /// Closes the connection to a plugin, and waits until the kubelet has noticed it.
    async fn disconnect_plugin(&mut self, resource: &'static str) -> &'static str {
        let mut events = self.kubelet().events();
        self.broken.insert(resource);
        if self.kubelet().disconnect_plugin(resource) {
            happens(&mut events, resource, |what| {
                matches!(
                    what,
                    EventKind::Disconnected { .. } | EventKind::RegistrationFailed { .. }
                )
            })
            .await;
        }
        "lost stream"
    }

    async fn delete_socket(&mut self, resource: &'static str) -> &'static str {
        // Settles first: if the socket is deleted before the kubelet dials it, the registration fails.
        self.settle().await;
        let name = resource.replace('/', "_");
        let socket = format!("simple-device-plugin-{name}.sock");
        std::fs::remove_file(self.dir.path().join(socket)).expect("a socket");
        "deleted socket"
    }

    async fn refuse(&mut self, resource: &'static str) -> &'static str {
        if !self.blocked.insert(resource) {
            return "nothing";
        }
        let mut events = self.kubelet().events();
        self.kubelet()
            .set_registration_mode(resource, RegistrationMode::Refuse);
        self.disconnect_plugin(resource).await;
        happens(&mut events, resource, |what| {
            matches!(what, EventKind::RegistrationFailed { .. })
        })
        .await;
        "refused registration"
    }

    /// Lets a registration hang, which must not affect other resources or later steps.
    async fn hang(&mut self, resource: &'static str) -> &'static str {
        if !self.blocked.insert(resource) {
            return "nothing";
        }
        self.kubelet()
            .set_registration_mode(resource, RegistrationMode::Hang);
        self.disconnect_plugin(resource).await;
        let before = registrations(self.kubelet(), resource);
        let mut counts = self.kubelet().registrations();
        let counted = counts.wait_for(|counts| counts.get(resource) > Some(&before));
        within("a registration", counted).await.expect("a kubelet");
        "hanging registration"
    }

    /// Admits a pod. The kubelet may reject it only if a resource has not recovered yet.
    async fn admit_pod(&mut self, rng: &mut Rng) -> &'static str {
        if self.pods.len() == PODS_MAX {
            return self.delete_pod(rng);
        }
        self.pods_created += 1;
        let name = format!("p{}", self.pods_created);
        let settled = rng.bool();
        if settled {
            self.settle().await;
        }
        let mut requests = Vec::new();
        for resource in RESOURCES {
            requests.push((resource, rng.usize(..2)));
        }
        requests[0].1 = 1;
        match self.kubelet().admit(&pod(&name, &requests)).await {
            Ok(_) => {
                let devices = held(self.kubelet(), &name);
                assert_eq!(
                    devices.len(),
                    requests.iter().map(|(_, n)| n).sum::<usize>()
                );
                let twice = self.pods.values().flatten().find(|id| devices.contains(id));
                assert_eq!(twice, None, "{name} holds a device of another pod");
                self.pods.insert(name, devices);
            }
            Err(error) => {
                use AdmissionError::{NoHealthyDevice, Plugin, Stopped};
                let is_broken = matches!(error, NoHealthyDevice(_) | Stopped(_) | Plugin { .. });
                assert!(!settled && is_broken, "{name}: {error}");
            }
        }
        "admitted pod"
    }

    fn delete_pod(&mut self, rng: &mut Rng) -> &'static str {
        if self.pods.is_empty() {
            return "nothing";
        }
        let index = rng.usize(..self.pods.len());
        let name = self.pods.keys().nth(index).cloned().expect("a pod");
        self.kubelet().delete(&name);
        self.pods.remove(&name);
        "deleted pod"
    }

    fn measure(&self) -> Measured {
        let proc = format!("/proc/{}", self.manager.child.id());
        let count = |what: &str| {
            let entries = std::fs::read_dir(format!("{proc}/{what}"));
            entries.expect("a process").count()
        };
        let status = std::fs::read_to_string(format!("{proc}/status")).expect("a process");
        let resident = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = resident.and_then(|line| line.split_whitespace().nth(1));
        Measured {
            descriptors: count("fd"),
            threads: count("task"),
            resident_kib: kib.and_then(|kib| kib.parse().ok()).expect("KiB"),
        }
    }

    async fn end(self) {
        self.manager.signal(rustix::process::Signal::TERM);
        let (manager, dir, _kubelet) = (self.manager, self.dir, self.kubelet);
        let ended = tokio::task::spawn_blocking(|| manager.wait());
        assert_eq!(ended.await.expect("no panic").code(), Some(0));
        assert!(sockets(dir.path()).is_empty());
    }
}
