//! What these tests run: an etcd of several members, and controllers over it, all on loopback.
//!
//! In: nothing but programs: `etcd` (Debian's etcd-server), the `berth` binary. Out: processes, ended by their process ids when
//! dropped.

use anyhow::{Context, Result, bail, ensure};
use berth_tests::etcd::{EtcdMember, EtcdTls, etcd_line, store_url};
use berth_tests::{Reply, Request, once, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.0.id())?), signal).context("sending a signal")
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Its exit code, once it has ended by itself.
    pub(crate) fn ended(&mut self, limit: Duration) -> Result<i32> {
        until(limit, "the process to end", || self.0.try_wait()?.context("it runs"))?
            .code()
            .context("it was killed by a signal")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Members of an etcd.
pub(crate) struct Etcd {
    dir: tempfile::TempDir,
    pub(crate) places: Vec<EtcdMember>,
    tls: Option<EtcdTls>,
    pub(crate) members: Vec<Option<Process>>,
}

impl Etcd {
    /// Starts three members and waits until they serve.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(3, None)
    }

    /// So many, perhaps with certificates.
    pub(crate) fn start_with(count: usize, tls: Option<EtcdTls>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let place = |index: usize| {
            let (client, peer) = (berth_tests::free_address()?, berth_tests::free_address()?);
            Ok(EtcdMember { client, peer, data: dir.path().join(index.to_string()) })
        };
        let places = (0..count).map(place).collect::<Result<_>>()?;
        let mut etcd = Self { dir, places, tls, members: (0..count).map(|_| None).collect() };
        (0..count).try_for_each(|index| etcd.begin(index))?;
        // With certificates only its clients can ask it.
        let asked = if etcd.tls.is_none() { &etcd.places[..] } else { &[] };
        for member in asked {
            until(Duration::from_secs(60), "etcd to serve", || {
                let answer = once(member.client, &Request::get("etcd", "/health"))?;
                ensure!(answer.status == 200, "{}", answer.text());
                Ok(())
            })?;
        }
        Ok(etcd)
    }

    pub(crate) fn begin(&mut self, index: usize) -> Result<()> {
        let line = etcd_line(&self.places, index, self.tls.as_ref());
        let log =
            File::options().create(true).append(true).open(self.dir.path().join(format!("{index}.log")))?;
        let child = Command::new(&line[0])
            .args(&line[1..])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("etcd cannot be started: it is in Debian's package etcd-server")?;
        self.members[index] = Some(Process(child));
        Ok(())
    }

    pub(crate) fn url(&self, name: &str) -> String {
        store_url(&self.places, name)
    }
}

/// One controller.
pub(crate) struct Controller {
    pub(crate) data: tempfile::TempDir,
    pub(crate) api: SocketAddr,
    pub(crate) ssh: SocketAddr,
    cluster: SocketAddr,
    store: Option<(String, PathBuf)>,
    /// Seconds.
    pub(crate) lease: u8,
    /// More options.
    pub(crate) more: Vec<String>,
    pub(crate) process: Option<Process>,
}

pub(crate) fn berth() -> Result<Command> {
    Ok(Command::new(berth_tests::binary()?))
}

impl Controller {
    /// With a store of its own, or in this etcd with this directory of files. Not started.
    pub(crate) fn new(store: Option<(String, PathBuf)>) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("berth-c-").tempdir()?;
        let (api, ssh) = (berth_tests::free_address()?, berth_tests::free_address()?);
        let cluster = berth_tests::free_address()?;
        Ok(Self { data, api, ssh, cluster, store, lease: 3, more: Vec::new(), process: None })
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn begin(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.data.path().join("log"))?;
        let mut command = berth()?;
        command.arg("controller").arg("--data").arg(self.data.path());
        command.args(["--api", &self.api.to_string(), "--ssh", &self.ssh.to_string()]);
        command.args(["--cluster", &self.cluster.to_string()]);
        if let Some((url, files)) = &self.store {
            command.args(["--store", url, "--advertise", "127.0.0.1"]);
            command.args(["--store-lease", &self.lease.to_string()]);
            command.arg("--files").arg(files).args(&self.more);
        }
        self.process = Some(Process(command.stdout(Stdio::null()).stderr(log).spawn()?));
        Ok(())
    }

    /// Starts it again if it has ended by itself, as a supervisor does. Whether it had.
    pub(crate) fn revive(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else { return Ok(false) };
        if process.0.try_wait()?.is_none() {
            return Ok(false);
        }
        self.begin()?;
        Ok(true)
    }

    /// Its config key becomes that of another.
    pub(crate) fn take_key(&self, other: &Self) -> Result<()> {
        let path = |one: &Self| one.data.path().join("controller/config.key");
        std::fs::create_dir_all(self.data.path().join("controller"))?;
        until(Duration::from_secs(60), "the first controller's key", || {
            std::fs::copy(path(other), path(self)).context("no key yet")
        })?;
        Ok(())
    }

    /// A command over its local socket.
    pub(crate) fn command(&self, words: &[&str]) -> Result<String> {
        let output = berth()?.arg("--data").arg(self.data.path()).args(words).output()?;
        ensure!(
            output.status.success(),
            "{words:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A token, made over the local socket of whoever leads.
    pub(crate) fn token(&self, name: &str) -> Result<String> {
        let made = self.command(&["tokens:create", name, "--format", "json"])?;
        let made: serde_json::Value = serde_json::from_str(&made)?;
        Ok(made["token"].as_str().context("no token")?.to_owned())
    }

    /// Whether it leads, as it says itself.
    pub(crate) fn leads(&self) -> Result<bool> {
        let list = self.command(&["controller:list", "--format", "json"])?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list)?;
        let port = u64::from(self.api.port());
        Ok(list.iter().any(|one| one["leads"] == true && one["api_port"] == port))
    }

    pub(crate) fn until_it_leads(&self) -> Result<()> {
        until(Duration::from_secs(60), "a controller that leads", || {
            ensure!(self.leads()?, "it follows");
            Ok(())
        })
        .with_context(|| self.log())
    }
}

/// A call over the network.
pub(crate) fn call(
    to: SocketAddr,
    token: &str,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Reply> {
    let mut headers = vec![("authorization".to_owned(), format!("Bearer {token}"))];
    headers.push(("content-type".to_owned(), "application/json".to_owned()));
    headers.push(("connection".to_owned(), "close".to_owned()));
    let body = body.map(|body| body.as_bytes().to_vec());
    once(to, &Request { method, host: "berth", path, headers, body })
}

/// Makes an app; `Ok(true)` if that was acknowledged.
pub(crate) fn create(to: SocketAddr, token: &str, name: &str) -> Result<bool> {
    let reply = call(to, token, "POST", "/v1/apps", Some(&format!("{{\"name\":\"{name}\"}}")))?;
    match reply.status {
        201 => Ok(true),
        409 | 500 | 503 => Ok(false),
        other => bail!("{other}: {}", reply.text()),
    }
}

/// Every app's name.
pub(crate) fn apps(to: SocketAddr, token: &str) -> Result<Vec<String>> {
    let reply = call(to, token, "GET", "/v1/apps", None)?;
    ensure!(reply.status == 200, "{}", reply.text());
    let list: Vec<serde_json::Value> = serde_json::from_str(&reply.text())?;
    Ok(list.iter().filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect())
}

/// A directory for files.
pub(crate) fn files(dir: &Path) -> Result<PathBuf> {
    let files = dir.join("files");
    std::fs::create_dir_all(&files)?;
    Ok(files)
}
