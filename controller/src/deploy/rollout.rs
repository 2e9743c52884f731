//! What each change of an app comes to: which containers start and which go.
//!
//! In: a [`Change`], or new counts, or stop and start. Out: a [`Goal`], which [`super::carry`] carries out.

use super::plan::{AppPlan, Canary, Planned, TrialEnd, Watch};
use super::state::cancelled;
use super::watching::until_gone;
use super::{Change, NewImage};
use crate::Platform;
use crate::errors::invalid;
use crate::housekeeping;
use crate::platform::{ProgressSender, now_ms, say};
use crate::release::{self, Parts, Slot};
use berth_model::api::{ApiError, Progress};
use berth_model::container::ContainerState;
use berth_model::deploy::{DEFAULT_CANARY_PERCENT, Strategy};
use berth_model::image::Process;
use berth_model::release::{App, Formation, Outcome, Release};
use berth_model::{AppName, ContainerId, NodeName, ProcessType, ReleaseVersion};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
pub(super) struct Goal {
    pub(super) title: String,
    pub(super) release: Release,
    pub(super) makes_release: bool,
    pub(super) resumes: bool,
    /// Whether the `release` process runs first.
    pub(super) release_task: bool,
    pub(super) start: Vec<Slot>,
    pub(super) retire: BTreeSet<ContainerId>,
    pub(super) formation: Option<Formation>,
    /// What becomes of the release on trial.
    pub(super) trial: TrialEnd,
    /// Who is watched afterwards, and for how many seconds.
    pub(super) watch: Option<(Watch, u32)>,
    /// Whether the app's config becomes the release's.
    pub(super) restores_config: bool,
    /// Other releases that it ends, and how they went.
    pub(super) ends: Vec<(ReleaseVersion, Outcome)>,
    /// Whether `web` of before is kept running for a while.
    pub(super) keeps_warm: bool,
    /// Whether containers that are kept running are taken up again.
    pub(super) takes_up: bool,
    /// Nodes that slots were planned for.
    pub(super) towards: Vec<(Slot, NodeName)>,
}

impl Goal {
    /// One that starts and stops nothing, of a release that is there already.
    pub(super) fn new(title: &str, release: Release) -> Self {
        Self {
            title: title.to_owned(),
            release,
            makes_release: false,
            resumes: true,
            release_task: false,
            start: Vec::new(),
            retire: BTreeSet::new(),
            formation: None,
            trial: TrialEnd::Keep,
            watch: None,
            restores_config: false,
            ends: Vec::new(),
            keeps_warm: false,
            takes_up: false,
            towards: Vec::new(),
        }
    }
}

/// What a new release is, as far as its deploy asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Push,
    Config,
    /// With its own config, or today's.
    Rollback {
        keep_config: bool,
    },
}

pub(super) fn ids<'a>(
    containers: impl Iterator<Item = (&'a ContainerId, &'a Planned)>,
) -> BTreeSet<ContainerId> {
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

    pub(super) async fn step(&self, text: impl Into<String>) {
        say(&self.progress, Progress::Step { text: text.into() }).await;
    }

    async fn detail(&self, text: impl Into<String>) {
        say(&self.progress, Progress::Detail { text: text.into() }).await;
    }

    pub(super) async fn app(&self) -> Result<App, ApiError> {
        Ok(self.platform.existing_app(&self.app).await?)
    }

    pub(super) async fn current(&self, app: &App) -> Result<Option<Release>, ApiError> {
        Ok(self.platform.current_release(app).await?)
    }

    async fn deployed(&self, app: &App) -> Result<Release, ApiError> {
        let release = self.current(app).await?;
        release.ok_or_else(|| invalid(format!("App {} has not been deployed; push to it first", self.app)))
    }

    pub(super) async fn deploy(&self, change: Change) -> Result<ReleaseVersion, ApiError> {
        let app = self.app().await?;
        let trial = self.platform.deploys().plan(&self.app).canary.clone();
        match change {
            Change::Image(new) => self.new_image(&app, *new).await,
            Change::Config { description } => {
                // While a release is on trial, what is new is tried there.
                let base = match &trial {
                    Some(canary) => Some(self.platform.existing_release(&self.app, canary.release).await?),
                    None => self.current(&app).await?,
                };
                let Some(base) = base else { return Ok(ReleaseVersion(0)) };
                let formation = trial.and_then(|canary| canary.formation);
                let parts = self.parts_of(&base, description).await?;
                let release = self.add(parts).await?;
                self.replace_all(&app, release, formation, Kind::Config).await
            }
            Change::Rollback { to: None, .. } if trial.is_some() => {
                let text = "A canary is on trial: going back is ending it".to_owned();
                say(&self.progress, Progress::Step { text }).await;
                self.abort(None).await?;
                Ok(app.current.unwrap_or(ReleaseVersion(0)))
            }
            Change::Rollback { to, keep_config } => {
                let target = self.rollback_target(&app, to).await?;
                let description = format!("Rollback to {}", target.version);
                let mut parts = self.parts_of(&target, description).await?;
                if !keep_config {
                    (parts.config, parts.secrets) = (target.config, target.secrets);
                }
                let release = self.add(parts).await?;
                self.replace_all(&app, release, None, Kind::Rollback { keep_config }).await
            }
            Change::Restart { process, ordinal } => self.restart(process, ordinal).await,
        }
    }

    /// Takes a release back that went bad: one step, and no further.
    pub(super) async fn withdraw(&self, watch: &Watch, reason: &str) -> Result<(), ApiError> {
        let app = self.app().await?;
        let bad = watch.release;
        let target = self.platform.existing_release(&self.app, watch.back_to).await?;
        let description = format!("Rollback to {}: {bad} went bad, {reason}", target.version);
        let mut parts = self.parts_of(&target, description).await?;
        (parts.config, parts.secrets) = (target.config, target.secrets);
        let release = self.add(parts).await?;
        let version = release.version;
        let outcome = Outcome::Withdrawn { reason: reason.to_owned() };
        let mut goal = self.whole(&app, release, None).await;
        goal.title = format!("automatic rollback from {bad}");
        goal.restores_config = true;
        goal.takes_up = true;
        goal.ends.push((bad, outcome));
        goal.watch = watch.proven.map(|proven| {
            let next = Watch { release: version, back_to: proven, proven: None, ..watch.clone() };
            (next, app.deploy.window_secs())
        });
        self.carry_out(&app, goal).await
    }

    /// The image, checks and commit of `old`, with today's config.
    async fn parts_of(&self, old: &Release, description: String) -> Result<Parts, ApiError> {
        let (config, secrets) = self.platform.config_and_secrets_of(&self.app).await?;
        Ok(Parts {
            image: old.image.clone(),
            config,
            secrets,
            checks: old.checks.clone(),
            cron: old.cron.clone(),
            formation: self.app().await?.formation,
            max_parallel: old.max_parallel.clone(),
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
                Outcome::Live | Outcome::Withdrawn { .. } => {
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
        // What runs what runs now is no way back.
        let differs =
            |one: &Release| one.image.reference != current.image.reference || one.config != current.config;
        let mut before = before
            .filter(|one| one.version < current.version && one.outcome == Outcome::Live && differs(one));
        before.next().ok_or_else(|| {
            invalid(format!(
                "{} has no live release before {} that differs from it; see: berth releases {0}",
                self.app, current.version
            ))
        })
    }

    async fn new_image(&self, app: &App, new: NewImage) -> Result<ReleaseVersion, ApiError> {
        let formation = release::formation(&app.formation, &new.image, &new.formation);
        for (process, quantity) in &formation.0 {
            let before = app.formation.0.get(process);
            if new.formation.0.contains_key(process) && before.is_some_and(|before| before != quantity) {
                self.detail(format!("app.json scales {process} to {quantity}")).await;
            }
        }
        let (config, secrets) = self.platform.config_and_secrets_of(&self.app).await?;
        let parts = Parts {
            image: new.image,
            config,
            secrets,
            checks: new.checks,
            cron: new.cron,
            formation: formation.clone(),
            max_parallel: new.max_parallel,
            git_rev: new.git_rev,
            now_ms: now_ms(),
            by: self.by.clone(),
            description: new.description,
        };
        let release = self.add(parts).await?;
        // As with Dokku: who pushes to a stopped app wants it to run.
        let scaled_by_code = !new.formation.0.is_empty();
        let runs = |app: &mut App| {
            app.stopped = false;
            app.processes.stopped.clear();
        };
        self.platform.update_app(&self.app, runs).await?;
        let mut app = app.clone();
        runs(&mut app);
        let version = self.replace_all(&app, release, Some(formation), Kind::Push).await?;
        let ruled = |app: &mut App| app.processes.scaled_by_code = scaled_by_code;
        let app = self.platform.update_app(&self.app, ruled).await?;
        let plan = self.platform.deploys().plan(&self.app);
        if let Some(canary) = plan.canary.as_ref().filter(|canary| canary.release == version) {
            let text = format!(
                "{version} is on trial with {} % of the requests; {} serves the rest",
                canary.percent,
                app.current.map_or_else(String::new, |current| current.to_string())
            );
            say(&self.progress, Progress::Section { text }).await;
            self.detail(format!(
                "to go on: berth deploy:promote {0}, deploy:canary {0} 50, or deploy:abort {0}",
                self.app
            ))
            .await;
            return Ok(version);
        }
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
    async fn whole(&self, app: &App, release: Release, formation: Option<Formation>) -> Goal {
        let counts = formation.clone().unwrap_or_else(|| app.formation.clone());
        let start =
            if app.stopped { Vec::new() } else { release::slots(&release.image, &app.running(&counts)) };
        let plan = self.platform.deploys().plan(&self.app);
        let version = release.version;
        self.step(format!("Deploying {} {version}{}", self.app, summary(&start))).await;
        let mut goal = Goal::new(&format!("deploy of {version}"), release);
        goal.makes_release = true;
        goal.start = start;
        goal.retire = ids(plan.in_service());
        goal.formation = formation;
        goal.trial = TrialEnd::Over;
        goal.keeps_warm = app.deploy.strategy == Strategy::BlueGreen;
        if let Some(canary) = plan.canary.as_ref().filter(|canary| canary.release != version) {
            let reason = format!("{version} was deployed before it was promoted");
            goal.ends.push((canary.release, Outcome::Failed { reason }));
        }
        goal
    }

    /// Gives `release` what it asks for: the whole app, or a share on trial.
    async fn replace_all(
        &self,
        app: &App,
        release: Release,
        formation: Option<Formation>,
        kind: Kind,
    ) -> Result<ReleaseVersion, ApiError> {
        let version = release.version;
        let counts = formation.clone().unwrap_or_else(|| app.formation.clone());
        let percent = self.on_trial(app, &release, &counts, kind).await;
        let mut goal = match percent {
            Some(percent) => self.begin_trial(app, release, formation, percent).await,
            None => self.whole(app, release, formation).await,
        };
        goal.release_task = kind == Kind::Push;
        goal.resumes = kind != Kind::Push;
        goal.restores_config = kind == Kind::Rollback { keep_config: false } && percent.is_none();
        goal.takes_up = matches!(kind, Kind::Rollback { .. });
        let going =
            app.current.filter(|_| percent.is_none() && app.deploy.rolls_back() && !goal.start.is_empty());
        if let Some(back_to) = going.filter(|_| !matches!(kind, Kind::Rollback { .. })) {
            goal.watch = Some(self.watch(app, version, back_to));
        }
        if kind == Kind::Push && percent.is_none() {
            self.about_volumes(app, &goal).await;
        }
        self.carry_out(app, goal).await?;
        Ok(version)
    }

    /// How a release is watched after its switch.
    pub(super) fn watch(&self, app: &App, release: ReleaseVersion, back_to: ReleaseVersion) -> (Watch, u32) {
        let lately = self.platform.traffic().of(&self.app, now_ms() / 1000);
        let (mut requests, mut errors) = (0_u64, 0_u64);
        for point in &lately.seconds {
            requests = requests.saturating_add(point.requests);
            errors = errors.saturating_add(point.server_error);
        }
        let before = errors.saturating_mul(100).checked_div(requests).unwrap_or(0);
        let before_percent = u32::try_from(before).unwrap_or(100);
        let plan = self.platform.deploys().plan(&self.app);
        (plan.watch_after(release, back_to, before_percent, now_ms()), app.deploy.window_secs())
    }

    /// What the pusher should know of directories that old and new containers share.
    async fn about_volumes(&self, app: &App, goal: &Goal) {
        if goal.retire.is_empty() || !release::writes_to_the_node(app) {
            return;
        }
        let targets = app.mounts.iter().filter(|mount| !mount.read_only).map(|mount| mount.target.as_str());
        let targets = targets.collect::<Vec<_>>().join(", ");
        if release::stops_first(app, &goal.release.config, &ProcessType::web()) {
            return; // it is said when it is done
        }
        let text = format!(
            "{targets} is written to by old and new containers side by side until the old ones are gone; if they \
             cannot share it: berth deploy:set {} volumes stop-first",
            self.app
        );
        self.detail(text).await;
    }

    /// The share that `release` is to be tried with, if it is to be tried. Who asked for a trial that cannot be is told so.
    async fn on_trial(&self, app: &App, release: &Release, counts: &Formation, kind: Kind) -> Option<u8> {
        let plan = self.platform.deploys().plan(&self.app);
        let rollback = matches!(kind, Kind::Rollback { .. });
        let going_on = plan.canary.as_ref().map(|canary| canary.percent).filter(|_| !rollback);
        let by_strategy = (app.deploy.strategy == Strategy::Canary && !rollback)
            .then(|| app.deploy.canary_percent.unwrap_or(DEFAULT_CANARY_PERCENT));
        let percent = app.deploy.next_canary.or(going_on).or(by_strategy)?;
        let why = no_trial(app, &plan, release, counts);
        let Some(why) = why else { return Some(percent) };
        let text = format!("no canary: {why}; all of it is deployed at once");
        say(&self.progress, Progress::Warning { text }).await;
        None
    }

    /// Some `web` of `release` beside what serves.
    async fn begin_trial(
        &self,
        app: &App,
        release: Release,
        formation: Option<Formation>,
        percent: u8,
    ) -> Goal {
        let counts = formation.clone().unwrap_or_else(|| app.formation.clone());
        let start = super::canary::slots(&release, &counts, percent);
        let plan = self.platform.deploys().plan(&self.app);
        let version = release.version;
        self.step(format!(
            "Deploying {} {version} as a canary with {percent} %{}",
            self.app,
            summary(&start)
        ))
        .await;
        let mut goal = Goal::new(&format!("canary of {version}"), release);
        goal.makes_release = true;
        goal.start = start;
        goal.retire = ids(plan.on_trial());
        if let Some(canary) = &plan.canary {
            let reason = format!("{version} took its place on trial");
            goal.ends.push((canary.release, Outcome::Failed { reason }));
        }
        goal.trial = TrialEnd::Begin(Canary { release: version, percent, formation, since_ms: now_ms() });
        goal
    }

    async fn restart(
        &self,
        process: Option<ProcessType>,
        ordinal: Option<u32>,
    ) -> Result<ReleaseVersion, ApiError> {
        let release = self.deployed(&self.app().await?).await?;
        if let Some(process) = &process
            && !release.image.processes.contains_key(process)
        {
            return Err(no_such_process(&self.app, &release, process));
        }
        let chosen = |one: &ProcessType, number: u32| {
            process.as_ref().is_none_or(|process| process == one)
                && ordinal.is_none_or(|ordinal| ordinal == number)
        };
        let app = self
            .platform
            .update_app(&self.app, |app| match &process {
                None => app.stopped = false,
                Some(process) => run_only(app, process),
            })
            .await?;
        // `config:set --no-restart` leaves the config to the next restart; a release has one config, so to one of all types.
        let (config, secrets) = self.platform.config_and_secrets_of(&self.app).await?;
        if process.is_none() && (config != release.config || secrets.files != release.secrets.files) {
            let parts = self.parts_of(&release, "Restart with new config vars".to_owned()).await?;
            let release = self.add(parts).await?;
            return self.replace_all(&app, release, None, Kind::Config).await;
        }
        let plan = self.platform.deploys().plan(&self.app);
        let version = release.version;
        let mut start = release::slots(&release.image, &app.running(&app.formation));
        start.retain(|(process, number)| chosen(process, *number));
        if let (Some(process), Some(ordinal), true) = (&process, ordinal, start.is_empty()) {
            let count = app.formation.0.get(process).copied().unwrap_or(0);
            return Err(invalid(format!(
                "there is no {process}.{ordinal}: {} runs {process}={count}",
                self.app
            )));
        }
        let mut goal = Goal::new("restart", release);
        goal.start = start;
        goal.retire =
            ids(plan.serving().filter(|(_, planned)| chosen(&planned.spec.process, planned.spec.ordinal)));
        self.carry_out(&app, goal).await?;
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
        if app.processes.scaled_by_code
            && counts.0.iter().any(|(one, count)| app.formation.0.get(one) != Some(count))
        {
            return Err(invalid(format!(
                "App {} contains an app.json file with a formation key and cannot be manually scaled: change \
                 formation.TYPE.quantity there and push, or take it out",
                self.app
            )));
        }
        let started: Vec<_> = counts.0.keys().cloned().collect();
        let mut formation = app.formation.clone();
        formation.0.extend(counts.0.clone());
        let deploys = self.platform.deploys();
        if deploys.plan(&self.app).canary.is_some() {
            if formation.0.get(&ProcessType::web()) == Some(&0) {
                self.abort(Some("web was scaled to 0")).await?;
            } else {
                // The canary is promoted with these counts.
                deploys.step(&self.platform, &self.app, |plan| plan.rescale_trial(&counts)).await?;
            }
        }
        if formation.0.get(&ProcessType::web()) == Some(&0) {
            self.platform.update_app(&self.app, |app| app.proxy.asleep = false).await?;
        }
        let (Some(release), false) = (current, skip_deploy || app.stopped) else {
            self.platform.update_app(&self.app, |app| app.formation = formation.clone()).await?;
            return Ok(());
        };
        // Who says how many of a stopped type run wants them to run.
        let runs = |app: &mut App| app.processes.stopped.retain(|stopped| !started.contains(stopped));
        let app = self.platform.update_app(&self.app, runs).await?;
        let running = app.running(&formation);
        let wanted: BTreeSet<Slot> = release::slots(&release.image, &running).into_iter().collect();
        let plan = self.platform.deploys().plan(&self.app);
        let slot = |planned: &Planned| (planned.spec.process.clone(), planned.spec.ordinal);
        let filled: BTreeSet<Slot> = plan.serving().map(|(_, planned)| slot(planned)).collect();
        let mut start = release::slots(&release.image, &running);
        start.retain(|slot| !filled.contains(slot));
        let mut goal = Goal::new("scaling", release);
        goal.start = start;
        goal.retire = ids(plan.serving().filter(|(_, planned)| !wanted.contains(&slot(planned))));
        goal.formation = Some(formation);
        self.carry_out(&app, goal).await
    }

    /// Stops everything, or one process type, and waits until it is gone.
    pub(super) async fn stop(&self, process: Option<ProcessType>) -> Result<(), ApiError> {
        let app = self.app().await?;
        let release = self.deployed(&app).await?;
        if let Some(process) = &process
            && !release.image.processes.contains_key(process)
        {
            return Err(no_such_process(&self.app, &release, process));
        }
        let whole = process.is_none();
        let web = process.as_ref().is_none_or(ProcessType::is_web);
        if web && self.platform.deploys().plan(&self.app).canary.is_some() {
            self.abort(Some("the app was stopped")).await?;
        }
        let stop = |app: &mut App| {
            app.stopped |= whole;
            app.processes.stopped.extend(process.clone());
            app.proxy.asleep &= !web; // who stops it does not want it to be woken
        };
        self.platform.update_app(&self.app, stop).await?;
        let chosen = |one: &ProcessType| process.as_ref().is_none_or(|process| process == one);
        let plan = self.platform.deploys().plan(&self.app);
        let retire = ids(plan.serving().filter(|(_, planned)| chosen(&planned.spec.process)));
        let graces = release.image.processes.keys().map(|process| app.stop_of(process).grace_secs);
        let wait = release::wait_to_retire(&app, &release.config) + graces.max().unwrap_or(0) + 10;
        let mut goal = Goal::new("stop", release);
        goal.retire = retire.clone();
        self.carry_out(&app, goal).await?;
        if !until_gone(&self.platform, &retire, Duration::from_secs(u64::from(wait))).await {
            let text = "some containers are still stopping; see them with: berth ps:report".to_owned();
            say(&self.progress, Progress::Warning { text }).await;
        }
        Ok(())
    }

    /// Starts what is to run and does not, also what was stopped: of one type, or everything.
    pub(super) async fn start(&self, process: Option<ProcessType>) -> Result<(), ApiError> {
        let runs = |app: &mut App| match &process {
            None => {
                app.stopped = false;
                app.processes.stopped.clear();
            }
            Some(process) => run_only(app, process),
        };
        let app = self.app().await?;
        if let (Some(process), Some(release)) = (&process, self.current(&app).await?)
            && !release.image.processes.contains_key(process)
        {
            return Err(no_such_process(&self.app, &release, process));
        }
        let app = self.platform.update_app(&self.app, runs).await?;
        self.fill(&app, process).await
    }

    /// Starts what is to run and does not; what was stopped stays so.
    pub(super) async fn restore(&self) -> Result<(), ApiError> {
        let app = self.app().await?;
        if app.stopped || app.proxy.asleep {
            return Ok(());
        }
        self.fill(&app, None).await
    }

    /// Starts what is to run and does not: slots without a container, or with one that has ended for good.
    async fn fill(&self, app: &App, process: Option<ProcessType>) -> Result<(), ApiError> {
        let Some(release) = self.current(app).await? else { return Ok(()) };
        let deploys = self.platform.deploys();
        let plan = deploys.plan(&self.app);
        let is_dead = |id: &ContainerId| {
            let status = deploys.fleet().status(id);
            matches!(
                status.map(|status| status.state),
                Some(ContainerState::Exited { .. } | ContainerState::Failed { .. })
            )
        };
        let chosen = |one: &ProcessType| process.as_ref().is_none_or(|process| process == one);
        let (dead, alive): (Vec<_>, Vec<_>) = plan.serving().partition(|(id, _)| is_dead(id));
        let filled: BTreeSet<Slot> =
            alive.iter().map(|(_, planned)| (planned.spec.process.clone(), planned.spec.ordinal)).collect();
        let mut start = release::slots(&release.image, &app.running(&app.formation));
        start.retain(|slot| !filled.contains(slot) && chosen(&slot.0));
        let retire = ids(dead.into_iter().filter(|(_, planned)| chosen(&planned.spec.process)));
        if start.is_empty() && retire.is_empty() {
            return Ok(());
        }
        let mut goal = Goal::new("start", release);
        goal.start = start;
        goal.retire = retire;
        self.carry_out(app, goal).await
    }

    /// Stops `web` until somebody asks for it.
    pub(super) async fn sleep(&self) -> Result<(), ApiError> {
        // Before its routes go: from then on requests wake it.
        let app = self.platform.update_app(&self.app, |app| app.proxy.asleep = true).await?;
        let release = self.deployed(&app).await?;
        let plan = self.platform.deploys().plan(&self.app);
        let mut goal = Goal::new("falling asleep", release);
        goal.retire = ids(plan.serving().filter(|(_, planned)| planned.spec.process.is_web()));
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
}

/// Lets one process type run; of an app that is stopped, the others stay so.
fn run_only(app: &mut App, process: &ProcessType) {
    if app.stopped {
        app.processes.stopped.extend(app.formation.0.keys().cloned());
        app.stopped = false;
    }
    app.processes.stopped.remove(process);
}

/// Why a release cannot be tried beside what serves.
fn no_trial(app: &App, plan: &AppPlan, release: &Release, counts: &Formation) -> Option<&'static str> {
    let is_static = |run: Option<&Process>| matches!(run, Some(Process::Static(_)));
    let web: Vec<_> = plan.serving().filter(|(_, planned)| planned.spec.process.is_web()).collect();
    if app.stopped || web.is_empty() {
        Some("no web of it serves yet")
    } else if release::slots(&release.image, counts).iter().all(|(process, _)| !process.is_web()) {
        Some("it is to run no web")
    } else if is_static(release.image.processes.get(&ProcessType::web()))
        || web.iter().any(|(_, planned)| is_static(Some(&planned.spec.run)))
    {
        Some("static sites have no containers to share requests among")
    } else if release::stops_first(app, &release.config, &ProcessType::web()) {
        Some(
            "its old containers stop before the new ones start (checks:disable, or deploy:set volumes stop-first)",
        )
    } else {
        None
    }
}

fn no_such_process(app: &AppName, release: &Release, process: &ProcessType) -> ApiError {
    let known = release.image.processes.keys().filter(|process| !process.is_release());
    let known: Vec<_> = known.map(ProcessType::as_str).collect();
    invalid(format!("App {app} has no process type {process}; it has: {}", known.join(", ")))
}

/// ` (web=2 worker=1)`.
pub(super) fn summary(slots: &[Slot]) -> String {
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
