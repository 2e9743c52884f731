//! A machine for runtime tests: an instance of its own, a root file system of busybox, a clean end.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use berth_agent::runtime::{Bundle, Handle, IdMap, Runtime, Session, Stdio};
use berth_model::ContainerId;
use berth_model::container::{Exit, Limits};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::AsyncReadExt;

pub const BASE: u32 = 200_000;
static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Machine {
    pub runtime: Runtime,
    pub data: tempfile::TempDir,
}

impl Machine {
    pub fn new() -> Self {
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("{:05x}{unique:x}", std::process::id() & 0xf_ffff);
        Self::named(&instance)
    }

    pub fn named(instance: &str) -> Self {
        let data = tempfile::tempdir().expect("temp dir");
        let layer = data.path().join("agent/layers/busybox");
        make_layer(&layer);
        let runtime = Runtime::open(instance, data.path()).expect("runs as root with cgroups");
        Self { runtime, data }
    }

    pub fn layer(&self) -> PathBuf {
        self.data.path().join("agent/layers/busybox")
    }

    pub fn bundle(&self, argv: &[&str]) -> Bundle {
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = ContainerId::parse(&format!("hello.web.1.{}x{unique}", std::process::id())).expect("valid");
        let agent = self.data.path().join("agent");
        Bundle {
            dir: agent.join("containers").join(id.as_str()),
            log_dir: Some(agent.join("logs/hello").join(id.as_str())),
            id,
            lowers: vec![self.layer()],
            netns: None,
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![("PATH".into(), "/bin".into()), ("GREETING".into(), "hello world".into())],
            cwd: "/".into(),
            user: "app".into(),
            hostname: "web-1".into(),
            limits: Limits::default(),
            binds: Vec::new(),
            files: Vec::new(),
            private: Vec::new(),
            stdio: Stdio::Piped,
            id_map: IdMap { base: BASE, count: 65536 },
            upper: None,
        }
    }

    pub fn sh(&self, script: &str) -> Bundle {
        self.bundle(&["/bin/sh", "-c", script])
    }

    pub async fn start(&self, bundle: &Bundle) -> Handle {
        let handle = self.runtime.create(bundle).await.unwrap_or_else(|e| panic!("create: {e:?}"));
        handle.start().await.unwrap_or_else(|e| panic!("start: {e:?}"));
        handle
    }

    /// Runs to the end: stdout and stderr together, and how it ended.
    pub async fn run(&self, bundle: &Bundle) -> (String, Exit) {
        let handle = self.start(bundle).await;
        let session = handle.take_session().expect("piped");
        let output = output_of(session).await;
        let exit = handle.wait().await;
        drop(handle);
        self.runtime.remove(&bundle.dir).expect("removed");
        (output, exit)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for entry in
            std::fs::read_dir(self.data.path().join("agent/containers")).into_iter().flatten().flatten()
        {
            let _ = self.runtime.remove(&entry.path());
        }
        self.runtime.close();
    }
}

pub async fn output_of(session: Session) -> String {
    let Session { stdin, mut stdout, stderr, control: _keep } = session;
    drop(stdin);
    let errors = async {
        let mut text = Vec::new();
        if let Some(mut stderr) = stderr {
            stderr.read_to_end(&mut text).await.expect("stderr");
        }
        text
    };
    let out = async {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).await.expect("stdout");
        text
    };
    let (out, errors) = tokio::join!(out, errors);
    String::from_utf8_lossy(&[out, errors].concat()).into_owned()
}

pub fn make_layer(layer: &Path) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    for dir in ["bin", "etc", "tmp", "home/app", "app", "root"] {
        std::fs::create_dir_all(layer.join(dir)).expect("dirs");
    }
    std::fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("busybox-static is installed");
    std::fs::set_permissions(layer.join("tmp"), PermissionsExt::from_mode(0o1777)).expect("tmp");
    let applets = std::process::Command::new("/bin/busybox").arg("--list").output().expect("busybox runs");
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", layer.join("bin").join(applet)).expect("applet");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
    std::fs::write(layer.join("etc/passwd"), passwd).expect("passwd");
    std::fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:50:app\n").expect("group");
    for owned in ["home/app", "app"] {
        std::os::unix::fs::chown(layer.join(owned), Some(1000), Some(1000)).expect("chown");
    }
}
