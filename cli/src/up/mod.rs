//! `berth up`: a whole machine in the foreground.
//!
//! In: a data directory and addresses. Out: controller, agent and proxy as child processes, kept alive; a banner once
//! they answer; on SIGTERM or SIGINT they drain and end, while the apps keep running (unless `--stop-apps`).
//! On SIGHUP it starts every role anew from its own file, which may be newer: an upgrade without a refused connection.
//! Killed, it takes the roles with it (they ask the kernel to be told) but no app, and a new `berth up` takes over.

pub(crate) mod data_dir;
mod listen;
mod stacks;
mod supervise;

use crate::output::Output;
use crate::roles::{data, given};
use anyhow::{Context, Result, bail};
use berth_model::{HostPattern, NodeName};
use berth_wire::{Client, Endpoint};
use clap::ArgMatches;
use http::Method;
use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal, Seek, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use supervise::{HandedDown, Reserved, Role};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long roles of a killed predecessor may take to end.
const PREDECESSORS: Duration = Duration::from_secs(60);
/// How often a condition is looked at that nothing tells us of.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// There while stacks are taken over.
const IMPORTING: &str = berth_controller::options::IMPORTING;

struct Plan {
    data: PathBuf,
    domain: HostPattern,
    http: SocketAddr,
    https: Option<SocketAddr>,
    /// Load balancers that say who their clients are.
    balancers: Vec<berth_proxy::Network>,
    ssh: SocketAddr,
    api: SocketAddr,
    cluster: SocketAddr,
    /// This machine joined a cluster: its controllers are elsewhere.
    joined: bool,
    node: NodeName,
    subnet: Option<String>,
    overlay: Option<String>,
    keep_free_mib: Option<u64>,
    stack_dir: Option<PathBuf>,
    stop_apps: bool,
    log_format: String,
    metrics: Option<SocketAddr>,
    access_log_format: String,
}

/// Carries `berth up` out.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let reserved = Reserved::new()?; // first of all, see there
    if !nix::unistd::geteuid().is_root() {
        bail!("it must be run as root: it makes namespaces, mounts and networks for the apps. Try sudo");
    }
    let data = data_dir::prepare(&data(matches))?;
    let _lock = lock(&data)?;
    wait_for_predecessors(&data)?;
    let (ssh, api) = (given(matches, "ssh")?, given(matches, "api")?);
    let joined = berth_agent::cluster::membership(&data)?.is_some();
    if joined {
        let stacks = matches.contains_id("stack-dir") && matches.get_one::<PathBuf>("stack-dir").is_some();
        anyhow::ensure!(
            !stacks,
            "stacks belong to the controller's machine: leave --stack-dir out on a node that joined"
        );
    } else {
        listen::check(ssh, "--ssh")?;
        listen::check(api, "--api")?;
    }
    let wanted = matches.get_one::<SocketAddr>("http").copied();
    let listener = listen::http(wanted)?;
    let http = listener.local_addr()?;
    let secure = listen::https(matches.get_one::<SocketAddr>("https").copied(), wanted, http)?;
    let plan = Plan {
        domain: given(matches, "domain")?,
        http,
        https: secure.as_ref().map(std::net::TcpListener::local_addr).transpose()?,
        balancers: matches.get_many("proxy-protocol-from").into_iter().flatten().copied().collect(),
        ssh,
        api,
        cluster: given(matches, "cluster")?,
        joined,
        node: crate::roles::node_name(matches, &data)?,
        subnet: matches.get_one::<String>("subnet").cloned(),
        overlay: matches.get_one::<String>("overlay").cloned(),
        keep_free_mib: matches.get_one("keep-free").copied(),
        stack_dir: matches.get_one::<PathBuf>("stack-dir").cloned(),
        stop_apps: matches.get_flag("stop-apps"),
        log_format: given(matches, "log-format")?,
        metrics: matches.get_one::<SocketAddr>("metrics").copied(),
        access_log_format: given(matches, "access-log-format")?,
        data,
    };
    // Before anybody can ask whether we are ready.
    match &plan.stack_dir {
        Some(_) => std::fs::write(plan.data.join(IMPORTING), "")?,
        None => remove_if_there(&plan.data.join(IMPORTING))?, // of a predecessor that was killed
    }
    // One thread: it starts the children, and a child hears of the death of the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listeners: Vec<_> = [Some(&listener), secure.as_ref()].into_iter().flatten().collect();
    let sockets = reserved.hold(&listeners)?;
    drop((listener, secure));
    runtime.block_on(supervise_all(&plan, sockets))?;
    if plan.stop_apps {
        let stopped = runtime.block_on(berth_agent::stop_all(&plan.data)).context("cannot stop the apps")?;
        tracing::info!(containers = stopped, "stopped the apps");
    }
    Ok(())
}

async fn supervise_all(plan: &Plan, listeners: HandedDown) -> Result<()> {
    let mut signals = Signals::new()?;
    let mut hangups = signal(SignalKind::hangup())?;
    let attached = std::io::stdin().is_terminal();
    let renew = watch::Sender::new(0_u64);
    let (stop, ready) = (CancellationToken::new(), CancellationToken::new());
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut roles = tokio::task::JoinSet::new();
    for role in plan.roles(listeners) {
        let name = role.name;
        let kept = supervise::keep(role, program.clone(), stop.clone(), ready.clone(), renew.subscribe());
        roles.spawn(async move { kept.await.with_context(|| format!("keeping the {name} alive")) });
    }
    // Resolves only if it cannot become ready: being ready is no reason to stop.
    let until_ready = async {
        match become_ready(plan, &ready).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    let until_ready = std::pin::pin!(until_ready);
    // Ends with its terminal, as other programs in the foreground do.
    let until_left = async {
        while hangups.recv().await.is_some() {
            if attached && !std::io::stdin().is_terminal() {
                tracing::info!("the terminal was closed");
                return;
            }
            tracing::info!("starting every role anew from {}; apps go on", program.display());
            renew.send_modify(|times| *times += 1);
        }
        std::future::pending::<()>().await;
    };
    let mut result = tokio::select! {
        () = until_left => Ok(()),
        error = until_ready => Err(error),
        () = signals.next() => Ok(()),
        Some(ended) = roles.join_next() => flatten(ended),
    };
    tracing::info!(
        "stopping; {}",
        if plan.stop_apps { "the apps are stopped too" } else { "the apps keep running" }
    );
    let _ = remove_if_there(&plan.data.join("run/ready")); // no reason not to stop the roles
    stop.cancel();
    let impatient = tokio::select! {
        () = async {
            while let Some(ended) = roles.join_next().await {
                let ended = flatten(ended);
                if result.is_ok() {
                    result = ended;
                }
            }
        } => false,
        () = signals.next() => true,
    };
    if impatient {
        tracing::warn!("a second signal: not waiting for the roles; they end with this process");
    }
    result
}

fn flatten(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.context("the supervisor itself failed")?
}

impl Plan {
    fn roles(&self, listeners: HandedDown) -> Vec<Role> {
        let common = |name, more: &[(&str, &dyn std::fmt::Display)]| {
            let mut arguments: Vec<OsString> = vec!["--data".into(), self.data.clone().into()];
            arguments.extend(["--log-format".into(), self.log_format.clone().into()]);
            for (option, value) in more {
                arguments.extend([OsString::from(option), value.to_string().into()]);
            }
            Role { name, arguments, listeners: None, word: self.data.join("run/successor.sock") }
        };
        let http: &dyn std::fmt::Display = &self.http;
        let controller = [
            ("--domain", &self.domain as &dyn std::fmt::Display),
            ("--http", http),
            ("--ssh", &self.ssh),
            ("--api", &self.api),
            ("--cluster", &self.cluster),
        ];
        let mut controller = common("controller", &controller);
        if let Some(https) = &self.https {
            controller.arguments.extend(["--https".into(), https.to_string().into()]);
        }
        let mut agent = common("agent", &[("--node", &self.node)]);
        if let Some(subnet) = &self.subnet {
            agent.arguments.extend(["--subnet".into(), subnet.into()]);
        }
        if let Some(overlay) = &self.overlay {
            agent.arguments.extend(["--overlay".into(), overlay.into()]);
        }
        if let Some(mib) = self.keep_free_mib {
            agent.arguments.extend(["--keep-free".into(), mib.to_string().into()]);
        }
        let balancers: Vec<_> = self.balancers.iter().map(ToString::to_string).collect();
        let mut proxy = common("proxy", &[("--http", http), ("--node", &self.node)]);
        proxy.arguments.extend(["--access-log-format".into(), self.access_log_format.clone().into()]);
        if let Some(metrics) = &self.metrics {
            proxy.arguments.extend(["--metrics".into(), metrics.to_string().into()]);
        }
        if !balancers.is_empty() {
            proxy.arguments.extend(["--proxy-protocol-from".into(), balancers.join(",").into()]);
        }
        proxy.listeners = Some(listeners);
        match self.joined {
            true => vec![agent, proxy],
            false => vec![controller, agent, proxy],
        }
    }

    /// An address for people: where this machine is reached if it listens everywhere.
    fn host(address: SocketAddr) -> String {
        match address.ip() {
            ip if ip.is_unspecified() => "localhost".to_owned(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            ip @ IpAddr::V4(_) => ip.to_string(),
        }
    }

    fn banner(&self) -> String {
        if self.joined {
            return format!(
                "=====> Node {} is up\n       Apps:  {}, as every node of the cluster\n       Data:  {}\n",
                self.node,
                self.http,
                self.data.display()
            );
        }
        let port = if self.http.port() == 80 { String::new() } else { format!(":{}", self.http.port()) };
        let git = format!("ssh://paas@{}:{}", Self::host(self.ssh), self.ssh.port());
        let berth = match self.data.to_str() {
            Some(crate::endpoint::DEFAULT_DATA) => "berth".to_owned(),
            _ => format!("berth --data {}", self.data.display()),
        };
        format!(
            "=====> Berth is ready\n       \
             Apps:  http://APP.{domain}{port}{secure}\n       \
             Git:   {git}/APP\n       \
             API:   http://{api_host}:{api_port}\n       \
             Data:  {data}\n\
             -----> What to do next\n       \
             1. Let your key in:    {berth} ssh-keys:add me ~/.ssh/id_ed25519.pub\n       \
             2. In a repository:    git remote add paas {git}/hello\n       \
             3. Deploy it:          git push paas main\n       \
             In a browser:          {berth} dashboard\n       \
             All commands:          berth help\n",
            domain = self.domain,
            secure = match self.https.map(|address| address.port()) {
                None => String::new(),
                Some(443) => ", and by https:// with a certificate (certs:add)".to_owned(),
                Some(port) => format!(", and by https:// at port {port} with a certificate (certs:add)"),
            },
            api_host = Self::host(self.api),
            api_port = self.api.port(),
            data = self.data.display(),
        )
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes the stacks over, waits until the API says that it is ready and the proxy has routes, and tells people and scripts (`DIR/run/ready`).
async fn become_ready(plan: &Plan, ready: &CancellationToken) -> Result<()> {
    let socket = if plan.joined { "run/agent.sock" } else { "run/api.sock" };
    let client = Client::new(Endpoint::Unix(plan.data.join(socket)));
    if let Some(directory) = &plan.stack_dir {
        stacks::import(&client, &plan.data, directory).await?;
    }
    remove_if_there(&plan.data.join(IMPORTING))?;
    while client.call(Method::GET, "/healthz", None::<&()>).await.is_err() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    // Until its proxy knows what there is, a machine that just joined answers 503 for apps that serve elsewhere.
    while plan.joined && !berth_proxy::has_routes(&plan.data) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    ready.cancel();
    std::fs::write(plan.data.join("run/ready"), format!("{}\n", std::process::id()))?;
    Output::new(false, false).raw(plan.banner().as_bytes()).or_else(|error| match error {
        crate::error::CliError::OutputClosed => Ok(()), // nobody reads the banner: no reason to stop
        error => Err(anyhow::anyhow!("{error}")),
    })
}

/// SIGTERM and SIGINT; made once, so that none is lost between two waits.
struct Signals(Signal, Signal);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Keeps a second `berth up` away from the same directory while the file lives.
fn lock(data: &Path) -> Result<File> {
    let path = data.join("run/up.lock");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open().with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "another `berth up` (process {}) already runs on {}: stop that one, or choose another directory with --data",
                pid.trim(),
                data.display()
            );
        }
        Err(std::fs::TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Roles whose `berth up` was killed are told so by the kernel and end by themselves: wait for that.
fn wait_for_predecessors(data: &Path) -> Result<()> {
    let began = Instant::now();
    for role in ["controller", "agent", "proxy"] {
        let path = data.join(role).join("lock");
        let mut told = false;
        while let Ok(file) = File::open(&path) {
            if !matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)) {
                break;
            }
            if began.elapsed() > PREDECESSORS {
                bail!(
                    "a {role} already runs on {}; stop it (systemctl stop 'berth-*') or choose another --data",
                    data.display()
                );
            }
            if !told && began.elapsed() > Duration::from_secs(1) {
                tracing::info!("waiting for the former {role} to end");
                told = true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    Ok(())
}
