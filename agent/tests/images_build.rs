//! Builds in real containers: confined, cached, cancelled without a trace. Needs root, busybox (static), bash and `nft`.

#![allow(clippy::print_stderr, reason = "timings are worth seeing")]

mod images_support;

use berth_agent::build::{self, Context};
use berth_agent::images::{Images, import_stack};
use berth_agent::network::{self, Mode, Network};
use berth_agent::runtime::Runtime;
use berth_model::build::{BuildEvent, BuildPlan, BuildRequest, LayerPlan, Make};
use berth_model::container::Limits;
use berth_model::image::{Image, ImageConfig, ImageRef};
use berth_model::{AppName, BuildId, Digest, EnvName};
use images_support::*;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

struct Machine {
    instance: String,
    registry: Registry,
    images: Images,
    runtime: Arc<Runtime>,
    context: Context,
    stack: ImageRef,
    builds: u32,
    data: tempfile::TempDir,
}

impl Machine {
    async fn start() -> Self {
        let mut bytes = [0_u8; 3];
        getrandom::fill(&mut bytes).expect("the kernel has random bytes");
        let instance = hex::encode(bytes);
        let data = tempfile::tempdir().expect("a directory");
        let registry = Registry::default();
        let images = Images::open(data.path(), registry.serve(data.path())).expect("it opens");
        let runtime = Arc::new(Runtime::open(&instance, data.path()).expect("runs as root with cgroups"));
        let network = Arc::new(
            Network::open(&instance, data.path(), None, Mode::Auto).await.expect("the network is set up"),
        );
        let context = Context::open(data.path(), images.clone(), runtime.clone(), network.clone())
            .await
            .expect("it opens");
        let rootfs = std::io::Cursor::new(rootfs());
        let stack = import_stack(&images, "stacks/test", "latest", rootfs).await.expect("a good file system");
        Self { instance, registry, images, runtime, context, stack, builds: 0, data }
    }

    fn request(&mut self, layers: Vec<LayerPlan>) -> BuildRequest {
        self.builds += 1;
        BuildRequest {
            id: BuildId::parse(&format!("b{}", self.builds)).expect("valid"),
            app: AppName::parse("hello").expect("valid"),
            plan: BuildPlan {
                builder: "test".to_owned(),
                run_image: self.stack.clone(),
                build_image: self.stack.clone(),
                layers,
                processes: Default::default(),
                config: ImageConfig { user: "1000:1000".to_owned(), ..ImageConfig::default() },
                dockerfile: None,
                cnb: None,
                submodules: Vec::new(),
                predeploy: None,
                image: None,
            },
            repository: "apps/hello".to_owned(),
            config: [(EnvName::parse("COLOUR").expect("valid"), "blue".to_owned())].into(),
            limits: Limits { memory_mib: Some(256), ..Limits::default() },
            timeout_secs: 60,
            registries: Vec::new(),
        }
    }

    async fn build(&mut self, layers: Vec<LayerPlan>) -> (Result<Image, String>, Vec<String>) {
        let request = self.request(layers);
        let (events, mut receive) = mpsc::channel(64);
        let source = std::io::Cursor::new(tar(&[file("main.txt", "main"), file("lock", "1.0")]));
        let build = build::execute(&self.context, request, source, events, CancellationToken::new());
        let listen = async {
            let (mut said, mut result) = (Vec::new(), Err("no last event".to_owned()));
            while let Some(event) = receive.recv().await {
                match event {
                    BuildEvent::Step { .. } => {}
                    BuildEvent::Detail { text } => said.push(text),
                    BuildEvent::Done { image } => result = Ok(image),
                    BuildEvent::Failed { reason } => result = Err(reason),
                }
            }
            (result, said)
        };
        let ((), heard) = tokio::join!(build, listen);
        self.assert_nothing_left();
        heard
    }

    fn assert_nothing_left(&self) {
        let builds = self.data.path().join("agent/builds");
        assert_eq!(std::fs::read_dir(builds).expect("there").count(), 0, "no directory of a build");
        assert_eq!(self.runtime.leftovers(), Vec::<String>::new(), "no cgroup of a build");
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("readable");
        assert!(!mounts.contains(&format!("{}/agent", self.data.path().display())), "no mount of a build");
        let names = std::fs::read_dir(format!("/run/berth/{}", self.instance)).into_iter().flatten().count();
        assert_eq!(names, 0, "no network namespace of a build");
    }

    async fn stop(self) {
        network::remove_all(&self.instance).await.expect("everything can be removed");
        self.runtime.close();
    }
}

/// busybox and bash with its libraries.
fn rootfs() -> Vec<u8> {
    let mut items = vec![dir("./"), dir("bin"), dir("etc"), dir("tmp"), dir("usr")];
    items[3].mode = 0o1777;
    let binary = |from: &Path, to: &str| Item {
        content: std::fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())),
        ..item(b'0', to)
    };
    items.push(binary(Path::new("/bin/busybox"), "bin/busybox"));
    for applet in
        ["cat", "id", "sleep", "mkdir", "ls", "env", "touch", "ln", "head", "tail", "wc", "stat", "sh"]
    {
        items.push(symlink(&format!("bin/{applet}"), "busybox"));
    }
    items.push(binary(Path::new("/bin/bash"), "bin/bash"));
    let libraries = Command::new("ldd").arg("/bin/bash").output().expect("ldd runs");
    for word in
        String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        items.push(binary(Path::new(word), word.trim_start_matches('/')));
    }
    items.push(file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"));
    items.push(file("etc/group", "root:x:0:\n"));
    tar(&items)
}

fn key(seed: &str) -> String {
    Digest::of(seed.as_bytes()).hex().to_owned()
}

fn script(name: &str, text: &str, outputs: &[&str]) -> LayerPlan {
    LayerPlan {
        name: name.to_owned(),
        key: key(&format!("{name}{text}")),
        title: format!("Making {name}"),
        notes: Vec::new(),
        make: Make::Script {
            script: text.to_owned(),
            env: [(EnvName::parse("STEP").expect("valid"), name.to_owned())].into(),
            sources: vec!["lock".to_owned()],
            keep_app: false,
            outputs: outputs.iter().map(|path| (*path).to_owned()).collect(),
            caches: vec![("store".to_owned(), "/home/build/.cache/store".to_owned())],
            as_root: false,
        },
        launch: true,
    }
}

fn source(seed: &str) -> LayerPlan {
    LayerPlan {
        name: "app".to_owned(),
        key: key(seed),
        title: "Adding the app's files".to_owned(),
        notes: Vec::new(),
        make: Make::Source { exclude: Vec::new() },
        launch: true,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_run_confined_and_what_they_leave_is_the_layer() {
    let mut machine = Machine::start().await;
    let deps = script(
        "deps",
        "echo user $(id -u):$(id -g) in $PWD as $STEP ${COLOUR-unseen}; cat lock; ls; \
         echo kept > /layers/deps/file; mkdir /layers/deps/d; ln -s /etc/passwd /layers/deps/link; \
         mkdir -p /app/node_modules/x; echo m > /app/node_modules/x/y; echo lost > /tmp/lost; \
         echo cached > ~/.cache/store/seen; echo to stderr >&2; \
         touch /etc/evil 2>/dev/null || echo /etc is closed; test -s $SSL_CERT_FILE && echo anchors; echo $HOME",
        &["/layers/deps", "/app/node_modules"],
    );
    let began = Instant::now();
    let (image, said) = machine.build(vec![deps.clone(), source("one")]).await;
    eprintln!("cold build: {:?}", began.elapsed());
    let image = image.unwrap_or_else(|reason| panic!("{reason}: {said:#?}"));
    let expected = [
        "user 1001:1001 in /app as deps unseen",
        "1.0lock",
        "node_modules",
        "to stderr",
        "/etc is closed",
        "anchors",
        "/home/build",
    ];
    assert_eq!(said, expected);
    let ready = machine.images.ensure(&image.reference).await.expect("its layers are here");
    let layer = &ready.lowers[1];
    assert_eq!(std::fs::read_to_string(layer.join("layers/deps/file")).expect("there"), "kept\n");
    assert_eq!(
        std::fs::read_link(layer.join("layers/deps/link")).expect("there"),
        PathBuf::from("/etc/passwd")
    );
    let owner = |path: &str| std::fs::metadata(layer.join(path)).expect("there").uid();
    assert_eq!((owner("layers/deps/file"), owner("app/node_modules/x/y"), owner("app")), (1001, 1000, 1000));
    assert!(!layer.join("tmp").exists() && !layer.join("etc").exists() && !layer.join("home").exists());

    let began = Instant::now();
    let (again, _) = machine.build(vec![deps.clone(), source("one")]).await;
    eprintln!("nothing changed: {:?}", began.elapsed());
    assert_eq!(again.expect("known"), image);
    let began = Instant::now();
    machine.build(vec![deps, source("two")]).await.0.expect("a good plan");
    eprintln!("app-only change: {:?}", began.elapsed());

    let reads =
        script("reads", "cat ~/.cache/store/seen; test -e /tmp/lost || echo clean", &["/layers/none"]);
    let (image, said) = machine.build(vec![reads]).await;
    image.expect("a good plan");
    assert_eq!(said, ["cached", "clean"]);
    let cache = machine.data.path().join("agent/cache/hello/store/seen");
    assert_eq!(std::fs::metadata(cache).expect("there").uid(), 1001, "plain ids in caches");
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_apart_and_leave_nothing() {
    let mut machine = Machine::start().await;
    let (result, said) =
        machine.build(vec![script("fails", "echo before; false; echo after", &["/out"])]).await;
    assert!(result.expect_err("-e is on").contains("exit code 1"));
    assert_eq!(said, ["before"]);
    let (result, _) = machine.build(vec![script("pipes", "false | cat; echo after", &["/out"])]).await;
    assert!(result.is_err(), "pipefail is on");
    let hungry = script("hungry", "tail /dev/zero", &["/out"]);
    let (result, said) = machine.build(vec![hungry]).await;
    let reason = result.expect_err("too much memory");
    assert!(reason.contains("memory") && reason.contains("256 MiB"), "{reason} {said:?}");
    // A process that outlives its step does not outlive its container.
    let (result, _) = machine
        .build(vec![script("daemon", "(sleep 4321 &) ; sleep 4321 & echo x > /out/y", &["/out"])])
        .await;
    result.expect("the step itself ends well");
    assert!(
        machine.registry.take_log().iter().any(|line| line.starts_with("PUT")),
        "only that one is published"
    );
    assert!(!processes().contains("sleep 4321"));
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_build_kills_everything() {
    let mut machine = Machine::start().await;
    let request = machine
        .request(vec![script("hangs", "(sleep 1234 &); echo begun; sleep 1234", &["/out"]), source("one")]);
    let (events, mut receive) = mpsc::channel(64);
    let (context, cancel) = (machine.context.clone(), CancellationToken::new());
    let token = cancel.clone();
    let tree = std::io::Cursor::new(tar(&[file("lock", "1.0")]));
    let build = tokio::spawn(async move { build::execute(&context, request, tree, events, token).await });
    while receive.recv().await != Some(BuildEvent::Detail { text: "begun".to_owned() }) {}
    assert!(processes().contains("sleep 1234"));
    let began = Instant::now();
    cancel.cancel();
    build.await.expect("no panic");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let last = receive.recv().await;
    assert!(matches!(&last, Some(BuildEvent::Failed { reason }) if reason.contains("cancelled")), "{last:?}");
    assert!(!processes().contains("sleep 1234"));
    machine.assert_nothing_left();
    machine.stop().await;
}

/// Command lines of everything that runs.
fn processes() -> String {
    let entries = std::fs::read_dir("/proc").expect("readable").flatten();
    let lines = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.map(|line| line.replace('\0', " ") + "\n").collect()
}
