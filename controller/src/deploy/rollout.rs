//! One operation on one app, from its turn to its end.
//!
//! In: a [`Change`], or new counts, or stop and start. Out: the plan, step by step: begin → release task → new containers →
//! all ready → swap → routes served → concluded. Up to the swap everything can be taken back; from there it only goes on.

use super::plan::{AppPlan, Operation, Phase, Planned};
use super::state::cancelled;
use super::watching::{StartFailure, show_output, until_gone, until_ready, until_served};
use super::{Change, NewImage, follow, task};
use crate::Platform;
use crate::errors::{failed, internal, invalid, unavailable};
use crate::housekeeping;
use crate::platform::{ProgressSender, now_ms, say};
use crate::release::{self, Parts, Slot};
use crate::schedule::{self, Node, Placed};
use berth_model::api::{ApiError, Progress};
use berth_model::container::ContainerSpec;
use berth_model::image::Process;
use berth_model::release::{App, Formation, Outcome, Release};
use berth_model::{AppName, ContainerId, NodeName, ProcessType, ReleaseVersion};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a deploy waits for a node to report: a controller that has just started knows none yet.
const NODE_LIMIT: Duration = Duration::from_secs(10);

/// Who does what to which app, and who listens.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) platform: Platform,
    pub(super) app: AppName,
    pub(super) by: String,
    pub(super) progress: ProgressSender,
    pub(super) cancel: CancellationToken,
}

/// What an operation is to end in.
struct Goal {
    title: String,
    release: Release,
    makes_release: bool,
    resumes: bool,
    /// Whether the `release` process runs first.
    release_task: bool,
    start: Vec<Slot>,
    retire: BTreeSet<ContainerId>,
    formation: Option<Formation>,
}

fn ids<'a>(containers: impl Iterator<Item = (&'a ContainerId, &'a Planned)>) -> BTreeSet<ContainerId> {
    containers.map(|(id, _)| id.clone()).collect()
}

impl Work {
    /// Waits for its turn, then does `work`.
    pub(super) async fn in_turn<T>(
        self,
        what: &str,
        work: impl AsyncFnOnce(&Self) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let _turn = tokio::select! {
            turn = self.platform.operation(&self.app, what, &self.progress) => turn,
            () = self.cancel.cancelled() => return Err(cancelled()),
        };
        work(&self).await
    }

    async fn step(&self, text: impl Into<String>) {
        say(&self.progress, Progress::Step { text: text.into() }).await;
    }

    async fn detail(&self, text: impl Into<String>) {
        say(&self.progress, Progress::Detail { text: text.into() }).await;
    }

    async fn app(&self) -> Result<App, ApiError> {
        Ok(self.platform.existing_app(&self.app).await?)
    }

    async fn current(&self, app: &App) -> Result<Option<Release>, ApiError> {
        Ok(self.platform.current_release(app).await?)
    }

    async fn deployed(&self, app: &App) -> Result<Release, ApiError> {
        let release = self.current(app).await?;
        release.ok_or_else(|| invalid(format!("App {} has not been deployed; push to it first", self.app)))
    }

    pub(super) async fn deploy(&self, change: Change) -> Result<ReleaseVersion, ApiError> {
        let app = self.app().await?;
        match change {
            Change::Image(new) => self.new_image(&app, *new).await,
            Change::Config { description } => {
                let Some(current) = self.current(&app).await? else { return Ok(ReleaseVersion(0)) };
                let parts = self.parts_of(&current, description).await?;
                let release = self.add(parts).await?;
                self.replace_all(&app, release, None).await
            }
            Change::Rollback { to, keep_config } => {
                let target = self.rollback_target(&app, to).await?;
                let description = format!("Rollback to {}", target.version);
                let mut parts = self.parts_of(&target, description).await?;
                if !keep_config {
                    parts.config = target.config;
                }
                let release = self.add(parts).await?;
                self.replace_all(&app, release, None).await
            }
            Change::Restart { process } => self.restart(&app, process).await,
        }
    }

    /// The image, checks and commit of `old`, with today's config.
    async fn parts_of(&self, old: &Release, description: String) -> Result<Parts, ApiError> {
        Ok(Parts {
            image: old.image.clone(),
            config: self.platform.config_of(&self.app).await?,
            checks: old.checks.clone(),
            git_rev: old.git_rev.clone(),
            now_ms: now_ms(),
            by: self.by.clone(),
            description,
        })
    }

    async fn add(&self, parts: Parts) -> Result<Release, ApiError> {
        let make = |app: &App, version| Release { version, ..release::release(app, parts.clone()) };
        Ok(self.platform.add_release(&self.app, make).await?)
    }

    async fn rollback_target(&self, app: &App, to: Option<ReleaseVersion>) -> Result<Release, ApiError> {
        if let Some(version) = to {
            let release = self.platform.existing_release(&self.app, version).await?;
            return match &release.outcome {
                Outcome::Live => {
                    let releases = self.platform.releases(&self.app).await?;
                    match housekeeping::may_return(&releases).any(|kept| kept.version == version) {
                        true => Ok(release),
                        false => Err(invalid(format!(
                            "the image of {version} is not kept any more (the newest {} releases' are); push its commit again",
                            housekeeping::KEPT_RELEASES
                        ))),
                    }
                }
                Outcome::Pending => Err(invalid(format!("{version} of {} has never been live", self.app))),
                Outcome::Failed { reason } => {
                    Err(invalid(format!("{version} of {} never went live: {reason}", self.app)))
                }
            };
        }
        let current = self.deployed(app).await?;
        let releases = self.platform.releases(&self.app).await?;
        let before = releases.into_iter().rev();
        let mut before = before.filter(|one| one.version < current.version && one.outcome == Outcome::Live);
        before
            .next()
            .ok_or_else(|| invalid(format!("{} has no live release before {}", self.app, current.version)))
    }

    async fn new_image(&self, app: &App, new: NewImage) -> Result<ReleaseVersion, ApiError> {
        let formation = release::formation(&app.formation, &new.image, &new.formation);
        for (process, quantity) in &formation.0 {
            let before = app.formation.0.get(process);
            if new.formation.0.contains_key(process) && before.is_some_and(|before| before != quantity) {
                self.detail(format!("app.json scales {process} to {quantity}")).await;
            }
        }
        let parts = Parts {
            image: new.image,
            config: self.platform.config_of(&self.app).await?,
            checks: new.checks,
            git_rev: new.git_rev,
            now_ms: now_ms(),
            by: self.by.clone(),
            description: new.description,
        };
        let release = self.add(parts).await?;
        // As with Dokku: who pushes to a stopped app wants it to run.
        let app = self
            .platform
            .update_app(&self.app, |app| app.stopped = false)
            .await
            .map(|_| App { stopped: false, ..app.clone() })?;
        let version = self.replace_all(&app, release, Some(formation)).await?;
        let app = self.app().await?;
        let plan = self.platform.deploys().plan(&self.app);
        if plan.serving().any(|(_, planned)| planned.spec.process.is_web()) {
            say(&self.progress, Progress::Section { text: "Application deployed:".to_owned() }).await;
            for url in self.platform.urls(&app).await? {
                self.detail(url).await;
            }
        } else {
            let text =
                "Application deployed; it has no web process, so nothing answers at its domains".to_owned();
            say(&self.progress, Progress::Section { text }).await;
        }
        Ok(version)
    }

    /// All containers of `release` instead of all that serve.
    async fn replace_all(
        &self,
        app: &App,
        release: Release,
        formation: Option<Formation>,
    ) -> Result<ReleaseVersion, ApiError> {
        let from_push = formation.is_some();
        let counts = formation.clone().unwrap_or_else(|| app.formation.clone());
        let start = if app.stopped { Vec::new() } else { release::slots(&release.image, &counts) };
        let plan = self.platform.deploys().plan(&self.app);
        let version = release.version;
        self.step(format!("Deploying {} {version}{}", self.app, summary(&start))).await;
        let goal = Goal {
            title: format!("deploy of {version}"),
            makes_release: true,
            resumes: !from_push,
            release_task: from_push,
            start,
            retire: ids(plan.serving()),
            formation,
            release,
        };
        self.carry_out(app, goal).await?;
        Ok(version)
    }

    async fn restart(&self, app: &App, process: Option<ProcessType>) -> Result<ReleaseVersion, ApiError> {
        let release = self.deployed(app).await?;
        if let Some(process) = &process
            && !release.image.processes.contains_key(process)
        {
            return Err(no_such_process(&self.app, &release, process));
        }
        let chosen = |one: &ProcessType| process.as_ref().is_none_or(|process| process == one);
        self.platform.update_app(&self.app, |app| app.stopped = false).await?;
        let plan = self.platform.deploys().plan(&self.app);
        let version = release.version;
        let mut start = release::slots(&release.image, &app.formation);
        start.retain(|(process, _)| chosen(process));
        let goal = Goal {
            title: "restart".to_owned(),
            makes_release: false,
            resumes: true,
            release_task: false,
            start,
            retire: ids(plan.serving().filter(|(_, planned)| chosen(&planned.spec.process))),
            formation: None,
            release,
        };
        self.carry_out(app, goal).await?;
        Ok(version)
    }

    /// New counts: types that are absent stay.
    pub(super) async fn scale(&self, counts: Formation, skip_deploy: bool) -> Result<(), ApiError> {
        let app = self.app().await?;
        let current = self.current(&app).await?;
        if let Some((process, quantity)) =
            counts.0.iter().find(|(_, quantity)| **quantity > release::MAX_QUANTITY)
        {
            let most = release::MAX_QUANTITY;
            return Err(invalid(format!(
                "{process}={quantity} is too many: {most} is the most of one process type"
            )));
        }
        if let Some(process) = counts.0.keys().find(|process| process.is_release()) {
            return Err(invalid(format!("{process} cannot be scaled: it runs once in each deploy")));
        }
        if let Some(release) = &current {
            let unknown = counts.0.iter().find(|(process, quantity)| {
                **quantity > 0 && !release.image.processes.contains_key(*process)
            });
            if let Some((process, _)) = unknown {
                return Err(no_such_process(&self.app, release, process));
            }
        }
        let mut formation = app.formation.clone();
        formation.0.extend(counts.0);
        if formation.0.get(&ProcessType::web()) == Some(&0) {
            self.platform.update_app(&self.app, |app| app.proxy.asleep = false).await?;
        }
        let (Some(release), false) = (current, skip_deploy || app.stopped) else {
            self.platform.update_app(&self.app, |app| app.formation = formation.clone()).await?;
            return Ok(());
        };
        let wanted: BTreeSet<Slot> = release::slots(&release.image, &formation).into_iter().collect();
        let plan = self.platform.deploys().plan(&self.app);
        let slot = |planned: &Planned| (planned.spec.process.clone(), planned.spec.ordinal);
        let filled: BTreeSet<Slot> = plan.serving().map(|(_, planned)| slot(planned)).collect();
        let mut start = release::slots(&release.image, &formation);
        start.retain(|slot| !filled.contains(slot));
        let goal = Goal {
            title: "scaling".to_owned(),
            makes_release: false,
            resumes: true,
            release_task: false,
            start,
            retire: ids(plan.serving().filter(|(_, planned)| !wanted.contains(&slot(planned)))),
            formation: Some(formation),
            release,
        };
        self.carry_out(&app, goal).await
    }

    /// Stops everything, or one process type, and waits until it is gone.
    pub(super) async fn stop(&self, process: Option<ProcessType>) -> Result<(), ApiError> {
        let app = self.app().await?;
        let release = self.deployed(&app).await?;
        let whole = process.is_none();
        let web = process.as_ref().is_none_or(ProcessType::is_web);
        let stop = |app: &mut App| {
            app.stopped |= whole;
            app.proxy.asleep &= !web; // who stops it does not want it to be woken
        };
        self.platform.update_app(&self.app, stop).await?;
        let chosen = |one: &ProcessType| process.as_ref().is_none_or(|process| process == one);
        let plan = self.platform.deploys().plan(&self.app);
        let retire = ids(plan.serving().filter(|(_, planned)| chosen(&planned.spec.process)));
        let wait = release::wait_to_retire(&release.config) + app.stop.grace_secs + 10;
        let goal = Goal {
            title: "stop".to_owned(),
            makes_release: false,
            resumes: true,
            release_task: false,
            start: Vec::new(),
            retire: retire.clone(),
            formation: None,
            release,
        };
        self.carry_out(&app, goal).await?;
        if !until_gone(&self.platform, &retire, Duration::from_secs(u64::from(wait))).await {
            let text = "some containers are still stopping; see them with: berth ps:report".to_owned();
            say(&self.progress, Progress::Warning { text }).await;
        }
        Ok(())
    }

    /// Starts what is to run and does not.
    pub(super) async fn start(&self, process: Option<ProcessType>) -> Result<(), ApiError> {
        let app = self.platform.update_app(&self.app, |app| app.stopped = false).await?;
        let Some(release) = self.current(&app).await? else { return Ok(()) };
        let plan = self.platform.deploys().plan(&self.app);
        let filled: BTreeSet<Slot> =
            plan.serving().map(|(_, planned)| (planned.spec.process.clone(), planned.spec.ordinal)).collect();
        let mut start = release::slots(&release.image, &app.formation);
        start.retain(|slot| {
            !filled.contains(slot) && process.as_ref().is_none_or(|process| *process == slot.0)
        });
        let goal = Goal {
            title: "start".to_owned(),
            makes_release: false,
            resumes: true,
            release_task: false,
            start,
            retire: BTreeSet::new(),
            formation: None,
            release,
        };
        self.carry_out(&app, goal).await
    }

    /// Stops `web` until somebody asks for it.
    pub(super) async fn sleep(&self) -> Result<(), ApiError> {
        // Before its routes go: from then on requests wake it.
        let app = self.platform.update_app(&self.app, |app| app.proxy.asleep = true).await?;
        let release = self.deployed(&app).await?;
        let plan = self.platform.deploys().plan(&self.app);
        let goal = Goal {
            title: "falling asleep".to_owned(),
            makes_release: false,
            resumes: true,
            release_task: false,
            start: Vec::new(),
            retire: ids(plan.serving().filter(|(_, planned)| planned.spec.process.is_web())),
            formation: None,
            release,
        };
        self.carry_out(&app, goal).await
    }

    /// Starts `web` if it sleeps.
    pub(super) async fn wake(&self) -> Result<(), ApiError> {
        let app = self.app().await?;
        if !app.proxy.asleep || app.stopped {
            return Ok(());
        }
        self.start(Some(ProcessType::web())).await
    }

    async fn carry_out(&self, app: &App, goal: Goal) -> Result<(), ApiError> {
        let release = goal.release.clone();
        let operation = Operation {
            release: release.version,
            makes_release: goal.makes_release,
            resumes: goal.resumes,
            phase: Phase::Releasing,
            retire: goal.retire.clone(),
            formation: goal.formation.clone(),
            title: goal.title.clone(),
            wait_to_retire_secs: release::wait_to_retire(&release.config),
        };
        self.platform.deploys().step(&self.platform, &self.app, |plan| plan.begin(operation)).await?;
        match self.up_to_swap(app, &goal).await {
            Ok(()) => self.conclude().await,
            Err(error) => {
                self.take_back(&error.message).await?;
                Err(error)
            }
        }
    }

    async fn up_to_swap(&self, app: &App, goal: &Goal) -> Result<(), ApiError> {
        self.platform.deploys().refresh_kept(&self.platform, &self.app).await?;
        if goal.release_task {
            self.release_task(app, &goal.release).await?;
        }
        let specs = release::desire(app, &goal.release, &goal.start, unique)
            .map_err(|error| invalid(error.to_string()))?;
        let placement = self.place(&specs).await?;
        let placed: Vec<(NodeName, ContainerSpec)> =
            specs.iter().filter_map(|spec| Some((placement.get(&spec.id)?.clone(), spec.clone()))).collect();
        let deploys = self.platform.deploys();
        deploys.step(&self.platform, &self.app, |plan| plan.start(placed)).await?;
        self.ready_then_swap(&specs).await
    }

    async fn ready_then_swap(&self, specs: &[ContainerSpec]) -> Result<(), ApiError> {
        match until_ready(&self.platform, specs, &self.progress, &self.cancel).await {
            Ok(()) => {}
            Err(StartFailure::Other(error)) => return Err(error),
            Err(StartFailure::Container(spec, reason)) => {
                show_output(&self.platform, &spec, &self.progress).await;
                return Err(failed(reason));
            }
        }
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        self.platform.deploys().step(&self.platform, &self.app, |plan| plan.swap(now_ms())).await?;
        Ok(())
    }

    async fn release_task(&self, app: &App, release: &Release) -> Result<(), ApiError> {
        let process = ProcessType::release();
        let Some(run) = release.image.processes.get(&process) else { return Ok(()) };
        if let Process::Command { argv } = run {
            let command = argv.last().map_or("", String::as_str);
            self.step(format!("Running the release task: {command}")).await;
        }
        let spec = release::one_off(app, release, &process, run.clone(), &unique());
        let spec = spec.map_err(|error| invalid(error.to_string()))?;
        task::run(&self.platform, "the release task", &spec, &self.progress, &self.cancel).await
    }

    /// Places new containers; waits a little for a first node to report.
    async fn place(&self, specs: &[ContainerSpec]) -> Result<schedule::Placement, ApiError> {
        let fleet = self.platform.deploys().fleet();
        let mut changes = fleet.changes();
        let limit = tokio::time::sleep(NODE_LIMIT);
        tokio::pin!(limit);
        loop {
            changes.mark_unchanged();
            let refusal = match schedule::place(specs, &self.nodes()) {
                Ok(placement) => return Ok(placement),
                Err(refusal) => refusal,
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = self.cancel.cancelled() => return Err(cancelled()),
                () = &mut limit => return Err(unavailable(refusal.to_string())),
            }
        }
    }

    fn nodes(&self) -> schedule::Nodes {
        let deploys = self.platform.deploys();
        let known = deploys.fleet().nodes().into_iter().map(|view| {
            let memory_mib = view.capacity.memory_mib;
            (view.name, Node { alive: view.alive, memory_mib, placed: Vec::new() })
        });
        let mut nodes: schedule::Nodes = known.collect();
        for (_, plan) in deploys.plans() {
            for planned in plan.containers.values() {
                if let Some(node) = nodes.get_mut(&planned.node) {
                    node.placed.push(Placed::of(&planned.spec));
                }
            }
        }
        nodes
    }

    /// From the swap on: records and routes follow what the plan says. Every step may be done again.
    pub(super) async fn conclude(&self) -> Result<(), ApiError> {
        let deploys = self.platform.deploys();
        let plan = deploys.plan(&self.app);
        let Some(operation) = &plan.operation else { return Ok(()) };
        if let Some(formation) = &operation.formation {
            self.platform.update_app(&self.app, |app| app.formation = formation.clone()).await?;
        }
        if plan.serving().any(|(_, planned)| planned.spec.process.is_web()) {
            self.platform.update_app(&self.app, |app| app.proxy.asleep = false).await?;
        }
        match follow::publish_routes(&self.platform).await? {
            Some(revision) => {
                if !until_served(&self.platform, revision).await {
                    let text =
                        "the proxy does not answer; it takes the new routes when it is back".to_owned();
                    say(&self.progress, Progress::Warning { text }).await;
                }
            }
            None => tracing::warn!(app = %self.app, "routes wait for nodes that have not reported yet"),
        }
        if operation.makes_release {
            self.platform.conclude_release(&self.app, operation.release, &Outcome::Live).await?;
        }
        deploys.step(&self.platform, &self.app, AppPlan::finish).await?;
        deploys.refresh_kept(&self.platform, &self.app).await
    }

    /// Before the swap: as if it had never begun, but for the release's record.
    pub(super) async fn take_back(&self, reason: &str) -> Result<(), ApiError> {
        let deploys = self.platform.deploys();
        let operation = deploys.plan(&self.app).operation.clone();
        deploys.step(&self.platform, &self.app, AppPlan::undo).await?;
        if let Some(operation) = operation.filter(|operation| operation.makes_release) {
            let outcome = Outcome::Failed { reason: reason.to_owned() };
            self.platform.conclude_release(&self.app, operation.release, &outcome).await?;
            deploys.refresh_kept(&self.platform, &self.app).await?;
        }
        Ok(())
    }

    /// Goes on with what an earlier life of the controller left.
    pub(super) async fn resume(&self) -> Result<(), ApiError> {
        let plan = self.platform.deploys().plan(&self.app);
        let Some(operation) = &plan.operation else { return Ok(()) };
        tracing::info!(app = %self.app, operation = %operation.title, phase = ?operation.phase, "left unfinished");
        match operation.phase {
            Phase::Swapped => self.conclude().await,
            Phase::Starting if operation.resumes => {
                let specs: Vec<_> = plan.new_ones().map(|(_, planned)| planned.spec.clone()).collect();
                match self.ready_then_swap(&specs).await {
                    Ok(()) => self.conclude().await,
                    Err(error) => self.take_back(&error.message).await,
                }
            }
            Phase::Releasing | Phase::Starting => {
                let reason = format!("Berth was restarted during the {}; do it again", operation.title);
                self.take_back(&reason).await
            }
        }
    }
}

fn no_such_process(app: &AppName, release: &Release, process: &ProcessType) -> ApiError {
    let known = release.image.processes.keys().filter(|process| !process.is_release());
    let known: Vec<_> = known.map(ProcessType::as_str).collect();
    invalid(format!("App {app} has no process type {process}; it has: {}", known.join(", ")))
}

/// ` (web=2 worker=1)`.
fn summary(slots: &[Slot]) -> String {
    let mut counts: Vec<(&ProcessType, u32)> = Vec::new();
    for (process, _) in slots {
        match counts.last_mut() {
            Some((last, count)) if *last == process => *count += 1,
            _ => counts.push((process, 1)),
        }
    }
    let parts: Vec<_> = counts.iter().map(|(process, count)| format!("{process}={count}")).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(" ")) }
}

/// Six lower-case letters and digits: one of 2 billion, under a name of app, process type and ordinal.
fn unique() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let random = crate::secrets::random::<8>().unwrap_or_else(|error| {
        // Ids must differ from earlier ones, not be secret: the clock does.
        let _ = internal("cannot draw a container id", &error);
        now_ms().to_be_bytes()
    });
    let mut number = u64::from_be_bytes(random);
    let mut text = String::new();
    for _ in 0..6 {
        let digit = usize::try_from(number % 36).unwrap_or(0);
        text.push(char::from(DIGITS[digit]));
        number /= 36;
    }
    text
}
