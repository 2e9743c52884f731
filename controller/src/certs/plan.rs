//! Which certificates are to be got, and when.
//!
//! In: what each app is to have and has, how earlier tries went, the time. Out: orders that are due, certificates nobody
//! needs any more, and when to look again. Pure: the same inputs give the same orders.

use super::kept::Slot;
use super::settings::Effective;
use berth_model::{AppName, HostPattern};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most names of one certificate (Let's Encrypt's limit).
pub(super) const MAX_NAMES: usize = 100;
/// How long changed domains must stay as they are before they are ordered: several changes are one order.
const SETTLE_MS: i64 = 10_000;
const MINUTE_MS: i64 = 60_000;
/// How often an order is tried without the names that could not be proved, until all are tried again.
const ROUNDS: u32 = 3;
/// Pauses after the first, second … failure. Let's Encrypt allows five failures an hour and name.
const PAUSES_MIN: [i64; 8] = [1, 5, 20, 60, 180, 360, 720, 1440];
/// Top-level names that no public CA signs (RFC 6761, RFC 8375, and what CAs refuse).
const PRIVATE: [&str; 10] =
    ["localhost", "test", "example", "invalid", "local", "internal", "lan", "home", "onion", "arpa"];

/// How tries for one certificate went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// What the last try was for.
    pub(super) names: Vec<String>,
    /// Failed tries in a row.
    pub(super) failures: u32,
    /// Those of them that could not be proved.
    pub(super) bad: Vec<String>,
    /// How often it was tried without them since.
    pub(super) rounds: u32,
    /// The last failure.
    pub(super) error: Option<String>,
    /// Not before this. Milliseconds since the Unix epoch.
    pub(super) next_ms: i64,
    /// The server said not to come before this. Milliseconds since the Unix epoch.
    pub(super) limited_until_ms: i64,
    /// Somebody asked for it now, due or not.
    pub(super) force: bool,
}

/// What there is of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Has {
    pub(super) names: Vec<HostPattern>,
    pub(super) starts_ms: i64,
    pub(super) expires_ms: i64,
    pub(super) server: String,
}

/// One app as ACME sees it.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) app: AppName,
    pub(super) enabled: bool,
    pub(super) settings: Effective,
    /// Everything it answers at.
    pub(super) hosts: Vec<HostPattern>,
    /// Names that somebody asked for and the ask URL allowed.
    pub(super) on_demand: BTreeSet<String>,
    pub(super) has: BTreeMap<Slot, Has>,
    pub(super) states: BTreeMap<Slot, State>,
    /// Since when the domains are as they are. Milliseconds since the Unix epoch.
    pub(super) changed_ms: i64,
}

/// One order that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) app: AppName,
    pub(super) slot: Slot,
    pub(super) names: Vec<HostPattern>,
    /// Names that are left out because they could not be proved just now.
    pub(super) without: Vec<HostPattern>,
}

/// What is to be done with one app's certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) due: Vec<Due>,
    /// Certificates that nothing needs any more.
    pub(super) gone: Vec<Slot>,
    /// What each certificate is to name, and when it is looked at again.
    pub(super) wanted: BTreeMap<Slot, (Vec<HostPattern>, i64)>,
    /// Domains that are left out, and why.
    pub(super) skipped: Vec<(HostPattern, String)>,
    /// When something may be due next.
    pub(super) wake_ms: Option<i64>,
}

/// What is due for one app.
pub(super) fn plan(subject: &Subject, now_ms: i64) -> Plan {
    let mut plan = Plan::default();
    let mut names = Vec::new();
    if subject.enabled {
        for host in &subject.hosts {
            match skip(host, &subject.settings) {
                Some(reason) => plan.skipped.push((host.clone(), reason)),
                None => names.push(host.clone()),
            }
        }
    }
    let mut wanted = assign(&subject.has, &names);
    for name in &subject.on_demand {
        if let Ok(host) = HostPattern::parse(name) {
            wanted.insert(Slot::OnDemand(name.clone()), vec![host]);
        }
    }
    plan.gone = subject.has.keys().filter(|slot| !wanted.contains_key(slot)).cloned().collect();
    for (slot, names) in wanted {
        let at = due_at(subject, &slot, &names);
        let (good, bad) = split(subject, &slot, &names, now_ms);
        if at <= now_ms {
            let (app, slot, names) = (subject.app.clone(), slot.clone(), names.clone());
            plan.due.push(Due { app, slot, names, without: Vec::new() });
        } else if !good.is_empty() {
            plan.due.push(Due { app: subject.app.clone(), slot: slot.clone(), names: good, without: bad });
            plan.wake_ms = Some(plan.wake_ms.map_or(at, |wake| wake.min(at)));
        } else {
            plan.wake_ms = Some(plan.wake_ms.map_or(at, |wake| wake.min(at)));
        }
        plan.wanted.insert(slot, (names, at));
    }
    plan
}

/// When an order for this certificate is due.
fn due_at(subject: &Subject, slot: &Slot, names: &[HostPattern]) -> i64 {
    let fresh = State::default();
    let state = subject.states.get(slot).unwrap_or(&fresh);
    if state.force {
        return state.limited_until_ms;
    }
    if matches!(slot, Slot::OnDemand(_)) && subject.settings.ask_url.is_none() {
        return i64::MAX; // nobody can say whether it is still wanted: it serves until it expires
    }
    let needed = match subject.has.get(slot) {
        Some(has) if serves(has, names, &subject.settings.server) => {
            renewal_ms(has.starts_ms, has.expires_ms, seed(&subject.app, slot))
        }
        _ if matches!(slot, Slot::OnDemand(_)) => 0,
        _ => subject.changed_ms + SETTLE_MS,
    };
    // A failure of other names holds nothing back but for a minute.
    let same: BTreeSet<&str> = names.iter().map(AsRef::as_ref).collect();
    let other = state.failures > 0 && same != state.names.iter().map(String::as_str).collect();
    if other { needed } else { needed.max(state.next_ms) }
}

/// After a failure that is some names' alone: those that can have a certificate now, and those that cannot. One domain
/// that leads elsewhere must not take TLS from the others.
fn split(
    subject: &Subject,
    slot: &Slot,
    names: &[HostPattern],
    now_ms: i64,
) -> (Vec<HostPattern>, Vec<HostPattern>) {
    let Some(state) = subject.states.get(slot) else { return Default::default() };
    if state.bad.is_empty() || state.rounds >= ROUNDS {
        return Default::default();
    }
    let (bad, good): (Vec<_>, Vec<_>) =
        names.iter().cloned().partition(|name| state.bad.iter().any(|bad| bad == name.as_str()));
    match subject.has.get(slot) {
        Some(has)
            if serves(has, &good, &subject.settings.server)
                && now_ms < renewal_ms(has.starts_ms, has.expires_ms, seed(&subject.app, slot)) =>
        {
            Default::default()
        }
        _ => (good, bad),
    }
}

fn serves(has: &Has, names: &[HostPattern], server: &str) -> bool {
    has.server == server && names.iter().all(|name| has.names.contains(name))
}

/// When a third of its life is left, and up to a thirtieth of it before, so that not all fall on one day.
pub(super) fn renewal_ms(starts_ms: i64, expires_ms: i64, seed: u64) -> i64 {
    let life = expires_ms.saturating_sub(starts_ms).max(0);
    let spread = u64::try_from(life / 30).unwrap_or(0).max(1);
    let early = i64::try_from(seed % spread).unwrap_or(0);
    expires_ms - life / 3 - early
}

/// How long to leave a server alone after this many failures in a row: more each time, spread by a tenth.
pub(super) fn pause_ms(failures: u32, seed: u64) -> i64 {
    let index = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX).min(PAUSES_MIN.len() - 1);
    let pause = PAUSES_MIN[index] * MINUTE_MS;
    let spread = u64::try_from(pause / 10).unwrap_or(1).max(1);
    pause + i64::try_from(seed % spread).unwrap_or(0)
}

/// Something that differs from one certificate to the next and stays over restarts (FNV-1a).
pub(super) fn seed(app: &AppName, slot: &Slot) -> u64 {
    format!("{app}/{slot}")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Why no certificate can be got for a domain, if so.
fn skip(host: &HostPattern, settings: &Effective) -> Option<String> {
    let name = host.as_str().trim_start_matches("*.");
    let last = name.rsplit('.').next().unwrap_or(name);
    if settings.is_public() && (!name.contains('.') || PRIVATE.contains(&last)) {
        return Some("it is no public name, and Let's Encrypt signs only those".to_owned());
    }
    (host.is_wildcard() && settings.dns_provider.is_none()).then(|| {
        "a wildcard can only be proved by DNS: set who makes records, with letsencrypt:set dns-provider"
            .to_owned()
    })
}

/// Spreads names over certificates of at most [`MAX_NAMES`]. A name stays in the certificate that has it.
fn assign(has: &BTreeMap<Slot, Has>, names: &[HostPattern]) -> BTreeMap<Slot, Vec<HostPattern>> {
    let mut left: Vec<&HostPattern> = names.iter().collect();
    let mut slots: BTreeMap<Slot, Vec<HostPattern>> = BTreeMap::new();
    for (slot, has) in has.iter().filter(|(slot, _)| matches!(slot, Slot::Main(_))) {
        let (mut mine, others): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|name| has.names.contains(name));
        let too_many = mine.split_off(mine.len().min(MAX_NAMES));
        left = [too_many, others].concat();
        if !mine.is_empty() {
            slots.insert(slot.clone(), mine.into_iter().cloned().collect());
        }
    }
    let mut number = 0;
    while !left.is_empty() && number < u16::MAX {
        let names = slots.entry(Slot::Main(number)).or_default();
        let room = MAX_NAMES.saturating_sub(names.len()).min(left.len());
        names.extend(left.drain(..room).cloned());
        number += 1;
    }
    slots.retain(|_, names| !names.is_empty());
    slots
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
