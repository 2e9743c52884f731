//! Traffic: how much the apps are asked, how they answer, and how fast.
//!
//! In: counts a proxy gathered. Out: [`TrafficReport`]s for the controller, and [`TrafficPoint`]s for people. A latency is
//! counted in one of [`LATENCY_BOUNDS_US`]'s buckets, the same everywhere, so that counts of threads, proxies and seconds
//! can be added up before a percentile is taken.

use crate::{AppName, ContainerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Upper bounds of the latency buckets, in microseconds, each included in its bucket. What is slower is in one more.
pub const LATENCY_BOUNDS_US: [u64; 56] = [
    50, 60, 80, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000,
    6_000, 8_000, 10_000, 15_000, 20_000, 25_000, 30_000, 40_000, 50_000, 60_000, 80_000, 100_000, 150_000,
    200_000, 250_000, 300_000, 400_000, 500_000, 600_000, 800_000, 1_000_000, 1_500_000, 2_000_000,
    2_500_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 8_000_000, 10_000_000, 15_000_000, 20_000_000,
    25_000_000, 30_000_000, 40_000_000, 50_000_000, 60_000_000,
];

/// Buckets there are: one more than bounds.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// The bucket of a latency.
#[must_use]
pub fn latency_bucket(micros: u64) -> usize {
    LATENCY_BOUNDS_US.partition_point(|bound| *bound < micros)
}

/// How many latencies fell into each bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies(pub [u64; LATENCY_BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self([0; LATENCY_BUCKETS])
    }
}

impl Latencies {
    /// All that were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds what a report says. Buckets that do not exist are left out: the report may come from a newer proxy.
    pub fn add(&mut self, sparse: &[(u8, u64)]) {
        for (bucket, count) in sparse {
            if let Some(own) = self.0.get_mut(usize::from(*bucket)) {
                *own = own.saturating_add(*count);
            }
        }
    }

    /// The buckets that are not empty.
    #[must_use]
    pub fn sparse(&self) -> Vec<(u8, u64)> {
        let some = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        some.filter_map(|(bucket, count)| Some((u8::try_from(bucket).ok()?, *count))).collect()
    }

    /// The latency below which `permille` thousandths of all lie, in microseconds, as if a bucket were filled evenly;
    /// `None` when nothing was counted. What lies above the last bound is told as that bound.
    #[must_use]
    pub fn percentile_us(&self, permille: u64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        // The rank is counted from 1; in 128 bits, where the product cannot overflow.
        let rank = (u128::from(count) * u128::from(permille.min(1000))).div_ceil(1000).max(1);
        let mut below: u128 = 0;
        for (bucket, held) in self.0.iter().enumerate() {
            let held = u128::from(*held);
            if held > 0 && below + held >= rank {
                let upper = *LATENCY_BOUNDS_US.get(bucket).or(LATENCY_BOUNDS_US.last())?;
                let lower =
                    bucket.checked_sub(1).and_then(|at| LATENCY_BOUNDS_US.get(at)).map_or(0, |bound| *bound);
                let into = u128::from(upper.saturating_sub(lower)) * (rank - below) / held;
                return Some(lower + u64::try_from(into).unwrap_or(0));
            }
            below += held;
        }
        None
    }
}

/// What one app got and answered in a span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppTraffic {
    /// Requests that ended, by the first digit of the status; first those that got no answer.
    pub answers: [u64; 6],
    /// Bytes of request bodies, and of what came through tunnels.
    pub received: u64,
    /// Bytes of answers, and of what went through tunnels.
    pub sent: u64,
    /// Requests and tunnels that are under way now.
    pub in_flight: u64,
    /// From the end of a request's head to the end of its answer: buckets and their counts.
    pub latency: Vec<(u8, u64)>,
}

/// What a proxy tells the controller of its traffic, at most once a second and only of apps that have some.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Which proxy: the node's name, and the process.
    pub proxy: String,
    /// How long it counted, in milliseconds.
    pub span_ms: u64,
    /// What came in that time.
    pub apps: BTreeMap<AppName, AppTraffic>,
    /// Answers of single containers, where the route table asks for them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub containers: BTreeMap<ContainerId, ContainerAnswers>,
}

/// What one container answered in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerAnswers {
    /// Requests that it got.
    pub requests: u64,
    /// Those it answered with 5xx, or not at all.
    pub errors: u64,
}

/// An app's traffic in one second or minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficPoint {
    /// When it began, in seconds since the Unix epoch.
    pub at: i64,
    /// How many seconds of it have passed: fewer than 60 in the minute that is not over.
    pub seconds: u32,
    /// Requests that ended.
    pub requests: u64,
    /// Those of them with an answer of 1xx.
    pub informational: u64,
    /// With an answer of 2xx.
    pub success: u64,
    /// With an answer of 3xx.
    pub redirect: u64,
    /// With an answer of 4xx.
    pub client_error: u64,
    /// With an answer of 5xx.
    pub server_error: u64,
    /// With no answer at all: the client left first, or the connection broke.
    pub none: u64,
    /// Bytes of request bodies.
    pub received: u64,
    /// Bytes of answers.
    pub sent: u64,
    /// Half of the requests were faster, in microseconds; missing without requests.
    pub p50_us: Option<u64>,
    /// 95 % were faster.
    pub p95_us: Option<u64>,
    /// 99 % were faster.
    pub p99_us: Option<u64>,
}

/// An app's traffic now and lately. Seconds and minutes without a request are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Whose.
    pub app: String,
    /// Requests and tunnels under way.
    pub in_flight: u64,
    /// The last ten whole seconds together.
    pub now: TrafficPoint,
    /// The last 60 seconds, oldest first.
    pub seconds: Vec<TrafficPoint>,
    /// The last 60 minutes, oldest first.
    pub minutes: Vec<TrafficPoint>,
}

/// An app's traffic now, in the list of all apps and in streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficNow {
    /// Whose.
    pub app: String,
    /// Requests and tunnels under way.
    pub in_flight: u64,
    /// The last whole second.
    pub second: TrafficPoint,
    /// The last ten whole seconds together.
    pub now: TrafficPoint,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(latencies: &[u64]) -> Latencies {
        let mut made = Latencies::default();
        latencies.iter().for_each(|micros| made.0[latency_bucket(*micros)] += 1);
        made
    }

    #[test]
    fn bounds_grow_and_belong_to_their_bucket() {
        assert!(LATENCY_BOUNDS_US.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(latency_bucket(0), 0);
        assert_eq!(latency_bucket(50), 0);
        assert_eq!(latency_bucket(51), 1);
        assert_eq!(latency_bucket(60_000_000), 55);
        assert_eq!(latency_bucket(u64::MAX), 56);
    }

    #[test]
    fn percentiles_lie_in_the_bucket_of_their_rank() {
        assert_eq!(Latencies::default().percentile_us(500), None);
        let hundred: Vec<u64> = (1..=100).map(|n| n * 1000).collect();
        let made = of(&hundred);
        for (permille, low, high) in [(500, 40_000, 50_000), (950, 80_000, 100_000), (990, 80_000, 100_000)] {
            let found = made.percentile_us(permille).expect("counted");
            assert!((low..=high).contains(&found), "{permille}: {found}");
        }
        assert_eq!(of(&[u64::MAX]).percentile_us(500), Some(60_000_000));
        assert_eq!(of(&[10]).percentile_us(1000), Some(50));
    }

    #[test]
    fn sparse_counts_add_up_and_unknown_buckets_are_left_out() {
        let mut made = of(&[70, 70, 5_000]);
        made.add(&[(2, 3), (200, 9)]);
        assert_eq!(made.sparse(), [(2, 5), (18, 1)]);
        assert_eq!(made.count(), 6);
    }
}
