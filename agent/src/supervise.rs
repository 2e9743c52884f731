//! Supervising: what happens after a container's process ended.
//!
//! In: the policy, how it ended, how long it ran, how often it was restarted. Out: whether and when it starts again. Pure.

use berth_model::container::RestartPolicy;
use std::time::Duration;

/// A container that ran this long ran well: its restarts are forgotten.
pub const RAN_WELL: Duration = Duration::from_secs(60);
/// The first restart comes nearly at once: most crashes happen once.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(60);
/// After a failed start, and after many: long enough for a deploy to see that it failed, and to take it back.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It starts again.
    Restart {
        /// How long from its end.
        after: Duration,
        /// Restarts since it last ran well, this one included.
        restarts: u32,
    },
    /// It stays as it is.
    Stay,
}

/// Decides after an end. `failed`: the code was not 0, or a liveness check ended it. `restarts`: since it last ran well.
#[must_use]
pub fn after_exit(policy: RestartPolicy, failed: bool, ran: Duration, restarts: u32) -> Verdict {
    let restarts = if ran >= RAN_WELL { 0 } else { restarts };
    let again = match policy {
        RestartPolicy::Never => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max_retries } => failed && restarts < max_retries,
    };
    if again {
        Verdict::Restart { after: backoff(restarts), restarts: restarts.saturating_add(1) }
    } else {
        Verdict::Stay
    }
}

/// When a container that could not be started, or failed a check of its start, is tried again: what it lacked may be there by then.
/// `failures`: in a row, this one included.
#[must_use]
pub fn after_failure(policy: RestartPolicy, failures: u32) -> Option<Duration> {
    let doublings = failures.saturating_sub(1).min(6);
    let wait = (FIRST_RETRY * 2_u32.pow(doublings)).min(LAST_RETRY);
    (policy != RestartPolicy::Never).then_some(wait)
}

/// 50 ms, then 1 s, 2 s, 4 s … 60 s.
fn backoff(restarts: u32) -> Duration {
    match restarts.checked_sub(1) {
        None => FIRST,
        Some(doublings) => Duration::from_secs(1 << doublings.min(6)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_come_later_and_later_and_end() {
        let policy = RestartPolicy::OnFailure { max_retries: 10 };
        let mut restarts = 0;
        let mut waits = Vec::new();
        while let Verdict::Restart { after, restarts: so_far } =
            after_exit(policy, true, Duration::from_secs(1), restarts)
        {
            waits.push(after.as_millis());
            restarts = so_far;
        }
        assert_eq!(waits, [50, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn a_minute_of_running_well_forgets_the_past() {
        let policy = RestartPolicy::OnFailure { max_retries: 3 };
        let verdict = after_exit(policy, true, RAN_WELL, 3);
        assert_eq!(verdict, Verdict::Restart { after: FIRST, restarts: 1 });
        assert_eq!(after_exit(policy, true, Duration::ZERO, 3), Verdict::Stay);
    }

    #[test]
    fn failed_starts_are_tried_again_less_and_less_often() {
        let waits = (1..9).filter_map(|failures| after_failure(RestartPolicy::default(), failures));
        assert_eq!(waits.map(|wait| wait.as_secs()).collect::<Vec<_>>(), [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(after_failure(RestartPolicy::Never, 1), None);
    }

    #[test]
    fn policies_mean_what_they_say() {
        let short = Duration::from_secs(1);
        assert_eq!(after_exit(RestartPolicy::Never, true, short, 0), Verdict::Stay);
        assert_eq!(after_exit(RestartPolicy::default(), false, short, 0), Verdict::Stay);
        assert!(matches!(after_exit(RestartPolicy::Always, false, short, 99), Verdict::Restart { .. }));
    }
}
