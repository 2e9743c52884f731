//! What the clock asks for: which tasks run, which are left out, which were missed.
//!
//! In: tasks, what of them still runs, the time since the last look. Out: decisions. Pure.

use super::next::next_after;
use berth_model::cron::{Concurrency, CronTask, Schedule};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A run that begins later than this is not begun but recorded as missed.
pub(crate) const LATEST: SignedDuration = SignedDuration::from_secs(90);
/// Times counted of one outage: a task a minute for two months.
const MOST: u32 = 100_000;

/// What is to happen with one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It runs, after these of its runs were stopped.
    Run { due: Timestamp, replace: Vec<String> },
    /// It does not: this run of it has not ended.
    Skip { due: Timestamp, running: String },
    /// Nobody could run it at these times.
    Missed { first: Timestamp, last: Timestamp, times: u32 },
}

/// Decides about one task, for the times after `from` up to `to`. `running`: names of its runs that have not ended.
pub(crate) fn plan(
    task: &CronTask,
    zone: &TimeZone,
    running: &[String],
    from: Timestamp,
    to: Timestamp,
) -> Vec<Decision> {
    let Ok(schedule) = Schedule::parse(&task.schedule) else { return Vec::new() };
    let mut missed: Option<(Timestamp, Timestamp, u32)> = None;
    let mut last: Option<Timestamp> = None;
    let mut at = from;
    while let Some(next) = next_after(&schedule, zone, at).filter(|next| *next <= to) {
        if let Some(before) = last {
            let (first, _, times) = missed.unwrap_or((before, before, 0));
            missed = Some((first, before, times + 1));
            if times + 1 >= MOST {
                break;
            }
        }
        last = Some(next);
        at = next;
    }
    let late = last.filter(|last| to.duration_since(*last) > LATEST);
    if let Some(late) = late {
        let (first, _, times) = missed.unwrap_or((late, late, 0));
        missed = Some((first, late, times + 1));
    }
    let missed = missed.map(|(first, last, times)| Decision::Missed { first, last, times });
    let due = last.filter(|_| late.is_none()).map(|due| match (task.concurrency, running.last()) {
        (Concurrency::Forbid, Some(running)) => Decision::Skip { due, running: running.clone() },
        (Concurrency::Replace, _) => Decision::Run { due, replace: running.to_vec() },
        _ => Decision::Run { due, replace: Vec::new() },
    });
    missed.into_iter().chain(due).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(schedule: &str, concurrency: Concurrency) -> CronTask {
        CronTask {
            id: "1".into(),
            command: "true".into(),
            schedule: schedule.into(),
            concurrency,
            maintenance: false,
        }
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().expect("a time")
    }

    fn decide(
        schedule: &str,
        concurrency: Concurrency,
        running: &[&str],
        from: &str,
        to: &str,
    ) -> Vec<Decision> {
        let running: Vec<_> = running.iter().map(|name| (*name).to_owned()).collect();
        plan(&task(schedule, concurrency), &TimeZone::UTC, &running, at(from), at(to))
    }

    #[test]
    fn what_is_due_runs_once() {
        use Concurrency::Allow;
        let run = |due| vec![Decision::Run { due: at(due), replace: vec![] }];
        assert_eq!(decide("0 * * * *", Allow, &["x"], "09:59:00", "10:00:00.1"), run("10:00:00"));
        assert_eq!(decide("0 * * * *", Allow, &[], "10:00:00.1", "10:01:00"), []);
        assert_eq!(decide("0 * * * *", Allow, &[], "10:00:00", "10:01:00"), []);
        // A controller that was away for a moment.
        assert_eq!(decide("0 * * * *", Allow, &[], "09:59:00", "10:01:25"), run("10:00:00"));
    }

    #[test]
    fn what_was_missed_is_said_and_not_run() {
        use Concurrency::Allow;
        let missed = |first, last, times| Decision::Missed { first: at(first), last: at(last), times };
        let hourly = decide("0 * * * *", Allow, &[], "07:30:00", "10:30:00");
        assert_eq!(hourly, [missed("08:00:00", "10:00:00", 3)]);
        let minutely = decide("* * * * *", Allow, &[], "07:30:00", "07:40:30");
        let run = Decision::Run { due: at("07:40:00"), replace: vec![] };
        assert_eq!(minutely, [missed("07:31:00", "07:39:00", 9), run]);
        assert_eq!(
            decide("0 9 * * *", Allow, &[], "08:00:00", "09:05:00"),
            [missed("09:00:00", "09:00:00", 1)]
        );
    }

    #[test]
    fn policies_mean_what_they_say() {
        let due = at("10:00:00");
        let of = |policy, running: &[&str]| decide("0 * * * *", policy, running, "09:59:00", "10:00:00");
        assert_eq!(of(Concurrency::Forbid, &["a"]), [Decision::Skip { due, running: "a".into() }]);
        assert_eq!(of(Concurrency::Forbid, &[]), [Decision::Run { due, replace: vec![] }]);
        assert_eq!(of(Concurrency::Replace, &["a"]), [Decision::Run { due, replace: vec!["a".into()] }]);
    }
}
