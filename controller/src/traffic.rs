//! The apps' traffic lately, as the proxies tell it: 60 seconds and 60 minutes, in memory.
//!
//! In: [`TrafficReport`]s, the time. Out: [`Traffic`] for people and the dashboard. A report counts for the second in which
//! it comes; several proxies' are added up. It is for looking at: what was told while no controller ran is not in it.

use berth_model::traffic::{
    AppTraffic, ContainerAnswers, Latencies, Traffic, TrafficNow, TrafficPoint, TrafficReport,
};
use berth_model::{AppName, ContainerId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Seconds and minutes that are kept.
const KEPT: i64 = 60;
/// Seconds that `now` spans.
const NOW: i64 = 10;
/// Seconds that one tally of a container spans.
const TALLY: i64 = 10;
/// Seconds after which what a silent proxy had under way is forgotten.
const SILENCE: i64 = 10;

/// Every app's.
#[derive(Debug, Default)]
pub struct Histories(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    apps: BTreeMap<AppName, History>,
    /// Answers of single containers: one entry for each ten seconds, and when they began.
    containers: BTreeMap<ContainerId, VecDeque<(i64, ContainerAnswers)>>,
    swept: i64,
}

#[derive(Debug, Default)]
struct History {
    seconds: VecDeque<Span>,
    minutes: VecDeque<Span>,
    /// What each proxy has under way, and when it said so.
    under_way: BTreeMap<String, (u64, i64)>,
}

/// What came in one second or minute.
#[derive(Clone, Debug, Default)]
struct Span {
    at: i64,
    answers: [u64; 6],
    received: u64,
    sent: u64,
    latency: Latency,
}

/// Latencies while they may still be added to, and what is left of them later.
#[derive(Clone, Debug)]
enum Latency {
    Counted(Vec<(u8, u64)>),
    Known([Option<u64>; 3]),
}

impl Default for Latency {
    fn default() -> Self {
        Self::Counted(Vec::new())
    }
}

impl Histories {
    fn state(&self) -> MutexGuard<'_, State> {
        // Counts are right after any panic, or as good as that.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a proxy's report at `now`, in seconds since the Unix epoch.
    pub fn take(&self, report: &TrafficReport, now: i64) {
        let mut state = self.state();
        for (app, traffic) in &report.apps {
            state.apps.entry(app.clone()).or_default().add(&report.proxy, traffic, now);
        }
        for (id, answers) in &report.containers {
            let spans = state.containers.entry(id.clone()).or_default();
            let at = now - now.rem_euclid(TALLY);
            match spans.back_mut().filter(|(last, _)| *last >= at) {
                Some((_, last)) => {
                    last.requests = last.requests.saturating_add(answers.requests);
                    last.errors = last.errors.saturating_add(answers.errors);
                }
                None => spans.push_back((at, *answers)),
            }
        }
        if now - state.swept >= KEPT {
            state.swept = now;
            state.containers.retain(|_, spans| {
                spans.retain(|(at, _)| *at > now - KEPT);
                !spans.is_empty()
            });
            state.apps.retain(|_, history| {
                history.forget(now);
                !history.minutes.is_empty() || history.in_flight(now) > 0
            });
        }
    }

    /// An app's, as of `now`. One without traffic has none to show.
    #[must_use]
    pub fn of(&self, app: &AppName, now: i64) -> Traffic {
        let mut state = self.state();
        let Some(history) = state.apps.get_mut(app) else {
            return Traffic { app: app.to_string(), ..Traffic::default() };
        };
        history.forget(now);
        Traffic {
            app: app.to_string(),
            in_flight: history.in_flight(now),
            now: history.recent(now, NOW),
            seconds: history.seconds.iter().map(|span| span.point(1)).collect(),
            minutes: history
                .minutes
                .iter()
                .map(|span| span.point((now + 1 - span.at).clamp(1, 60)))
                .collect(),
        }
    }

    /// What an app gets just now.
    #[must_use]
    pub fn now(&self, app: &AppName, now: i64) -> TrafficNow {
        let state = self.state();
        state.apps.get(app).map_or_else(
            || TrafficNow { app: app.to_string(), ..TrafficNow::default() },
            |history| history.shown(app, now),
        )
    }

    /// What every app gets that got anything within the last hour.
    #[must_use]
    pub fn all(&self, now: i64) -> Vec<TrafficNow> {
        self.state().apps.iter().map(|(app, history)| history.shown(app, now)).collect()
    }

    /// What these containers answered in the last minute, where it is counted.
    #[must_use]
    pub fn answers<'a>(&self, ids: impl Iterator<Item = &'a ContainerId>, now: i64) -> ContainerAnswers {
        let state = self.state();
        let mut sum = ContainerAnswers::default();
        for (at, answers) in ids.filter_map(|id| state.containers.get(id)).flatten() {
            if *at > now - KEPT {
                sum.requests = sum.requests.saturating_add(answers.requests);
                sum.errors = sum.errors.saturating_add(answers.errors);
            }
        }
        sum
    }

    /// The app is gone; another of its name begins anew.
    pub fn forget(&self, app: &AppName) {
        self.state().apps.remove(app);
    }
}

impl History {
    fn add(&mut self, proxy: &str, traffic: &AppTraffic, now: i64) {
        self.under_way.insert(proxy.to_owned(), (traffic.in_flight, now));
        if traffic.answers == [0; 6] && traffic.received == 0 && traffic.sent == 0 {
            return;
        }
        span(&mut self.seconds, now).add(traffic);
        let minute = now - now.rem_euclid(60);
        // What is over is not added to any more: three figures are enough.
        if let Some(last) = self.minutes.back_mut().filter(|last| last.at < minute) {
            last.conclude();
        }
        span(&mut self.minutes, minute).add(traffic);
        self.forget(now);
    }

    fn forget(&mut self, now: i64) {
        while self.seconds.front().is_some_and(|span| span.at <= now - KEPT) {
            self.seconds.pop_front();
        }
        while self.minutes.front().is_some_and(|span| span.at <= now - KEPT * 60) {
            self.minutes.pop_front();
        }
        self.under_way.retain(|_, (_, said)| *said > now - SILENCE);
    }

    fn in_flight(&self, now: i64) -> u64 {
        self.under_way.values().filter(|(_, said)| *said > now - SILENCE).map(|(count, _)| count).sum()
    }

    /// The last `seconds` whole seconds together.
    fn recent(&self, now: i64, seconds: i64) -> TrafficPoint {
        let mut sum = Span { at: now - seconds, ..Span::default() };
        let mut latencies = Latencies::default();
        for span in self.seconds.iter().filter(|span| (now - seconds..now).contains(&span.at)) {
            for (own, more) in sum.answers.iter_mut().zip(span.answers) {
                *own += more;
            }
            sum.received += span.received;
            sum.sent += span.sent;
            if let Latency::Counted(counts) = &span.latency {
                latencies.add(counts);
            }
        }
        sum.latency = Latency::Counted(latencies.sparse());
        sum.point(seconds)
    }

    fn shown(&self, app: &AppName, now: i64) -> TrafficNow {
        TrafficNow {
            app: app.to_string(),
            in_flight: self.in_flight(now),
            second: self.recent(now, 1),
            now: self.recent(now, NOW),
        }
    }
}

/// The span that begins at `at`, made if it is new. A clock that was set back adds to the newest.
fn span(spans: &mut VecDeque<Span>, at: i64) -> &mut Span {
    if spans.back().is_none_or(|last| last.at < at) {
        spans.push_back(Span { at, ..Span::default() });
    }
    let last = spans.len() - 1;
    &mut spans[last]
}

impl Span {
    fn add(&mut self, traffic: &AppTraffic) {
        for (own, more) in self.answers.iter_mut().zip(traffic.answers) {
            *own = own.saturating_add(more);
        }
        self.received = self.received.saturating_add(traffic.received);
        self.sent = self.sent.saturating_add(traffic.sent);
        if let Latency::Counted(counts) = &mut self.latency {
            let mut latencies = Latencies::default();
            latencies.add(counts);
            latencies.add(&traffic.latency);
            *counts = latencies.sparse();
        }
    }

    fn percentiles(&self) -> [Option<u64>; 3] {
        match &self.latency {
            Latency::Known(known) => *known,
            Latency::Counted(counts) => {
                let mut latencies = Latencies::default();
                latencies.add(counts);
                [500, 950, 990].map(|permille| latencies.percentile_us(permille))
            }
        }
    }

    fn conclude(&mut self) {
        self.latency = Latency::Known(self.percentiles());
    }

    fn point(&self, seconds: i64) -> TrafficPoint {
        let [none, informational, success, redirect, client_error, server_error] = self.answers;
        let [p50_us, p95_us, p99_us] = self.percentiles();
        TrafficPoint {
            at: self.at,
            seconds: u32::try_from(seconds).unwrap_or(1),
            requests: self.answers.iter().sum(),
            informational,
            success,
            redirect,
            client_error,
            server_error,
            none,
            received: self.received,
            sent: self.sent,
            p50_us,
            p95_us,
            p99_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(proxy: &str, requests: u64, in_flight: u64) -> TrafficReport {
        let traffic = AppTraffic {
            answers: [0, 0, requests, 0, 0, 0],
            sent: requests * 10,
            in_flight,
            latency: vec![(12, requests)],
            ..AppTraffic::default()
        };
        let app = AppName::parse("app").expect("valid");
        TrafficReport {
            proxy: proxy.to_owned(),
            span_ms: 1000,
            apps: BTreeMap::from([(app, traffic)]),
            containers: BTreeMap::new(),
        }
    }

    #[test]
    fn proxies_and_seconds_add_up() {
        let (histories, app) = (Histories::default(), AppName::parse("app").expect("valid"));
        const T: i64 = 1_700_000_040; // a whole minute
        for second in 0..5 {
            histories.take(&report("a", 10, 1), T + second);
            histories.take(&report("b", 5, 2), T + second);
        }
        let now = histories.now(&app, T + 5);
        assert_eq!((now.in_flight, now.second.requests, now.now.requests, now.now.seconds), (3, 15, 75, 10));
        assert!(now.now.p50_us.is_some_and(|us| (800..=1000).contains(&us)), "{now:?}");
        let shown = histories.of(&app, T + 5);
        assert_eq!((shown.seconds.len(), shown.minutes.len()), (5, 1));
        assert_eq!((shown.minutes[0].requests, shown.minutes[0].seconds), (75, 6));
        assert_eq!(histories.all(T + 5), [now]);
    }

    #[test]
    fn what_is_old_is_forgotten_and_a_minutes_percentiles_stay() {
        let (histories, app) = (Histories::default(), AppName::parse("app").expect("valid"));
        const T: i64 = 1_700_000_040;
        histories.take(&report("a", 10, 7), T);
        histories.take(&report("a", 1, 0), T + 61);
        let shown = histories.of(&app, T + 61);
        assert_eq!((shown.seconds.len(), shown.minutes.len(), shown.in_flight), (1, 2, 0));
        assert_eq!((shown.minutes[0].seconds, shown.minutes[0].p99_us.is_some()), (60, true));
        assert_eq!(histories.of(&app, T + 3600).minutes.len(), 1);
        assert_eq!(histories.of(&app, T + 7200).minutes.len(), 0);
        histories.take(&TrafficReport::default(), T + 7200);
        assert!(histories.all(T + 7200).is_empty());
        histories.take(&report("a", 10, 7), T + 7200);
        assert_eq!(
            histories.of(&app, T + 7200 + SILENCE).in_flight,
            0,
            "a silent proxy has nothing under way"
        );
        histories.forget(&app);
        assert_eq!(histories.of(&app, T + 7200).minutes.len(), 0);
    }
}
