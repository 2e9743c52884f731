//! One operation on one app, from its turn to its end.
//!
//! In: a [`Goal`]. Out: the plan, step by step: begin → release task → batches of new containers, each ready before what it
//! replaces goes → routes served → concluded. Up to the last switch everything can be taken back; from there it only
//! goes on. Every step is stored first, so that a controller that starts again goes on from it ([`Work::resume`]).

use super::batches::{Batch, Rules, batches};
use super::plan::{AppPlan, Operation, Phase, Planned, Role};
use super::rollout::{Goal, Work};
use super::state::cancelled;
use super::watching::{StartFailure, show_output, until_gone, until_ready, until_served};
use super::{follow, task};
use crate::errors::{failed, internal, invalid, unavailable};
use crate::events::Event;
use crate::placing;
use crate::platform::{now_ms, say};
use crate::release::{self, Slot};
use berth_model::api::{ApiError, PatchConfig, Progress};
use berth_model::container::{ContainerSpec, ContainerState};
use berth_model::deploy::Strategy;
use berth_model::image::Process;
use berth_model::release::{App, Outcome, Release};
use berth_model::{ContainerId, EnvName, NodeName, ProcessType};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a deploy waits for a node to report: a controller that has just started knows none yet.
const NODE_LIMIT: Duration = Duration::from_secs(10);

impl Work {
    pub(super) async fn carry_out(&self, app: &App, goal: Goal) -> Result<(), ApiError> {
        let release = goal.release;
        let plan = self.platform.deploys().plan(&self.app);
        let stop_first = |process: &ProcessType| release::stops_first(app, &release.config, process);
        let web: Vec<Slot> = goal.start.iter().filter(|(process, _)| process.is_web()).cloned().collect();
        let kept = if goal.takes_up { self.kept(app, &release, &plan, &web)? } else { Vec::new() };
        let rules = Rules {
            max_parallel: &release.max_parallel,
            parallel_types: app.deploy.parallel_types.unwrap_or(1),
            by_batch: app.deploy.strategy != Strategy::BlueGreen,
            stop_first: &stop_first,
            web_at_once: !web.is_empty() && kept.len() == web.len(),
        };
        let going = plan.containers.iter().filter(|(id, _)| goal.retire.contains(*id));
        let operation = Operation {
            release: release.version,
            makes_release: goal.makes_release,
            resumes: goal.resumes,
            phase: Phase::Releasing,
            retire: BTreeSet::new(),
            batches: batches(&goal.start, going, &rules),
            formation: goal.formation,
            title: goal.title,
            wait_to_retire_secs: release::wait_to_retire(app, &release.config),
            keeps_warm: goal.keeps_warm,
            trial: goal.trial,
            watch: goal.watch,
            restores_config: goal.restores_config,
            takes_up: goal.takes_up,
            ends: goal.ends,
            towards: goal.towards,
            started: BTreeSet::new(),
            replaced: Vec::new(),
        };
        self.platform.deploys().step(&self.platform, &self.app, |plan| plan.begin(operation)).await?;
        let work = async {
            self.platform.deploys().refresh_kept(&self.platform, &self.app).await?;
            if goal.release_task {
                self.release_task(app, &release).await?;
            }
            self.all_batches(app, &release).await
        };
        match work.await {
            Ok(()) => self.conclude().await,
            Err(error) => {
                self.take_back(&error.message).await?;
                Err(error)
            }
        }
    }

    /// Batch after batch, from wherever the plan is.
    async fn all_batches(&self, app: &App, release: &Release) -> Result<(), ApiError> {
        let deploys = self.platform.deploys();
        let mut said = BTreeSet::new();
        loop {
            let plan = deploys.plan(&self.app);
            let Some(operation) = &plan.operation else { return Ok(()) };
            let pending = operation.pending();
            let Some(batch) = pending.first() else { return Ok(()) };
            let graces = release.image.processes.keys().map(|process| app.stop_of(process).grace_secs);
            let grace = u64::from(graces.max().unwrap_or(0));
            let wait = u64::from(operation.wait_to_retire_secs) + grace + 10;
            let wait = Duration::from_secs(wait);
            if batch.stop_first {
                self.stop_first(batch, wait).await?;
            }
            self.start_batch(app, release, batch, operation.takes_up).await?;
            match until_ready(&self.platform, &self.app, &mut said, &self.progress, &self.cancel).await {
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
            deploys.step(&self.platform, &self.app, |plan| plan.advance(now_ms())).await?;
            if pending.len() > 1 && batch.swap {
                // What this batch replaces is gone before the next one takes its memory.
                self.publish().await?;
                until_gone(&self.platform, &batch.retire, wait).await;
            }
        }
    }

    /// Old containers go before new ones start; meanwhile requests wait.
    async fn stop_first(&self, batch: &Batch, wait: Duration) -> Result<(), ApiError> {
        let deploys = self.platform.deploys();
        let before = deploys.plan(&self.app);
        let after = deploys.step(&self.platform, &self.app, |plan| plan.stop_first(now_ms())).await?;
        if before.operation != after.operation && !batch.retire.is_empty() {
            let mut types: Vec<_> = batch.start.iter().map(|(process, _)| process.as_str()).collect();
            types.dedup();
            let text = format!(
                "Stopping the old {0} before the new {0} starts, as was asked for (checks:disable, or deploy:set volumes \
                 stop-first); requests wait up to 30 s meanwhile",
                types.join(", ")
            );
            say(&self.progress, Progress::Warning { text }).await;
        }
        self.publish().await?;
        if !until_gone(&self.platform, &batch.retire, wait).await {
            return Err(failed("the old containers did not stop in time; see them with: berth ps:report"));
        }
        Ok(())
    }

    /// Containers that are kept running and are just what these slots want.
    fn kept(
        &self,
        app: &App,
        release: &Release,
        plan: &AppPlan,
        slots: &[Slot],
    ) -> Result<Vec<ContainerId>, ApiError> {
        let wanted = release::desire(app, release, slots, unique);
        let wanted = wanted.map_err(|error| invalid(error.to_string()))?;
        let fits = |wanted: &ContainerSpec| {
            let found = plan.containers.iter().find(|(id, planned)| {
                let same =
                    ContainerSpec { id: wanted.id.clone(), release: wanted.release, ..planned.spec.clone() };
                let state = self.platform.deploys().fleet().status(id).map(|status| status.state);
                matches!(planned.role, Role::Warm { .. })
                    && same == *wanted
                    && state.is_some_and(|state| matches!(state, ContainerState::Running { ready: true, .. }))
            });
            found.map(|(id, _)| id.clone())
        };
        Ok(wanted.iter().filter_map(fits).collect())
    }

    /// Starts what the batch wants and is not there yet.
    async fn start_batch(
        &self,
        app: &App,
        release: &Release,
        batch: &Batch,
        takes_up: bool,
    ) -> Result<(), ApiError> {
        let deploys = self.platform.deploys();
        let mut plan = deploys.plan(&self.app);
        if takes_up {
            let kept = self.kept(app, release, &plan, &plan.unfilled(&batch.start))?;
            let kept: BTreeSet<_> = kept.into_iter().collect();
            let version = release.version;
            plan = deploys.step(&self.platform, &self.app, |plan| plan.take_up(&kept, version)).await?;
        }
        let specs = release::desire(app, release, &plan.unfilled(&batch.start), unique)
            .map_err(|error| invalid(error.to_string()))?;
        let placed = self.placed(specs).await?;
        deploys.step(&self.platform, &self.app, |plan| plan.start(placed)).await?;
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
        task::run(&self.platform, "the release task", &spec, &self.by, &self.progress, &self.cancel).await
    }

    /// Finds a node for each; waits a little for a first one to report.
    async fn placed(&self, specs: Vec<ContainerSpec>) -> Result<Vec<(NodeName, ContainerSpec)>, ApiError> {
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        let fleet = self.platform.deploys().fleet();
        let mut changes = fleet.changes();
        let limit = tokio::time::sleep(NODE_LIMIT);
        tokio::pin!(limit);
        let plan = self.platform.deploys().plan(&self.app);
        let slots = plan.operation.iter().flat_map(|operation| &operation.towards);
        let slots: BTreeMap<&Slot, &NodeName> = slots.map(|(slot, node)| (slot, node)).collect();
        let of = |spec: &ContainerSpec| {
            Some((spec.id.clone(), (*slots.get(&(spec.process.clone(), spec.ordinal))?).clone()))
        };
        let towards: BTreeMap<ContainerId, NodeName> = specs.iter().filter_map(of).collect();
        loop {
            changes.mark_unchanged();
            let placement = placing::place(&self.platform, &specs, &towards).await?;
            let mut refused = placement.refused.values();
            let Some(refusal) = refused.next() else {
                let node = |spec: ContainerSpec| Some((placement.placed.get(&spec.id)?.clone(), spec));
                return Ok(specs.into_iter().filter_map(node).collect());
            };
            placing::give_back(&self.platform, &specs).await;
            let more = match refused.len() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let text = format!("{refusal}{more}");
            // No waiting makes room.
            if !refusal.may_pass() {
                return Err(failed(text));
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = self.cancel.cancelled() => return Err(cancelled()),
                () = &mut limit => return Err(unavailable(text)),
            }
        }
    }

    /// Routes follow the plan, and the proxies the routes.
    async fn publish(&self) -> Result<(), ApiError> {
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
        Ok(())
    }

    /// From the last switch on: records and routes follow what the plan says. Every step may be done again.
    async fn conclude(&self) -> Result<(), ApiError> {
        let deploys = self.platform.deploys();
        let plan = deploys.plan(&self.app);
        let Some(operation) = &plan.operation else { return Ok(()) };
        if let Some(formation) = &operation.formation {
            self.platform.update_app(&self.app, |app| app.formation = formation.clone()).await?;
        }
        if plan.serving().any(|(_, planned)| planned.spec.process.is_web()) {
            self.platform.update_app(&self.app, |app| app.proxy.asleep = false).await?;
        }
        self.publish().await?;
        let on_trial = plan.canary.as_ref().is_some_and(|canary| canary.release == operation.release);
        if operation.makes_release {
            // What was said for the next deploy was for this one.
            self.platform.update_app(&self.app, |app| app.deploy.next_canary = None).await?;
            if on_trial {
                let percent = plan.canary.as_ref().map_or(0, |canary| canary.percent);
                let text =
                    format!("release {} is on trial with {percent} % of the requests", operation.release);
                let by = self.by.clone();
                let event = Event { by, ..Event::by_itself(Some(&self.app), "release.canary", text) };
                self.platform.events().record(event);
            } else {
                self.platform.conclude_release(&self.app, operation.release, &Outcome::Live).await?;
            }
        }
        for (release, outcome) in &operation.ends {
            self.platform.conclude_release(&self.app, *release, outcome).await?;
        }
        if operation.restores_config {
            self.restore_config(operation).await?;
        }
        deploys.step(&self.platform, &self.app, AppPlan::finish).await?;
        deploys.refresh_kept(&self.platform, &self.app).await
    }

    /// The app's config vars become those of the release, where the platform's own do not say the same.
    async fn restore_config(&self, operation: &Operation) -> Result<(), ApiError> {
        let release = self.platform.existing_release(&self.app, operation.release).await?;
        let (now, secrets) = self.platform.config_and_secrets_of(&self.app).await?;
        let own = self.platform.app_config(&self.app).await?;
        let wanted = &release.secrets;
        let (mut open, mut hidden) =
            (PatchConfig::default(), PatchConfig { secret: true, ..Default::default() });
        for (name, value) in release.config.iter().filter(|(name, value)| now.get(*name) != Some(*value)) {
            let patch = if wanted.write_only.contains(name) { &mut hidden } else { &mut open };
            patch.set.insert(name.clone(), value.clone());
        }
        open.files = wanted.files.clone();
        open.files.retain(|name, bytes| secrets.files.get(name) != Some(bytes));
        let kept = |name: &EnvName| release.config.contains_key(name) || wanted.files.contains_key(name);
        let known: BTreeSet<_> = own.into_keys().chain(secrets.files.into_keys()).collect();
        open.unset = known.into_iter().filter(|name| !kept(name)).collect();
        for patch in [open, hidden] {
            if !patch.set.is_empty() || !patch.unset.is_empty() || !patch.files.is_empty() {
                let back = Some(release.version);
                self.platform.patch_config_of(Some(&self.app), &patch, &release.by, back).await?;
            }
        }
        Ok(())
    }

    /// Before the last switch: as if it had never begun, but for the release's record.
    async fn take_back(&self, reason: &str) -> Result<(), ApiError> {
        let deploys = self.platform.deploys();
        let operation = deploys.plan(&self.app).operation.clone();
        let plan = deploys.step(&self.platform, &self.app, |plan| plan.undo(now_ms())).await?;
        if plan.operation.is_some() {
            self.bring_back().await?;
        }
        let Some(operation) = operation else { return Ok(()) };
        // A canary whose promotion failed stays on trial.
        let on_trial = plan.canary.as_ref().is_some_and(|canary| canary.release == operation.release);
        if operation.makes_release && !on_trial {
            let outcome = Outcome::Failed { reason: reason.to_owned() };
            self.platform.conclude_release(&self.app, operation.release, &outcome).await?;
            deploys.refresh_kept(&self.platform, &self.app).await?;
        }
        Ok(())
    }

    /// Brings back what earlier batches had put out of service and is gone.
    async fn bring_back(&self) -> Result<(), ApiError> {
        let deploys = self.platform.deploys();
        let plan = deploys.plan(&self.app);
        let replaced =
            plan.operation.as_ref().map(|operation| operation.replaced.clone()).unwrap_or_default();
        // Told to stop or not: what served has to serve again.
        let work = Self { cancel: tokio_util::sync::CancellationToken::new(), ..self.clone() };
        if !replaced.is_empty() {
            work.step("Bringing back what was replaced").await;
            let again = |old: Planned| {
                let id = ContainerId::of(&self.app, &old.spec.process, old.spec.ordinal, &unique());
                id.map(|id| ContainerSpec { id, ..old.spec })
            };
            let specs: Result<Vec<_>, _> = replaced.into_iter().map(again).collect();
            let specs = specs.map_err(|error| internal("cannot name a container", &error))?;
            let placed = work.placed(specs).await?;
            deploys.step(&self.platform, &self.app, |plan| plan.restart_replaced(placed)).await?;
        }
        let ready =
            until_ready(&self.platform, &self.app, &mut BTreeSet::new(), &work.progress, &work.cancel).await;
        if let Err(failure) = ready {
            // There is nothing better to serve: its restart policy goes on trying.
            let why = match failure {
                StartFailure::Container(_, reason) => reason,
                StartFailure::Other(error) => error.message,
            };
            let text = format!("what was replaced does not become ready: {why}");
            tracing::error!(app = %self.app, reason = %text, "cannot bring back all of an app");
            say(&self.progress, Progress::Warning { text }).await;
        }
        deploys.step(&self.platform, &self.app, |plan| plan.restored(now_ms())).await?;
        self.publish().await
    }

    /// Goes on with what an earlier life of the controller left.
    pub(super) async fn resume(&self) -> Result<(), ApiError> {
        let plan = self.platform.deploys().plan(&self.app);
        let Some(operation) = &plan.operation else { return Ok(()) };
        tracing::info!(app = %self.app, operation = %operation.title, phase = ?operation.phase, "left unfinished");
        match operation.phase {
            Phase::Swapped => self.conclude().await,
            Phase::Starting if operation.resumes => {
                let app = self.platform.existing_app(&self.app).await?;
                let release = self.platform.existing_release(&self.app, operation.release).await?;
                match self.all_batches(&app, &release).await {
                    Ok(()) => self.conclude().await,
                    Err(error) => self.take_back(&error.message).await,
                }
            }
            Phase::Restoring => self.take_back("a part of it failed; what ran before was brought back").await,
            Phase::Releasing | Phase::Starting => {
                let reason = format!("Berth was restarted during the {}; do it again", operation.title);
                self.take_back(&reason).await
            }
        }
    }
}

/// Six lower-case letters and digits: one of 2 billion, under a name of app, process type and ordinal.
pub(super) fn unique() -> String {
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
