//! When a schedule is due on a real clock.
//!
//! In: a schedule, a time zone, a moment. Out: the next moment after it. Pure.
//!
//! When clocks change: a schedule at fixed times runs once for each of its times, one that is leapt over at the moment after the
//! leap, one that comes twice the first time only. A schedule at intervals runs whenever the wall clock shows one of its times.

use berth_model::cron::Schedule;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan, civil};

/// How far ahead is looked: 29 February is a Sunday at least once in 40 years.
const DAYS: usize = 41 * 366;

/// The first moment after `after` at which it is due.
pub(crate) fn next_after(schedule: &Schedule, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    // The day before: its times may come late, when clocks are set back over midnight.
    let mut day = zone.to_datetime(after).date().yesterday().ok()?;
    for _ in 0..DAYS {
        let tomorrow = day.tomorrow().ok()?;
        let mut found = instants(schedule, zone, day);
        found.retain(|at| *at > after);
        if !found.is_empty() {
            // For the same reason a time of the next day may come before.
            found.extend(instants(schedule, zone, tomorrow).into_iter().filter(|at| *at > after));
            return found.into_iter().min();
        }
        day = tomorrow;
    }
    None
}

/// The moments that belong to one day of the calendar.
fn instants(schedule: &Schedule, zone: &TimeZone, day: civil::Date) -> Vec<Timestamp> {
    let number = |value: i8| u32::try_from(value).unwrap_or(0);
    let weekday = number(day.weekday().to_sunday_zero_offset());
    if !schedule.on_day(number(day.month()), number(day.day()), weekday) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (hour, minute) in schedule.times() {
        let (Ok(hour), Ok(minute)) = (i8::try_from(hour), i8::try_from(minute)) else { continue };
        let wall = day.at(hour, minute, 0, 0);
        let at = |offset: jiff::tz::Offset| offset.to_timestamp(wall).ok();
        match zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => found.extend(at(offset)),
            AmbiguousOffset::Gap { .. } if schedule.is_at_intervals() => {}
            AmbiguousOffset::Gap { before, .. } => found.extend(at(before).and_then(|at| leap(zone, at))),
            AmbiguousOffset::Fold { before, after } => {
                found.extend(at(before));
                if schedule.is_at_intervals() {
                    found.extend(at(after));
                }
            }
        }
    }
    found
}

/// The last moment up to `at` at which clocks were changed.
fn leap(zone: &TimeZone, at: Timestamp) -> Option<Timestamp> {
    zone.preceding(at.checked_add(1.second()).ok()?).next().map(|change| change.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next(schedule: &str, zone: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).expect("a schedule");
        let zone = TimeZone::get(zone).expect("a zone");
        let after: Timestamp = after.parse().expect("a time");
        next_after(&schedule, &zone, after).map_or_else(|| "never".into(), |at| at.to_string())
    }

    #[test]
    fn plain_days_are_plain() {
        assert_eq!(next("* * * * *", "UTC", "2026-01-01T00:00:00Z"), "2026-01-01T00:01:00Z");
        assert_eq!(next("* * * * *", "UTC", "2026-01-01T00:00:59.9Z"), "2026-01-01T00:01:00Z");
        assert_eq!(next("30 4 * * *", "UTC", "2026-01-01T04:30:00Z"), "2026-01-02T04:30:00Z");
        assert_eq!(next("0 9 * * mon", "Europe/Berlin", "2026-07-01T00:00:00Z"), "2026-07-06T07:00:00Z");
        assert_eq!(next("@yearly", "UTC", "2026-01-01T00:00:00Z"), "2027-01-01T00:00:00Z");
        assert_eq!(next("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z"), "2104-02-29T00:00:00Z");
        assert_eq!(next("0 0 29 2 */7", "UTC", "2032-03-01T00:00:00Z"), "2060-02-29T00:00:00Z");
        assert_eq!(next("15 * * * *", "Asia/Kathmandu", "2026-01-01T00:00:00Z"), "2026-01-01T00:30:00Z");
    }

    #[test]
    fn a_fixed_time_that_is_leapt_over_comes_right_after() {
        // Berlin: 2026-03-29 02:00 CET is 03:00 CEST, 01:00Z.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(next("0,30 2 * * *", "Europe/Berlin", "2026-03-29T01:00:00Z"), "2026-03-30T00:00:00Z");
        assert_eq!(next("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-03-30T00:00:00Z");
        assert_eq!(next("30 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z"), "2026-03-29T01:30:00Z");
        // A whole day: Samoa had no 30 December 2011.
        assert_eq!(next("0 12 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z"), "2011-12-30T10:00:00Z");
    }

    #[test]
    fn a_fixed_time_that_comes_twice_counts_once() {
        // Berlin: 2026-10-25 03:00 CEST is 02:00 CET, 01:00Z.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
        assert_eq!(next("30 * * * *", "Europe/Berlin", "2026-10-25T00:30:00Z"), "2026-10-25T01:30:00Z");
    }

    /// What the rule says, minute by minute.
    fn is_due(schedule: &Schedule, zone: &TimeZone, at: Timestamp) -> bool {
        let shows = |wall: civil::DateTime| {
            let number = |value: i8| u32::try_from(value).expect("not negative");
            wall.second() == 0
                && schedule.on_day(
                    number(wall.month()),
                    number(wall.day()),
                    number(wall.weekday().to_sunday_zero_offset()),
                )
                && schedule.at_time(number(wall.hour()), number(wall.minute()))
        };
        let wall = zone.to_datetime(at);
        if schedule.is_at_intervals() {
            return shows(wall);
        }
        let second_time = match zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Fold { after, .. } => after.to_timestamp(wall).expect("in range") == at,
            _ => false,
        };
        let before = zone.to_offset(at - 1.second());
        let mut leapt = before.to_datetime(at);
        let mut was_leapt = false;
        while leapt < wall {
            was_leapt |= shows(leapt);
            leapt = leapt.checked_add(1.minute()).expect("in range");
        }
        (shows(wall) && !second_time) || was_leapt
    }

    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Sao_Paulo",
        "America/Havana",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "Pacific/Apia",
        "Asia/Kathmandu",
    ];

    fn field(from: u32, to: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just("*".to_owned()),
            1 => (2_u32..30).prop_map(move |step| format!("*/{}", step.min(to))),
            4 => (from..=to).prop_map(|value| value.to_string()),
            2 => (from..=to, from..=to).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
            1 => (from..=to, from..=to).prop_map(|(a, b)| format!("{a},{b}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn the_next_time_is_the_first_that_the_rule_names(
            (minute, hour, weekday) in (field(0, 59), field(0, 23), field(0, 6)),
            zone in proptest::sample::select(&ZONES[..]),
            year in 2005_i64..2030,
            change in 0_usize..2,
            minutes_off in -3000_i64..3000,
        ) {
            let schedule = Schedule::parse(&format!("{minute} {hour} * * {weekday}")).expect("valid");
            let zone = TimeZone::get(zone).expect("a zone");
            // Near a change of the clocks, if there is one.
            let begin = Timestamp::from_second((year - 1970) * 31_556_952).expect("in range");
            let near = zone.following(begin).nth(change).map_or(begin, |change| change.timestamp());
            let near = Timestamp::from_second(near.as_second() / 60 * 60).expect("in range");
            let after = near.checked_add(minutes_off.minutes()).expect("in range");
            let found = next_after(&schedule, &zone, after).expect("it comes");
            let looked = after.checked_add((4 * 1440_i64).minutes()).expect("in range");
            let mut at = after;
            while at < found.min(looked) {
                at = at.checked_add(1.minute()).expect("in range");
                prop_assert_eq!(is_due(&schedule, &zone, at), at == found, "{} of {}", at, found);
            }
        }
    }
}
