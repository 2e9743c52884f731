//! Where an app's containers may run: which nodes, by their labels and pool, and how far apart.
//!
//! In: words of `ps:set`. Out: rules that placing goes by. No I/O.

use crate::apart::Apart;
use crate::release::App;
use crate::{AppName, NodeName, ProcessType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// The label that says which nodes fail together.
pub const ZONE: &str = "zone";
/// The label that keeps a node for the apps of a pool.
pub const POOL: &str = "pool";
/// How many labels an app may ask for.
pub const MOST_LABELS: usize = 20;
const LONGEST: usize = 63;

/// What an app keeps of this; part of [`App`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppPlacing {
    /// For all process types.
    pub own: PlacingSettings,
    /// For single process types, instead of the app's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<ProcessType, PlacingSettings>,
}

impl AppPlacing {
    /// Whether nothing was ever set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What is set; what is not is left to the app's settings, or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacingSettings {
    /// Only nodes of this pool; the default are nodes of none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Only nodes with these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeSet<LabelRule>>,
    /// How far apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

/// What placing goes by for one process type.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rules {
    /// The pool; `None` are the nodes of none.
    pub pool: Option<String>,
    /// All of them must hold.
    pub labels: BTreeSet<LabelRule>,
    /// How far apart.
    pub spread: Spread,
    /// Whom it keeps away from, in order.
    pub apart: Vec<Apart>,
}

impl Rules {
    /// Whether a node with these labels may run it: its pool is the same, and every rule holds.
    #[must_use]
    pub fn allow(&self, labels: &BTreeMap<String, String>) -> bool {
        self.in_pool(labels) && self.labels.iter().all(|rule| rule.holds(labels))
    }

    /// Whether a node with these labels is of the pool.
    #[must_use]
    pub fn in_pool(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(POOL) == self.pool.as_ref()
    }
}

impl App {
    /// What placing goes by for containers of `process`, but for neighbours.
    #[must_use]
    pub fn placing_of(&self, process: &ProcessType) -> Rules {
        let none = PlacingSettings::default();
        let (first, then) = (self.placing.types.get(process).unwrap_or(&none), &self.placing.own);
        Rules {
            pool: first.pool.clone().or_else(|| then.pool.clone()),
            labels: first.labels.clone().or_else(|| then.labels.clone()).unwrap_or_default(),
            spread: first.spread.or(then.spread).unwrap_or_default(),
            apart: Vec::new(),
        }
    }
}

/// How far apart the containers of one process type run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// Evenly over zones, then over the nodes of a zone.
    #[default]
    Even,
    /// As `even`, and never two on one node.
    DistinctNodes,
    /// As `even`, and never two in one zone.
    DistinctZones,
    /// Wherever there is most room.
    None,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Even => "even",
            Self::DistinctNodes => "distinct-nodes",
            Self::DistinctZones => "distinct-zones",
            Self::None => "none",
        })
    }
}

impl FromStr for Spread {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "even" => Ok(Self::Even),
            "distinct-nodes" => Ok(Self::DistinctNodes),
            "distinct-zones" => Ok(Self::DistinctZones),
            "none" => Ok(Self::None),
            _ => Err(format!(
                "{:?} is no way to spread: use even, distinct-nodes, distinct-zones or none",
                shown(text)
            )),
        }
    }
}

/// What is asked of one label: `disk=ssd`, `zone=eu|us` (one of them), `gpu!=old` (another one, or none at all).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelRule {
    /// Which label.
    pub label: String,
    /// What it may be, or may not.
    pub values: BTreeSet<String>,
    /// Whether `values` is what it may not be.
    pub is_not: bool,
}

impl LabelRule {
    /// Whether a node with these labels keeps to it.
    #[must_use]
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(&self.label).is_some_and(|value| self.values.contains(value)) != self.is_not
    }
}

impl fmt::Display for LabelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<_> = self.values.iter().map(String::as_str).collect();
        write!(f, "{}{}{}", self.label, if self.is_not { "!=" } else { "=" }, values.join("|"))
    }
}

impl FromStr for LabelRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{:?} asks nothing of a label: write LABEL=VALUE, LABEL=ONE|OTHER or LABEL!=VALUE, of letters, digits \
                 and . _ - /",
                shown(text)
            )
        };
        let (label, values) = text.split_once('=').ok_or_else(wrong)?;
        let (label, is_not) = label.strip_suffix('!').map_or((label, false), |label| (label, true));
        let values: BTreeSet<_> = values.split('|').map(str::to_owned).collect();
        if !is_label(label) || values.len() > MOST_LABELS || !values.iter().all(|value| is_label(value)) {
            return Err(wrong());
        }
        Ok(Self { label: label.to_owned(), values, is_not })
    }
}

impl TryFrom<String> for LabelRule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LabelRule> for String {
    fn from(rule: LabelRule) -> Self {
        rule.to_string()
    }
}

/// Rules as `ps:set … node-labels` takes them: with commas between.
///
/// Errors: a sentence for people.
pub fn parse_labels(text: &str) -> Result<BTreeSet<LabelRule>, String> {
    let rules: BTreeSet<LabelRule> =
        text.split(',').map(|one| one.trim().parse()).collect::<Result<_, _>>()?;
    if rules.iter().any(|rule| rule.label == POOL) {
        return Err("the pool is no label to ask for: set it with ps:set APP pool NAME".to_owned());
    }
    match rules.len() > MOST_LABELS {
        true => Err(format!("{} labels are too many: at most {MOST_LABELS}", rules.len())),
        false => Ok(rules),
    }
}

/// `disk=ssd,zone=eu|us`.
#[must_use]
pub fn shown_labels(rules: &BTreeSet<LabelRule>) -> String {
    rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Whether this can be the name or the value of a label: 1 to 63 letters, digits and `. _ - /`.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(byte)
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// One container that would better run elsewhere: `GET /v1/rebalance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveInfo {
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Which one of them.
    pub ordinal: u32,
    /// Where it is.
    pub from: NodeName,
    /// Where the one that takes its place is to go.
    pub to: NodeName,
    /// What for.
    pub why: String,
}

/// `POST /v1/rebalance`: moves few containers to where they would better run. Answers `Progress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebalance {
    /// Only this app's.
    #[serde(default)]
    pub app: Option<AppName>,
    /// How many at most: 1 to 1000.
    #[serde(default)]
    pub most: Option<usize>,
}

/// Where a directory or volume of an app is: `GET /v1/apps/{app}/volumes` (a list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeInfo {
    /// As the app mounts it: a path, or the name of a volume.
    pub source: String,
    /// The node that has it; `any` if it is the same on every node, `None` if no container has mounted it yet.
    pub node: Option<String>,
}

/// `PUT /v1/apps/{app}/volumes`: says where it is from now on. Nothing is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVolume {
    /// As the app mounts it.
    pub source: String,
    /// A node's name, or `any`.
    pub node: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn label_rules_are_read_as_they_are_written() {
        for text in ["disk=ssd", "zone=eu|us", "gpu!=old", "example.com/tier=1"] {
            assert_eq!(text.parse::<LabelRule>().expect(text).to_string(), text);
        }
        for bad in ["", "disk", "=ssd", "disk=", "disk=a b", "a=b|", "!=x", "a==b"] {
            assert!(bad.parse::<LabelRule>().is_err(), "{bad}");
        }
        assert!(parse_labels("pool=x").is_err());
        assert_eq!(
            shown_labels(&parse_labels("zone=us|eu, disk=ssd").expect("valid")),
            "disk=ssd,zone=eu|us"
        );
    }

    #[test]
    fn rules_choose_nodes() {
        let rules = Rules { labels: parse_labels("zone=eu|us,gpu!=old").expect("valid"), ..Rules::default() };
        assert!(rules.allow(&labels(&[("zone", "eu")])));
        assert!(rules.allow(&labels(&[("zone", "us"), ("gpu", "new")])));
        assert!(!rules.allow(&labels(&[("zone", "us"), ("gpu", "old")])));
        assert!(!rules.allow(&labels(&[])));
        assert!(!rules.allow(&labels(&[("zone", "eu"), ("pool", "a")])), "a pool is for its own");
        let pool = Rules { pool: Some("a".to_owned()), ..Rules::default() };
        assert!(pool.allow(&labels(&[("pool", "a")])) && !pool.allow(&labels(&[])));
    }
}
