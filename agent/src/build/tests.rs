//! Builds with a sandbox that runs no container: what a plan's execution promises besides isolation. Needs root.

use super::error::BuildError;
use super::sandbox::{Ended, Sandbox, Step};
use super::source::BUILD;
use super::{Context, execute};
use crate::images::Images;
use berth_model::build::{BuildEvent, BuildPlan, BuildRequest, LayerPlan, Make};
use berth_model::container::Limits;
use berth_model::image::{Image, ImageConfig};
use berth_model::{AppName, BuildId, ContainerId, EnvName};
use futures_util::future::BoxFuture;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[path = "../../tests/images_support/mod.rs"]
pub(crate) mod support;
use support::{Registry, dir, file, symlink, tar, zstd};

/// Does what its script says: `write PATH TEXT`, `read PATH` (in any layer), `hang`, `fail`, `print TEXT`.
#[derive(Default)]
struct Fake {
    ran: Arc<Mutex<Vec<Step>>>,
}

impl Sandbox for Fake {
    fn run<'a>(
        &'a self,
        step: &'a Step,
        output: mpsc::Sender<Vec<u8>>,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Ended, BuildError>> {
        Box::pin(async move {
            self.ran.lock().expect("no panics").push(step.clone());
            for line in step.script.lines() {
                let words: Vec<&str> = line.splitn(3, ' ').collect();
                match words.as_slice() {
                    ["write", path, text] => {
                        let mut at = step.upper.clone();
                        for part in Path::new(path.trim_start_matches('/')) {
                            if !at.is_dir() {
                                fs::create_dir(&at).expect("room");
                                chown(&at, Some(step.base + BUILD), Some(step.base + BUILD)).expect("root");
                            }
                            at.push(part);
                        }
                        fs::write(&at, text).expect("room");
                        chown(&at, Some(step.base + BUILD), Some(step.base + BUILD)).expect("root");
                    }
                    ["read", path] => {
                        let path = path.trim_start_matches('/');
                        let all = std::iter::once(&step.upper).chain(&step.lowers);
                        let found = all.map(|layer| layer.join(path)).find(|path| path.exists());
                        let text = found
                            .map_or("absent".to_owned(), |path| fs::read_to_string(path).expect("a file"));
                        let _ = output.send(format!("{path}={text}\n").into_bytes()).await;
                    }
                    ["hang"] => {
                        stop.cancelled().await;
                        return Err(BuildError::Cancelled);
                    }
                    ["fail"] => return Ok(Ended { code: 3, oom_killed: false }),
                    ["print", rest @ ..] => {
                        let _ = output.send(format!("{}\n", rest.join(" ")).into_bytes()).await;
                    }
                    _ => panic!("no such word: {line}"),
                }
            }
            Ok(Ended { code: 0, oom_killed: false })
        })
    }

    fn remove_left<'a>(&'a self, _: &'a ContainerId, _: &'a Path) -> BoxFuture<'a, Result<(), BuildError>> {
        Box::pin(async { Ok(()) })
    }
}

pub(super) struct Bench {
    pub(super) registry: Registry,
    pub(super) images: Images,
    context: Context,
    pub(super) ran: Arc<Mutex<Vec<Step>>>,
    data: tempfile::TempDir,
    pub(super) plan: BuildPlan,
}

pub(super) async fn bench() -> Bench {
    let data = tempfile::tempdir().expect("a directory");
    let registry = Registry::default();
    let images = Images::open(data.path(), registry.serve(data.path())).expect("it opens");
    let fake = Fake::default();
    let ran = fake.ran.clone();
    let context = Context::with(data.path(), images.clone(), Box::new(fake)).await.expect("it opens");
    let stack = |text: &str| registry.image("stacks/test", &[zstd(&[dir("etc"), file("etc/stack", text)])]);
    let plan = BuildPlan {
        builder: "test".to_owned(),
        run_image: stack("run"),
        build_image: stack("build"),
        layers: Vec::new(),
        processes: Default::default(),
        config: ImageConfig { user: "1000:1000".to_owned(), ..ImageConfig::default() },
        dockerfile: None,
        submodules: Vec::new(),
        predeploy: None,
        image: None,
        cnb: None,
    };
    Bench { registry, images, context, ran, data, plan }
}

fn key(seed: &str) -> String {
    berth_model::Digest::of(seed.as_bytes()).hex().to_owned()
}

fn source_layer(seed: &str, exclude: &[&str]) -> LayerPlan {
    LayerPlan {
        name: "app".to_owned(),
        key: key(seed),
        title: "Adding the app's files".to_owned(),
        notes: Vec::new(),
        make: Make::Source { exclude: exclude.iter().map(|path| (*path).to_owned()).collect() },
        launch: true,
    }
}

fn script_layer(name: &str, script: &str, outputs: &[&str], sources: &[&str]) -> LayerPlan {
    LayerPlan {
        name: name.to_owned(),
        key: key(&format!("{name}{script}")),
        title: format!("Making {name}"),
        notes: vec![format!("note on {name}")],
        make: Make::Script {
            script: script.to_owned(),
            env: Default::default(),
            sources: sources.iter().map(|path| (*path).to_owned()).collect(),
            keep_app: false,
            outputs: outputs.iter().map(|path| (*path).to_owned()).collect(),
            caches: Vec::new(),
            as_root: false,
        },
        launch: true,
    }
}

impl Bench {
    fn request(&self, app: &str) -> BuildRequest {
        BuildRequest {
            id: BuildId::parse(&format!("b-{app}")).expect("valid"),
            app: AppName::parse(app).expect("valid"),
            plan: self.plan.clone(),
            repository: format!("apps/{app}"),
            config: [(EnvName::parse("SECRET").expect("valid"), "s3cret".to_owned())].into(),
            limits: Limits::default(),
            timeout_secs: 60,
            registries: Vec::new(),
        }
    }

    pub(super) async fn build(&self, app: &str, tree: Vec<u8>) -> (Result<Image, String>, Vec<String>) {
        let (events, mut receive) = mpsc::channel(64);
        let request = self.request(app);
        let build =
            execute(&self.context, request, std::io::Cursor::new(tree), events, CancellationToken::new());
        let listen = async {
            let (mut said, mut result) = (Vec::new(), Err("no last event".to_owned()));
            while let Some(event) = receive.recv().await {
                match event {
                    BuildEvent::Step { text } | BuildEvent::Detail { text } => said.push(text),
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
        for left in ["agent/builds", "agent/layers/tmp"] {
            let names: Vec<PathBuf> = fs::read_dir(self.data.path().join(left))
                .expect("there")
                .map(|e| e.expect("listed").path())
                .collect();
            assert_eq!(names, Vec::<PathBuf>::new());
        }
    }

    pub(super) fn ran(&self) -> usize {
        std::mem::take(&mut *self.ran.lock().expect("no panics")).len()
    }
}

fn tree(text: &str) -> Vec<u8> {
    tar(&[
        file("main.py", text),
        dir("public"),
        file("public/index.html", "hi"),
        file("lock", "1"),
        symlink("link", "/etc/passwd"),
    ])
}

#[tokio::test]
async fn a_plan_becomes_an_image_and_a_second_build_does_nothing() {
    let mut bench = bench().await;
    bench.plan.layers = vec![
        script_layer(
            "runtime",
            "write /layers/runtime/bin yes\nwrite /tmp/junk no",
            &["/layers/runtime"],
            &[],
        ),
        script_layer(
            "deps",
            "read /layers/runtime/bin\nread /app/lock\nread /app/main.py\nwrite /app/node_modules/x y",
            &["/app/node_modules"],
            &["lock"],
        ),
        source_layer("one", &["public"]),
    ];
    let (image, said) = bench.build("hello", tree("v1")).await;
    let image = image.expect("a good plan");
    let expected = [
        "Making runtime",
        "note on runtime",
        "Making deps",
        "note on deps",
        "layers/runtime/bin=yes",
        "app/lock=1",
        "app/main.py=absent",
        "Adding the app's files",
    ];
    assert_eq!(said, expected);
    let ready = bench.images.ensure(&image.reference).await.expect("its layers are here");
    let [app, deps, runtime, stack] = ready.lowers.as_slice() else { panic!("{:?}", ready.lowers) };
    assert_eq!(fs::read_to_string(app.join("app/main.py")).expect("there"), "v1");
    assert!(
        !app.join("app/public").exists() && !deps.join("app/lock").exists() && !runtime.join("tmp").exists()
    );
    assert_eq!(fs::read_to_string(stack.join("etc/stack")).expect("there"), "run");
    let owner = |path: PathBuf| fs::symlink_metadata(path).expect("there").uid();
    assert_eq!(owner(app.join("app/main.py")), 1000);
    assert_eq!(
        (owner(deps.join("app/node_modules/x")), owner(deps.join("app"))),
        (1000, 1000),
        "the app may write there"
    );
    assert_eq!((owner(runtime.join("layers/runtime/bin")), owner(runtime.join("layers"))), (1001, 0));
    assert_eq!(ready.image, Some(image.clone()));
    assert_eq!(bench.ran(), 2);

    bench.registry.take_log();
    let (again, said) = bench.build("hello", tree("v1")).await;
    assert_eq!(again.expect("known"), image);
    assert_eq!((said, bench.ran()), (Vec::<String>::new(), 0));
    let log = bench.registry.take_log();
    assert!(
        log.len() == 1 && log[0].starts_with("HEAD"),
        "only asked whether the manifest is there: {log:?}"
    );

    // Another node gets the same files from the registry alone.
    let other = tempfile::tempdir().expect("a directory");
    let images = Images::open(other.path(), bench.registry.serve(other.path())).expect("it opens");
    let pulled = images.ensure(&image.reference).await.expect("what was pushed is good");
    assert_eq!(fs::read_to_string(pulled.lowers[1].join("app/node_modules/x")).expect("there"), "y");
    assert_eq!(pulled.image, Some(image));
}

#[tokio::test]
async fn an_app_only_change_makes_and_ships_only_the_app() {
    let mut bench = bench().await;
    let deps = script_layer("deps", "write /app/node_modules/x y", &["/app/node_modules"], &["lock"]);
    bench.plan.layers = vec![deps, source_layer("one", &[])];
    bench.build("hello", tree("v1")).await.0.expect("a good plan");
    bench.registry.take_log();
    bench.ran();
    bench.plan.layers[1] = source_layer("two", &[]);
    let (image, said) = bench.build("hello", tree("v2")).await;
    let ready = bench.images.ensure(&image.expect("a good plan").reference).await.expect("ready");
    assert_eq!(fs::read_to_string(ready.lowers[0].join("app/main.py")).expect("there"), "v2");
    assert_eq!(
        (said, bench.ran()),
        (vec!["Using cached deps".to_owned(), "Adding the app's files".to_owned()], 0)
    );
    let pushed = bench.registry.take_log().iter().filter(|line| line.starts_with("POST")).count();
    assert_eq!(pushed, 2, "the app's layer and the config");
}

#[tokio::test]
async fn what_an_app_had_a_part_in_is_never_used_for_another() {
    let mut bench = bench().await;
    bench.plan.layers = vec![
        script_layer("runtime", "write /layers/r x", &["/layers"], &[]),
        script_layer("deps", "write /deps/x y", &["/deps"], &["lock"]),
    ];
    bench.build("one", tree("v1")).await.0.expect("a good plan");
    let env = |step: &Step| step.env.iter().any(|(name, _)| name == "SECRET");
    let seen: Vec<bool> = bench.ran.lock().expect("no panics").drain(..).map(|step| env(&step)).collect();
    assert_eq!(seen, [false, false], "a layer is made with what its plan names and no other config");
    let (image, said) = bench.build("two", tree("v1")).await;
    assert_eq!(said[0], "Using cached runtime");
    assert_eq!(bench.ran(), 1, "only the runtime is shared");
    let digest = image.expect("a good plan").reference.digest;
    assert!(bench.registry.has("apps/two", "manifests", &digest));
}

#[tokio::test]
async fn what_was_kept_for_a_destroyed_app_is_forgotten() {
    let mut bench = bench().await;
    let mut deps = script_layer("deps", "write /deps/x y", &["/deps"], &["lock"]);
    if let Make::Script { caches, .. } = &mut deps.make {
        caches.push(("pip".to_owned(), "/cache".to_owned()));
    }
    bench.plan.layers = vec![deps];
    let old = std::time::SystemTime::now() - super::FORGET_AFTER * 2;
    for app in ["gone", "young", "known"] {
        bench.build(app, tree("v1")).await.0.expect("a good plan");
        for kept in ["agent/cache", "agent/layers/keys"] {
            let dir = bench.data.path().join(kept).join(app);
            if app != "young" {
                fs::File::open(&dir).and_then(|dir| dir.set_modified(old)).expect("it is kept");
            }
        }
    }
    let known = [AppName::parse("known").expect("valid")];
    bench.context.forget_others(known.into()).await.expect("removed");
    bench.ran();
    for (app, made_again) in [("gone", 1), ("young", 0), ("known", 0)] {
        assert_eq!(bench.data.path().join("agent/cache").join(app).exists(), made_again == 0, "{app}");
        bench.build(app, tree("v2")).await.0.expect("a good plan");
        assert_eq!(bench.ran(), made_again, "{app}");
    }
}

#[tokio::test]
async fn sources_that_are_kept_become_part_of_the_layer() {
    let mut bench = bench().await;
    let mut build = script_layer("build", "write /app/dist/out built\nread /app/main.py", &[], &["."]);
    if let Make::Script { keep_app, .. } = &mut build.make {
        *keep_app = true;
    }
    let mut tools = script_layer("tools", "write /tools/cc yes", &["/tools"], &[]);
    tools.launch = false;
    bench.plan.layers = vec![tools, build];
    let (image, said) = bench.build("hello", tree("v1")).await;
    let image = image.expect("a good plan");
    assert!(said.contains(&"app/main.py=v1".to_owned()));
    let ready = bench.images.ensure(&image.reference).await.expect("ready");
    assert_eq!(ready.lowers.len(), 2, "tools are in no image");
    for (path, text) in [("app/dist/out", "built"), ("app/main.py", "v1"), ("app/public/index.html", "hi")] {
        let at = ready.lowers[0].join(path);
        assert_eq!(fs::read_to_string(&at).expect("there"), text);
        assert_eq!(fs::metadata(&at).expect("there").uid(), 1000);
    }
    assert_eq!(fs::read_link(ready.lowers[0].join("app/link")).expect("there"), Path::new("/etc/passwd"));
    bench.ran();
    // Tools gone from the disk are made again only when a step needs them.
    for known in fs::read_dir(bench.data.path().join("agent/layers/sha256")).expect("there") {
        let path = known.expect("listed").path();
        if path.join("tools").exists() {
            fs::remove_dir_all(path).expect("it can be removed");
        }
    }
    bench.build("hello", tree("v1")).await.0.expect("known");
    assert_eq!(bench.ran(), 0);
    if let Make::Script { script, .. } = &mut bench.plan.layers[1].make {
        script.push_str("\nread /tools/cc");
    }
    bench.plan.layers[1].key = key("changed");
    let (image, said) = bench.build("hello", tree("v1")).await;
    image.expect("a good plan");
    assert!(said.contains(&"tools/cc=yes".to_owned()), "{said:?}");
}

#[tokio::test]
async fn a_failed_or_hostile_build_publishes_nothing() {
    let mut bench = bench().await;
    bench.plan.layers =
        vec![script_layer("deps", "print last words\nfail", &["/deps"], &[]), source_layer("one", &[])];
    bench.images.ensure(&bench.plan.build_image).await.expect("there");
    bench.registry.take_log();
    let (result, said) = bench.build("hello", tree("v1")).await;
    let reason = result.expect_err("it fails");
    assert!(reason.contains("Making deps") && reason.contains("exit code 3"), "{reason}");
    assert!(said.contains(&"last words".to_owned()));
    assert_eq!(bench.registry.take_log().iter().filter(|line| !line.starts_with("HEAD")).count(), 0);

    bench.plan.layers = vec![source_layer("two", &[])];
    for hostile in [
        file("../evil", "x"),
        file(".wh.main", "x"),
        support::hard_link("a", "main.py"),
        support::item(b'6', "pipe"),
    ] {
        let name = String::from_utf8_lossy(&hostile.path).into_owned();
        let (result, _) = bench.build("hello", tar(&[file("main.py", "x"), hostile])).await;
        let reason = result.expect_err("refused");
        assert!(reason.contains(&name), "the reason names the entry: {reason}");
    }
    let (result, _) = bench.build("hello", tree("v1")[..700].to_vec()).await;
    assert!(result.expect_err("broken off").contains("ends"));
    bench.plan.layers[0].key = "../../etc".to_owned();
    assert!(bench.build("hello", tree("v1")).await.0.is_err());
}

#[tokio::test]
async fn a_cancelled_build_ends_at_once_and_leaves_nothing() {
    let mut bench = bench().await;
    bench.plan.layers = vec![script_layer("deps", "print begun\nhang", &["/deps"], &[])];
    for how in ["token", "closed", "dropped", "timeout"] {
        let (events, mut receive) = mpsc::channel(64);
        let cancel = CancellationToken::new();
        let mut request = bench.request("hello");
        if how == "timeout" {
            request.timeout_secs = 1;
        }
        let (context, token) = (bench.context.clone(), cancel.clone());
        let source = std::io::Cursor::new(tree("v1"));
        let build = tokio::spawn(async move { execute(&context, request, source, events, token).await });
        while let Some(event) = receive.recv().await {
            if event == (BuildEvent::Detail { text: "begun".to_owned() }) {
                break;
            }
        }
        match how {
            "token" => cancel.cancel(),
            "closed" => drop(std::mem::replace(&mut receive, mpsc::channel(1).1)),
            "dropped" => build.abort(),
            _ => {}
        }
        let _ = build.await;
        if how == "timeout" {
            let last = receive.recv().await;
            assert!(matches!(last, Some(BuildEvent::Failed { reason }) if reason.contains("1 seconds")));
        }
        if how == "dropped" {
            // Its task cleans up by itself: the next build of the app waits for it.
            let keep = std::mem::take(&mut bench.plan.layers);
            bench.plan.layers = vec![source_layer("after", &[])];
            bench.build("hello", tree("v1")).await.0.expect("the queue is free");
            bench.plan.layers = keep;
        }
        bench.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_build_that_must_wait_says_so() {
    let mut bench = bench().await;
    bench.plan.layers = vec![script_layer("deps", "print begun\nhang", &["/deps"], &[])];
    let (events, mut receive) = mpsc::channel(64);
    let cancel = CancellationToken::new();
    let (context, request, token) = (bench.context.clone(), bench.request("hello"), cancel.clone());
    let first = tokio::spawn(async move {
        execute(&context, request, std::io::Cursor::new(tree("v1")), events, token).await;
    });
    while receive.recv().await != Some(BuildEvent::Detail { text: "begun".to_owned() }) {}
    let (events, mut receive) = mpsc::channel(64);
    let (context, mut request) = (bench.context.clone(), bench.request("hello"));
    request.id = BuildId::parse("second").expect("valid");
    request.plan.layers = vec![source_layer("x", &[])];
    let second = tokio::spawn(async move {
        execute(&context, request, std::io::Cursor::new(tree("v1")), events, CancellationToken::new()).await;
    });
    let said = receive.recv().await;
    assert_eq!(
        said,
        Some(BuildEvent::Step { text: "Waiting for another build of this app to end".to_owned() })
    );
    cancel.cancel();
    first.await.expect("no panic");
    second.await.expect("no panic");
    let mut last = None;
    while let Some(event) = receive.recv().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(BuildEvent::Done { .. })), "{last:?}");
}
