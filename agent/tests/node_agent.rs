//! The whole agent on the real kernel: a process of its own with real containers, and a controller of the test's that
//! assigns and listens. Needs root, `nft`, `nsenter`, `tar` and a static `busybox`.

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{Method, Request, Response, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use berth_model::check::{Check, CheckKind, Probe};
use berth_model::container::{
    ContainerSpec, ContainerState, ContainerStatus, Limits, LogLine, LogStream, Mount, RestartPolicy, Stop,
};
use berth_model::image::{ImageRef, Process, StaticSite};
use berth_model::node::{Assignment, Observed};
use berth_model::{AppName, ContainerId, EnvName, NodeName, ProcessType, ReleaseVersion};
use berth_wire::{Client, Endpoint, Frame, read_frame, write_frame};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const DATA: &str = "BERTH_TEST_DATA";

/// Not a test: the agent's process, started by the others.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the other tests"]
async fn agent_process() {
    let Ok(data) = std::env::var(DATA) else { return };
    let options = berth_agent::Options {
        data: data.into(),
        node: NodeName::parse("n1").expect("a name"),
        subnet: None,
        overlay: berth_agent::network::Mode::Auto,
        keep_free_mib: None,
    };
    berth_agent::run(options, CancellationToken::new()).await.expect("the agent runs");
}

#[derive(Clone)]
struct Controller {
    assignment: watch::Sender<Assignment>,
    observed: watch::Sender<Option<Observed>>,
    blobs: Arc<Mutex<HashMap<String, Vec<u8>>>>,
}

impl Controller {
    fn serve(data: &Path) -> Self {
        let empty =
            Assignment { generation: 1, containers: BTreeMap::new(), keep_images: Vec::new(), apps: None };
        let controller = Self {
            assignment: watch::Sender::new(empty),
            observed: watch::Sender::new(None),
            blobs: Arc::default(),
        };
        let router = Router::new()
            .route("/node/v1/{node}/assignment", get(assignment))
            .route("/node/v1/{node}/observed", post(observed))
            .fallback(registry)
            .with_state(controller.clone());
        let listener = berth_wire::bind_unix(&data.join("run/internal.sock"), 0o600).expect("a socket");
        tokio::spawn(async move { axum::serve(listener, router).await });
        controller
    }

    fn assign(&self, specs: &[ContainerSpec]) {
        self.assignment.send_modify(|assignment| {
            assignment.generation += 1;
            assignment.containers = specs.iter().map(|spec| (spec.id.clone(), spec.clone())).collect();
        });
    }

    /// Waits until what the agent reports for the newest assignment satisfies `wanted`.
    async fn until<T>(
        &self,
        what: &str,
        wanted: impl Fn(&BTreeMap<ContainerId, ContainerStatus>) -> Option<T>,
    ) -> T {
        let mut observed = self.observed.subscribe();
        let generation = self.assignment.borrow().generation;
        let waiting = async {
            loop {
                let found = observed.borrow_and_update().as_ref().and_then(|observed| {
                    (observed.generation == generation).then(|| wanted(&observed.containers)).flatten()
                });
                if let Some(found) = found {
                    return found;
                }
                observed.changed().await.expect("the controller lives");
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), waiting).await {
            Ok(found) => found,
            Err(_) => panic!("{what} did not come to be; last seen: {:#?}", self.observed.borrow()),
        }
    }

    async fn until_running(&self, spec: &ContainerSpec) -> ContainerStatus {
        self.until("a running container", |all| {
            let status = all.get(&spec.id)?;
            matches!(status.state, ContainerState::Running { ready: true, .. }).then(|| status.clone())
        })
        .await
    }

    async fn until_gone(&self) {
        self.until("an empty node", |all| all.is_empty().then_some(())).await;
    }
}

async fn assignment(
    State(controller): State<Controller>,
    UrlPath(_node): UrlPath<String>,
    Query(query): Query<HashMap<String, u64>>,
) -> Result<Json<Assignment>, StatusCode> {
    let mut assignment = controller.assignment.subscribe();
    let newer = assignment.wait_for(|assignment| assignment.generation > query["after"]);
    match tokio::time::timeout(Duration::from_secs(20), newer).await {
        Ok(Ok(assignment)) => Ok(Json(assignment.clone())),
        _ => Err(StatusCode::NO_CONTENT),
    }
}

async fn observed(State(controller): State<Controller>, Json(observed): Json<Observed>) -> StatusCode {
    controller.observed.send_replace(Some(observed));
    StatusCode::NO_CONTENT
}

/// As much of a registry as an import needs.
async fn registry(State(controller): State<Controller>, request: Request<Body>) -> Response<Body> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let upload = uri.query().and_then(|query| query.strip_prefix("digest="));
    let path = match upload {
        Some(digest) => format!("{}{digest}", uri.path().trim_end_matches("uploads/")),
        None => uri.path().to_owned(),
    };
    let body = axum::body::to_bytes(request.into_body(), 64 << 20).await.expect("a body");
    let mut blobs = controller.blobs.lock().expect("no panic while held");
    let (status, bytes) = match method {
        Method::POST | Method::PUT => {
            blobs.insert(path, body.to_vec());
            (StatusCode::CREATED, Vec::new())
        }
        _ => match blobs.get(&path) {
            Some(bytes) => (StatusCode::OK, bytes.clone()),
            None => (StatusCode::NOT_FOUND, Vec::new()),
        },
    };
    Response::builder().status(status).body(Body::from(bytes)).expect("valid")
}

struct Node {
    data: tempfile::TempDir,
    controller: Controller,
    agent: Option<Child>,
    image: ImageRef,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
            if std::thread::panicking() {
                let runtime = tokio::runtime::Runtime::new().expect("a runtime");
                let data = self.data.path().to_owned();
                let _ = std::thread::spawn(move || runtime.block_on(berth_agent::stop_all(&data))).join();
            }
        }
    }
}

impl Node {
    async fn start() -> Self {
        let data = tempfile::Builder::new().prefix("bn").tempdir().expect("a directory");
        std::fs::create_dir_all(data.path().join("run")).expect("made");
        let controller = Controller::serve(data.path());
        let digest = berth_model::Digest::of(b"");
        let image = ImageRef { repository: "stacks/test".into(), digest };
        let mut node = Self { data, controller, agent: None, image };
        node.start_agent().await;
        node.image = node.import().await;
        node
    }

    fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.data.path().join("run/agent.sock")))
    }

    async fn start_agent(&mut self) {
        let program = std::env::current_exe().expect("known");
        let agent = Command::new(program)
            .args(["--exact", "agent_process", "--ignored", "--nocapture"])
            .env(DATA, self.data.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("the agent starts");
        self.agent = Some(agent);
        let began = Instant::now();
        while self.client().call(Method::GET, "/healthz", None::<&()>).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "the agent does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        agent.kill().expect("killed");
        agent.wait().expect("reaped");
    }

    async fn import(&self) -> ImageRef {
        let root = self.data.path().join("root");
        let script = "mkdir -p $0/bin $0/etc $0/tmp $0/app/public && cp /usr/bin/busybox $0/bin/ && \
            chroot $0 /bin/busybox --install -s /bin && chmod 1777 $0/tmp && echo hello > $0/app/public/index.html && \
            printf 'root:x:0:0::/:/bin/sh\\n' > $0/etc/passwd && printf 'root:x:0:\\n' > $0/etc/group && \
            tar -C $0 -cf $0.tar .";
        let made = Command::new("sh").args(["-ec", script]).arg(&root).status().expect("sh runs");
        assert!(made.success());
        let tar = tokio::fs::File::open(root.with_extension("tar")).await.expect("made");
        let client = self.client();
        let path = "/v1/stacks?repository=stacks/test&tag=latest";
        let answer = client.upload(Method::POST, path, "application/x-tar", tar).await.expect("imported");
        let bytes = axum::body::to_bytes(Body::new(answer.into_body()), 1 << 20).await.expect("a body");
        serde_json::from_slice(&bytes).expect("an image")
    }

    fn spec(&self, name: &str, script: &str) -> ContainerSpec {
        let env = [("PATH", "/bin"), ("PORT", "5000")];
        let env = env.map(|(name, value)| (EnvName::parse(name).expect("a name"), value.to_owned()));
        ContainerSpec {
            id: ContainerId::parse(&format!("a.web.1.{name}")).expect("an id"),
            app: AppName::parse("a").expect("a name"),
            release: ReleaseVersion(1),
            process: ProcessType::web(),
            ordinal: 1,
            image: self.image.clone(),
            run: Process::Command { argv: vec!["/bin/sh".into(), "-c".into(), script.into()] },
            env: env.into(),
            limits: Limits { memory_mib: Some(64), ..Limits::default() },
            port: Some(5000),
            published: Vec::new(),
            checks: vec![check(Probe::ListeningOrUptime { seconds: 10 })],
            restart: RestartPolicy::default(),
            stop: Stop { signal: 15, grace_secs: 5 },
            mounts: Vec::new(),
            once: None,
            secrets: Default::default(),
        }
    }

    /// Everything of the instance that is left in the kernel or on disk.
    fn census(&self) -> Vec<String> {
        let instance = std::fs::read_to_string(self.data.path().join("instance")).expect("named");
        let instance = instance.trim();
        let mut found = Vec::new();
        // Names only: what else there is to say of a link changes by itself.
        let links = "ip -o link | cut -d' ' -f2 | cut -d@ -f1";
        for command in [links, "nft list tables", "cut -d' ' -f2 /proc/self/mounts"] {
            let output = Command::new("sh").args(["-c", command]).output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            found.extend(text.lines().filter(|line| line.contains(instance)).map(str::to_owned));
        }
        let cgroups = format!("find /sys/fs/cgroup -path '*berth_{instance}/*' -type d");
        let output = Command::new("sh").args(["-c", &cgroups]).output().expect("it runs");
        found.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
        for directory in ["containers", "records"] {
            let path = self.data.path().join("agent").join(directory);
            let entries = std::fs::read_dir(path).into_iter().flatten();
            found.extend(entries.map(|entry| entry.expect("readable").path().display().to_string()));
        }
        found
    }

    /// Stops everything with the agent's own means and sees that nothing is left.
    async fn close(mut self) {
        self.kill_agent();
        berth_agent::stop_all(self.data.path()).await.expect("everything stops");
        assert_eq!(self.census(), Vec::<String>::new(), "nothing is left");
    }

    async fn logs(&self) -> Vec<LogLine> {
        let mut lines = self
            .client()
            .lines(Method::GET, "/v1/logs?app=a&lines=1000&follow=false", None::<&()>)
            .await
            .expect("logs");
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.expect("a line") {
            all.push(line);
        }
        all
    }

    async fn talk(&self, path: &str, start: serde_json::Value, input: &str) -> (String, Frame) {
        let mut stream = self.client().upgrade(path).await.expect("upgraded");
        write_frame(&mut stream, &Frame::Start(start.to_string().into_bytes())).await.expect("sent");
        write_frame(&mut stream, &Frame::Stdin(input.as_bytes().to_vec())).await.expect("sent");
        write_frame(&mut stream, &Frame::StdinEnd).await.expect("sent");
        let mut output = Vec::new();
        loop {
            match read_frame(&mut stream).await.expect("well-formed").expect("an end") {
                Frame::Stdout(bytes) | Frame::Stderr(bytes) => output.extend(bytes),
                last => return (String::from_utf8_lossy(&output).into_owned(), last),
            }
        }
    }
}

fn check(probe: Probe) -> Check {
    Check {
        name: "default".into(),
        kind: CheckKind::Startup,
        probe,
        attempts: 1,
        timeout_secs: 2,
        wait_secs: 1,
        initial_delay_secs: 0,
        warn_only: false,
    }
}

const SERVE: &str = "echo started; trap 'echo stopping; exit 0' TERM; nc -ll -p 5000 -e echo hi & wait";

fn greeting(status: &ContainerStatus) -> String {
    let mut text = String::new();
    let address: IpAddr = status.address.expect("it has an address");
    if let Ok(mut stream) = TcpStream::connect((address, 5000)) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = stream.read_to_string(&mut text);
    }
    text.trim().to_owned()
}

fn alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_through_kills_of_itself_and_of_the_agent() {
    let mut node = Node::start().await;
    let spec = node.spec("x", SERVE);
    let began = Instant::now();
    node.controller.assign(std::slice::from_ref(&spec));
    let first = node.controller.until_running(&spec).await;
    eprintln!("assigned to ready: {:?}", began.elapsed());
    assert_eq!((first.incarnation, first.restarts), (1, 0));
    assert_eq!(greeting(&first), "hi");

    // Killed: another life at the same address.
    let pid = i32::try_from(first.pid.expect("it runs")).expect("a pid");
    let began = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
    let running = |all: &BTreeMap<ContainerId, ContainerStatus>| {
        let status = all.get(&spec.id)?;
        let again = matches!(status.state, ContainerState::Running { .. }) && status.incarnation == 2;
        again.then(|| status.clone())
    };
    let second = node.controller.until("a second life", running).await;
    eprintln!("killed to ready: {:?}", began.elapsed());
    assert_eq!(second.address, first.address);
    assert_eq!(second.restarts, 1);

    // The agent is killed: the same life goes on, and is found again.
    node.kill_agent();
    assert!(alive(second.pid.expect("it runs")), "a container does not need its agent");
    assert_eq!(greeting(&second), "hi");
    node.controller.observed.send_replace(None);
    node.start_agent().await;
    let adopted = node.controller.until_running(&spec).await;
    assert_eq!(adopted, second, "nothing changed for the container");
    assert_eq!(greeting(&adopted), "hi");

    // It is killed while no agent looks: the next agent sees it and starts it again.
    node.kill_agent();
    let pid = i32::try_from(adopted.pid.expect("it runs")).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
    node.controller.observed.send_replace(None);
    node.start_agent().await;
    let third = node.controller.until_running(&spec).await;
    assert_eq!((third.incarnation, third.address), (3, first.address));

    node.controller.assign(&[]);
    node.controller.until_gone().await;
    assert!(!alive(third.pid.expect("it ran")));
    let lines = node.logs().await;
    let said =
        |stream, text: &str| lines.iter().filter(|l| l.stream == stream && l.text.contains(text)).count();
    assert_eq!(said(LogStream::Stdout, "started"), 3, "{lines:#?}");
    assert_eq!(said(LogStream::Stdout, "stopping"), 1, "{lines:#?}");
    assert!(said(LogStream::Berth, "killed by signal 9") >= 1, "{lines:#?}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends_and_unfit_containers_say_why() {
    let node = Node::start().await;
    let mut crashing = node.spec("crash", "echo oops >&2; exit 3");
    crashing.restart = RestartPolicy::OnFailure { max_retries: 2 };
    let mut deaf = node.spec("deaf", "sleep 100");
    deaf.checks = vec![check(Probe::Listening { port: None })];
    deaf.stop.grace_secs = 1;
    let mut missing = node.spec("missing", "");
    missing.run = Process::Command { argv: vec!["/no/such/program".into()] };
    let mut hungry = node.spec("hungry", "dd if=/dev/zero of=/dev/null bs=200M count=1");
    hungry.restart = RestartPolicy::Never;
    let mut site = node.spec("site", "");
    site.run = Process::Static(StaticSite {
        root: "/app/public".into(),
        spa_fallback: false,
        rules: Default::default(),
    });
    let specs = [crashing.clone(), deaf.clone(), missing.clone(), hungry.clone(), site.clone()];
    node.controller.assign(&specs);
    let state = async |spec: &ContainerSpec, what: &str| {
        node.controller
            .until(what, |all| {
                let status = all.get(&spec.id)?;
                let settled =
                    matches!(status.state, ContainerState::Exited { .. } | ContainerState::Failed { .. });
                settled.then(|| status.clone())
            })
            .await
    };
    let crashed = state(&crashing, "the end of the crash loop").await;
    assert!(matches!(&crashed.state, ContainerState::Exited { exit } if exit.code == 3), "{crashed:?}");
    assert_eq!(crashed.incarnation, 3);
    let deaf = state(&deaf, "a failed check").await;
    let reason = |status: &ContainerStatus| match &status.state {
        ContainerState::Failed { reason } => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert!(reason(&deaf).contains("does not accept connections"), "{}", reason(&deaf));
    let missing = state(&missing, "a failed start").await;
    assert!(reason(&missing).contains("/no/such/program"), "{}", reason(&missing));
    let hungry = state(&hungry, "a kill for memory").await;
    assert!(matches!(&hungry.state, ContainerState::Exited { exit } if exit.oom_killed), "{hungry:?}");
    let served = node.controller.until_running(&site).await;
    let root = PathBuf::from(served.static_root.expect("a directory"));
    assert_eq!(std::fs::read_to_string(root.join("index.html")).expect("readable"), "hello\n");
    let lines = node.logs().await;
    assert!(lines.iter().any(|line| line.text.contains("out of memory (limit 64 MiB)")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.stream == LogStream::Stderr && line.text == "oops"));
    node.controller.assign(&[]);
    node.controller.until_gone().await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_to_start_is_tried_again() {
    let mut node = Node::start().await;
    let late = format!("if [ -e /data/seen ]; then {SERVE}; fi; touch /data/seen; sleep 100");
    let mut late = node.spec("late", &late);
    late.checks = vec![check(Probe::Listening { port: None })];
    late.stop.grace_secs = 1;
    late.mounts = vec![Mount { source: "seen".into(), target: "/data".into(), read_only: false }];
    let mut never = node.spec("never", "sleep 100");
    never.checks = late.checks.clone();
    never.stop.grace_secs = 1;
    never.restart = RestartPolicy::Never;
    node.controller.assign(&[late.clone(), never.clone()]);
    let failed = async |node: &Node, spec: &ContainerSpec| {
        let fails = |all: &BTreeMap<ContainerId, ContainerStatus>| {
            matches!(all.get(&spec.id)?.state, ContainerState::Failed { .. }).then_some(())
        };
        node.controller.until("a failed start", fails).await;
    };
    tokio::join!(failed(&node, &late), failed(&node, &never));
    // Nor does a new agent leave it so.
    node.kill_agent();
    node.start_agent().await;
    let status = node.controller.until_running(&late).await;
    assert_eq!((status.incarnation, greeting(&status).trim()), (2, "hi"));
    failed(&node, &never).await;
    node.controller.assign(&[]);
    node.controller.until_gone().await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_a_signal_then_patience_then_a_kill() {
    let node = Node::start().await;
    let polite = node.spec("polite", SERVE);
    let mut stubborn = node.spec("stubborn", "trap '' TERM; nc -ll -p 5000 -e echo hi");
    stubborn.stop.grace_secs = 4;
    node.controller.assign(&[polite.clone(), stubborn.clone()]);
    node.controller.until_running(&polite).await;
    node.controller.until_running(&stubborn).await;
    let began = Instant::now();
    node.controller.assign(&[]);
    node.controller.until("the polite one's end", |all| (!all.contains_key(&polite.id)).then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(4), "nobody waits for the stubborn one");
    node.controller.until_gone().await;
    assert!(began.elapsed() >= Duration::from_secs(4), "it had its time: {:?}", began.elapsed());
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_off_commands_and_commands_in_containers_are_streams() {
    let node = Node::start().await;
    let spec = node.spec("x", SERVE);
    node.controller.assign(std::slice::from_ref(&spec));
    node.controller.until_running(&spec).await;
    let start = serde_json::json!({"container": spec.id, "argv": ["sh", "-c", "cat; echo $X; exit 5"], "tty": null,
        "env": {"X": "from-env"}});
    let (output, end) = node.talk("/v1/exec", start, "typed\n").await;
    assert_eq!((output.as_str(), end), ("typed\nfrom-env\n", Frame::Exit(5)));
    let before = node.census();
    let mut once = node.spec("once", "cat; hostname; exit 4");
    once.process = ProcessType::parse("run").expect("a name");
    let start = serde_json::json!({"spec": once, "tty": null});
    let (output, end) = node.talk("/v1/run", start, "typed\n").await;
    assert_eq!((output.as_str(), end), ("typed\na.run.1\n", Frame::Exit(4)));
    let mut lasting = node.spec("lasting", "echo ready; sleep 1000");
    lasting.stop.grace_secs = 0;
    let mut stream = node.client().upgrade("/v1/run").await.expect("upgraded");
    let start = serde_json::json!({"spec": lasting, "tty": [24, 80]}).to_string();
    write_frame(&mut stream, &Frame::Start(start.into_bytes())).await.expect("sent");
    let shown = read_frame(&mut stream).await.expect("well-formed");
    assert!(matches!(&shown, Some(Frame::Stdout(bytes)) if bytes.starts_with(b"ready")), "{shown:?}");
    drop(stream);
    let began = Instant::now();
    while node.census() != before {
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "it is removed with its client: {:#?}",
            node.census()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_lives_leave_nothing_behind() {
    let node = Node::start().await;
    node.controller.assign(&[]);
    node.controller.until_gone().await;
    let before = node.census();
    for round in 0..5 {
        let specs: Vec<_> = (0..10).map(|n| node.spec(&format!("r{round}n{n}"), SERVE)).collect();
        let began = Instant::now();
        node.controller.assign(&specs);
        for spec in &specs {
            node.controller.until_running(spec).await;
        }
        eprintln!("ten containers ready after {:?}", began.elapsed());
        node.controller.assign(&[]);
        node.controller.until_gone().await;
    }
    assert_eq!(node.census(), before);
    node.close().await;
}
