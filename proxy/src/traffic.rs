//! Live counts for the controller: what each app got since the last report.
//!
//! In: the counts of all threads. Out: a [`TrafficReport`] a second at most, of apps that have traffic. They are for
//! looking at, not for accounting: what a controller that is away misses is not sent later.

use crate::stats::Totals;
use crate::table::Table;
use crate::worker::Shared;
use berth_model::route;
use berth_model::traffic::{AppTraffic, Latencies, TrafficReport};
use berth_model::{AppName, NodeName};
use berth_wire::Client;
use http::Method;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Between two reports.
const PERIOD: Duration = Duration::from_secs(1);
/// How long one may take to be delivered.
const POST: Duration = Duration::from_secs(2);

/// Remembers what was reported.
#[derive(Debug, Default)]
struct Before(HashMap<AppName, Totals>);

impl Before {
    /// What came since the last call; apps that still have something under way are told of too.
    fn delta(&mut self, table: &Table) -> impl Iterator<Item = (AppName, AppTraffic)> {
        self.0.retain(|app, _| table.stats.contains_key(app));
        let mut news = Vec::new();
        for (app, stats) in &table.stats {
            let Some(now) = stats.totals() else { continue };
            let before = self.0.get(app);
            let quiet = before.is_some_and(|before| !now.differs(before));
            if quiet && now.in_flight() == 0 {
                continue;
            }
            news.push((app.clone(), difference(&now, before)));
            self.0.insert(app.clone(), now);
        }
        news.into_iter()
    }
}

fn difference(now: &Totals, before: Option<&Totals>) -> AppTraffic {
    let zero = Totals::default();
    let before = before.unwrap_or(&zero);
    let less = |now: u64, before: u64| now.saturating_sub(before);
    let (classes, earlier) = (now.classes(), before.classes());
    let mut latencies = Latencies::default();
    for (bucket, count) in latencies.0.iter_mut().enumerate() {
        *count = less(now.total.0[bucket], before.total.0[bucket]);
    }
    AppTraffic {
        answers: std::array::from_fn(|class| less(classes[class], earlier[class])),
        received: less(now.received, before.received),
        sent: less(now.sent, before.sent),
        in_flight: now.in_flight(),
        latency: latencies.sparse(),
    }
}

/// Reports for ever.
pub(crate) fn report(
    shared: Arc<Shared>,
    client: Client,
    node: &NodeName,
) -> impl Future<Output = ()> + use<> {
    // After an upgrade two processes of a node may report, each what it has under way.
    follow(shared, client, format!("{node}/{}", std::process::id()))
}

async fn follow(shared: Arc<Shared>, client: Client, proxy: String) {
    let mut before = Before::default();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut since = Instant::now();
    loop {
        ticks.tick().await;
        let (now, table) = (Instant::now(), shared.table.load_full());
        let apps = before.delta(&table).collect();
        let span = now.duration_since(std::mem::replace(&mut since, now));
        let span_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let containers = table.take_counts();
        let report = TrafficReport { proxy: proxy.clone(), span_ms, apps, containers };
        if report.apps.is_empty() && report.containers.is_empty() {
            continue;
        }
        let sending = client.call(Method::POST, route::TRAFFIC_PATH, Some(&report));
        match timeout(POST, sending).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot report traffic to the controller"),
            Err(_) => tracing::debug!("the controller takes no report of traffic"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Finished;
    use berth_model::HostPattern;
    use berth_model::route::{HttpRoute, RouteTable, Target};

    #[test]
    fn only_news_are_told() {
        let app = AppName::parse("app").expect("valid");
        let http = vec![HttpRoute {
            host: HostPattern::parse("a.example").expect("valid"),
            app: app.clone(),
            release: None,
            target: Target::NoWeb,
        }];
        let routes = RouteTable { revision: 1, http, ..RouteTable::default() };
        let table = {
            let keep = crate::policy::keep::Keep::new();
            Table::build(&routes, &Table::default(), 1, &[], &Arc::default(), &keep)
        };
        let mut before = Before::default();
        assert_eq!(before.delta(&table).count(), 0);
        let account = table.stats[&app].enter(0);
        account.finished(&Finished { status: 200, sent: 5, total_us: 70, ..Finished::default() });
        let (_, told) = before.delta(&table).next().expect("there is news");
        assert_eq!((told.answers, told.sent, told.in_flight), ([0, 0, 1, 0, 0, 0], 5, 1));
        assert_eq!(told.latency, [(2, 1)]);
        let (_, told) = before.delta(&table).next().expect("something is under way");
        assert_eq!((told.answers, told.sent, told.in_flight), ([0; 6], 0, 1));
        drop(account);
        assert_eq!(before.delta(&table).next().expect("it ended").1.in_flight, 0);
        assert_eq!(before.delta(&table).count(), 0);
        assert_eq!(before.delta(&Table::default()).count(), 0);
        assert!(before.0.is_empty());
    }
}
