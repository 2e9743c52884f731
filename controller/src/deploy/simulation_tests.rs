//! A whole cluster in virtual time: the controller's own decisions (liveness, placing, replacing, deploys' steps, routes) and the
//! agents' own (`agent/src/reconcile.rs`), over machines, links and a controller that fail at random.
//!
//! Everything follows from one seed, which is printed when a promise is broken. `BERTH_SIM_SEED=7` runs one seed,
//! `BERTH_SIM_SEEDS=1000` runs that many.

use super::super::batches::Batch;
use super::super::batches::tests::serving;
use super::super::plan::tests::operation;
use super::super::plan::{Operation, Phase};
use super::*;
use crate::nodes::Fleet;
use crate::nodes::liveness::{EXPECTED_MS, HEARTBEAT_MS, LOST_MS, Life, STABLE_MS};
use crate::release::tests::app;
use crate::routing;
use crate::schedule::{self, Pins, Placed, Wanted};
use berth_model::ReleaseVersion;
use berth_model::container::{ContainerStatus, Mount};
use berth_model::node::{Capacity, Observed, Pressure};
use berth_model::release::App;
use berth_model::route::Target;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

#[path = "../../../agent/src/reconcile.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is the agent's; a part of it is used here")]
mod reconcile;

/// One step of the simulation, in milliseconds.
const STEP: u64 = 500;
/// How long a container that is on its way out may go on.
const RETIRE_MS: i64 = 3_000;
/// What reports and orders may need on their way, at most.
const SLOW_MS: u64 = 2_500;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Once in `n`.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A container on a machine.
struct Local {
    spec: ContainerSpec,
    state: ContainerState,
    changes_at: u64,
    address: IpAddr,
}

/// A machine with its agent.
struct Machine {
    up: bool,
    /// Its agent is away until then; what it runs goes on.
    agent_away_until: u64,
    /// Reports do not arrive; orders do not arrive.
    cut: (bool, bool),
    slow: bool,
    short: bool,
    /// Until then a machine that has just started waits for orders.
    cold_until: u64,
    generation: u64,
    wanted: BTreeMap<ContainerId, ContainerSpec>,
    has: BTreeMap<ContainerId, Local>,
    down_since: Option<u64>,
    addresses: u16,
    /// What is on its way to the controller.
    sent: Vec<(u64, Observed)>,
    last_report: u64,
    changed: bool,
}

struct Simulation {
    random: Random,
    now: u64,
    machines: BTreeMap<NodeName, Machine>,
    apps: BTreeMap<AppName, (App, usize)>,
    /// What the store keeps.
    plans: BTreeMap<AppName, Arc<AppPlan>>,
    pins: Pins,
    floor: u64,
    /// The controller's memory; `None` while it is down.
    fleet: Option<Fleet>,
    down_until: u64,
    /// Since when it has been up.
    up_since: u64,
    /// Whether it has given out routes since.
    published: bool,
    unique: u64,
    moves: BTreeMap<(AppName, String), usize>,
    routes: BTreeMap<AppName, Vec<(ContainerId, SocketIp)>>,
    /// Where each volume was ever written.
    owners: BTreeMap<String, BTreeSet<NodeName>>,
}

type SocketIp = IpAddr;

fn node(index: usize) -> NodeName {
    NodeName::parse(&format!("n{index}")).expect("valid")
}

impl Simulation {
    fn new(seed: u64, nodes: usize, apps: usize) -> Self {
        let machine = |_| Machine {
            up: true,
            agent_away_until: 0,
            cut: (false, false),
            slow: false,
            short: false,
            cold_until: 0,
            generation: 0,
            wanted: BTreeMap::new(),
            has: BTreeMap::new(),
            down_since: None,
            addresses: 0,
            sent: Vec::new(),
            last_report: 0,
            changed: true,
        };
        let mut simulation = Self {
            random: Random(seed),
            now: 1_000,
            machines: (0..nodes).map(|index| (node(index), machine(index))).collect(),
            apps: BTreeMap::new(),
            plans: BTreeMap::new(),
            pins: Pins::new(),
            floor: 0,
            fleet: None,
            down_until: 0,
            up_since: 0,
            published: false,
            unique: 0,
            moves: BTreeMap::new(),
            routes: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        for index in 0..apps {
            let name = AppName::parse(&format!("app{index}")).expect("valid");
            let replicas = 1 + usize::try_from(simulation.random.below(5)).expect("small");
            let app = App { name: name.clone(), created_ms: 1, ..app() };
            simulation.apps.insert(name, (app, replicas));
        }
        simulation.boot();
        simulation
    }

    fn unique(&mut self) -> String {
        self.unique += 1;
        format!("u{}", self.unique)
    }

    /// What an app is to run. Every fourth app writes to a volume.
    fn specs(&mut self, name: &AppName) -> Vec<ContainerSpec> {
        let replicas = self.apps[name].1;
        let count = u32::try_from(replicas).expect("small");
        let bound = name.as_str().ends_with(['0', '4', '8']);
        let sample: Vec<_> = serving(&[("web", count)]).into_values().map(|planned| planned.spec).collect();
        let named = sample.into_iter().map(|spec| {
            let id = ContainerId::of(name, &spec.process, spec.ordinal, &self.unique()).expect("an id");
            let mounts = if bound {
                vec![Mount { source: format!("data-{name}"), target: "/data".into(), read_only: false }]
            } else {
                Vec::new()
            };
            ContainerSpec { id, app: name.clone(), mounts, port: Some(5000), ..spec }
        });
        named.collect()
    }

    /// The controller starts, with what the store has.
    fn boot(&mut self) {
        let fleet = Fleet::default();
        fleet.simulate(self.now);
        self.floor += 1 << 20;
        fleet.raise(self.floor);
        for plan in self.plans.values() {
            fleet.plan(plan.containers.iter().map(|(id, planned)| (id, Some(&planned.node))));
            fleet.expect(plan.containers.values().map(|planned| planned.node.clone()));
        }
        fleet.expect(self.machines.keys().cloned());
        self.fleet = Some(fleet);
        self.up_since = self.now;
        self.published = false;
        // Half of the operations that were under way are taken back, as pushes are; the others go on.
        for app in self.plans.keys().cloned().collect::<Vec<_>>() {
            if self.random.once_in(2) && self.plans[&app].operation.is_some() {
                self.step(&app, super::super::plan::AppPlan::undo);
            }
        }
    }

    fn step(&mut self, app: &AppName, step: impl FnOnce(&AppPlan, i64) -> AppPlan) {
        let now = i64::try_from(self.now).expect("small");
        let old = self.plans.get(app).cloned().unwrap_or_default();
        let new = Arc::new(step(&old, now));
        if *old == *new {
            return;
        }
        let Some(fleet) = &self.fleet else { return };
        let gone = old.containers.keys().filter(|id| !new.containers.contains_key(*id)).map(|id| (id, None));
        fleet.plan(gone.chain(new.containers.iter().map(|(id, one)| (id, Some(&one.node)))));
        let differ = old.containers.iter().filter(|(id, _)| !new.containers.contains_key(*id));
        let come = new.containers.iter().filter(|(id, _)| !old.containers.contains_key(*id));
        let touched: BTreeSet<_> = differ.chain(come).map(|(_, planned)| planned.node.clone()).collect();
        fleet.reassign(touched.iter());
        self.plans.insert(app.clone(), new);
    }

    fn place(&mut self, specs: &[ContainerSpec]) -> Placement {
        let Some(fleet) = &self.fleet else { return Placement::default() };
        let views = fleet.nodes().into_iter();
        let mut nodes: schedule::Nodes =
            views.map(|view| (view.name.clone(), placing::node(None, Some(&view)))).collect();
        for plan in self.plans.values() {
            for planned in plan.containers.values() {
                if let Some(node) = nodes.get_mut(&planned.node) {
                    let goes = matches!(planned.role, Role::Retiring { .. });
                    node.placed.push(Placed { goes, ..Placed::of(&planned.spec) });
                }
            }
        }
        let rules = Arc::new(Default::default());
        let wanted: Vec<_> = specs.iter().map(|spec| Wanted::of(spec, Arc::clone(&rules))).collect();
        let placement = schedule::place(&wanted, &nodes, &self.pins);
        for (volume, node) in &placement.pinned {
            self.pins.insert(volume.clone(), Some(node.clone()));
        }
        placement
    }

    /// A deploy or a restart: new containers beside the old ones.
    fn deploy(&mut self, app: &AppName) {
        let plan = self.plans.get(app).cloned().unwrap_or_default();
        if plan.operation.is_some() || self.fleet.is_none() {
            return;
        }
        let specs = self.specs(app);
        let mut placement = self.place(&specs);
        if !placement.refused.is_empty() {
            return; // it fails before anything is started
        }
        let retire: BTreeSet<_> = plan.serving().map(|(id, _)| id.clone()).collect();
        let start = specs.iter().map(|spec| (spec.process.clone(), spec.ordinal)).collect();
        let operation = Operation {
            release: ReleaseVersion(1),
            makes_release: false,
            phase: Phase::Starting,
            wait_to_retire_secs: 3,
            ..operation(vec![Batch { start, retire, swap: true, stop_first: false }])
        };
        let placed: Vec<_> =
            specs.into_iter().filter_map(|spec| Some((placement.placed.remove(&spec.id)?, spec))).collect();
        self.step(app, |plan, _| plan.begin(operation).start(placed));
    }

    /// One pass of everything the controller does.
    fn control(&mut self) {
        let Some(fleet) = &self.fleet else {
            if self.now >= self.down_until {
                self.boot();
            }
            return;
        };
        fleet.simulate(self.now);
        fleet.look();
        let lost = fleet.lost();
        if !lost.is_empty() {
            let plans: Vec<_> = self.plans.iter().map(|(app, plan)| (app.clone(), plan.clone())).collect();
            let mut number = self.unique;
            let unique = || {
                number += 1;
                format!("u{number}")
            };
            let Todo { orders, wanted } =
                todo(&plans, |node| lost.contains(node), |_| false, unique).expect("names fit");
            self.unique = number;
            let specs: Vec<_> = wanted.values().map(|(_, spec)| spec.clone()).collect();
            let placement = self.place(&specs);
            let (mut moves, _) = placed(wanted, placement);
            for (app, orders) in orders {
                let moves = moves.remove(&app).unwrap_or_default();
                for (_, _, spec) in &moves {
                    *self.moves.entry((app.clone(), spec.ordinal.to_string())).or_default() += 1;
                }
                self.step(&app, |plan, _| plan.relocate(moves, &orders.gone));
            }
        }
        for app in self.plans.keys().cloned().collect::<Vec<_>>() {
            self.go_on(&app);
        }
        self.publish();
    }

    /// The operation of an app goes on, and what has retired goes.
    fn go_on(&mut self, app: &AppName) {
        let plan = self.plans[app].clone();
        let Some(fleet) = &self.fleet else { return };
        if plan.operation.as_ref().is_some_and(|operation| operation.phase == Phase::Starting) {
            let ready = |(id, planned): (&ContainerId, &Planned)| {
                !fleet.is_lost(&planned.node)
                    && fleet.status(id).is_some_and(|status| routing::is_ready(&status))
            };
            let stuck = plan.new_ones().any(|(_, planned)| {
                fleet.is_lost(&planned.node) && !schedule::volumes(&planned.spec).is_empty()
            });
            if stuck {
                self.step(app, super::super::plan::AppPlan::undo);
            } else if plan.new_ones().all(ready) {
                self.step(app, |plan, now| plan.advance(now).finish());
            }
        }
        let now = i64::try_from(self.now).expect("small");
        let gone: BTreeSet<_> = plan
            .containers
            .iter()
            .filter(|(_, one)| matches!(one.role, Role::Retiring { until_ms } if until_ms.min(now + RETIRE_MS) <= now))
            .map(|(id, _)| id.clone())
            .collect();
        if !gone.is_empty() && self.published {
            self.step(app, |plan, _| plan.without(&gone));
        }
    }

    fn publish(&mut self) {
        let Some(fleet) = &self.fleet else { return };
        let mut nodes = self.plans.values().flat_map(|plan| plan.in_service()).map(|(_, one)| &one.node);
        if !fleet.all_reported(&mut nodes) {
            return;
        }
        let host = |name: &AppName| berth_model::HostPattern::parse(&format!("{name}.test")).expect("valid");
        let serving: Vec<_> = self
            .apps
            .values()
            .filter_map(|(app, _)| Some(self.plans.get(&app.name)?.routed(app, vec![host(&app.name)])))
            .collect();
        let table = routing::routes(&serving, &fleet.health());
        self.published = true;
        self.routes.clear();
        for route in table.http {
            if let Target::Backends { backends } = route.target {
                let backends = backends.into_iter().map(|one| (one.container, one.address.ip())).collect();
                self.routes.insert(route.app, backends);
            }
        }
    }

    /// Every agent does what it would do within one step.
    fn agents(&mut self) {
        let mut by_node: HashMap<NodeName, BTreeMap<ContainerId, ContainerSpec>> = HashMap::new();
        for plan in self.plans.values() {
            for (id, planned) in &plan.containers {
                by_node.entry(planned.node.clone()).or_default().insert(id.clone(), planned.spec.clone());
            }
        }
        let now = self.now;
        let now_ms = i64::try_from(now).expect("small");
        for (number, (name, machine)) in self.machines.iter_mut().enumerate() {
            if !machine.up {
                continue;
            }
            for local in machine.has.values_mut().filter(|local| local.changes_at <= now) {
                if local.state == ContainerState::Preparing {
                    local.state = ContainerState::Running { since_ms: now_ms, ready: true };
                    machine.changed = true;
                }
            }
            let before = machine.has.len();
            machine.has.retain(|_, local| local.state != ContainerState::Stopping || local.changes_at > now);
            machine.changed |= machine.has.len() != before;
            if machine.agent_away_until > now {
                continue;
            }
            if let Some(fleet) = self.fleet.as_ref().filter(|_| !machine.cut.1) {
                let generation = fleet.generation(name);
                if generation > machine.generation {
                    machine.generation = generation;
                    machine.wanted = by_node.remove(name).unwrap_or_default();
                    machine.changed = true;
                }
                machine.cold_until = 0;
            }
            if machine.cold_until <= now {
                let states =
                    machine.has.iter().map(|(id, local)| (id.clone(), local.state.clone())).collect();
                for action in reconcile::plan(&machine.wanted, &states, now_ms) {
                    machine.changed = true;
                    match action {
                        reconcile::Action::Start(id) | reconcile::Action::Restart(id) => {
                            let spec = machine.wanted[&id].clone();
                            machine.addresses = machine.addresses.wrapping_add(1);
                            let [high, low] = machine.addresses.to_be_bytes();
                            let third = u8::try_from(number / 256).expect("few");
                            let second = u8::try_from(number % 256).expect("below");
                            let address = Ipv4Addr::new(16 + third, second, high, low).into();
                            let changes_at = now + 500 + self.random.below(2_500);
                            let local = Local { spec, state: ContainerState::Preparing, changes_at, address };
                            machine.has.insert(id, local);
                        }
                        reconcile::Action::Remove(id) => {
                            if let Some(local) = machine.has.get_mut(&id) {
                                local.state = ContainerState::Stopping;
                                local.changes_at = now + 500;
                            }
                        }
                    }
                }
            }
            if machine.changed || now - machine.last_report >= HEARTBEAT_MS {
                machine.changed = false;
                machine.last_report = now;
                let status = |local: &Local| ContainerStatus {
                    state: local.state.clone(),
                    incarnation: 1,
                    restarts: 0,
                    address: Some(local.address),
                    published: Vec::new(),
                    pid: None,
                    static_root: None,
                    static_rules: Default::default(),
                    advice: None,
                };
                let observed = Observed {
                    node: name.clone(),
                    generation: machine.generation,
                    containers: machine.has.iter().map(|(id, local)| (id.clone(), status(local))).collect(),
                    capacity: Capacity { cpus: 8, memory_mib: 1 << 20, ..Capacity::default() },
                    pressure: Pressure { disk: machine.short, memory: false },
                    stalls: Default::default(),
                    network: None,
                };
                let last = machine.sent.last().map_or(0, |(at, _)| *at);
                let delay = if machine.slow { self.random.below(SLOW_MS) } else { 0 };
                machine.sent.push(((now + delay).max(last), observed));
            }
            let due = machine.sent.iter().take_while(|(at, _)| *at <= now).count();
            for (at, observed) in machine.sent.drain(..due) {
                if let Some(fleet) = self.fleet.as_ref().filter(|_| !machine.cut.0) {
                    fleet.observe(observed, i64::try_from(at).expect("small"));
                }
            }
        }
    }

    /// Something happens to somebody.
    fn fault(&mut self) {
        let count = u64::try_from(self.machines.len()).expect("few");
        let name = node(usize::try_from(self.random.below(count)).expect("few"));
        let (now, kind, long) = (self.now, self.random.below(12), 2_000 + self.random.below(30_000));
        let machine = self.machines.get_mut(&name).expect("there");
        match kind {
            0 | 1 if machine.up => {
                machine.up = false;
                machine.down_since = Some(now);
                machine.has.clear();
                machine.sent.clear();
            }
            0..=2 if !machine.up => {
                machine.up = true;
                machine.down_since = None;
                machine.cold_until = now + 10_000;
                machine.changed = true;
            }
            3 => machine.cut = (true, true),
            4 => machine.cut = (true, false),
            5 => machine.cut = (false, true),
            6 | 7 => machine.cut = (false, false),
            8 => machine.agent_away_until = now + long,
            9 => machine.slow = !machine.slow,
            10 => machine.short = !machine.short,
            11 if self.fleet.is_some() && self.random.once_in(4) => {
                self.fleet = None;
                self.down_until = now + long;
            }
            _ => {}
        }
    }

    /// What must never be.
    fn check(&mut self, seed: u64) {
        let now = self.now;
        let at = |text: &str| format!("seed {seed}, at {now} ms: {text}");
        for (name, machine) in &self.machines {
            for local in machine.has.values() {
                for mount in &local.spec.mounts {
                    let owners = self.owners.entry(mount.source.clone()).or_default();
                    owners.insert(name.clone());
                    assert!(owners.len() == 1, "{}", at(&format!("{} is on {owners:?}", mount.source)));
                }
            }
        }
        // Until it publishes, the proxies serve the routes of before.
        let Some(fleet) = self.fleet.as_ref().filter(|_| self.published) else { return };
        let bound = LOST_MS + 2 * STEP + SLOW_MS;
        let patient = now.saturating_sub(self.up_since) < EXPECTED_MS + bound;
        for (app, backends) in &self.routes {
            let plan = &self.plans[app];
            let mut alive = 0;
            let mut dead = Vec::new();
            for (id, address) in backends {
                let planned = plan.containers.get(id);
                let planned =
                    planned.unwrap_or_else(|| panic!("{}", at(&format!("{id} is routed, and stale"))));
                let machine = &self.machines[&planned.node];
                for (other, local) in machine.has.iter().filter(|(_, local)| local.address == *address) {
                    assert!(local.spec.app == *app, "{}", at(&format!("{app} leads to {other}")));
                }
                match machine.down_since.filter(|since| now - since > bound) {
                    Some(_) => dead.push(id),
                    // One that is cut off may well serve; where nobody else is left, all are routed.
                    None if fleet.life(&planned.node) == Some(Life::Lost) => {}
                    None => alive += 1,
                }
            }
            let wrong = alive > 0 && !dead.is_empty() && !patient;
            assert!(!wrong, "{}", at(&format!("{dead:?} of {app} is routed, and long dead")));
        }
    }

    /// What must be when nothing fails any more.
    fn check_end(&self, seed: u64) {
        for (app, (_, replicas)) in &self.apps {
            let Some(plan) = self.plans.get(app) else { continue };
            let at = |text: &str| format!("seed {seed}, at the end: {app} {text}: {plan:#?}");
            let slots: BTreeSet<_> = plan.serving().map(|(_, one)| one.spec.ordinal).collect();
            assert!(plan.operation.is_none(), "{}", at("is still being changed"));
            assert!(slots.len() == *replicas && plan.containers.len() == *replicas, "{}", at("is not whole"));
            for (id, planned) in &plan.containers {
                let machine = &self.machines[&planned.node];
                let is_bound = !planned.spec.mounts.is_empty();
                if !machine.up {
                    assert!(is_bound, "{}", at(&format!("{id} is on a dead machine")));
                    continue;
                }
                let runs = machine.has.get(id).map(|local| &local.state);
                let ready = matches!(runs, Some(ContainerState::Running { ready: true, .. }));
                assert!(ready, "{}", at(&format!("{id} does not run")));
                let routed = self.routes.get(app).is_some_and(|all| all.iter().any(|(one, _)| one == id));
                assert!(routed, "{}", at(&format!("{id} is not routed")));
            }
        }
        for (name, machine) in self.machines.iter().filter(|(_, machine)| machine.up) {
            for (id, local) in &machine.has {
                let planned = self.plans.get(&local.spec.app).and_then(|plan| plan.containers.get(id));
                let wanted = planned.is_some_and(|planned| planned.node == *name);
                assert!(wanted, "seed {seed}, at the end: {id} still runs on {name}, and nobody wants it");
            }
        }
    }

    fn tick(&mut self, seed: u64, faults: bool, rate: u64) {
        self.now += STEP;
        if faults && self.random.once_in(rate) {
            self.fault();
        }
        if faults && self.random.once_in(20) {
            let count = u64::try_from(self.apps.len()).expect("few");
            let index = usize::try_from(self.random.below(count)).expect("few");
            let app = self.apps.keys().nth(index).cloned().expect("there");
            self.deploy(&app);
        }
        self.agents();
        self.control();
        self.check(seed);
    }

    fn run(&mut self, seconds: u64, seed: u64, faults: bool, rate: u64) {
        for _ in 0..(seconds * 1000 / STEP) {
            self.tick(seed, faults, rate);
        }
    }

    fn deploy_all(&mut self, seed: u64) {
        self.run(3, seed, false, 1);
        for app in self.apps.keys().cloned().collect::<Vec<_>>() {
            self.deploy(&app);
        }
        self.run(8, seed, false, 1);
        self.check_end(seed);
    }

    /// Nothing fails any more, but what is down for good stays so: at least two machines are up.
    fn mend(&mut self) {
        let now = self.now;
        for (index, machine) in self.machines.values_mut().enumerate() {
            machine.cut = (false, false);
            (machine.slow, machine.short) = (false, false);
            if !machine.up && (index < 2 || self.random.once_in(2)) {
                machine.up = true;
                machine.down_since = None;
                machine.cold_until = now + 10_000;
            }
        }
    }
}

fn seeds(usual: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("BERTH_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("BERTH_SIM_SEEDS").unwrap_or(usual)).collect(),
    }
}

#[test]
fn whatever_fails_no_promise_is_broken_and_in_the_end_all_is_as_wanted() {
    for seed in seeds(24) {
        let nodes = 3 + usize::try_from(seed % 12).expect("small");
        let mut simulation = Simulation::new(seed, nodes, 9);
        simulation.deploy_all(seed);
        simulation.run(300, seed, true, 6);
        simulation.mend();
        simulation.run(90, seed, false, 1);
        simulation.check_end(seed);
    }
}

#[test]
fn thousands_of_machines_survive_the_loss_of_some() {
    for seed in seeds(1) {
        let mut simulation = Simulation::new(seed, 2_000, 400);
        simulation.deploy_all(seed);
        for index in 0..60 {
            let machine = simulation.machines.get_mut(&node(index * 7)).expect("there");
            machine.up = false;
            machine.down_since = Some(simulation.now);
            machine.has.clear();
            machine.sent.clear();
        }
        simulation.run(20, seed, false, 1);
        simulation.check_end(seed);
        assert!(!simulation.moves.is_empty(), "seed {seed}: something had to move");
    }
}

#[test]
fn flapping_links_do_not_flap_containers() {
    for seed in seeds(4) {
        let mut simulation = Simulation::new(seed, 6, 12);
        simulation.deploy_all(seed);
        // 13 s away and 7 s there, for ten minutes; two machines in turn.
        for _ in 0..30 {
            for (seconds, cut) in [(13, true), (7, false)] {
                for index in 0..2 {
                    simulation.machines.get_mut(&node(index)).expect("there").cut = (cut, cut);
                }
                simulation.run(seconds, seed, false, 1);
            }
        }
        let most = simulation.moves.values().max().copied().unwrap_or(0);
        assert!(most <= 1, "seed {seed}: {:?}", simulation.moves);
        simulation.run(STABLE_MS / 1000, seed, false, 1);
        simulation.check_end(seed);
    }
}
