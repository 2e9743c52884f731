//! A controller with everything real but the machines: an agent and a proxy that speak the internal API and do as a test
//! tells them, and a `berth` binary of a few lines.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "each test file uses a part of it"
)]

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_controller::{Options, Platform};
use berth_model::api::{ApiError, Progress};
use berth_model::build::{BuildEvent, BuildRequest};
use berth_model::container::{ContainerSpec, ContainerState, ContainerStatus, Exit};
use berth_model::image::{Image, ImageRef, Process};
use berth_model::node::{Assignment, Capacity, Observed};
use berth_model::route::{HttpRoute, ProxyStatus, RouteTable, Target};
use berth_model::{AppName, ContainerId, Digest, HostPattern, NodeName, ProcessType};
use berth_wire::{Client, Endpoint, Frame, read_frame, write_frame};
use http::Method;
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the fake machines do. Every change wakes them.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Process types whose containers never get ready.
    pub stuck: BTreeSet<String>,
    /// Process types whose containers exit with a code.
    pub exits: BTreeMap<String, i32>,
    /// The proxy takes no new routes.
    pub proxy_stuck: bool,
    /// Containers out of the table with something in flight.
    pub draining: BTreeMap<ContainerId, u64>,
    /// How the release task ends; `None` never.
    pub release_code: Option<i32>,
    /// Builds wait.
    pub build_stuck: bool,
    /// Builds fail.
    pub build_fails: bool,
    /// How long a build takes.
    pub build_takes: Duration,
    /// Nodes that the controller does not hear of, and that do not hear of it.
    pub cut_off: BTreeSet<String>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Of `n1`.
    pub assignment: Option<Assignment>,
    /// Of every node.
    pub assignments: BTreeMap<String, Assignment>,
    pub table: Option<RouteTable>,
    pub builds: usize,
    pub builds_broken_off: usize,
    pub files: BTreeMap<String, Vec<u8>>,
    pub release_tasks: usize,
    /// Every generation and revision in the order they came.
    pub numbers: (Vec<u64>, Vec<u64>),
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub options: Options,
    pub script: watch::Sender<Script>,
    pub seen: watch::Sender<Seen>,
    pub controller: Option<Controller>,
    tasks: JoinSet<()>,
}

/// A controller in a runtime of its own, so that it can be killed.
pub struct Controller {
    runtime: Option<tokio::runtime::Runtime>,
    ended: Option<std::sync::mpsc::Receiver<()>>,
}

impl Controller {
    /// All its tasks end where they are. Afterwards its lock and ports are free: its threads have dropped what they had.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take();
        let ended = self.ended.take();
        let over = move || {
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(Duration::from_secs(20));
            }
            ended.map(|ended| ended.recv())
        };
        tokio::task::spawn_blocking(over).await.unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct SayWhenDropped(std::sync::mpsc::Sender<()>);

impl Drop for SayWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// An address for this test's processes, below the ports that the kernel gives out by itself (ip(7), 32768 on): a controller
/// that starts again wants the same one. Tests are processes side by side, and each begins to look elsewhere.
fn own_address() -> std::net::SocketAddr {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    loop {
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = 10_000 + (std::process::id().wrapping_mul(16).wrapping_add(next)) % 10_000;
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

pub fn app(name: &str) -> AppName {
    AppName::parse(name).unwrap()
}

pub fn web() -> ProcessType {
    ProcessType::web()
}

const FAKE_BERTH: &str = r##"#!/usr/bin/env python3
import json, os, socket, sys
if sys.argv[1:] == ["git-hook"]:
    updates = [dict(zip(("old", "new", "ref"), line.split())) for line in sys.stdin]
    body = json.dumps({"push": os.environ["BERTH_PUSH_ID"], "updates": updates,
        "object_dir": os.path.abspath(os.environ.get("GIT_QUARANTINE_PATH", "")),
        "alternates": os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "")}).encode()
    s = socket.socket(socket.AF_UNIX); s.connect(os.environ["BERTH_INTERNAL_SOCK"])
    s.sendall(b"POST /hook/v1/pre-receive HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    f = s.makefile("rb")
    while f.readline().strip(): pass
    for line in f:
        try: event = json.loads(line)
        except ValueError: continue
        kind = event.get("event")
        if kind == "done": sys.exit(0)
        if kind == "failed": print(" !     " + event["error"]["message"]); sys.exit(1)
        mark = {"step": "-----> ", "section": "=====> ", "detail": "       ", "warning": " !     "}[kind]
        print(mark + event["text"], flush=True)
    print(" !     the controller broke off"); sys.exit(1)
assert sys.argv[1] == "--data" and sys.argv[3] == "--ssh-session", sys.argv
words = sys.argv[4:]
if words[:1] == ["tty"]:
    print(sys.stdin.isatty(), os.get_terminal_size(0).columns if sys.stdin.isatty() else 0, os.environ.get("TERM")); sys.exit(0)
if words[:1] == ["cat"]:
    while True:
        data = os.read(0, 65536)
        if not data: sys.exit(0)
        os.write(1, data)
if words[:1] == ["wait"]:
    open(words[1], "w").write(str(os.getpid())); print("waiting", flush=True)
    import time; time.sleep(600)
print(json.dumps({"words": words, "env": sorted(os.environ), "as": os.environ.get("BERTH_AS")}))
sys.stderr.write("to stderr\n")
sys.exit(7 if words[:1] == ["fail"] else 0)
"##;

impl World {
    pub async fn start() -> Self {
        Self::of(&["n1"]).await
    }

    /// One with these machines.
    pub async fn of(nodes: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("fake-berth");
        std::fs::write(&exe, FAKE_BERTH).unwrap();
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options {
            data: dir.path().join("data"),
            domain: HostPattern::parse("berth.test").unwrap(),
            api: own_address(),
            ssh: own_address(),
            http: "127.0.0.1:8099".parse().unwrap(),
            https: None,
            cluster: "127.0.0.1:0".parse().unwrap(),
            berth_exe: exe,
            several: None,
        };
        let (script, _) = watch::channel(Script { release_code: Some(0), ..Script::default() });
        let (seen, _) = watch::channel(Seen::default());
        let mut world = Self { dir, options, script, seen, controller: None, tasks: JoinSet::new() };
        world.boot().await;
        for node in nodes {
            world.join(node);
        }
        world.tasks.spawn(proxy(world.options.clone(), world.script.subscribe(), world.seen.clone()));
        let listener = berth_wire::bind_unix(&world.options.agent_socket(), 0o600).unwrap();
        let shared = (world.script.subscribe(), world.seen.clone());
        let router = Router::new()
            .route("/v1/builds", post(fake_build))
            .route("/v1/logs", get(fake_logs))
            .route("/v1/run", get(fake_run))
            .with_state(Arc::new(shared));
        world.tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        for name in ["debian-12-run", "debian-12-build"] {
            world.import_stack(name).await;
        }
        world
    }

    /// Starts another machine.
    pub fn join(&mut self, node: &str) {
        let name = NodeName::parse(node).unwrap();
        self.tasks.spawn(agent(self.options.clone(), name, self.script.subscribe(), self.seen.clone()));
    }

    /// Starts a controller and waits until it answers.
    pub async fn boot(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (say, ended) = std::sync::mpsc::channel();
        let options = self.options.clone();
        let running = runtime.spawn(async move {
            let _say = SayWhenDropped(say);
            berth_controller::run(options, CancellationToken::new()).await
        });
        self.controller = Some(Controller { runtime: Some(runtime), ended: Some(ended) });
        let api = self.api();
        let up = async {
            while api.call(Method::GET, "/v1/version", None::<&()>).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            up = tokio::time::timeout(Duration::from_secs(60), up) => up.expect("the controller answers"),
            ended = running => panic!("the controller ended: {ended:?}"),
        }
    }

    pub async fn kill(&mut self) {
        self.controller.take().unwrap().kill().await;
    }

    pub fn api(&self) -> Client {
        Client::new(Endpoint::Unix(self.options.api_socket()))
    }

    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        self.script.send_modify(change);
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits for a condition on what was seen.
    pub async fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        let wait = seen.wait_for(|seen| condition(seen));
        if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
            panic!("never: {what}; seen: {:#?}", self.seen());
        }
    }

    /// Calls an operation of the API; gives its lines and how it ended.
    pub async fn operate(
        &self,
        method: Method,
        path: &str,
        body: serde_json::Value,
    ) -> (Vec<Progress>, Result<(), ApiError>) {
        let mut lines = match self.api().lines(method, path, Some(&body)).await {
            Ok(lines) => lines,
            Err(berth_wire::WireError::Refused { body, .. }) => return (Vec::new(), Err(body)),
            Err(error) => {
                let message = error.to_string();
                return (
                    Vec::new(),
                    Err(ApiError { code: berth_model::api::ErrorCode::Unavailable, message }),
                );
            }
        };
        let mut all = Vec::new();
        loop {
            match lines.next::<Progress>().await {
                Ok(Some(Progress::Done)) => return (all, Ok(())),
                Ok(Some(Progress::Failed { error })) => return (all, Err(error)),
                Ok(Some(line)) => all.push(line),
                Ok(None) | Err(_) => {
                    let message = "broke off".to_owned();
                    return (all, Err(ApiError { code: berth_model::api::ErrorCode::Unavailable, message }));
                }
            }
        }
    }

    async fn import_stack(&self, name: &str) {
        let config = b"{}".to_vec();
        let digest = Digest::of(&config);
        let registry = Client::new(Endpoint::Unix(self.options.internal_socket()));
        let path = format!("/v2/stacks/{name}/blobs/uploads/?digest={digest}");
        let body = std::io::Cursor::new(config);
        registry.upload(Method::POST, &path, "application/octet-stream", body).await.unwrap();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2},
            "layers": [],
        });
        let body = std::io::Cursor::new(manifest.to_string().into_bytes());
        let path = format!("/v2/stacks/{name}/manifests/latest");
        registry
            .upload(Method::PUT, &path, "application/vnd.oci.image.manifest.v1+json", body)
            .await
            .unwrap();
    }

    /// A git repository with these files, committed on `branch`.
    pub fn repository(&self, name: &str, branch: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", branch, "."]).unwrap();
        commit(&dir, files, "first");
        dir
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// Runs git as a person would, with nothing of this machine's configuration.
pub fn git_command(dir: &Path) -> std::process::Command {
    let mut command = std::process::Command::new("git");
    command.current_dir(dir).env_clear().envs([
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/nonexistent"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_AUTHOR_NAME", "A"),
        ("GIT_AUTHOR_EMAIL", "a@example.com"),
        ("GIT_COMMITTER_NAME", "A"),
        ("GIT_COMMITTER_EMAIL", "a@example.com"),
    ]);
    command
}

/// Output of stdout and stderr together; an error if git says so.
pub fn git(dir: &Path, args: &[&str]) -> Result<String, String> {
    let output = git_command(dir).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

pub fn commit(dir: &Path, files: &[(&str, &str)], message: &str) {
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    git(dir, &["add", "-A"]).unwrap();
    git(dir, &["commit", "-q", "-m", message]).unwrap();
}

pub fn route<'a>(seen: &'a Seen, host: &str) -> Option<&'a HttpRoute> {
    seen.table.as_ref()?.http.iter().find(|route| route.host.as_str() == host)
}

/// The containers a host leads to.
pub fn backends(seen: &Seen, host: &str) -> Vec<ContainerId> {
    match route(seen, host).map(|route| &route.target) {
        Some(Target::Backends { backends }) => backends.iter().map(|one| one.container.clone()).collect(),
        _ => Vec::new(),
    }
}

pub fn specs(seen: &Seen) -> Vec<ContainerSpec> {
    seen.assignments.values().flat_map(|assignment| assignment.containers.values().cloned()).collect()
}

/// Which node has which container, as the nodes were told.
pub fn placed(seen: &Seen) -> BTreeMap<ContainerId, String> {
    let of = |(node, assignment): (&String, &Assignment)| {
        assignment.containers.keys().map(|id| (id.clone(), node.clone())).collect::<Vec<_>>()
    };
    seen.assignments.iter().flat_map(of).collect()
}

fn status_of(spec: &ContainerSpec, script: &Script, node: &NodeName, address: u8) -> ContainerStatus {
    let process = spec.process.as_str();
    let state = if let Some(code) = script.exits.get(process) {
        let exit = Exit { code: *code, signal: None, oom_killed: false, at_ms: 1 };
        ContainerState::BackingOff { exit, until_ms: 2 }
    } else if script.stuck.contains(process) {
        ContainerState::Starting { since_ms: 1 }
    } else {
        ContainerState::Running { since_ms: 1, ready: true }
    };
    ContainerStatus {
        state,
        incarnation: 1,
        restarts: 0,
        address: Some(std::net::IpAddr::from([10, 0, node.as_str().as_bytes()[1], address])),
        published: Vec::new(),
        pid: Some(1),
        static_root: matches!(spec.run, Process::Static(_)).then(|| "/static".to_owned()),
        static_rules: Default::default(),
        advice: None,
    }
}

async fn agent(
    options: Options,
    node: NodeName,
    mut script: watch::Receiver<Script>,
    seen: watch::Sender<Seen>,
) {
    let client = Client::new(Endpoint::Unix(options.internal_socket()));
    let mut assignment =
        Assignment { generation: 0, containers: BTreeMap::new(), keep_images: Vec::new(), apps: None };
    // A container's state is settled when it starts, as with real ones: a later script is for later containers, but one
    // that was stuck may get ready.
    let mut settled: HashMap<ContainerId, ContainerStatus> = HashMap::new();
    let mut next_address = 2;
    let (orders, mut ordered) = mpsc::channel::<Assignment>(8);
    let polling = tokio::spawn({
        let client = client.clone();
        let (node, mut script) = (node.clone(), script.clone());
        async move {
            let mut after = 0;
            loop {
                let is_cut = |script: &Script| script.cut_off.contains(node.as_str());
                let path = format!("/node/v1/{node}/assignment?after={after}");
                let answer = tokio::select! {
                    answer = client.call(Method::GET, &path, None::<&()>) => answer,
                    () = async { drop(script.wait_for(is_cut).await) } => {
                        if script.wait_for(|script| !is_cut(script)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                };
                match answer {
                    Ok(answer) if answer.status() == 200 => {
                        let bytes = http_body_util::BodyExt::collect(answer.into_body()).await;
                        let Ok(bytes) = bytes else { continue };
                        let order: Assignment = serde_json::from_slice(&bytes.to_bytes()).unwrap();
                        after = order.generation;
                        if orders.send(order).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    });
    let _stop = AbortOnDrop(polling.abort_handle());
    loop {
        let now = script.borrow_and_update().clone();
        settled.retain(|id, _| assignment.containers.contains_key(id));
        for (id, spec) in &assignment.containers {
            let fixed = settled
                .get(id)
                .is_some_and(|status| !matches!(status.state, ContainerState::Starting { .. }));
            if !fixed {
                let address = settled.get(id).and_then(|status| status.address);
                let mut status = status_of(spec, &now, &node, next_address);
                next_address = next_address.wrapping_add(1);
                status.address = address.or(status.address);
                settled.insert(id.clone(), status);
            }
        }
        let report = Observed {
            node: node.clone(),
            generation: assignment.generation,
            containers: settled.clone().into_iter().collect(),
            capacity: Capacity { cpus: 2, memory_mib: 4096, ..Capacity::default() },
            pressure: Default::default(),
            stalls: Default::default(),
            network: None,
        };
        let path = format!("/node/v1/{node}/observed");
        let cut_off = now.cut_off.contains(node.as_str());
        let posted = match cut_off {
            true => Ok(()),
            false => client.call(Method::POST, &path, Some(&report)).await.map(drop),
        };
        let pause = Duration::from_millis(if posted.is_ok() { 1000 } else { 20 });
        tokio::select! {
            order = ordered.recv() => {
                let Some(order) = order else { return };
                assert!(order.generation > assignment.generation, "generations grow");
                assignment = order.clone();
                seen.send_modify(|seen| {
                    seen.assignments.insert(node.to_string(), order.clone());
                    if node.as_str() == "n1" {
                        seen.numbers.0.push(order.generation);
                        seen.assignment = Some(order);
                    }
                });
            }
            changed = script.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn proxy(options: Options, mut script: watch::Receiver<Script>, seen: watch::Sender<Seen>) {
    let client = Client::new(Endpoint::Unix(options.internal_socket()));
    let current: Arc<Mutex<u64>> = Arc::default();
    let (tables, mut taken) = mpsc::channel::<RouteTable>(8);
    let polling = tokio::spawn({
        let client = client.clone();
        let mut script = script.clone();
        async move {
            let mut after = 0;
            loop {
                if script.wait_for(|script| !script.proxy_stuck).await.is_err() {
                    return;
                }
                match client.call(Method::GET, &format!("/proxy/v1/routes?after={after}"), None::<&()>).await
                {
                    Ok(answer) if answer.status() == 200 => {
                        let bytes = http_body_util::BodyExt::collect(answer.into_body()).await;
                        let Ok(bytes) = bytes else { continue };
                        let table: RouteTable = serde_json::from_slice(&bytes.to_bytes()).unwrap();
                        if script.borrow().proxy_stuck {
                            continue;
                        }
                        after = table.revision;
                        if tables.send(table).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
    });
    let _stop = AbortOnDrop(polling.abort_handle());
    loop {
        let now = script.borrow_and_update().clone();
        let status = ProxyStatus {
            proxy: "n1".into(),
            revision: *current.lock().unwrap(),
            leaving: false,
            certificates_revision: 0,
            draining: now.draining.clone(),
            idle_ms: BTreeMap::new(),
            tcp_errors: BTreeMap::new(),
        };
        let posted = client.call(Method::POST, "/proxy/v1/status", Some(&status)).await;
        let pause = Duration::from_millis(if posted.is_ok() { 1000 } else { 20 });
        tokio::select! {
            table = taken.recv() => {
                let Some(table) = table else { return };
                *current.lock().unwrap() = table.revision;
                seen.send_modify(|seen| {
                    seen.numbers.1.push(table.revision);
                    seen.table = Some(table);
                });
            }
            changed = script.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

type Shared = State<Arc<(watch::Receiver<Script>, watch::Sender<Seen>)>>;

async fn fake_build(State(shared): Shared, request: Request) -> Response {
    struct BrokenOff(watch::Sender<Seen>, bool);
    impl Drop for BrokenOff {
        fn drop(&mut self) {
            if !self.1 {
                self.0.send_modify(|seen| seen.builds_broken_off += 1);
            }
        }
    }
    let (events, mut lines) = mpsc::channel::<BuildEvent>(8);
    let (mut script, seen) = (shared.0.clone(), shared.1.clone());
    let work = async move {
        let mut guard = BrokenOff(seen.clone(), false);
        let bytes = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let build: BuildRequest = serde_json::from_slice(&bytes[..end]).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[end + 1..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut contents).unwrap();
            files.insert(format!("{path} {:o}", entry.header().mode().unwrap()), contents);
        }
        let digest = Digest::of(&bytes);
        seen.send_modify(|seen| {
            seen.builds += 1;
            seen.files = files;
        });
        let _ = events.send(BuildEvent::Step { text: "Faking the build".into() }).await;
        let pause = script.borrow().build_takes;
        tokio::time::sleep(pause).await;
        let _ = script.wait_for(|script| !script.build_stuck).await;
        guard.1 = true;
        let last = if script.borrow().build_fails {
            BuildEvent::Failed { reason: "it does not compile".into() }
        } else {
            let reference = ImageRef { repository: build.repository, digest };
            let (builder, processes) = (build.plan.builder, build.plan.processes);
            BuildEvent::Done {
                image: Image { reference, builder, processes, exposed_ports: Vec::new(), healthcheck: None },
            }
        };
        let _ = events.send(last).await;
    };
    let mut work = Box::pin(work);
    let mut done = false;
    // The work is part of the answer: when the caller goes away, it is dropped.
    let body = futures_util::stream::poll_fn(move |context| {
        if !done && work.as_mut().poll(context).is_ready() {
            done = true;
        }
        lines.poll_recv(context).map(|event| {
            event.map(|event| {
                Ok::<_, std::convert::Infallible>(format!("{}\n", serde_json::to_string(&event).unwrap()))
            })
        })
    });
    Body::from_stream(body).into_response()
}

async fn fake_logs(Query(query): Query<HashMap<String, String>>) -> Response {
    let line = serde_json::json!({"at_us": 1, "app": query["app"], "process": "web", "ordinal": 1,
        "container": query["container"], "stream": "stderr", "text": "Traceback: no such module"});
    format!("{line}\n").into_response()
}

async fn fake_run(State(shared): Shared, mut request: Request) -> Response {
    let (mut script, seen) = (shared.0.clone(), shared.1.clone());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let Ok(Some(Frame::Start(_))) = read_frame(&mut stream).await else { return };
        // What nobody has read when a connection is closed resets it, and the exit code with it.
        let Ok(Some(Frame::StdinEnd)) = read_frame(&mut stream).await else { return };
        seen.send_modify(|seen| seen.release_tasks += 1);
        let _ = write_frame(&mut stream, &Frame::Stdout(b"migrating\n".to_vec())).await;
        let code =
            script.wait_for(|script| script.release_code.is_some()).await.unwrap().release_code.unwrap();
        let _ = write_frame(&mut stream, &Frame::Exit(code)).await;
    });
    let headers = [(http::header::CONNECTION, "upgrade"), (http::header::UPGRADE, "berth-stream")];
    (http::StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// For tests of parts that need no controller.
pub fn platform(options: &Options) -> Platform {
    Platform::open(options.clone()).unwrap()
}
