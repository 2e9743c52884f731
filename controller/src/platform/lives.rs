//! An app's lock, its end, how its processes are restarted and stopped, its clone.
//!
//! In: checked names and words. Out: settings in the store, or a sentence that says why not.

use super::{Platform, PlatformError, apps, json, now_ms};
use crate::store::{Compare, Write};
use berth_model::AppName;
use berth_model::container::{Mount, RestartPolicy, Stop, signal_name, signal_number};
use berth_model::placing::{self, PlacingSettings, Spread};
use berth_model::processes::{AppProcesses, Lock, PatchProcesses};
use berth_model::release::App;

/// Shortest and longest time to live, in seconds.
const TTL_SECS: std::ops::RangeInclusive<u64> = 10..=31_536_000;
/// Longest name of a volume, in bytes.
const LONGEST_VOLUME: usize = 63;
const LONGEST_REASON: usize = 200;
/// The longest grace time, in seconds.
const LONGEST_GRACE: u32 = 3600;
/// How many process types may have settings of their own.
const MOST_TYPES: usize = 200;
const AUTOCREATION: &str = "settings/autocreation";

/// When an app ends that lives `seconds` from now.
pub(crate) fn end_of(now_ms: i64, seconds: u64) -> Result<i64, PlatformError> {
    if !TTL_SECS.contains(&seconds) {
        return Err(PlatformError::Invalid(format!(
            "a time to live of {seconds} s is not possible: give 10 seconds to 365 days, such as 2h"
        )));
    }
    Ok(now_ms.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000)))
}

/// Sets what `patch` names; an empty value is the default again. What was done, in words.
pub(crate) fn set(app: &mut App, patch: &PatchProcesses) -> Result<Vec<String>, PlatformError> {
    let AppProcesses { restart, stop_signal, stop_timeout_secs, .. } = &app.processes;
    let types =
        restart.len().max(stop_signal.len()).max(stop_timeout_secs.len()).max(app.placing.types.len());
    if types > MOST_TYPES {
        return Err(PlatformError::Invalid(format!(
            "{} has settings of more than {MOST_TYPES} process types; reset some first",
            app.name
        )));
    }
    let mut done = Vec::new();
    let whose = patch
        .process
        .as_ref()
        .map_or_else(|| app.name.to_string(), |process| format!("{} {process}", app.name));
    let mut say = |key: &str, value: Option<String>| {
        done.push(match value {
            Some(value) => format!("Setting {key} of {whose} to {value}"),
            None => format!("Unsetting {key} of {whose}"),
        });
    };
    if let Some(text) = &patch.restart_policy {
        let policy = match text.as_str() {
            "" => None,
            text => Some(text.parse::<RestartPolicy>().map_err(PlatformError::Invalid)?),
        };
        match &patch.process {
            Some(process) => put(&mut app.processes.restart, process, policy),
            None => app.restart = policy.unwrap_or_default(),
        }
        say("restart-policy", policy.map(|policy| policy.to_string()));
    }
    if let Some(text) = &patch.stop_signal {
        let signal = match text.as_str() {
            "" => None,
            text => Some(signal(text)?),
        };
        match &patch.process {
            Some(process) => put(&mut app.processes.stop_signal, process, signal),
            None => app.stop.signal = signal.unwrap_or(Stop::default().signal),
        }
        say("stop-signal", signal.map(signal_name));
    }
    if let Some(text) = &patch.stop_timeout_secs {
        let secs = match text.as_str() {
            "" => None,
            text => Some(grace(text)?),
        };
        match &patch.process {
            Some(process) => put(&mut app.processes.stop_timeout_secs, process, secs),
            None => app.stop.grace_secs = secs.unwrap_or(Stop::default().grace_secs),
        }
        say("stop-timeout-seconds", secs.map(|secs| secs.to_string()));
    }
    if let Some(text) = &patch.pool {
        let pool = Some(text.clone()).filter(|text| !text.is_empty());
        if let Some(pool) = pool.as_ref().filter(|pool| !placing::is_label(pool)) {
            return Err(PlatformError::Invalid(format!(
                "{:?} is no name of a pool: use letters, digits and . _ - /",
                shown(pool)
            )));
        }
        say("pool", pool.clone());
        placed(app, patch).pool = pool;
    }
    if let Some(text) = &patch.node_labels {
        let labels = match text.as_str() {
            "" => None,
            text => Some(placing::parse_labels(text).map_err(PlatformError::Invalid)?),
        };
        say("node-labels", labels.as_ref().map(placing::shown_labels));
        placed(app, patch).labels = labels;
    }
    if let Some(text) = &patch.spread {
        let spread = match text.as_str() {
            "" => None,
            text => Some(text.parse::<Spread>().map_err(PlatformError::Invalid)?),
        };
        say("spread", spread.map(|spread| spread.to_string()));
        placed(app, patch).spread = spread;
    }
    let unset = PlacingSettings::default();
    app.placing.types.retain(|_, settings| *settings != unset);
    Ok(done)
}

/// Where what `patch` says of placing belongs.
fn placed<'a>(app: &'a mut App, patch: &PatchProcesses) -> &'a mut PlacingSettings {
    match &patch.process {
        Some(process) => app.placing.types.entry(process.clone()).or_default(),
        None => &mut app.placing.own,
    }
}

fn put<K: Ord + Clone, V>(map: &mut std::collections::BTreeMap<K, V>, key: &K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value)),
        None => drop(map.remove(key)),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

fn signal(text: &str) -> Result<i32, PlatformError> {
    let refusal = |why: &str| {
        let text = shown(text);
        PlatformError::Invalid(format!("{text:?} {why}: use one such as SIGTERM, SIGINT, SIGQUIT or SIGUSR1"))
    };
    match signal_number(text) {
        None => Err(refusal("is no signal")),
        // Neither asks a process to end (signal(7)).
        Some(17..=20) => Err(refusal("does not stop a process")),
        Some(number) => Ok(number),
    }
}

fn grace(text: &str) -> Result<u32, PlatformError> {
    let secs = text.parse().ok().filter(|secs| *secs <= LONGEST_GRACE);
    secs.ok_or_else(|| {
        PlatformError::Invalid(format!(
            "{:?} is no time to stop in: give 0 to {LONGEST_GRACE} seconds",
            shown(text)
        ))
    })
}

/// Refuses a deploy of a locked app.
pub(crate) fn check_unlocked(app: &App) -> Result<(), PlatformError> {
    let Some(lock) = &app.processes.lock else { return Ok(()) };
    let reason = lock.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let since = jiff::Timestamp::from_millisecond(lock.at_ms).unwrap_or_default();
    Err(PlatformError::Conflict(format!(
        "App {} is locked since {} by {}{reason}: nothing is deployed until berth apps:unlock {}",
        app.name,
        since.strftime("%Y-%m-%d %H:%M UTC"),
        lock.by,
        app.name
    )))
}

/// What the clone `to` of `app` is: its settings, but no domain, port of a node or state. It runs when its release does.
fn cloned(app: &App, to: &AppName, destroy_at_ms: Option<i64>) -> App {
    let mut clone = app.clone();
    clone.name = to.clone();
    clone.created_ms = now_ms();
    clone.domains = Vec::new();
    clone.ports.retain(berth_model::ports::PortMapping::is_main);
    clone.published = Vec::new();
    clone.mounts = own_volumes(app, to);
    clone.proxy.paths = Vec::new();
    clone.proxy.redirects = Vec::new();
    clone.current = None;
    clone.next_version = 1;
    clone.stopped = false;
    clone.proxy.asleep = false;
    clone.processes = AppProcesses {
        lock: None,
        stopped: std::collections::BTreeSet::new(),
        destroy_at_ms,
        cloned_from: Some(app.name.clone()),
        ..app.processes.clone()
    };
    clone
}

/// Named volumes under names of the clone's own, so that it never writes to the data of `app`; directories of the node, and
/// what would get too long a name, are left out.
fn own_volumes(app: &App, to: &AppName) -> Vec<Mount> {
    let named = app.mounts.iter().filter(|mount| !mount.source.starts_with('/'));
    let own = named.map(|mount| Mount { source: format!("{to}.{}", mount.source), ..mount.clone() });
    own.filter(|mount| mount.source.len() <= LONGEST_VOLUME).collect()
}

impl Platform {
    /// Locks an app, whoever locked it before, or unlocks it.
    pub(crate) async fn lock_app(
        &self,
        name: &AppName,
        lock: Option<(String, Option<String>)>,
    ) -> Result<App, PlatformError> {
        let lock = match lock {
            None => None,
            Some((by, reason)) => {
                let reason =
                    reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
                if let Some(reason) = &reason
                    && (reason.len() > LONGEST_REASON || reason.contains(char::is_control))
                {
                    return Err(PlatformError::Invalid(format!(
                        "a reason is one line of at most {LONGEST_REASON} bytes"
                    )));
                }
                Some(Lock { by, reason, at_ms: now_ms() })
            }
        };
        self.update_app(name, |app| app.processes.lock.clone_from(&lock)).await
    }

    /// Makes the app `to` after `from`: settings and config, no release yet.
    pub(crate) async fn clone_app(
        &self,
        from: &AppName,
        to: &AppName,
        destroy_at_ms: Option<i64>,
    ) -> Result<App, PlatformError> {
        apps::check_name(to)?;
        loop {
            let naming = self.naming().await?;
            let Some(original) = naming.apps.iter().find(|app| app.name == *from) else {
                return Err(PlatformError::NoSuchApp(from.clone()));
            };
            if naming.apps.iter().any(|other| other.name == *to) {
                return Err(PlatformError::AppExists(to.clone()));
            }
            let clone = cloned(original, to, destroy_at_ms);
            naming.check(&clone, &naming.global)?;
            let apart = self.known_aparts().await?;
            let compare = vec![naming.unchanged(), apart.unchanged(), Compare::Absent(apps::key(to))];
            let mut then = vec![Write::Put(apps::key(to), json(&clone)), naming.advance()];
            then.extend(self.copied_config(from, to).await?);
            then.extend(apart.cloned(from, to));
            // Only what is written to the new one: the old one keeps its own.
            let moved = [self.moved_logins(from, to).await?, self.moved_pages(from, to).await?].concat();
            then.extend(moved.into_iter().filter(|write| matches!(write, Write::Put(..))));
            if self.txn(compare, then).await?.is_some() {
                tracing::info!(app = %to, %from, "cloned");
                return Ok(clone);
            }
        }
    }

    /// Whether a push to an app that is not there makes it.
    pub(crate) async fn autocreation(&self) -> Result<bool, PlatformError> {
        Ok(self.load::<bool>(AUTOCREATION).await?.is_none_or(|(enabled, _)| enabled))
    }

    /// Sets that.
    pub(crate) async fn set_autocreation(&self, enabled: bool) -> Result<(), PlatformError> {
        self.save(AUTOCREATION, &enabled).await.map(drop)
    }
}

#[cfg(test)]
#[path = "lives_tests.rs"]
mod tests;
