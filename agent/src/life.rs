//! One container's life: image, network, process, checks, ends and restarts, and at last its removal. A straight line in
//! a task of its own; [`crate::reconcile`] says when it begins, begins again and is over.
//!
//! In: a spec, and for a container of an earlier agent what was found of it. Out: the container, its state in the node's table,
//! its record, Berth's own lines in its log.

use crate::checks::{self, Commands, Finding, Subject};
use crate::images::Ready;
use crate::network::{Attachment, Network};
use crate::node::{Ending, Node, now_ms};
use crate::record::Record;
use crate::runtime::{Bind, Bundle, ExecSpec, Handle, IdMap, RuntimeError, Stdio};
use crate::supervise::{self, Verdict};
use crate::{identity, remarks, volumes};
use berth_model::ContainerId;
use berth_model::check::{Check, CheckKind, Probe};
use berth_model::container::{ContainerSpec, ContainerState, ContainerStatus, Exit, Stop, signal_number};
use berth_model::deploy::CheckResult;
use berth_model::image::{Process, StaticSite};
use futures_util::future::BoxFuture;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tries to fetch an image before the container counts as failed.
const FETCHES: u32 = 5;
/// Waits for what SIGKILL leaves no choice about.
const KILLED: Duration = Duration::from_secs(10);

/// How a life begins.
pub(crate) enum Begin {
    /// From nothing.
    Fresh,
    /// It runs.
    Alive(Handle),
    /// It is a static site whose files are there.
    Serving,
    /// It ended while no agent looked.
    Exited(Exit),
    /// It ran, and nobody knows how it ended.
    Lost,
    /// It had ended before.
    Settled(ContainerState),
}

/// How one stretch of a life ended.
enum End {
    /// Its removal is wanted.
    Removed,
    /// Its process ended; the text says why, when it was Berth who ended it.
    Exited(Exit, Option<String>),
    /// It cannot be started, or is not fit to run.
    Failed(String),
    /// Nothing to decide: the state is final or a restart is due later.
    Settled,
}

pub(crate) struct Life {
    pub(crate) node: Arc<Node>,
    pub(crate) spec: Arc<ContainerSpec>,
    pub(crate) record: Record,
    pub(crate) stop: CancellationToken,
    pub(crate) wake: Arc<Notify>,
    pub(crate) ending: Arc<Ending>,
}

/// The status before the life's task has looked at anything.
pub(crate) fn first_status(record: &Record, begin: &Begin) -> ContainerStatus {
    let state = match begin {
        Begin::Settled(state) => state.clone(),
        Begin::Alive(_) if record.passed => {
            ContainerState::Running { since_ms: record.started_ms, ready: record.ready }
        }
        Begin::Serving => ContainerState::Running { since_ms: record.started_ms, ready: true },
        Begin::Alive(_) => ContainerState::Starting { since_ms: record.started_ms },
        Begin::Fresh | Begin::Exited(_) | Begin::Lost => ContainerState::Preparing,
    };
    ContainerStatus {
        state,
        incarnation: record.incarnation,
        restarts: record.restarts,
        address: None,
        published: Vec::new(),
        pid: None,
        static_root: record.static_root.clone(),
        static_rules: record.static_rules.clone(),
        advice: None,
    }
}

/// The whole chain of causes, for people.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl Life {
    pub(crate) async fn run(mut self, mut begin: Begin) {
        // In a row: each makes the wait for the next try longer.
        let mut failures = 0;
        loop {
            let end = match begin {
                Begin::Settled(_) => {
                    self.reattach().await;
                    End::Settled
                }
                Begin::Fresh => self.start().await,
                Begin::Serving => {
                    self.stop.cancelled().await;
                    End::Removed
                }
                Begin::Alive(handle) => match self.reattach().await {
                    Some(address) => self.watch(handle, address).await,
                    None => End::Failed("its network was lost and could not be made again".into()),
                },
                Begin::Exited(exit) => {
                    self.reattach().await;
                    End::Exited(exit, None)
                }
                Begin::Lost => {
                    self.reattach().await;
                    let exit = Exit { code: 255, signal: None, oom_killed: false, at_ms: now_ms() };
                    End::Exited(exit, Some("ended while Berth's agent was not running".into()))
                }
            };
            match end {
                End::Removed => break,
                End::Settled => {}
                End::Failed(reason) => self.fail(reason),
                End::Exited(exit, why) => self.ended(exit, why.as_deref()),
            }
            let failed = matches!(self.record.settled, Some(ContainerState::Failed { .. }));
            failures = if failed { failures + 1 } else { 0 };
            let wait = supervise::after_failure(self.spec.restart, failures);
            let wait = wait.filter(|_| failed && self.spec.once.is_none());
            // Every arm is cancel-safe.
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
            begin = Begin::Fresh;
        }
        self.remove().await;
    }

    fn dir(&self) -> PathBuf {
        self.node.paths.containers().join(self.spec.id.as_str())
    }

    fn log_dir(&self) -> PathBuf {
        log_dir(&self.node, &self.spec)
    }

    fn remark(&self, text: &str) {
        remarks::add(&self.log_dir(), text);
    }

    /// Changes the status everybody sees; a container that is being removed stays `Stopping`.
    fn update(&self, change: impl FnOnce(&mut ContainerStatus)) {
        if let Some(entry) = self.node.table().get_mut(&self.spec.id) {
            let stopping = entry.status.state == ContainerState::Stopping;
            change(&mut entry.status);
            entry.status.incarnation = self.record.incarnation;
            entry.status.restarts = self.record.restarts;
            if stopping {
                entry.status.state = ContainerState::Stopping;
            }
        }
        self.node.changed();
    }

    fn set_handle(&self, handle: Option<Handle>) {
        if let Some(entry) = self.node.table().get_mut(&self.spec.id) {
            entry.status.pid = handle.as_ref().map(Handle::pid);
            entry.handle = handle;
        }
    }

    fn save(&self) {
        if let Err(error) = self.record.save(&self.node.paths.records(), self.node.runtime.seal()) {
            // Without the record a new agent would start it again: worth knowing, no reason to stop the app.
            tracing::error!(container = %self.spec.id, %error, "cannot remember a container's state");
        }
    }

    /// Takes the network over again that an earlier agent made.
    async fn reattach(&self) -> Option<Ipv4Addr> {
        if matches!(self.spec.run, Process::Static(_)) {
            return None;
        }
        match self.node.network.attach(&self.spec.id, &self.spec.app, &self.spec.published).await {
            Ok(attachment) => {
                self.update(|status| {
                    status.address = Some(IpAddr::V4(attachment.address));
                    status.published.clone_from(&attachment.published);
                });
                Some(attachment.address)
            }
            Err(error) => {
                tracing::error!(container = %self.spec.id, error = chain(&error), "cannot take over its network");
                None
            }
        }
    }

    /// From nothing to its end.
    async fn start(&mut self) -> End {
        let once = self.spec.once.unwrap_or_default();
        if once.begin_by_ms.is_some_and(|by| by < now_ms()) {
            return End::Failed("this node could not begin it in time, so it is not begun any more".into());
        }
        self.record.settled = None;
        self.update(|status| status.state = ContainerState::Preparing);
        let ready = match self.fetch().await {
            Ok(Some(ready)) => ready,
            Ok(None) => return End::Removed,
            Err(reason) => return End::Failed(reason),
        };
        if let Some(reason) = self.ending.reason() {
            return End::Failed(format!("ended before it began: {reason}"));
        }
        let spec = self.spec.clone();
        if let Process::Static(site) = &spec.run {
            return self.serve_static(&ready, site).await;
        }
        match self.launch(&ready).await {
            Ok((handle, address)) => self.watch(handle, address).await,
            Err(reason) => End::Failed(reason),
        }
    }

    /// Gets the image; `None` when the removal came first. The registry may be restarting, so it is asked again.
    async fn fetch(&self) -> Result<Option<Ready>, String> {
        let mut tried = 0;
        loop {
            // Dropping `ensure` midway is safe: layers appear under their name only when they are whole.
            let fetched = tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                fetched = self.node.images.ensure(&self.spec.image) => fetched,
            };
            tried += 1;
            match fetched {
                Ok(ready) => return Ok(Some(ready)),
                Err(error) if tried >= FETCHES => {
                    let image = format!("{}@{}", self.spec.image.repository, self.spec.image.digest);
                    return Err(format!("the image {image} cannot be fetched: {}", chain(&error)));
                }
                Err(error) => {
                    tracing::warn!(container = %self.spec.id, error = chain(&error), "cannot fetch its image yet");
                    let wait = Duration::from_millis(250 << tried);
                    tokio::select! {
                        () = self.stop.cancelled() => return Ok(None),
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    async fn serve_static(&mut self, ready: &Ready, site: &StaticSite) -> End {
        let Some(root) = static_root(&ready.lowers, &site.root) else {
            return End::Failed(format!(
                "the directory {} of the static site is not in the image; is the build's output there?",
                site.root
            ));
        };
        let (dir, own) = (root.clone(), site.rules.clone());
        let read = tokio::task::spawn_blocking(move || crate::site_files::rules(&dir, own)).await;
        match read.map_err(|error| error.to_string()).and_then(|rules| rules) {
            Ok(rules) => self.record.static_rules = rules,
            Err(reason) => return End::Failed(reason),
        }
        self.record.incarnation += 1;
        self.record.started_ms = now_ms();
        self.record.boot.clone_from(&self.node.boot);
        self.record.static_root = Some(root.to_string_lossy().into_owned());
        self.save();
        let since_ms = self.record.started_ms;
        self.update(|status| {
            status.state = ContainerState::Running { since_ms, ready: true };
            status.static_root.clone_from(&self.record.static_root);
            status.static_rules.clone_from(&self.record.static_rules);
        });
        self.stop.cancelled().await;
        End::Removed
    }

    /// Network, process, first instruction. Never cancelled midway: each step is short, and an end is reached from a
    /// known state.
    async fn launch(&mut self, ready: &Ready) -> Result<(Handle, Ipv4Addr), String> {
        let _turn = self.node.starts.acquire().await.map_err(|error| error.to_string())?;
        let network = &self.node.network;
        let attached = network.attach(&self.spec.id, &self.spec.app, &self.spec.published).await;
        let attachment = attached.map_err(|error| chain(&error))?;
        limit_network(network, &self.spec).await?;
        self.update(|status| {
            status.address = Some(IpAddr::V4(attachment.address));
            status.published.clone_from(&attachment.published);
        });
        let log_dir = self.log_dir();
        prepare_logs(&log_dir, &self.spec).map_err(|error| format!("its log cannot be written: {error}"))?;
        let mut bundle = bundle(&self.node, &self.spec, ready, &attachment)?;
        bundle.log_dir = Some(log_dir);
        let handle = self.node.runtime.create(&bundle).await.map_err(|error| chain(&error))?;
        self.record.stop_signal = signal_number(&ready.config.stop_signal);
        self.record.incarnation += 1;
        self.record.started_ms = now_ms();
        self.record.passed = false;
        self.record.ready = false;
        self.record.boot.clone_from(&self.node.boot);
        // Before its first instruction: whatever happens from here on, a new agent knows which life this is.
        let saved = self.record.save(&self.node.paths.records(), self.node.runtime.seal());
        if let Err(error) = saved {
            if self.spec.once.is_some() {
                let _ = handle.kill_all().await;
                return Err(format!("it may run only once, and that cannot be written down: {error}"));
            }
            tracing::error!(container = %self.spec.id, %error, "cannot remember a container's state");
        }
        match handle.start().await {
            Ok(()) => Ok((handle, attachment.address)),
            Err(error) => {
                let _ = handle.kill_all().await;
                Err(match error {
                    RuntimeError::ExecFailed { text } => text,
                    other => chain(&other),
                })
            }
        }
    }

    /// Checks and waits while it runs.
    async fn watch(&mut self, handle: Handle, address: Ipv4Addr) -> End {
        self.set_handle(Some(handle.clone()));
        let ran =
            Duration::from_millis(now_ms().saturating_sub(self.record.started_ms).try_into().unwrap_or(0));
        let now = Instant::now();
        let since = now.checked_sub(ran).unwrap_or(now);
        let since_ms = self.record.started_ms;
        let subject = Subject { address, port: self.spec.port, since, commands: InContainer(handle.clone()) };
        if !self.record.passed {
            self.update(|status| {
                status.state = ContainerState::Starting { since_ms };
                status.advice = None;
            });
            // Every arm is cancel-safe: a check that is dropped has only closed its connection.
            let outcome = tokio::select! {
                biased;
                exit = handle.wait() => return End::Exited(exit, None),
                () = self.stop.cancelled() => None,
                outcome = self.startup(&subject) => Some(outcome),
            };
            match outcome {
                None => {
                    end(&handle, &self.record.stop()).await;
                    return End::Removed;
                }
                Some(Err(reason)) => {
                    self.remark(&format!("{reason}; stopped"));
                    end(&handle, &self.record.stop()).await;
                    return End::Failed(reason);
                }
                Some(Ok(())) => {
                    self.advise(&subject, handle.pid()).await;
                    self.record.passed = true;
                    self.record.ready = self.readiness().is_empty();
                    self.save();
                }
            }
        }
        // What was ready for the agent before stays so until a check says otherwise: a new agent is no reason to take
        // a container out of the routes.
        let mut unready = if self.record.ready { Vec::new() } else { self.readiness() };
        self.set_ready(unready.is_empty());
        let (send, mut findings) = mpsc::channel(8);
        let checks = self.spec.checks.clone();
        let watching = async move {
            checks::watch(&checks, &subject, send).await;
            // Without lasting checks there is nothing to find: the other arms decide.
            std::future::pending::<()>().await;
        };
        tokio::pin!(watching);
        let well = tokio::time::sleep_until(since + supervise::RAN_WELL);
        tokio::pin!(well);
        let mut forgiven = self.record.restarts == 0;
        let ending = self.ending.clone();
        let over = over(self.spec.once.and_then(|once| once.until_ms));
        tokio::pin!(over);
        loop {
            // Every arm is cancel-safe; `watching` goes on where it was.
            tokio::select! {
                biased;
                exit = handle.wait() => return End::Exited(exit, None),
                () = self.stop.cancelled() => {
                    end(&handle, &self.record.stop()).await;
                    return End::Removed;
                }
                reason = ending.wished(), if self.spec.once.is_some() => {
                    let exit = end(&handle, &self.record.stop()).await;
                    return End::Exited(exit, Some(reason));
                }
                () = &mut over => {
                    let exit = end(&handle, &self.record.stop()).await;
                    return End::Exited(exit, Some("its time to live is over".into()));
                }
                () = &mut well, if !forgiven => {
                    forgiven = true;
                    self.record.restarts = 0;
                    self.save();
                    self.update(|_| {});
                }
                Some(finding) = findings.recv() => match finding {
                    Finding::Ready(index) => unready.retain(|i| *i != index),
                    Finding::Unready(index, reason) => {
                        self.remark(&format!("gets no more traffic: {reason}"));
                        if !unready.contains(&index) {
                            unready.push(index);
                        }
                    }
                    Finding::Warning(reason) => self.remark(&format!("warning: {reason}")),
                    Finding::Dead(reason) => {
                        self.update(|status| status.state = ContainerState::Running { since_ms, ready: false });
                        let exit = end(&handle, &self.record.stop()).await;
                        return End::Exited(exit, Some(reason));
                    }
                },
                () = &mut watching => {}
            }
            self.set_ready(unready.is_empty());
        }
    }

    fn set_ready(&mut self, ready: bool) {
        if self.record.ready != ready {
            self.record.ready = ready;
            self.save();
        }
        let since_ms = self.record.started_ms;
        self.update(|status| status.state = ContainerState::Running { since_ms, ready });
    }

    fn readiness(&self) -> Vec<usize> {
        let checks = self.spec.checks.iter().enumerate();
        checks.filter(|(_, c)| c.kind == CheckKind::Readiness && !c.warn_only).map(|(i, _)| i).collect()
    }

    /// It passed because it ran for a while: if it does not listen where requests will go, say so.
    async fn advise(&self, subject: &Subject<InContainer>, pid: u32) {
        let lenient = |check: &Check| matches!(check.probe, Probe::ListeningOrUptime { .. });
        let Some(port) = self.spec.port.filter(|_| self.spec.checks.iter().any(lenient)) else { return };
        if subject.accepts(port).await {
            return;
        }
        let advice = crate::listening::advice(pid, port);
        self.remark(&format!("warning: {advice}"));
        self.update(|status| status.advice = Some(advice));
    }

    async fn startup(&self, subject: &Subject<InContainer>) -> Result<(), String> {
        let checks = self.spec.checks.iter().filter(|check| check.kind == CheckKind::Startup);
        let all = checks.map(|check| async move {
            match subject.start(check).await {
                Err(reason) if check.warn_only => {
                    self.remark(&format!("warning: {reason}"));
                    Ok(())
                }
                other => other,
            }
        });
        futures_util::future::try_join_all(all).await.map(drop)
    }

    /// It can not run.
    fn fail(&mut self, reason: String) {
        tracing::warn!(app = %self.spec.app, container = %self.spec.id, %reason, "failed");
        self.remark(&format!("failed: {reason}"));
        let state = ContainerState::Failed { reason };
        self.settle(state);
    }

    /// Its process ended: again, or not?
    fn ended(&mut self, exit: Exit, why: Option<&str>) {
        let ran = exit.at_ms.saturating_sub(self.record.started_ms);
        let ran = Duration::from_millis(ran.try_into().unwrap_or(0));
        let failed = exit.code != 0 || why.is_some();
        let verdict = supervise::after_exit(self.spec.restart, failed, ran, self.record.restarts);
        let how = describe(&exit, &self.spec, why);
        if exit.oom_killed {
            self.node.note_out_of_memory(&self.spec.app);
        }
        let state = match verdict {
            Verdict::Restart { after, restarts } => {
                self.record.restarts = restarts;
                let wait = if after < Duration::from_secs(1) {
                    "now".to_owned()
                } else {
                    format!("in {} s", after.as_secs())
                };
                self.remark(&format!("{how}; starts again {wait}"));
                let after: i64 = after.as_millis().try_into().unwrap_or(i64::MAX);
                ContainerState::BackingOff { exit, until_ms: now_ms().saturating_add(after) }
            }
            Verdict::Stay => {
                self.remark(&how);
                ContainerState::Exited { exit }
            }
        };
        tracing::info!(app = %self.spec.app, container = %self.spec.id, %how, "ended");
        self.settle(state);
    }

    fn settle(&mut self, state: ContainerState) {
        self.record.settled = Some(state.clone());
        self.save();
        self.set_handle(None);
        self.update(|status| status.state = state);
    }

    /// Removes all it has but its log; tries again until it is done, so that nothing leaks.
    async fn remove(self) {
        let mut wait = Duration::from_millis(100);
        loop {
            match self.try_remove().await {
                Ok(()) => break,
                Err(reason) => {
                    tracing::warn!(container = %self.spec.id, %reason, "cannot remove it yet");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(60));
                }
            }
        }
        self.node.table().remove(&self.spec.id);
        self.node.changed();
    }

    async fn try_remove(&self) -> Result<(), String> {
        remove_runtime(&self.node, self.dir()).await?;
        if !matches!(self.spec.run, Process::Static(_)) {
            self.node.network.detach(&self.spec.id).await.map_err(|error| chain(&error))?;
        }
        // Last: until then a new agent would take up the removal.
        Record::forget(&self.node.paths.records(), &self.spec.id).map_err(|error| error.to_string())
    }
}

/// Waits until this time, milliseconds since the Unix epoch; without one, for ever.
async fn over(until_ms: Option<i64>) {
    let Some(until_ms) = until_ms else { return std::future::pending().await };
    let left = u64::try_from(until_ms.saturating_sub(now_ms())).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(left)).await;
}

/// Removes what the runtime has of a container. It may wait for the kernel, so not on this thread.
pub(crate) async fn remove_runtime(node: &Arc<Node>, dir: PathBuf) -> Result<(), String> {
    let node = node.clone();
    let removed = tokio::task::spawn_blocking(move || {
        node.runtime.remove(&dir).map_err(|error| chain(&error))?;
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    });
    removed.await.map_err(|error| error.to_string())?
}

/// Where a container's output is kept.
pub(crate) fn log_dir(node: &Node, spec: &ContainerSpec) -> PathBuf {
    node.paths.logs().join(spec.app.as_str()).join(spec.id.as_str())
}

/// Makes the log directory; it says whose it is, for when the container is gone.
fn prepare_logs(log_dir: &Path, spec: &ContainerSpec) -> std::io::Result<()> {
    std::fs::create_dir_all(log_dir)?;
    crate::logs_api::Owner::of(spec).save(log_dir)
}

/// Before its first instruction: it never sends faster than it may.
pub(crate) async fn limit_network(network: &Network, spec: &ContainerSpec) -> Result<(), String> {
    if spec.limits.network.is_none() {
        return Ok(()); // a network that is made or taken over for this container has no limits
    }
    network.limit(&spec.id, spec.limits.network).await.map_err(|error| chain(&error))
}

/// Everything the runtime needs to know about a container of this spec; output is not decided yet.
pub(crate) fn bundle(
    node: &Node,
    spec: &ContainerSpec,
    ready: &Ready,
    attachment: &Attachment,
) -> Result<Bundle, String> {
    let Process::Command { argv } = &spec.run else {
        return Err("a static site has no process".into());
    };
    let mut env = ready.config.env.clone();
    env.extend(spec.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    let mut hostname = format!("{}.{}.{}", spec.app, spec.process, spec.ordinal);
    hostname.truncate(63);
    let base = node.identities.base(&spec.app).map_err(|error| chain(&error))?;
    let mut binds = Vec::new();
    for mount in &spec.mounts {
        let source = volumes::source(&node.paths.volumes(), mount, &ready.lowers, &ready.config.user);
        let source = source.map_err(|error| chain(&error))?;
        let target = PathBuf::from(&mount.target);
        binds.push(Bind { source, target, read_only: mount.read_only, create: false });
    }
    let cwd = if ready.config.working_dir.is_empty() { "/" } else { &ready.config.working_dir };
    Ok(Bundle {
        id: spec.id.clone(),
        dir: node.paths.containers().join(spec.id.as_str()),
        log_dir: None,
        lowers: ready.lowers.clone(),
        netns: Some(attachment.netns.clone()),
        argv: argv.clone(),
        env: env.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        cwd: cwd.into(),
        user: ready.config.user.clone(),
        files: node.network.files(&hostname, attachment.address),
        hostname,
        limits: spec.limits.clone(),
        binds,
        private: crate::private::secrets(&spec.secrets),
        stdio: Stdio::Logged,
        id_map: IdMap { base, count: identity::COUNT },
        upper: None,
    })
}

/// Makes every check of a running container once, side by side; `None` if it does not run.
pub(crate) async fn check_once(node: &Node, id: &ContainerId) -> Option<Vec<CheckResult>> {
    let (spec, handle, address, since_ms) = {
        let table = node.table();
        let entry = table.get(id)?;
        let since_ms = match entry.status.state {
            ContainerState::Running { since_ms, .. } | ContainerState::Starting { since_ms } => since_ms,
            _ => return None,
        };
        let Some(IpAddr::V4(address)) = entry.status.address else { return None };
        (entry.spec.clone(), entry.handle.clone()?, address, since_ms)
    };
    let ran = u64::try_from(now_ms().saturating_sub(since_ms)).unwrap_or(0);
    let now = Instant::now();
    let since = now.checked_sub(Duration::from_millis(ran)).unwrap_or(now);
    let subject = Subject { address, port: spec.port, since, commands: InContainer(handle) };
    let all = spec.checks.iter().map(async |check| CheckResult {
        container: id.clone(),
        check: check.name.clone(),
        failure: subject.once(check).await.err(),
        warn_only: check.warn_only,
    });
    Some(futures_util::future::join_all(all).await)
}

/// Signal, grace time, kill.
pub(crate) async fn end(handle: &Handle, stop: &Stop) -> Exit {
    if handle.signal(stop.signal).await.is_ok() {
        let grace = Duration::from_secs(u64::from(stop.grace_secs));
        if let Ok(exit) = tokio::time::timeout(grace, handle.wait()).await {
            return exit;
        }
    }
    kill(handle).await
}

/// Kills every process of the container.
pub(crate) async fn kill(handle: &Handle) -> Exit {
    loop {
        if let Err(error) = handle.kill_all().await {
            tracing::debug!(container = handle.id(), error = chain(&error), "cannot kill");
        }
        match tokio::time::timeout(KILLED, handle.wait()).await {
            Ok(exit) => return exit,
            Err(_) => tracing::warn!(container = handle.id(), "does not die; killing again"),
        }
    }
}

/// Directory of the node that holds `root` of the image: in the topmost layer that has it. No link is followed, it would
/// lead out of the layer.
fn static_root(lowers: &[PathBuf], root: &str) -> Option<PathBuf> {
    let relative = Path::new(root.trim_start_matches('/'));
    if relative.components().any(|part| !matches!(part, Component::Normal(_))) {
        return None;
    }
    lowers.iter().find_map(|lower| {
        let mut path = lower.clone();
        for part in relative.components() {
            path.push(part);
            if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                return None;
            }
        }
        Some(path)
    })
}

/// How it ended, for its log.
fn describe(exit: &Exit, spec: &ContainerSpec, why: Option<&str>) -> String {
    let mut text = match (exit.oom_killed, spec.limits.memory_mib, exit.signal) {
        (true, Some(mib), _) => format!("killed: out of memory (limit {mib} MiB)"),
        (true, None, _) => "killed: the node is out of memory".to_owned(),
        (false, _, Some(signal)) => format!("killed by signal {signal} (exit code {})", exit.code),
        (false, _, None) => format!("exited with code {}", exit.code),
    };
    if let Some(why) = why {
        text = format!("{text} ({why})");
    }
    text
}

/// Commands of checks, in the container.
#[derive(Clone)]
struct InContainer(Handle);

impl Commands for InContainer {
    fn run(&self, argv: &[String]) -> BoxFuture<'_, Result<i32, String>> {
        let argv = argv.to_vec();
        Box::pin(async move {
            let spec = ExecSpec { argv, env: Vec::new(), cwd: None, user: None, tty: None };
            let mut session = self.0.exec(spec).await.map_err(|error| chain(&error))?;
            session.stdin = None;
            // A command whose output nobody reads would block on a full pipe.
            let mut stderr = session.stderr.take();
            let (mut out, mut err) = ([0_u8; 4096], [0_u8; 4096]);
            let read_out = async { while session.stdout.read(&mut out).await.is_ok_and(|n| n > 0) {} };
            let read_err = async {
                if let Some(stream) = &mut stderr {
                    while stream.read(&mut err).await.is_ok_and(|n| n > 0) {}
                }
            };
            let control = session.control.clone();
            let reading = futures_util::future::join(read_out, read_err);
            tokio::pin!(reading);
            tokio::select! {
                code = control.wait() => Ok(code),
                _ = &mut reading => Ok(control.wait().await),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_root_is_found_in_the_topmost_layer_that_has_it() {
        let layers = tempfile::tempdir().expect("a directory");
        let (top, bottom) = (layers.path().join("top"), layers.path().join("bottom"));
        std::fs::create_dir_all(bottom.join("app/public")).expect("made");
        std::fs::create_dir_all(top.join("app")).expect("made");
        let lowers = [top.clone(), bottom.clone()];
        assert_eq!(static_root(&lowers, "/app/public"), Some(bottom.join("app/public")));
        std::os::unix::fs::symlink("/etc", top.join("app/public")).expect("linked");
        assert_eq!(static_root(&[top], "/app/public"), None);
        assert_eq!(static_root(&lowers, "/app/../../etc"), None);
    }
}
