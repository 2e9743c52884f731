//! One running platform.

use crate::census::Census;
use crate::http::{self, Reply, Request};
use crate::load::Load;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 + signal if killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Itself if the code is 0, else an error with everything it printed.
    pub fn success(self) -> Result<Self> {
        ensure!(self.code == 0, "exit code {}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Standard output and error.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command, stdin: Option<&[u8]>) -> Result<Output> {
    use std::os::unix::process::ExitStatusExt;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().with_context(|| format!("running {:?}", command.get_program()))?;
    if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
        pipe.write_all(bytes)?;
    }
    let output = child.wait_with_output()?;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Ok(Output {
        code,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Asks again and again until `condition` gives a value; an error with its last reason after `limit`.
pub fn until<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waited {limit:?} for {what}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// One of Berth's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `berth up` itself.
    Up,
    /// API, git, builds, deploys.
    Controller,
    /// Runs containers.
    Agent,
    /// Every container's own supervisor.
    Shims,
    /// Serves requests.
    Proxy,
}

/// A running `berth up` with a data directory of its own; stopped with its apps when dropped.
pub struct Berth {
    data: TempDir,
    up: Option<Child>,
    /// Where the proxy listens.
    pub http: SocketAddr,
    /// Where the proxy listens for TLS.
    pub https: SocketAddr,
    /// Where git and commands over SSH are taken.
    pub ssh: SocketAddr,
    /// Where the API listens.
    pub api: SocketAddr,
    key: PathBuf,
}

/// The binary under test: `BERTH_BIN`, or `berth` in the directory above the test's own binary.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BERTH_BIN") {
        return Ok(path.into());
    }
    let mine = std::env::current_exe()?;
    let directory = mine.ancestors().nth(2).context("the test binary has no directory above it")?;
    let path = directory.join("berth");
    ensure!(path.exists(), "{} is missing: run cargo build first, or set BERTH_BIN", path.display());
    Ok(path)
}

/// A port of this machine's that nobody has, below those that outgoing connections are given (ip(7), 32768 on): a test
/// that stops the platform wants the same port again.
pub fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000)?;
    loop {
        let tried = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(tried < 10_000, "no port from 20000 to 29999 is free");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 20_000 + (start + tried) % 10_000));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
}

impl Berth {
    /// Starts a platform and waits until it says it is ready. Imports the stacks of `BERTH_STACK_DIR`, if set.
    pub fn start() -> Result<Self> {
        let data = TempDir::with_prefix("berth-test-")?;
        let key = data.path().join("test_key");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        run(keygen, None)?.success()?;
        let [http, https, ssh, api] = [free_address()?, free_address()?, free_address()?, free_address()?];
        let mut berth = Self { data, up: None, http, https, ssh, api, key };
        berth.up()?;
        let public_key = std::fs::read(berth.key.with_extension("pub"))?;
        berth.berth_with_input(&["ssh-keys:add", "tester"], &public_key)?.success()?;
        Ok(berth)
    }

    /// Restores `archive` to a data directory of its own and starts a platform there, as on another machine. The key that
    /// opened `from` opens it too.
    pub fn restored(from: &Self, archive: &Path) -> Result<Self> {
        let data = TempDir::with_prefix("berth-test-")?;
        let mut command = Command::new(binary()?);
        command.arg("restore").arg(archive).arg("--data").arg(data.path()).stdin(Stdio::null());
        run(command, None)?.success()?;
        let key = data.path().join("test_key");
        std::fs::copy(&from.key, &key)?; // with its mode
        let [http, https, ssh, api] = [free_address()?, free_address()?, free_address()?, free_address()?];
        let mut berth = Self { data, up: None, http, https, ssh, api, key };
        berth.up()?;
        Ok(berth)
    }

    /// Starts `berth up` on the data directory there is, and waits until it is ready.
    pub fn up(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.data_dir().join("up.log"))?;
        let mut command = Command::new(binary()?);
        command.arg("up").arg("--data").arg(self.data_dir()).args(["--domain", "test.localhost"]);
        for (flag, address) in
            [("--http", self.http), ("--https", self.https), ("--ssh", self.ssh), ("--api", self.api)]
        {
            command.arg(flag).arg(address.to_string());
        }
        if let Some(stacks) = std::env::var_os("BERTH_STACK_DIR") {
            command.arg("--stack-dir").arg(stacks);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let said_before = self.banners();
        self.up = Some(command.spawn().context("starting berth up")?);
        self.until_ready()?;
        // The banner comes when the stacks are imported too, which takes longer than being able to answer.
        until(Duration::from_secs(300), "berth up to say that it is ready", || {
            ensure!(self.banners() > said_before, "not yet");
            Ok(())
        })
        .with_context(|| self.log_tail())
    }

    fn banners(&self) -> usize {
        let log = std::fs::read(self.data_dir().join("up.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).matches("=====> Berth is ready").count()
    }

    /// Waits until `GET /healthz` says 200.
    pub fn until_ready(&mut self) -> Result<()> {
        until(Duration::from_secs(180), "GET /healthz to say 200", || {
            if let Some(up) = &mut self.up
                && let Some(status) = up.try_wait()?
            {
                bail!("berth up ended with {status}");
            }
            let reply = http::once(self.api, &Request::get("localhost", "/healthz"))?;
            ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
            Ok(())
        })
        .with_context(|| self.log_tail())
    }

    /// The last lines of the platform's own log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.data_dir().join("up.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        format!("the log of berth up ends with:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// Everything it keeps.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// What `git push` uses instead of plain `ssh`.
    #[must_use]
    pub fn ssh_command(&self) -> String {
        format!(
            "ssh -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
             -o LogLevel=ERROR -o BatchMode=yes",
            self.key.display()
        )
    }

    /// The git remote of an app.
    #[must_use]
    pub fn remote(&self, app: &str) -> String {
        format!("ssh://paas@{}/{app}", self.ssh)
    }

    /// Runs a command line over SSH.
    pub fn over_ssh(&self, line: &[&str]) -> Result<Output> {
        let mut command = Command::new("sh");
        let quoted = "exec \"$@\"";
        let mut words: Vec<String> = self.ssh_command().split(' ').map(str::to_owned).collect();
        words.extend(["-p".to_owned(), self.ssh.port().to_string(), format!("paas@{}", self.ssh.ip())]);
        words.extend(line.iter().map(|word| (*word).to_owned()));
        command.args(["-c", quoted, "sh"]).args(words.iter().filter(|word| !word.is_empty()));
        command.stdin(Stdio::null());
        run(command, None)
    }

    /// Runs the local admin's CLI.
    pub fn berth(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(arguments)?;
        command.stdin(Stdio::null());
        run(command, None)
    }

    /// The same with something to read.
    pub fn berth_with_input(&self, arguments: &[&str], stdin: &[u8]) -> Result<Output> {
        run(self.command(arguments)?, Some(stdin))
    }

    /// The command that [`Berth::berth`] would run, to be spawned by the caller.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.arg("--data").arg(self.data_dir()).args(arguments).current_dir(self.data_dir());
        Ok(command)
    }

    /// Runs the local admin's CLI; it must work.
    pub fn ok(&self, arguments: &[&str]) -> Result<Output> {
        self.berth(arguments)?.success().with_context(|| format!("berth {}", arguments.join(" ")))
    }

    /// The host name of an app.
    #[must_use]
    pub fn host(&self, app: &str) -> String {
        format!("{app}.test.localhost")
    }

    /// One request through the proxy.
    pub fn send(&self, request: &Request<'_>) -> Result<Reply> {
        http::once(self.http, request)
    }

    /// One request to the API's TCP port.
    pub fn send_api(&self, request: &Request<'_>) -> Result<Reply> {
        http::once(self.api, request)
    }

    /// `GET path` of an app through the proxy.
    pub fn get(&self, app: &str, path: &str) -> Result<Reply> {
        self.send(&Request::get(&self.host(app), path))
    }

    /// Waits until `/` of an app answers 200 with `text` in it.
    pub fn until_says(&self, app: &str, text: &str) -> Result<Reply> {
        until(Duration::from_secs(30), &format!("{app} to say {text:?}"), || {
            let reply = self.get(app, "/")?;
            ensure!(reply.status == 200 && reply.text().contains(text), "{} {}", reply.status, reply.text());
            Ok(reply)
        })
    }

    /// Users that keep asking for `/` of an app.
    #[must_use]
    pub fn load(&self, app: &str, users: usize) -> Load {
        Load::start(self.http, &self.host(app), users)
    }

    /// The process id of a role.
    pub fn pid(&self, role: Role) -> Result<Pid> {
        let up = self.up.as_ref().context("berth up does not run")?;
        let up = Pid::from_raw(i32::try_from(up.id())?);
        let name = match role {
            Role::Up => return Ok(up),
            Role::Controller => "controller",
            Role::Agent => "agent",
            Role::Proxy => "proxy",
            Role::Shims => bail!("every container has a shim of its own"),
        };
        let children = std::fs::read_to_string(format!("/proc/{up}/task/{up}/children"))?;
        for child in children.split_whitespace() {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if line.split(|byte| *byte == 0).nth(1) == Some(name.as_bytes()) {
                return Ok(Pid::from_raw(child.parse()?));
            }
        }
        bail!("berth up has no child `berth {name}`")
    }

    /// Sends SIGKILL to a role and waits until another process has its place (not for [`Role::Up`]).
    pub fn kill(&mut self, role: Role) -> Result<()> {
        if role == Role::Shims {
            return self.kill_shims();
        }
        let old = self.pid(role)?;
        kill(old, Signal::SIGKILL)?;
        if role == Role::Up {
            if let Some(mut up) = self.up.take() {
                up.wait()?;
            }
            return Ok(());
        }
        until(Duration::from_secs(30), "the role to be started again", || {
            let new = self.pid(role)?;
            ensure!(new != old, "still the old one");
            Ok(())
        })
    }

    fn kill_shims(&self) -> Result<()> {
        let old = Census::take(self)?.shims;
        for shim in &old {
            // One may have ended with its container meanwhile.
            match kill(Pid::from_raw(i32::try_from(*shim)?), Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error).context("killing a shim"),
            }
        }
        until(Duration::from_secs(30), "the killed shims to be gone", || {
            let new = Census::take(self)?.shims;
            ensure!(new.is_disjoint(&old), "{old:?} then {new:?}");
            Ok(())
        })
    }

    /// SIGHUP to `berth up`, then waits until every role is a new process.
    pub fn renew(&mut self) -> Result<()> {
        let roles = [Role::Controller, Role::Agent, Role::Proxy];
        let pids = |berth: &Self| roles.iter().map(|role| berth.pid(*role)).collect::<Result<Vec<_>>>();
        let old = pids(self)?;
        kill(self.pid(Role::Up)?, Signal::SIGHUP)?;
        until(Duration::from_secs(60), "every role to be a new process", || {
            // A former proxy that still drains comes first among the children.
            let up = self.pid(Role::Up)?;
            let children = std::fs::read_to_string(format!("/proc/{up}/task/{up}/children"))?;
            let new = pids(self)?;
            let taken = children.split_whitespace().count() >= roles.len();
            let proxy_is_new = new[2] != old[2] || children.split_whitespace().count() > roles.len();
            ensure!(taken && new[0] != old[0] && new[1] != old[1] && proxy_is_new, "{old:?} {new:?}");
            Ok(())
        })?;
        self.until_ready()
    }

    /// SIGTERM to `berth up`, then waits for its end: apps keep running.
    pub fn down(&mut self) -> Result<()> {
        let Some(mut up) = self.up.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(up.id())?), Signal::SIGTERM)?;
        until(Duration::from_secs(60), "berth up to end after SIGTERM", || {
            up.try_wait()?.context("it still runs")
        })?;
        Ok(())
    }

    /// What `ps:report --format json` says of an app's containers.
    pub fn containers(&self, app: &str) -> Result<Vec<serde_json::Value>> {
        let report = self.ok(&["ps:report", app, "--format", "json"])?;
        let report: serde_json::Value = serde_json::from_str(&report.stdout)?;
        report["containers"].as_array().cloned().context("no `containers` in the report")
    }

    /// The process ids, on this machine, of an app's containers' first processes.
    pub fn pids(&self, app: &str) -> Result<Vec<i32>> {
        let containers = self.containers(app)?;
        let pid = |container: &serde_json::Value| container["status"]["pid"].as_i64();
        containers.iter().filter_map(pid).map(|pid| Ok(i32::try_from(pid)?)).collect()
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let stopped = self.down();
        // Whatever state the test left: no container, network or cgroup of it may stay on this machine.
        let apps = binary().map(|path| {
            let mut command = Command::new(path);
            command.arg("agent").arg("--data").arg(self.data_dir()).arg("--stop-apps").stdin(Stdio::null());
            run(command, None)
        });
        if std::thread::panicking() {
            return;
        }
        if let Err(error) = stopped.and_then(|()| apps?.and_then(Output::success)) {
            let _ = writeln!(std::io::stderr(), "cleaning up {}: {error:#}", self.data_dir().display());
        }
    }
}
