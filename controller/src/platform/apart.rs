//! Whom apps keep away from, as the store keeps it: `apart/<app>`, and a guard that changes with each of them.
//!
//! In: words of `ps:set`. Out: [`Aparts`]. They are beside the apps' own settings because placing needs those of all apps that have
//! some, which are few. Who is named is an app: the names follow when it is renamed, and go with it.

use super::{Platform, PlatformError, apps, json};
use crate::store::{Compare, Revision, Write};
use berth_model::AppName;
use berth_model::apart::{ApartSettings, Aparts, AppApart, parse_neighbours, shown_neighbours};
use berth_model::processes::PatchProcesses;

const PREFIX: &str = "apart/";
const GUARD: &str = "placing/apart";
/// How many apps may have such settings: each is looked at whenever containers are placed.
const MOST_APPS: usize = 500;
const MOST_TYPES: usize = 50;

fn key(app: &AppName) -> String {
    format!("{PREFIX}{app}")
}

/// What is set, as of one moment.
#[derive(Clone, Debug)]
pub(super) struct Known {
    guard: Option<Revision>,
    all: Aparts,
}

impl Known {
    /// Nobody has changed any meanwhile.
    pub(super) fn unchanged(&self) -> Compare {
        Compare::unchanged(GUARD, self.guard)
    }

    /// What is to be written so that it is as `after`.
    fn towards(&self, after: &Aparts) -> Vec<Write> {
        let gone = self.all.keys().filter(|app| !after.contains_key(*app)).map(|app| Write::Delete(key(app)));
        let differ = after.iter().filter(|(app, one)| self.all.get(*app) != Some(*one));
        let mut writes: Vec<_> =
            gone.chain(differ.map(|(app, one)| Write::Put(key(app), json(one)))).collect();
        if !writes.is_empty() {
            writes.push(Write::Put(GUARD.to_owned(), Vec::new()));
        }
        writes
    }

    /// `app` is called `to` from now on, or is no more.
    pub(super) fn renamed(&self, app: &AppName, to: Option<&AppName>) -> Vec<Write> {
        let name = |one: &AppName| if one == app { to.cloned() } else { Some(one.clone()) };
        let after = self.all.iter().filter_map(|(one, own)| Some((name(one)?, own.renamed(app, to))));
        self.towards(&after.filter(|(_, own)| !own.is_default()).collect())
    }

    /// `to` is a clone of `app`: it keeps away from the same, and nobody from it who has not said so.
    pub(super) fn cloned(&self, app: &AppName, to: &AppName) -> Vec<Write> {
        let mut after = self.all.clone();
        if let Some(own) = self.all.get(app) {
            after.insert(to.clone(), own.renamed(app, Some(to)));
        }
        self.towards(&after)
    }
}

/// Sets what `patch` names; an empty value is none again. What was done, in words.
fn set(own: &mut AppApart, app: &AppName, patch: &PatchProcesses) -> Result<Vec<String>, PlatformError> {
    let mut done = Vec::new();
    let process = patch.process.as_ref();
    let whose = process.map_or_else(|| app.to_string(), |process| format!("{app} {process}"));
    for (property, text) in
        [("apart-from", &patch.apart_from), ("rather-apart-from", &patch.rather_apart_from)]
    {
        let Some(text) = text else { continue };
        let all = match text.as_str() {
            "" => None,
            text => Some(parse_neighbours(text, app, process).map_err(PlatformError::Invalid)?),
        };
        done.push(match &all {
            Some(all) => format!("Setting {property} of {whose} to {}", shown_neighbours(all)),
            None => format!("Unsetting {property} of {whose}"),
        });
        let settings: &mut ApartSettings = match process {
            Some(process) => own.types.entry(process.clone()).or_default(),
            None => &mut own.own,
        };
        match property {
            "apart-from" => settings.never = all,
            _ => settings.rather_not = all,
        }
    }
    own.types.retain(|_, settings| !settings.is_default());
    if own.types.len() > MOST_TYPES {
        let text = format!("{app} has such settings of {MOST_TYPES} process types already; reset some first");
        return Err(PlatformError::Invalid(text));
    }
    Ok(done)
}

impl Platform {
    /// Whom every app keeps away from that has said so.
    pub(crate) async fn aparts(&self) -> Result<Aparts, PlatformError> {
        let all = self.load_all::<AppApart>(PREFIX).await?.into_iter();
        Ok(all
            .filter_map(|(key, own)| Some((AppName::parse(key.strip_prefix(PREFIX)?).ok()?, own)))
            .collect())
    }

    /// The same, for a change of apps that goes with one of these. The guard is read first, so that a later change is noticed.
    pub(super) async fn known_aparts(&self) -> Result<Known, PlatformError> {
        let guard = self.store().get(GUARD).await?.map(|entry| entry.revision);
        Ok(Known { guard, all: self.aparts().await? })
    }

    /// Sets whom an app keeps away from. What was done, in words.
    pub(crate) async fn set_apart(
        &self,
        app: &AppName,
        patch: &PatchProcesses,
    ) -> Result<Vec<String>, PlatformError> {
        if patch.apart_from.is_none() && patch.rather_apart_from.is_none() {
            return Ok(Vec::new());
        }
        loop {
            let known = self.known_aparts().await?;
            self.existing_app(app).await?;
            let mut after = known.all.clone();
            let mut own = after.remove(app).unwrap_or_default();
            let done = set(&mut own, app, patch)?;
            let mut there = vec![Compare::Present(apps::key(app))];
            for named in own.names() {
                if self.app(named).await?.is_none() {
                    return Err(PlatformError::Invalid(format!(
                        "there is no app {named} to keep apart from; see: berth apps:list"
                    )));
                }
                there.push(Compare::Present(apps::key(named)));
            }
            if !own.is_default() {
                after.insert(app.clone(), own);
            }
            if after.len() > MOST_APPS {
                return Err(PlatformError::Conflict(format!(
                    "{MOST_APPS} apps keep apart from others already; give them pools instead"
                )));
            }
            there.push(known.unchanged());
            let writes = known.towards(&after);
            if writes.is_empty() || self.txn(there, writes).await?.is_some() {
                return Ok(done);
            }
        }
    }
}
