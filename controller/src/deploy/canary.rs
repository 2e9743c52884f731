//! A release on trial beside the one that serves: its share, its promotion, its end.
//!
//! In: a share, or what is to become of it. Out: a [`Goal`] like any other. Only `web` is on trial: other types have no requests
//! to share, and two releases of a worker would take each other's jobs.

use super::plan::{Canary, TrialEnd};
use super::rollout::{Goal, Work, ids, summary};
use crate::errors::invalid;
use crate::platform::say;
use crate::release::{self, Slot};
use berth_model::api::{ApiError, Progress};
use berth_model::release::{App, Formation, Outcome, Release};
use std::collections::BTreeSet;

/// The `web` containers of a release on trial: its share of what is to run, at least one.
pub(super) fn slots(release: &Release, counts: &Formation, percent: u8) -> Vec<Slot> {
    let mut web = release::slots(&release.image, counts);
    web.retain(|(process, _)| process.is_web());
    let share = (web.len() * usize::from(percent)).div_ceil(100).max(1);
    web.truncate(share);
    web
}

impl Work {
    fn on_trial_now(&self) -> Result<Canary, ApiError> {
        let canary = self.platform.deploys().plan(&self.app).canary.clone();
        canary.ok_or_else(|| {
            invalid(format!(
                "no canary of {0} is on trial; begin one: berth deploy:canary {0} 10, and deploy",
                self.app
            ))
        })
    }

    /// The release on trial gets this share; without one, the next deploy is one.
    pub(super) async fn share(&self, percent: Option<u8>) -> Result<(), ApiError> {
        let app = self.app().await?;
        let plan = self.platform.deploys().plan(&self.app);
        let (Some(canary), Some(percent)) = (&plan.canary, percent) else {
            self.platform.update_app(&self.app, |app| app.deploy.next_canary = percent).await?;
            let text = match percent {
                Some(percent) => {
                    format!("The next deploy of {} is a canary with {percent} % of the requests", self.app)
                }
                None => format!("The next deploy of {} is as its strategy says", self.app),
            };
            say(&self.progress, Progress::Step { text }).await;
            return Ok(());
        };
        let release = self.platform.existing_release(&self.app, canary.release).await?;
        let counts = canary.formation.clone().unwrap_or_else(|| app.formation.clone());
        let wanted = slots(&release, &counts, percent);
        let slot = |planned: &super::Planned| (planned.spec.process.clone(), planned.spec.ordinal);
        let filled: BTreeSet<Slot> = plan.on_trial().map(|(_, planned)| slot(planned)).collect();
        let mut goal = Goal::new("change of a canary's share", release);
        goal.start = wanted.iter().filter(|slot| !filled.contains(slot)).cloned().collect();
        goal.retire = ids(plan.on_trial().filter(|(_, planned)| !wanted.contains(&slot(planned))));
        goal.trial = TrialEnd::Begin(Canary { percent, ..canary.clone() });
        let text = format!(
            "Giving {} {percent} % of the requests of {}{}",
            canary.release,
            self.app,
            summary(&wanted)
        );
        say(&self.progress, Progress::Step { text }).await;
        self.carry_out(&app, goal).await
    }

    /// The release on trial serves alone.
    pub(super) async fn promote(&self) -> Result<(), ApiError> {
        let canary = self.on_trial_now()?;
        let app = self.app().await?;
        let plan = self.platform.deploys().plan(&self.app);
        let release = self.platform.existing_release(&self.app, canary.release).await?;
        let counts = canary.formation.clone().unwrap_or_else(|| app.formation.clone());
        let wanted = release::slots(&release.image, &counts);
        let slot = |planned: &super::Planned| (planned.spec.process.clone(), planned.spec.ordinal);
        let filled: BTreeSet<Slot> = plan.on_trial().map(|(_, planned)| slot(planned)).collect();
        let mut goal = Goal::new(&format!("promotion of {}", canary.release), release);
        goal.makes_release = true;
        goal.start = wanted.iter().filter(|slot| !filled.contains(slot)).cloned().collect();
        let surplus = plan.on_trial().filter(|(_, planned)| !wanted.contains(&slot(planned)));
        goal.retire = ids(plan.serving().chain(surplus));
        goal.formation = canary.formation.clone();
        goal.trial = TrialEnd::Promote;
        goal.keeps_warm = app.deploy.strategy == berth_model::deploy::Strategy::BlueGreen;
        if let Some(back_to) = app.current.filter(|_| app.deploy.rolls_back()) {
            goal.watch = Some(self.watch(&app, canary.release, back_to));
        }
        say(&self.progress, Progress::Step { text: format!("Promoting {} of {}", canary.release, self.app) })
            .await;
        self.carry_out(&app, goal).await?;
        let text = format!("{} serves all requests of {}", canary.release, self.app);
        say(&self.progress, Progress::Section { text }).await;
        Ok(())
    }

    /// The release on trial goes; `reason` says why, unless somebody asked for it.
    pub(super) async fn abort(&self, reason: Option<&str>) -> Result<(), ApiError> {
        let canary = self.on_trial_now()?;
        let app: App = self.app().await?;
        let Some(current) = self.current(&app).await? else {
            return Err(invalid(format!("{} has no release to go back to", self.app)));
        };
        let plan = self.platform.deploys().plan(&self.app);
        let why = match reason {
            Some(reason) => format!("the canary was ended: {reason}"),
            None => format!("the canary was ended by {}", self.by),
        };
        let version = current.version;
        let mut goal = Goal::new(&format!("end of the canary {}", canary.release), current);
        goal.retire = ids(plan.on_trial());
        goal.trial = TrialEnd::Over;
        goal.ends.push((canary.release, Outcome::Failed { reason: why }));
        say(&self.progress, Progress::Step { text: format!("Ending the canary {}", canary.release) }).await;
        self.carry_out(&app, goal).await?;
        say(&self.progress, Progress::Detail { text: format!("{version} serves all requests") }).await;
        Ok(())
    }
}
