//! Whom an app's containers keep away from: other apps or process types, on a node or in a zone.
//!
//! In: words of `ps:set … apart-from`. Out: what placing goes by for one process type, both ways: who is kept away from keeps away
//! too. No I/O.

use crate::{AppName, ProcessType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// How many neighbours one setting may name.
pub const MOST_NEIGHBOURS: usize = 20;

/// What is kept of this for every app that has such settings.
pub type Aparts = BTreeMap<AppName, AppApart>;

/// What one app keeps away from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppApart {
    /// All its process types.
    #[serde(skip_serializing_if = "ApartSettings::is_default")]
    pub own: ApartSettings,
    /// Single process types, instead of the app's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<ProcessType, ApartSettings>,
}

/// What is set; what is not is left to the app's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApartSettings {
    /// Never beside these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub never: Option<BTreeSet<Neighbour>>,
    /// Beside these only where there is no other place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rather_not: Option<BTreeSet<Neighbour>>,
}

impl ApartSettings {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn of(&self, is_hard: bool) -> &Option<BTreeSet<Neighbour>> {
        if is_hard { &self.never } else { &self.rather_not }
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Option<BTreeSet<Neighbour>>> {
        [&mut self.never, &mut self.rather_not].into_iter()
    }
}

/// Where two are too close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Within {
    /// On one node.
    Node,
    /// In one zone.
    Zone,
}

/// One of those to keep away from: `cache`, `shop:worker`, `replica@zone`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Neighbour {
    /// Whose containers.
    pub app: AppName,
    /// Only of this process type.
    pub process: Option<ProcessType>,
    /// How far away.
    pub within: Within,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&whom(&self.app, self.process.as_ref()))?;
        f.write_str(if self.within == Within::Zone { "@zone" } else { "" })
    }
}

impl FromStr for Neighbour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &dyn fmt::Display| {
            let shown: String = text.chars().take(80).collect();
            format!("{shown:?} names no neighbour ({why}): write APP, APP:TYPE, APP@zone or APP:TYPE@zone")
        };
        let (whom, within) = match text.split_once('@') {
            None => (text, Within::Node),
            Some((whom, "node")) => (whom, Within::Node),
            Some((whom, "zone")) => (whom, Within::Zone),
            Some(_) => return Err(wrong(&"after @ comes node or zone")),
        };
        let (app, process) = whom.split_once(':').map_or((whom, None), |(app, one)| (app, Some(one)));
        Ok(Self {
            app: AppName::parse(app).map_err(|error| wrong(&error))?,
            process: process.map(ProcessType::parse).transpose().map_err(|error| wrong(&error))?,
            within,
        })
    }
}

impl TryFrom<String> for Neighbour {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Neighbour> for String {
    fn from(neighbour: Neighbour) -> Self {
        neighbour.to_string()
    }
}

fn whom(app: &AppName, process: Option<&ProcessType>) -> String {
    process.map_or_else(|| app.to_string(), |process| format!("{app}:{process}"))
}

/// Neighbours of `app`, or of its `process`, as `ps:set` takes them: with commas between.
///
/// Errors: a sentence for people.
pub fn parse_neighbours(
    text: &str,
    app: &AppName,
    process: Option<&ProcessType>,
) -> Result<BTreeSet<Neighbour>, String> {
    let all: BTreeSet<Neighbour> = text.split(',').map(|one| one.trim().parse()).collect::<Result<_, _>>()?;
    if all.iter().any(|one| one.app == *app && (one.process.is_none() || one.process.as_ref() == process)) {
        return Err(format!(
            "{app} cannot keep apart from itself: for containers of one type set spread to distinct-nodes or \
             distinct-zones, or name another process type of it, such as {app}:worker"
        ));
    }
    match all.len() > MOST_NEIGHBOURS {
        true => Err(format!("{} neighbours are too many: at most {MOST_NEIGHBOURS}", all.len())),
        false => Ok(all),
    }
}

/// `cache,shop:worker@zone`.
#[must_use]
pub fn shown_neighbours(all: &BTreeSet<Neighbour>) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Containers that others keep away from, as placing goes by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Apart {
    /// Whose.
    pub app: AppName,
    /// Only of this process type.
    pub process: Option<ProcessType>,
    /// But not of these.
    pub but: BTreeSet<ProcessType>,
    /// How far away.
    pub within: Within,
    /// Never beside them; else only where there is no other place.
    pub is_hard: bool,
}

impl Apart {
    /// Whether containers of this type are meant.
    #[must_use]
    pub fn means(&self, app: &AppName, process: &ProcessType) -> bool {
        self.app == *app
            && self.process.as_ref().is_none_or(|one| one == process)
            && !self.but.contains(process)
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&whom(&self.app, self.process.as_ref()))
    }
}

/// Whom containers of `process` of `app` keep away from: whom its settings name, and whose settings name it. One entry for
/// each setting that says so, so that two that keep apart have as many of each other.
#[must_use]
pub fn aparts_of(all: &Aparts, app: &AppName, process: &ProcessType) -> Vec<Apart> {
    let mut found = Vec::new();
    for is_hard in [true, false] {
        if let Some(settings) = all.get(app) {
            let own = settings.types.get(process).and_then(|own| own.of(is_hard).as_ref());
            for one in own.or(settings.own.of(is_hard).as_ref()).into_iter().flatten() {
                // Those of its own type are for `spread`.
                if one.app != *app || one.process.as_ref().is_some_and(|other| other != process) {
                    found.push(Apart {
                        app: one.app.clone(),
                        process: one.process.clone(),
                        but: BTreeSet::new(),
                        within: one.within,
                        is_hard,
                    });
                }
            }
        }
        for (other, settings) in all {
            let names = |one: &&Neighbour| {
                one.app == *app && one.process.as_ref().is_none_or(|meant| meant == process)
            };
            for one in settings.own.of(is_hard).iter().flatten().filter(names) {
                // Types with a setting of their own have said something else.
                let differ = settings.types.iter().filter(|(_, own)| own.of(is_hard).is_some());
                let mut but: BTreeSet<ProcessType> = differ.map(|(process, _)| process.clone()).collect();
                if other == app {
                    but.insert(process.clone());
                }
                found.push(Apart { app: other.clone(), process: None, but, within: one.within, is_hard });
            }
            for (theirs, own) in &settings.types {
                if (other, theirs) == (app, process) {
                    continue;
                }
                for one in own.of(is_hard).iter().flatten().filter(names) {
                    found.push(Apart {
                        app: other.clone(),
                        process: Some(theirs.clone()),
                        but: BTreeSet::new(),
                        within: one.within,
                        is_hard,
                    });
                }
            }
        }
    }
    found.sort();
    found
}

impl AppApart {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whom it names.
    pub fn names(&self) -> impl Iterator<Item = &AppName> {
        let all = self.types.values().chain([&self.own]);
        all.flat_map(|one| one.never.iter().chain(&one.rather_not)).flatten().map(|one| &one.app)
    }

    /// The same where `app` is called `to`, or is no more. A setting that nothing is left of is none.
    #[must_use]
    pub fn renamed(&self, app: &AppName, to: Option<&AppName>) -> Self {
        let mut after = self.clone();
        for set in after.types.values_mut().chain([&mut after.own]).flat_map(ApartSettings::each) {
            let Some(all) = set else { continue };
            let (named, mut kept): (BTreeSet<_>, BTreeSet<_>) =
                std::mem::take(all).into_iter().partition(|one| one.app == *app);
            if let Some(to) = to {
                kept.extend(named.into_iter().map(|one| Neighbour { app: to.clone(), ..one }));
            }
            *set = Some(kept).filter(|kept| !kept.is_empty());
        }
        after.types.retain(|_, settings| !settings.is_default());
        after
    }
}

#[cfg(test)]
#[path = "apart_tests.rs"]
mod tests;
