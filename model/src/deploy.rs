//! How an app is deployed: its settings, and what the API says of deploys, checks and releases.
//!
//! In: keys and values as people write them. Out: [`DeploySettings`], which are no part of a release, and reports.

use crate::{AppName, ContainerId, ProcessType, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// How long after a switch a release is watched, unless said: 5 minutes, in seconds.
pub const DEFAULT_WINDOW_SECS: u32 = 300;
/// Share of answers with 5xx at which a release counts as bad, unless said: half, in percent.
pub const DEFAULT_ERROR_PERCENT: u32 = 50;
/// Share of requests that a canary gets, unless said, in percent.
pub const DEFAULT_CANARY_PERCENT: u8 = 10;
/// How long old containers may go on with what they have in flight, unless said, in seconds.
pub const DEFAULT_WAIT_TO_RETIRE_SECS: u32 = 60;
/// What stands for every process type.
pub const ALL_TYPES: &str = "_all_";

/// The properties of `deploy:set`.
pub const DEPLOY_KEYS: [&str; 6] =
    ["strategy", "canary-percent", "auto-rollback", "rollback-window", "rollback-error-ratio", "volumes"];

/// How an app is deployed. The default is what an app gets that sets nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeploySettings {
    /// How new containers take the place of old ones.
    #[serde(skip_serializing_if = "is_default")]
    pub strategy: Strategy,
    /// Share of a canary under [`Strategy::Canary`], in percent, 1 to 99.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_percent: Option<u8>,
    /// `deploy:canary` was said: the next deploy is a canary with this share, in percent, 1 to 99.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_canary: Option<u8>,
    /// Whether a release that goes bad after the switch is taken back; `None` is yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<bool>,
    /// How long it is watched, in seconds, 10 to 86400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_window_secs: Option<u32>,
    /// Share of answers with 5xx at which it is bad, in percent, 1 to 100; 0 looks at no answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_error_percent: Option<u32>,
    /// What happens to apps with a directory that they write to.
    #[serde(skip_serializing_if = "is_default")]
    pub volumes: Volumes,
    /// How long old containers may go on with what they have in flight, in seconds, 0 to 3600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_to_retire_secs: Option<u32>,
    /// How many process types are started side by side, 1 to 100; `None` is 1: one after the other, `web` first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_types: Option<u32>,
    /// Types without checks, whose old containers stop before the new ones start.
    #[serde(skip_serializing_if = "TypeSet::is_empty")]
    pub checks_disabled: TypeSet,
    /// Types without checks.
    #[serde(skip_serializing_if = "TypeSet::is_empty")]
    pub checks_skipped: TypeSet,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How new containers take the place of old ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// All at once when all are ready; batch by batch where `max_parallel` says so.
    #[default]
    Rolling,
    /// All at once when all are ready; the old ones stay for a while, for a rollback that takes no time.
    BlueGreen,
    /// Some `web` of it with a share of the requests; the rest when it is promoted.
    Canary,
}

impl Strategy {
    /// Every strategy's name.
    pub const NAMES: [&str; 3] = ["rolling", "blue-green", "canary"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rolling => "rolling",
            Self::BlueGreen => "blue-green",
            Self::Canary => "canary",
        }
    }
}

/// What happens in a deploy of an app with a directory that it writes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Volumes {
    /// Old and new containers have it side by side for a moment.
    #[default]
    Overlap,
    /// The old ones are gone before the new ones start.
    StopFirst,
}

/// Some process types, or all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TypeSet {
    /// All of them.
    #[serde(skip_serializing_if = "is_default")]
    pub all: bool,
    /// These.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub types: BTreeSet<ProcessType>,
}

impl TypeSet {
    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.types.is_empty()
    }

    /// Whether `process` is one of them.
    #[must_use]
    pub fn has(&self, process: &ProcessType) -> bool {
        self.all || self.types.contains(process)
    }

    /// Adds these; an empty list is all.
    pub fn add(&mut self, types: &BTreeSet<ProcessType>) {
        self.all |= types.is_empty();
        self.types.extend(types.iter().cloned());
    }

    /// Takes these out; an empty list is all.
    ///
    /// Errors: every type is in it, so that single ones cannot be taken out.
    pub fn remove(&mut self, types: &BTreeSet<ProcessType>) -> Result<(), String> {
        if types.is_empty() {
            *self = Self::default();
        } else if self.all {
            return Err(
                "it was said for every process type; take that back first: without a process type".into()
            );
        } else {
            self.types.retain(|one| !types.contains(one));
        }
        Ok(())
    }
}

impl std::fmt::Display for TypeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.all {
            return f.write_str(ALL_TYPES);
        }
        let names: Vec<_> = self.types.iter().map(ProcessType::as_str).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(","))
    }
}

fn seconds(text: &str) -> Option<u32> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        None => (text, 1),
        Some(at) => {
            let unit = match &text[at..] {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            (&text[..at], unit)
        }
    };
    number.parse::<u32>().ok()?.checked_mul(unit)
}

fn percent(text: &str) -> Option<u32> {
    text.strip_suffix('%').unwrap_or(text).trim_end().parse().ok()
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text {
        "true" | "on" | "yes" => Some(true),
        "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

fn shown(value: &str) -> String {
    value.chars().take(40).collect()
}

/// A share of requests that a canary gets: `10` or `10%`.
pub fn canary_percent(text: &str) -> Result<u8, String> {
    let number = percent(text).and_then(|number| u8::try_from(number).ok());
    number.filter(|number| (1..=99).contains(number)).ok_or_else(|| {
        format!(
            "{:?} is no share for a canary: write a whole number of percent from 1 to 99, such as 10",
            shown(text)
        )
    })
}

impl DeploySettings {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Sets one property; an empty value resets it.
    ///
    /// Errors: no such property, or a value that it cannot have.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{key} cannot be {:?}: write {what}", shown(value)));
        let some = Some(value).filter(|value| !value.is_empty());
        match key {
            "strategy" => {
                self.strategy = match value {
                    "" | "rolling" => Strategy::Rolling,
                    "blue-green" => Strategy::BlueGreen,
                    "canary" => Strategy::Canary,
                    _ => return wrong(&Strategy::NAMES.join(", ")),
                };
            }
            "canary-percent" => self.canary_percent = some.map(canary_percent).transpose()?,
            "auto-rollback" => match some.map(yes_or_no) {
                Some(None) => return wrong("true or false"),
                said => self.auto_rollback = said.flatten(),
            },
            "rollback-window" => match some.map(|text| seconds(text).filter(|n| (10..=86_400).contains(n))) {
                Some(None) => return wrong("a time from 10s to 24h, such as 5m"),
                said => self.rollback_window_secs = said.flatten(),
            },
            "rollback-error-ratio" => match value {
                "off" => self.rollback_error_percent = Some(0),
                _ => match some.map(|text| percent(text).filter(|n| (1..=100).contains(n))) {
                    Some(None) => return wrong("a share from 1% to 100%, or off"),
                    said => self.rollback_error_percent = said.flatten(),
                },
            },
            "volumes" => {
                self.volumes = match value {
                    "" | "overlap" => Volumes::Overlap,
                    "stop-first" => Volumes::StopFirst,
                    _ => return wrong("overlap or stop-first"),
                };
            }
            "wait-to-retire" => match some.map(|text| seconds(text).filter(|n| *n <= 3600)) {
                Some(None) => return wrong("a number of seconds from 0 to 3600"),
                said => self.wait_to_retire_secs = said.flatten(),
            },
            "parallel-schedule-count" => {
                match some.map(|text| text.parse().ok().filter(|n| (1..=100).contains(n))) {
                    Some(None) => return wrong("a number from 1 to 100"),
                    said => self.parallel_types = said.flatten(),
                }
            }
            _ => {
                return Err(format!(
                    "there is no property {:?}; there are: {}",
                    shown(key),
                    DEPLOY_KEYS.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// Whether bad releases are taken back.
    #[must_use]
    pub fn rolls_back(&self) -> bool {
        self.auto_rollback.unwrap_or(true)
    }

    /// How long a release is watched after the switch, in seconds.
    #[must_use]
    pub fn window_secs(&self) -> u32 {
        self.rollback_window_secs.unwrap_or(DEFAULT_WINDOW_SECS)
    }

    /// Share of 5xx that is too much, in percent; `None` looks at no answers.
    #[must_use]
    pub fn error_percent(&self) -> Option<u32> {
        Some(self.rollback_error_percent.unwrap_or(DEFAULT_ERROR_PERCENT)).filter(|percent| *percent > 0)
    }
}

/// `PATCH /v1/apps/{app}/deploy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchDeploy {
    /// Values by property, as `deploy:set` takes them, and `wait-to-retire` and `parallel-schedule-count`; an empty one
    /// resets.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
}

/// `GET /v1/apps/{app}/deploy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeployReport {
    /// Whose.
    pub app: AppName,
    /// `rolling`, `blue-green` or `canary`.
    pub strategy: Strategy,
    /// Share of a canary of the strategy, in percent.
    pub canary_percent: u8,
    /// The next deploy is a canary with this share.
    pub next_canary: Option<u8>,
    /// Whether bad releases are taken back.
    pub auto_rollback: bool,
    /// How long they are watched, in seconds.
    pub rollback_window_secs: u32,
    /// Share of 5xx that is too much, in percent; `null` looks at no answers.
    pub rollback_error_percent: Option<u32>,
    /// What happens to apps that write to a directory of the node.
    pub volumes: Volumes,
    /// In seconds.
    pub wait_to_retire_secs: u32,
    /// How many process types are started side by side.
    pub parallel_schedule_count: u32,
    /// What is under way, such as `deploy of v3`.
    pub under_way: Option<String>,
    /// The release that serves.
    pub release: Option<ReleaseVersion>,
    /// The one on trial.
    pub canary: Option<CanaryInfo>,
    /// Until when the serving release is watched; milliseconds since the Unix epoch.
    pub watched_until_ms: Option<i64>,
    /// Where it would go back to.
    pub back_to: Option<ReleaseVersion>,
    /// Containers of the release before that are kept running for a rollback, and until when at the latest.
    pub kept: u32,
    /// Milliseconds since the Unix epoch.
    pub kept_until_ms: Option<i64>,
}

/// A release on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CanaryInfo {
    /// Which.
    pub release: ReleaseVersion,
    /// Its share of the requests, in percent.
    pub percent: u8,
    /// How many containers it has.
    pub containers: u32,
    /// Milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Answers of the last minute, of its containers.
    pub requests: u64,
    /// Those with 5xx, or none.
    pub errors: u64,
}

/// What reports of an app say of its release on trial.
#[must_use]
pub fn canary_remark(release: ReleaseVersion, percent: u8) -> String {
    format!("{release} is a canary with {percent} % of the requests")
}

/// `POST /v1/apps/{app}/deploy/canary`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetCanary {
    /// Share in percent, 1 to 99; `null` takes back what was said for the next deploy.
    pub percent: Option<u8>,
}

/// `POST /v1/apps/{app}/promote`: this app's release on another app, with that one's config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteTo {
    /// Which app.
    pub to: AppName,
}

/// `GET /v1/apps/{app}/checks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChecksReport {
    /// Whose.
    pub app: AppName,
    /// Types whose old containers stop before new ones start, without checks; `_all_` is every type.
    pub disabled: String,
    /// Types without checks.
    pub skipped: String,
    /// In seconds.
    pub wait_to_retire_secs: u32,
    /// What each type's containers would be checked with.
    pub checks: BTreeMap<ProcessType, Vec<crate::check::Check>>,
}

/// What becomes of the checks of some process types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChecksMode {
    /// They are made.
    Enable,
    /// They are not, and old containers stop before new ones start.
    Disable,
    /// They are not.
    Skip,
}

/// `PATCH /v1/apps/{app}/checks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchChecks {
    /// What.
    pub mode: ChecksMode,
    /// Which; empty is all.
    #[serde(default)]
    pub types: BTreeSet<ProcessType>,
}

/// `POST /v1/apps/{app}/checks/run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunChecks {
    /// Only this type.
    #[serde(default)]
    pub process: Option<ProcessType>,
    /// Only this one of it.
    #[serde(default)]
    pub ordinal: Option<u32>,
}

/// How one check of one container went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    /// Which container.
    pub container: ContainerId,
    /// Its check's name.
    pub check: String,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// Its failure is only said.
    pub warn_only: bool,
}

/// `GET /v1/apps/{app}/releases/diff?from=v3&to=v4`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseDiff {
    /// Whose.
    pub app: AppName,
    /// The older.
    pub from: ReleaseVersion,
    /// The newer.
    pub to: ReleaseVersion,
    /// What differs, in the order it is shown.
    pub changes: Vec<DiffLine>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffLine {
    /// `image`, `commit`, `config`, `process`, `formation`, `checks`.
    pub kind: String,
    /// Which of them, such as the config var; empty where there is one only.
    pub name: String,
    /// What it was; absent if it was not there.
    pub before: Option<String>,
    /// What it is; absent if it is not there.
    pub after: Option<String>,
}

/// What a config value is shown as to those who did not ask to see it.
pub const MASKED: &str = "***";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn properties_are_set_and_reset() {
        let mut settings = DeploySettings::default();
        for (key, value) in [
            ("strategy", "blue-green"),
            ("canary-percent", "25%"),
            ("auto-rollback", "false"),
            ("rollback-window", "5m"),
            ("rollback-error-ratio", "5%"),
            ("volumes", "stop-first"),
            ("wait-to-retire", "30"),
            ("parallel-schedule-count", "4"),
        ] {
            settings.set(key, value).expect(key);
            assert_ne!(settings, DeploySettings::default(), "{key}");
        }
        assert_eq!((settings.window_secs(), settings.error_percent()), (300, Some(5)));
        settings.set("rollback-error-ratio", "off").expect("off");
        assert_eq!(settings.error_percent(), None);
        for key in DEPLOY_KEYS.iter().chain(&["wait-to-retire", "parallel-schedule-count"]) {
            settings.set(key, "").expect(key);
        }
        assert_eq!(settings, DeploySettings::default());
    }

    #[test]
    fn mistakes_are_told() {
        let mut settings = DeploySettings::default();
        for (key, value, told) in [
            ("strategy", "yolo", "rolling, blue-green, canary"),
            ("canary-percent", "0", "from 1 to 99"),
            ("canary-percent", "100", "from 1 to 99"),
            ("rollback-window", "1s", "10s to 24h"),
            ("rollback-window", "99999999h", "10s to 24h"),
            ("rollback-error-ratio", "101%", "1% to 100%"),
            ("volumes", "x", "overlap or stop-first"),
            ("wait-to-retire", "-1", "0 to 3600"),
            ("colour", "x", "there are: strategy"),
        ] {
            let error = settings.set(key, value).expect_err(key);
            assert!(error.contains(told), "{key}={value}: {error}");
        }
        assert!(settings.is_default());
    }

    #[test]
    fn single_types_are_not_taken_out_of_all() {
        let web = BTreeSet::from([ProcessType::web()]);
        let mut set = TypeSet::default();
        set.add(&web);
        assert_eq!(set.to_string(), "web");
        set.remove(&web).expect("named");
        assert_eq!(set.to_string(), "none");
        set.add(&BTreeSet::new());
        assert!(set.has(&ProcessType::web()) && set.remove(&web).is_err());
        set.remove(&BTreeSet::new()).expect("all");
        assert!(set.is_empty());
    }

    proptest! {
        #[test]
        fn no_value_panics(key in 0..DEPLOY_KEYS.len(), value in ".{0,30}") {
            let _ = DeploySettings::default().set(DEPLOY_KEYS[key], &value);
        }
    }
}
