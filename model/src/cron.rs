//! Cron: schedules as crontab(5) writes them, and the tasks of an app.
//!
//! In: the text of a schedule or a command. Out: the minutes, hours and days it means, or what is wrong with it; words of a
//! command. When that is on a real clock is `controller::cron`'s: nothing here knows a time zone.

use crate::run::RunInfo;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Tasks an app may have.
pub const MAX_TASKS: usize = 100;
/// Longest command, in bytes.
pub const MAX_COMMAND: usize = 4096;
/// Longest schedule, in bytes: a list of all 60 minutes is 169.
pub const MAX_SCHEDULE: usize = 1024;

/// A command run by the clock, as a release keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CronTask {
    /// Eight hexadecimal digits of command and schedule, the same in each release that has both; `-2` … tells equal ones apart.
    pub id: String,
    /// One command without shell operators, as written.
    pub command: String,
    /// Five fields or `@daily` and its like, as written.
    pub schedule: String,
    /// What happens if the last run has not ended.
    pub concurrency: Concurrency,
    /// Not run while true, unless a command said otherwise.
    pub maintenance: bool,
}

/// What happens when a cron task is due and its last run has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Concurrency {
    /// Both run.
    #[default]
    Allow,
    /// The new one is left out.
    Forbid,
    /// The old one is stopped.
    Replace,
}

impl Concurrency {
    /// As `app.json` writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Forbid => "forbid",
            Self::Replace => "replace",
        }
    }
}

/// What is set about an app's cron; it holds over deploys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronSettings {
    /// No task runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance: bool,
    /// A name of the IANA time zone database; `None` is the platform's, else UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Longest run in seconds; `None` is a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<u32>,
    /// Tasks that a command suspended (`true`) or resumed, whatever `app.json` says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub suspended: BTreeMap<String, bool>,
}

impl CronSettings {
    /// Whether nothing was set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this task rests by itself, whatever holds for the whole app.
    #[must_use]
    pub fn is_suspended(&self, task: &CronTask) -> bool {
        self.suspended.get(&task.id).copied().unwrap_or(task.maintenance)
    }
}

/// An app's cron as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CronInfo {
    /// The whole app's cron rests: `app`, `global` or nobody said so.
    pub maintenance: Option<String>,
    /// The time zone that schedules are read in.
    pub timezone: String,
    /// Whether the app, the platform or nobody chose it: `app`, `global`, `default`.
    pub timezone_from: String,
    /// Longest run, in seconds.
    pub ttl_secs: u32,
    /// In the order of `app.json`.
    pub tasks: Vec<CronTaskInfo>,
}

/// One task as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CronTaskInfo {
    /// What it is.
    #[serde(flatten)]
    pub task: CronTask,
    /// It rests: by `cron:suspend`, by `app.json`, or with the whole app.
    pub suspended: bool,
    /// When it runs next; milliseconds since the Unix epoch. `None` while it rests.
    pub next_ms: Option<i64>,
    /// Its newest run that is kept.
    pub last: Option<RunInfo>,
}

/// Changes of an app's cron. What is absent stays; an empty text resets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchCron {
    /// `true`, `false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<bool>,
    /// A name of the IANA time zone database; empty resets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Seconds; 0 resets. Not for the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<u32>,
    /// Tasks by id: suspended or not. Not for the platform.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub suspended: BTreeMap<String, bool>,
}

/// The platform's own cron settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GlobalCron {
    /// No app's cron runs.
    #[serde(default)]
    pub maintenance: bool,
    /// The time zone of apps that set none; `None` is UTC.
    #[serde(default)]
    pub timezone: Option<String>,
}

/// The times a schedule means on a wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Either of the two fields of days is enough (both are restricted).
    either_day: bool,
    at_intervals: bool,
}

/// Of one field: its name, its least and greatest value, the names of its values (the first is for the least).
struct Field {
    name: &'static str,
    from: u32,
    to: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", from: 0, to: 59, names: &[] },
    Field { name: "hour", from: 0, to: 23, names: &[] },
    Field { name: "day of month", from: 1, to: 31, names: &[] },
    Field {
        name: "month",
        from: 1,
        to: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field { name: "day of week", from: 0, to: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Schedule {
    /// Reads a schedule. The error says what is wrong with it, in a sentence without a capital.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_SCHEDULE {
            return Err(format!("it is longer than {MAX_SCHEDULE} bytes"));
        }
        let text = text.trim();
        if text.starts_with('@') {
            let known = WORDS.iter().find(|(word, _)| text.eq_ignore_ascii_case(word));
            return match known {
                Some((_, fields)) => Self::parse(fields),
                None => {
                    let words = WORDS.map(|(word, _)| word).join(", ");
                    Err(format!("{text:?} is unknown; use one of {words}"))
                }
            };
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            let count = fields.len();
            return Err(format!(
                "{text:?} has {count} fields; five are needed: minute, hour, day of month, month, day of week (no seconds)"
            ));
        };
        let every = |field: &str| field.starts_with(['*', '?']);
        let mut weekdays = FIELDS[4].bits(weekday)?;
        // 0 and 7 are both Sunday.
        weekdays = (weekdays | weekdays >> 7) & 0x7f;
        let schedule = Self {
            minutes: FIELDS[0].bits(minute)?,
            hours: FIELDS[1].bits(hour)?,
            days: FIELDS[2].bits(day)?,
            months: FIELDS[3].bits(month)?,
            weekdays,
            either_day: !every(day) && !every(weekday),
            at_intervals: every(minute) || every(hour),
        };
        if !schedule.comes() {
            return Err(format!("{text:?} never comes: none of its months has such a day"));
        }
        Ok(schedule)
    }

    /// Whether any year has a day of it.
    fn comes(&self) -> bool {
        const LONGEST: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let in_month = |(index, days): (u32, &u32)| {
            has(self.months, index + 1) && (1..=*days).any(|day| has(self.days, day))
        };
        self.either_day || (0..).zip(&LONGEST).any(in_month)
    }

    /// Whether it runs on this day. `weekday`: from 0, Sunday.
    #[must_use]
    pub fn on_day(&self, month: u32, day: u32, weekday: u32) -> bool {
        let (day, weekday) = (has(self.days, day), has(self.weekdays, weekday));
        has(self.months, month) && if self.either_day { day || weekday } else { day && weekday }
    }

    /// Whether it runs at this time of a day on which it runs.
    #[must_use]
    pub fn at_time(&self, hour: u32, minute: u32) -> bool {
        has(self.hours, hour) && has(self.minutes, minute)
    }

    /// The times of a day, (hour, minute), ascending.
    pub fn times(&self) -> impl Iterator<Item = (u32, u32)> {
        let minutes = move |hour| (0..60).map(move |minute| (hour, minute));
        (0..24).flat_map(minutes).filter(|(hour, minute)| self.at_time(*hour, *minute))
    }

    /// Whether it is about a rhythm and not about fixed times of the day: its minute or its hour field begins with `*`.
    #[must_use]
    pub fn is_at_intervals(&self) -> bool {
        self.at_intervals
    }
}

fn has(bits: u64, value: u32) -> bool {
    value < 64 && bits & (1 << value) != 0
}

impl Field {
    fn bits(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.part(part)?))
    }

    /// `*`, `5`, `1-5`, `mon-fri`, each with an optional `/step`.
    fn part(&self, part: &str) -> Result<u64, String> {
        let Self { name, from, to, .. } = *self;
        let wrong = || format!("{part:?} is no {name}; use {from} to {to}, *, ranges and steps such as */5");
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => {
                let step = number(step).filter(|step| (1..=to.max(1)).contains(step)).ok_or_else(wrong)?;
                (range, Some(step))
            }
        };
        let is_day = matches!(self.name, "day of month" | "day of week");
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || (range == "?" && is_day) => (from, to),
            Some((first, last)) => {
                (self.value(first).ok_or_else(wrong)?, self.value(last).ok_or_else(wrong)?)
            }
            None => {
                let value = self.value(range).ok_or_else(wrong)?;
                // As most crons read it: from there on.
                (value, if step.is_some() { to } else { value })
            }
        };
        if first > last {
            return Err(format!("{part:?} runs backwards; write two {name}s apart, such as {last},{first}"));
        }
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1);
        // `*/n` of weekdays counts seven of them, not Sunday twice.
        let last = if self.name == "day of week" && range == "*" { 6 } else { last };
        Ok((first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|at| u32::try_from(at).ok()).map(|at| at + self.from);
        named.or_else(|| number(text)).filter(|value| (self.from..=self.to).contains(value))
    }
}

/// Digits and nothing else: `parse` would take a sign.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The words of a command, by the shell's quotes (POSIX.1-2017 XCU §2.2), without expanding anything. The error says what is
/// wrong with it.
pub fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a ' is not closed".to_owned()),
                        Some('\'') => break,
                        Some(c) => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a \" is not closed".to_owned()),
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            None => return Err("a \" is not closed".to_owned()),
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                        },
                        Some(c) => word.push(c),
                    }
                }
            }
            '\\' => match chars.next() {
                None => return Err("it ends in a \\".to_owned()),
                Some(c) => word.get_or_insert_default().push(c),
            },
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.first().is_none_or(String::is_empty) {
        return Err("it is empty".to_owned());
    }
    Ok(words)
}

/// The id of a task; `before`: equal ones before it.
#[must_use]
pub fn task_id(command: &str, schedule: &str, before: usize) -> String {
    let digest = crate::Digest::of(format!("{schedule}\0{command}").as_bytes()).to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default();
    let short = hex.get(..8).unwrap_or(hex);
    if before == 0 { short.to_owned() } else { format!("{short}-{}", before + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits(at: usize, text: &str) -> Vec<u32> {
        let bits = FIELDS[at].bits(text).expect("a field");
        (0..64).filter(|value| has(bits, *value)).collect()
    }

    #[test]
    fn fields_are_lists_of_ranges_with_steps() {
        assert_eq!(bits(0, "*/20"), [0, 20, 40]);
        assert_eq!(bits(0, "5,1-3,50/4"), [1, 2, 3, 5, 50, 54, 58]);
        assert_eq!(bits(1, "8-18/5"), [8, 13, 18]);
        assert_eq!(bits(3, "JAN,mar-May"), [1, 3, 4, 5]);
        assert_eq!(bits(4, "mon-fri"), [1, 2, 3, 4, 5]);
        assert_eq!(bits(4, "fri-7"), [5, 6, 7]);
        assert_eq!(bits(4, "*/2"), [0, 2, 4, 6]);
        assert_eq!(bits(2, "?").len(), 31);
    }

    #[test]
    fn days_are_either_when_both_are_restricted() {
        let both = Schedule::parse("0 0 13 * fri").expect("valid");
        assert!(both.on_day(1, 13, 2) && both.on_day(1, 12, 5) && !both.on_day(1, 12, 2));
        let one = Schedule::parse("0 0 13 * *").expect("valid");
        assert!(one.on_day(1, 13, 2) && !one.on_day(1, 12, 5));
        let starred = Schedule::parse("0 0 */2 * fri").expect("valid");
        assert!(starred.on_day(1, 13, 5) && !starred.on_day(1, 12, 5) && !starred.on_day(1, 13, 2));
        for sunday in ["0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "@weekly"] {
            assert!(Schedule::parse(sunday).expect("valid").on_day(6, 1, 0), "{sunday}");
        }
    }

    #[test]
    fn mistakes_are_said() {
        for (text, said) in [
            ("", "has 0 fields"),
            ("* * * *", "has 4 fields"),
            ("0 * * * * *", "has 6 fields"),
            ("60 * * * *", "\"60\" is no minute"),
            ("+5 * * * *", "is no minute"),
            ("* 24 * * *", "is no hour"),
            ("* * 0 * *", "is no day of month"),
            ("* * * 13 *", "is no month"),
            ("* * * foo *", "is no month"),
            ("* * * * 8", "is no day of week"),
            ("* * * * mon-", "is no day of week"),
            ("*/0 * * * *", "is no minute"),
            ("*/99999999999 * * * *", "is no minute"),
            ("1, * * * *", "is no minute"),
            ("? * * * *", "is no minute"),
            ("5-1 * * * *", "runs backwards"),
            ("0 0 30 2 *", "never comes"),
            ("0 0 31 4,6,9,11 *", "never comes"),
            ("@reboot", "unknown"),
            ("@every 5m", "unknown"),
            ("0 0 L * *", "is no day of month"),
        ] {
            let error = Schedule::parse(text).expect_err(text);
            assert!(error.contains(said), "{text:?}: {error}");
        }
        assert!(Schedule::parse(&"1,".repeat(1000)).is_err());
        assert!(Schedule::parse("0 0 29 2 *").is_ok());
        assert!(Schedule::parse("0 0 30 2 mon").is_ok(), "a Monday of February is enough");
    }

    #[test]
    fn words_are_split_as_a_shell_would() {
        assert_eq!(words(" python  manage.py 'a;b' ").expect("words"), ["python", "manage.py", "a;b"]);
        assert_eq!(words(r#"bash -c 'a && b'"#).expect("words"), ["bash", "-c", "a && b"]);
        assert_eq!(
            words(r#"a\ b "c \"d\" \x $e" '' f"g"'h'"#).expect("words"),
            ["a b", "c \"d\" \\x $e", "", "fgh"]
        );
        for bad in ["", "  ", "'", "a \"b", "a \\", "''"] {
            assert!(words(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in any::<String>(), cron in "[-*/?,0-9a-z ]{0,30}") {
            let _ = (Schedule::parse(&text), Schedule::parse(&cron), words(&text));
        }

        #[test]
        fn quoted_words_come_out_as_they_went_in(parts in proptest::collection::vec("[ -~]{1,8}", 1..5)) {
            let line: Vec<_> = parts.iter().map(|part| format!("'{}'", part.replace('\'', "'\\''"))).collect();
            prop_assert_eq!(words(&line.join(" ")), Ok(parts));
        }
    }
}
