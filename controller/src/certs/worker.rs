//! Keeps certificates: publishes what there is, orders what is due, takes away what nothing needs.
//!
//! In: changes of the store and of challenges, and time. Out: tables, orders, states. A few orders at once; a failed one is
//! left alone for longer each time, over restarts too.

use super::kept::{self, Place, Slot};
use super::plan::{Due, State, pause_ms, plan, seed};
use super::settings::Effective;
use super::{advice::Failure, on_demand, order, subjects};
use crate::platform::{Platform, PlatformError, now_ms};
use crate::store::{Compare, Write};
use berth_model::AppName;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Orders under way at once.
const AT_ONCE: usize = 4;
/// Repairs what no event told about.
const RESYNC: Duration = Duration::from_secs(60);
/// After a pass that failed.
const AFTER_ERROR: Duration = Duration::from_secs(5);

/// Runs until `stop` fires; orders under way are broken off then and gone on with after the next start.
pub(super) async fn run(platform: Platform, stop: CancellationToken) {
    let mut changed = platform.changed();
    let mut stored = ["certificates/", "acme/"].map(|prefix| platform.store().watch(prefix));
    let mut ticks = platform.certs().ticks.subscribe();
    let mut running = JoinSet::new();
    while !stop.is_cancelled() {
        ticks.mark_unchanged();
        let pause = match pass(&platform, &mut running).await {
            Ok(wake_ms) => wake_ms
                .map_or(RESYNC, |at| Duration::from_millis(u64::try_from(at - now_ms()).unwrap_or(0)))
                .clamp(Duration::from_millis(10), RESYNC),
            Err(error) => {
                tracing::error!(%error, "cannot look after certificates");
                AFTER_ERROR
            }
        };
        let [certificates, acme] = &mut stored;
        tokio::select! { // every arm is cancel-safe and only wakes us: a pass reads everything afresh
            () = stop.cancelled() => {}
            () = changed.wait() => {}
            Some(_) = certificates.changed() => {}
            Some(_) = acme.changed() => {}
            _ = ticks.changed() => {}
            Some(_) = running.join_next() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One look at everything. Gives when something may be due next.
async fn pass(platform: &Platform, running: &mut JoinSet<()>) -> Result<Option<i64>, PlatformError> {
    super::publish(platform).await?;
    while running.try_join_next().is_some() {}
    let now = now_ms();
    let mut wake = None;
    for subject in subjects::all(platform, now).await? {
        let planned = plan(&subject, now);
        for slot in planned.gone.iter().filter(|slot| !platform.certs().is_busy(&subject.app, slot)) {
            forget(platform, &subject.app, slot).await?;
        }
        wake = wake.into_iter().chain(planned.wake_ms).min();
        for due in planned.due {
            if running.len() >= AT_ONCE || platform.certs().is_busy(&due.app, &due.slot) {
                continue; // the end of one wakes us
            }
            let has_one = subject.has.contains_key(&due.slot);
            running.spawn(carry_out(platform.clone(), due, subject.settings.clone(), has_one));
        }
    }
    Ok(wake)
}

/// Takes a certificate away, with all that is known of its orders.
pub(super) async fn forget(platform: &Platform, app: &AppName, slot: &Slot) -> Result<(), PlatformError> {
    let writes = vec![
        Write::Delete(Place::Acme(app.clone(), slot.clone()).key()),
        Write::Delete(subjects::state_key(app, slot)),
        Write::Delete(order::pending_key(app, slot)),
    ];
    platform.store().txn(Vec::new(), writes).await?;
    tracing::info!(%app, %slot, "took a certificate away that no domain needs");
    Ok(())
}

/// Marks an order as under way until it is dropped.
struct Busy(Platform, AppName, Slot);

impl Busy {
    fn new(platform: &Platform, due: &Due) -> Option<Self> {
        let place = (due.app.clone(), due.slot.clone());
        if !platform.certs().state().busy.insert(place) {
            return None;
        }
        platform.certs().tick();
        Some(Self(platform.clone(), due.app.clone(), due.slot.clone()))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.certs().state().busy.remove(&(self.1.clone(), self.2.clone()));
        self.0.certs().tick();
    }
}

fn carry_out(
    platform: Platform,
    due: Due,
    settings: Effective,
    has_one: bool,
) -> impl Future<Output = ()> + Send + 'static {
    // Before the task is spawned: the next pass must see it.
    let busy = Busy::new(&platform, &due);
    async move {
        let Some(_busy) = busy else { return };
        let result = match &due.slot {
            // Whoever was allowed once may be a stranger when it comes to renewing.
            Slot::OnDemand(name) if has_one => match on_demand::ask(&settings, name).await {
                Ok(true) => get(&platform, &due, &settings).await,
                Ok(false) => on_demand::no_more(&platform, &due.app, name).await,
                Err(why) => Err(Failure::new(why)),
            },
            _ => get(&platform, &due, &settings).await,
        };
        let noted = match result {
            Ok(()) => Ok(()),
            Err(failure) => failed(&platform, &due, failure).await,
        };
        if let Err(error) = noted {
            tracing::error!(app = %due.app, %error, "cannot note how an order went");
        }
    }
}

async fn get(platform: &Platform, due: &Due, settings: &Effective) -> Result<(), Failure> {
    let say = |text: String| {
        tracing::info!(app = %due.app, text, "certificate");
        let _ = platform.certs().lines.send((due.app.clone(), text)); // nobody may listen
    };
    let stored = match order::run(platform, due, settings, &say).await {
        Err(failure) if failure.no_account => {
            super::account::forget(platform, settings).await;
            order::run(platform, due, settings, &say).await?
        }
        result => result?,
    };
    let place = Place::Acme(due.app.clone(), due.slot.clone());
    let kept = async {
        let key = place.key();
        let state = serde_json::to_vec(&State::default()).expect("a state has no failing serializers");
        let mut writes = vec![
            Write::Put(key.clone(), kept::seal(platform, &key, &stored)?),
            Write::Delete(order::pending_key(&due.app, &due.slot)),
        ];
        // What is known of names that were left out stays known.
        if due.without.is_empty() {
            writes.push(Write::Put(subjects::state_key(&due.app, &due.slot), state));
        }
        platform.store().txn(vec![Compare::Present(format!("apps/{}", due.app))], writes).await?;
        super::publish(platform).await
    };
    kept.await.map_err(|error| Failure::new(error.to_string()))?;
    let certificate = &stored.certificate;
    let names = due.names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ");
    let expires = super::check::date(certificate.expires_ms);
    tracing::info!(app = %due.app, names, expires, issuer = certificate.issuer, "got a certificate");
    Ok(())
}

async fn failed(platform: &Platform, due: &Due, failure: Failure) -> Result<(), PlatformError> {
    tracing::warn!(app = %due.app, error = failure.text, "no certificate");
    let now = now_ms();
    let limited =
        failure.retry_after_secs.map(|secs| now + i64::try_from(secs.min(30 * 86_400)).unwrap_or(0) * 1000);
    subjects::update_state(platform, &due.app, &due.slot, |state| {
        let all = due.names.iter().chain(&due.without);
        state.names = all.map(|name| name.as_str().to_owned()).collect();
        if due.without.is_empty() {
            state.failures = state.failures.saturating_add(1);
            state.error = Some(failure.text.clone());
            (state.bad, state.rounds) = (failure.bad.clone(), 0);
        } else {
            state.error = Some([state.error.as_deref().unwrap_or_default(), &failure.text].join("\n"));
            state.bad.extend(failure.bad.iter().cloned());
            // Anything else is not because of names: all wait.
            state.rounds = if failure.bad.is_empty() { u32::MAX } else { state.rounds.saturating_add(1) };
        }
        let pause = now + pause_ms(state.failures, seed(&due.app, &due.slot) ^ now.unsigned_abs());
        state.next_ms = limited.map_or(pause, |limited| limited.max(pause));
        state.limited_until_ms = limited.unwrap_or(0);
        state.force = false;
    })
    .await
}
