//! Alerts: webhooks that are told when something goes wrong, once, and once when it is over.
//!
//! In: events, and what holds now ([`conditions`]). Out: [`Notice`]s in `POST`s, signed if there is a secret, tried again with pauses
//! of 5 s to 15 min for a day. What was told and what is still to be told is in the store, so a restart neither forgets nor
//! repeats anything.
//!
//! Keys of the store: `alerts/app/<app>/<id>`, `alerts/global/<id>` (sealed), `alert-state`.

mod conditions;
mod deliver;

use crate::Platform;
use crate::errors::{failed, invalid};
use crate::events::{Event, Wanted};
use crate::platform::{PlatformError, now_ms};
use berth_model::AppName;
use berth_model::alerts::{AddAlert, AlertInfo, AlertKind, Notice};
use berth_model::api::ApiError;
use berth_model::events::{EventInfo, EventResult};
use berth_model::logs::{DrainKind, DrainUrl};
use conditions::Held;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const STATE: &str = "alert-state";
/// Between two looks at what holds.
const LOOK: Duration = Duration::from_secs(5);
/// Notices that may wait; the oldest go first.
const WAITING: usize = 1000;
/// A notice that could not be delivered for this long is given up, in milliseconds.
const GIVEN_UP_MS: i64 = 24 * 3_600_000;
/// First and longest pause after a failed try, in milliseconds.
const PAUSE_MS: (i64, i64) = (5_000, 900_000);
/// Events looked at in one go.
const BATCH: u32 = 500;
/// A condition that began less than this ago may be over in a moment; milliseconds.
const HOLDS_MS: i64 = 30_000;

/// One webhook, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Alert {
    url: DrainUrl,
    on: BTreeSet<AlertKind>,
    secret: Option<String>,
}

/// What is wrong, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Firing {
    kind: AlertKind,
    app: Option<AppName>,
    text: String,
    since_ms: i64,
}

/// A notice on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    alert: String,
    notice: Notice,
    tries: u32,
    next_ms: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The last event that was looked at; `None` before the first look.
    seen: Option<u64>,
    /// By key, such as `app-down/hello`.
    firing: BTreeMap<String, Firing>,
    waiting: Vec<Waiting>,
    /// Of each alert: when something was last told, and why the last try failed.
    told: BTreeMap<String, Told>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    last_sent_ms: Option<i64>,
    error: Option<String>,
}

fn key_of(kind: AlertKind, app: Option<&AppName>, more: &str) -> String {
    let app = app.map_or("", AppName::as_str);
    format!("{}/{app}{more}", kind.as_str())
}

async fn load(platform: &Platform) -> Result<State, PlatformError> {
    Ok(platform.load::<State>(STATE).await?.map(|(state, _)| state).unwrap_or_default())
}

/// Watches and tells until `stop`.
pub(crate) async fn run(platform: Platform, stop: CancellationToken) {
    let mut newest = platform.events().newest();
    // What began when, before it counts.
    let mut began: BTreeMap<String, i64> = BTreeMap::new();
    loop {
        newest.mark_unchanged();
        if let Err(error) = round(&platform, &mut began).await {
            tracing::warn!(%error, "cannot look after alerts");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = newest.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        // Events come in bursts: one look for all of them.
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

async fn round(platform: &Platform, began: &mut BTreeMap<String, i64>) -> Result<(), PlatformError> {
    let alerts: Vec<(Option<AppName>, String, Alert)> = platform.scoped("alerts").await?;
    let before = load(platform).await?;
    let mut state = before.clone();
    let now = now_ms();
    let news = look_at_events(platform, &mut state).await?;
    let held = conditions::look(platform, now).await?;
    let mut changes = from_events(&mut state, &news);
    changes.extend(from_conditions(&mut state, began, held, now));
    for (status, key, firing) in &changes {
        platform.events().record(Event::by_itself(
            firing.app.as_ref(),
            &format!("alert.{status}"),
            firing.text.clone(),
        ));
        for (app, id, alert) in &alerts {
            if alert.on.contains(&firing.kind)
                && app.as_ref().is_none_or(|app| firing.app.as_ref() == Some(app))
            {
                let notice = notice(status, key, firing, now);
                state.waiting.push(Waiting { alert: id.clone(), notice, tries: 0, next_ms: now });
            }
        }
    }
    let surplus = state.waiting.len().saturating_sub(WAITING);
    state.waiting.drain(..surplus);
    let ids: BTreeSet<&String> = alerts.iter().map(|(_, id, _)| id).collect();
    state.waiting.retain(|waiting| ids.contains(&waiting.alert));
    state.told.retain(|id, _| ids.contains(id));
    if state != before {
        // Before anything is sent: a restart in between tells it once more at worst, and never not at all.
        platform.save(STATE, &state).await?;
    }
    let due: Vec<Waiting> =
        state.waiting.iter().filter(|waiting| waiting.next_ms <= now).take(20).cloned().collect();
    if due.is_empty() {
        return Ok(());
    }
    let sent = futures_util::future::join_all(due.into_iter().filter_map(|waiting| {
        let (_, _, alert) = alerts.iter().find(|(_, id, _)| *id == waiting.alert)?;
        Some(async move { (deliver::send(alert, &waiting.notice).await, waiting) })
    }));
    for (result, waiting) in sent.await {
        let told = state.told.entry(waiting.alert.clone()).or_default();
        let at = state.waiting.iter().position(|one| *one == waiting);
        match (result, at) {
            (Ok(()), at) => {
                *told = Told { last_sent_ms: Some(now_ms()), error: None };
                at.map(|at| state.waiting.remove(at));
            }
            (Err(text), Some(at)) => {
                tracing::warn!(alert = waiting.alert, error = text, "a webhook was not told");
                told.error = Some(text);
                let one = &mut state.waiting[at];
                one.tries = one.tries.saturating_add(1);
                one.next_ms = now_ms() + (PAUSE_MS.0 << one.tries.min(8)).min(PAUSE_MS.1);
                if now - one.notice.at_ms > GIVEN_UP_MS {
                    state.waiting.remove(at);
                }
            }
            (Err(_), None) => {}
        }
    }
    platform.save(STATE, &state).await?;
    Ok(())
}

async fn look_at_events(platform: &Platform, state: &mut State) -> Result<Vec<EventInfo>, PlatformError> {
    let newest = *platform.events().newest().borrow();
    let Some(seen) = state.seen.filter(|seen| *seen <= newest) else {
        // The first look, or the events began anew: what was before is nobody's alarm.
        state.seen = Some(newest);
        return Ok(Vec::new());
    };
    let found = platform.events().first(Wanted { after: seen, ..Wanted::default() }, BATCH).await;
    let found = found.map_err(|error| PlatformError::Invalid(error.to_string()))?;
    if let Some(last) = found.last() {
        // Only what matters makes a write of the state: numbers are taken along with the next that does.
        if found.iter().any(matters) || last.seq > seen + u64::from(BATCH) / 2 {
            state.seen = Some(last.seq);
        }
    }
    Ok(found)
}

fn matters(event: &EventInfo) -> bool {
    matches!(event.kind.as_str(), "release.failed" | "deploy.failed" | "release.live" | "apps.destroy")
}

type Change = (&'static str, String, Firing);

fn from_events(state: &mut State, events: &[EventInfo]) -> Vec<Change> {
    let mut changes = Vec::new();
    for event in events {
        let Some(app) = &event.app else { continue };
        let key = key_of(AlertKind::DeployFailed, Some(app), "");
        match (event.kind.as_str(), event.result) {
            ("release.failed" | "deploy.failed", _) if !state.firing.contains_key(&key) => {
                let why = event.reason.as_deref().unwrap_or_default();
                let text = format!("{app}: {}: {why}", event.text);
                let firing = Firing {
                    kind: AlertKind::DeployFailed,
                    app: Some(app.clone()),
                    text,
                    since_ms: event.at_ms,
                };
                state.firing.insert(key.clone(), firing.clone());
                changes.push(("firing", key, firing));
            }
            ("release.live", _) => {
                if let Some(mut firing) = state.firing.remove(&key) {
                    firing.text = format!("{app}: {}", event.text);
                    changes.push(("resolved", key, firing));
                }
            }
            ("apps.destroy", EventResult::Done) => {
                state.firing.remove(&key);
            }
            _ => {}
        }
    }
    changes
}

fn from_conditions(
    state: &mut State,
    began: &mut BTreeMap<String, i64>,
    held: Vec<Held>,
    now: i64,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let keys: BTreeSet<String> = held.iter().map(|held| held.key.clone()).collect();
    began.retain(|key, _| keys.contains(key));
    for Held { key, kind, app, text, at_once } in held {
        let since_ms = *began.entry(key.clone()).or_insert(now);
        if !state.firing.contains_key(&key) && (at_once || now - since_ms >= HOLDS_MS) {
            let firing = Firing { kind, app, text, since_ms };
            state.firing.insert(key.clone(), firing.clone());
            changes.push(("firing", key, firing));
        }
    }
    let over: Vec<String> = state
        .firing
        .iter()
        .filter(|(key, firing)| firing.kind != AlertKind::DeployFailed && !keys.contains(*key))
        .map(|(key, _)| key.clone())
        .collect();
    for key in over {
        if let Some(mut firing) = state.firing.remove(&key) {
            firing.text = format!("over: {}", firing.text);
            changes.push(("resolved", key, firing));
        }
    }
    changes
}

fn notice(status: &str, key: &str, firing: &Firing, now: i64) -> Notice {
    let text = match status {
        "firing" => format!("[Berth] {}: {}", firing.kind.as_str(), firing.text),
        _ => format!("[Berth] resolved: {}: {}", firing.kind.as_str(), firing.text),
    };
    let text: String = text.chars().take(1500).collect();
    Notice {
        content: text.clone(),
        text,
        status: status.to_owned(),
        alert: firing.kind.as_str().to_owned(),
        app: firing.app.clone(),
        key: key.to_owned(),
        since_ms: firing.since_ms,
        at_ms: now,
    }
}

/// Adds a webhook; gives its id.
pub(crate) async fn add(platform: &Platform, new: AddAlert) -> Result<String, ApiError> {
    let url = DrainUrl::parse(&new.url).ok().filter(|url| url.kind() == DrainKind::Json);
    let url =
        url.ok_or_else(|| invalid("a webhook's address is http://HOST/PATH or, better, https://HOST/PATH"))?;
    let odd = |secret: &String| secret.is_empty() || secret.len() > 1024;
    if new.secret.as_ref().is_some_and(odd) {
        return Err(invalid("a secret has 1 to 1024 bytes"));
    }
    let on = if new.on.is_empty() { AlertKind::ALL.into_iter().collect() } else { new.on };
    if let Some(app) = &new.app {
        platform.existing_app(app).await?;
    }
    let alert = Alert { url, on, secret: new.secret };
    Ok(platform.add_scoped("alerts", new.app.as_ref(), &alert).await?)
}

/// Every webhook, and what it tells now.
pub(crate) async fn list(platform: &Platform) -> Result<Vec<AlertInfo>, ApiError> {
    let state = load(platform).await?;
    let alerts: Vec<(Option<AppName>, String, Alert)> = platform.scoped("alerts").await?;
    let infos = alerts.into_iter().map(|(app, id, alert)| {
        let told = state.told.get(&id).cloned().unwrap_or_default();
        let firing = state.firing.values().filter(|firing| {
            alert.on.contains(&firing.kind) && app.as_ref().is_none_or(|app| firing.app.as_ref() == Some(app))
        });
        AlertInfo {
            firing: firing.map(|firing| firing.text.clone()).collect(),
            id,
            url: alert.url.masked(),
            app,
            on: alert.on,
            signed: alert.secret.is_some(),
            last_sent_ms: told.last_sent_ms,
            error: told.error,
        }
    });
    Ok(infos.collect())
}

/// Tells one webhook, or all, that this is a test. Errors: one was not told.
pub(crate) async fn test(platform: &Platform, id: Option<&str>) -> Result<usize, ApiError> {
    let alerts: Vec<(Option<AppName>, String, Alert)> = platform.scoped("alerts").await?;
    let wanted: Vec<_> = alerts.into_iter().filter(|(_, own, _)| id.is_none_or(|id| id == own)).collect();
    if wanted.is_empty() {
        return Err(crate::errors::not_found("there is no such alert; see: berth alerts:list"));
    }
    for (app, own, alert) in &wanted {
        let now = now_ms();
        let text = "[Berth] test: this webhook is told of alerts".to_owned();
        let notice = Notice {
            content: text.clone(),
            text,
            status: "test".to_owned(),
            alert: "test".to_owned(),
            app: app.clone(),
            key: format!("test/{own}"),
            since_ms: now,
            at_ms: now,
        };
        let told = deliver::send(alert, &notice).await;
        told.map_err(|error| failed(format!("alert {own} ({}) was not told: {error}", alert.url.masked())))?;
    }
    Ok(wanted.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str) -> EventInfo {
        EventInfo {
            seq: 1,
            at_ms: 5,
            app: AppName::parse("a").ok(),
            by: String::new(),
            from: String::new(),
            kind: kind.to_owned(),
            text: "release v2 does not serve".to_owned(),
            result: EventResult::Failed,
            reason: Some("the check failed".to_owned()),
            took_ms: None,
        }
    }

    #[test]
    fn a_failed_deploy_is_told_once_and_once_when_it_is_over() {
        let mut state = State::default();
        let both = [event("release.failed"), event("deploy.failed")];
        let told = from_events(&mut state, &both);
        assert_eq!((told.len(), told[0].0), (1, "firing"));
        assert!(told[0].2.text.contains("the check failed"), "{told:?}");
        assert!(from_events(&mut state, &both).is_empty());
        assert_eq!(from_events(&mut state, &[event("release.live")])[0].0, "resolved");
        assert!(from_events(&mut state, &[event("release.live")]).is_empty());
    }

    #[test]
    fn what_holds_for_a_moment_only_is_not_told() {
        let (mut state, mut began) = (State::default(), BTreeMap::new());
        let held = |at_once| {
            vec![Held {
                key: "app-down/a".to_owned(),
                kind: AlertKind::AppDown,
                app: AppName::parse("a").ok(),
                text: "a is down".to_owned(),
                at_once,
            }]
        };
        assert!(from_conditions(&mut state, &mut began, held(false), 0).is_empty());
        assert!(from_conditions(&mut state, &mut began, Vec::new(), 10_000).is_empty());
        assert!(from_conditions(&mut state, &mut began, held(false), 20_000).is_empty());
        assert_eq!(from_conditions(&mut state, &mut began, held(false), 50_000).len(), 1);
        assert!(from_conditions(&mut state, &mut began, held(false), 60_000).is_empty());
        let over = from_conditions(&mut state, &mut began, Vec::new(), 70_000);
        assert_eq!((over[0].0, over[0].2.since_ms), ("resolved", 20_000));
        assert_eq!(from_conditions(&mut state, &mut began, held(true), 80_000).len(), 1);
    }
}
