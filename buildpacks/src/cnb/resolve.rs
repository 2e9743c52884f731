//! Build plans: what buildpacks provide and require, and which of a group therefore run.
//!
//! In: what each buildpack's detection said. Out: the group that runs and the plan it runs by (Buildpack specification,
//! “Phase #1: Detection”): every requirement has a provider at or before it, every provision a requirer at or after it.

use super::order::Member;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most trials of one group.
const MAX_TRIALS: usize = 5000;
/// Most alternatives, provisions or requirements of one buildpack.
const MAX_ITEMS: usize = 200;

/// What a detection came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Exit code 0: alternatives, the first one first.
    Passed(Vec<Sections>),
    /// Exit code 100: not for this app.
    Failed,
    /// Any other exit code.
    Broken(i32),
}

/// One alternative of a build plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    /// Names.
    pub provides: Vec<String>,
    /// Requirements, with their metadata.
    pub requires: Vec<Require>,
}

/// A requirement, as it is given to who provides it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Require {
    /// What.
    pub name: String,
    /// Anything.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub metadata: toml::Table,
}

impl Eq for Require {}

/// A name, who provides it and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// By place in the group, in order; the first that does not pass it on has it.
    pub providers: Vec<usize>,
    /// In the order of the group.
    pub requires: Vec<Require>,
}

/// The group that runs and its plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Places in the list of descriptors.
    pub members: Vec<usize>,
    /// By name; providers are places in `members`.
    pub plan: BTreeMap<String, Dependency>,
}

#[derive(Deserialize)]
struct RawPlan {
    #[serde(default)]
    provides: Vec<RawProvide>,
    #[serde(default)]
    requires: Vec<Require>,
    #[serde(default)]
    or: Vec<RawSections>,
}

#[derive(Deserialize)]
struct RawSections {
    #[serde(default)]
    provides: Vec<RawProvide>,
    #[serde(default)]
    requires: Vec<Require>,
}

#[derive(Deserialize)]
struct RawProvide {
    name: String,
}

/// Reads what a detection wrote: alternatives in the order they are tried.
pub fn parse(text: &str) -> Result<Vec<Sections>, String> {
    let raw: RawPlan = super::toml(text, "the build plan")?;
    let sections = |provides: Vec<RawProvide>, requires| Sections {
        provides: provides.into_iter().map(|provide| provide.name).collect(),
        requires,
    };
    let mut all = vec![sections(raw.provides, raw.requires)];
    all.extend(raw.or.into_iter().map(|raw| sections(raw.provides, raw.requires)));
    let too_many = all.len() > MAX_ITEMS
        || all.iter().any(|one| one.provides.len() > MAX_ITEMS || one.requires.len() > MAX_ITEMS);
    match too_many {
        true => Err(format!("the build plan has more than {MAX_ITEMS} entries")),
        false => Ok(all),
    }
}

/// Tries a group with what its members' detections said. The error says what stood in the way.
pub fn resolve(group: &[Member], detected: &dyn Fn(usize) -> Detected) -> Result<Resolved, String> {
    let mut options: Vec<(Member, Vec<Sections>)> = Vec::new();
    for member in group {
        match detected(member.at) {
            Detected::Passed(plans) => options.push((*member, plans)),
            _ if member.optional => {}
            Detected::Failed => {
                return Err("not every buildpack that must take part is for this app".to_owned());
            }
            Detected::Broken(code) => return Err(format!("a detection broke off with exit code {code}")),
        }
    }
    let mut reason = String::new();
    let mut choice = vec![0; options.len()];
    for _ in 0..MAX_TRIALS {
        let trial = options.iter().zip(&choice).map(|((member, plans), at)| (*member, &plans[*at])).collect();
        match attempt(trial) {
            Ok(resolved) => return Ok(resolved),
            Err(why) if reason.is_empty() => reason = why,
            Err(_) => {}
        }
        // The next combination: the last buildpack's alternatives change fastest.
        let mut next = options.len();
        loop {
            if next == 0 {
                return Err(reason);
            }
            next -= 1;
            choice[next] += 1;
            if choice[next] < options[next].1.len() {
                break;
            }
            choice[next] = 0;
        }
    }
    Err(format!("its build plans have more than {MAX_TRIALS} combinations"))
}

fn attempt(mut trial: Vec<(Member, &Sections)>) -> Result<Resolved, String> {
    loop {
        if trial.is_empty() {
            return Err("no buildpack is for this app".to_owned());
        }
        let Some((at, why)) = unmet(&trial) else { break };
        if !trial[at].0.optional {
            return Err(why);
        }
        trial.remove(at);
    }
    if trial.iter().all(|(member, _)| member.optional) && trial.is_empty() {
        return Err("no buildpack is for this app".to_owned());
    }
    let mut plan: BTreeMap<String, Dependency> = BTreeMap::new();
    let empty = || Dependency { providers: Vec::new(), requires: Vec::new() };
    for (place, (_, sections)) in trial.iter().enumerate() {
        for name in &sections.provides {
            let providers = &mut plan.entry(name.clone()).or_insert_with(empty).providers;
            if !providers.contains(&place) {
                providers.push(place);
            }
        }
        for require in &sections.requires {
            plan.entry(require.name.clone()).or_insert_with(empty).requires.push(require.clone());
        }
    }
    Ok(Resolved { members: trial.iter().map(|(member, _)| member.at).collect(), plan })
}

/// The first buildpack with something that nobody provides or that nobody wants.
fn unmet(trial: &[(Member, &Sections)]) -> Option<(usize, String)> {
    for (place, (_, sections)) in trial.iter().enumerate() {
        for require in &sections.requires {
            let provided = trial[..=place].iter().any(|(_, other)| other.provides.contains(&require.name));
            if !provided {
                return Some((place, format!("nothing provides {:?}, which is required", require.name)));
            }
        }
        for name in &sections.provides {
            let wanted = trial[place..]
                .iter()
                .any(|(_, other)| other.requires.iter().any(|require| require.name == *name));
            if !wanted {
                return Some((place, format!("nothing requires {name:?}, which is provided")));
            }
        }
    }
    None
}

impl Resolved {
    /// The plan that the member at `place` is given, as TOML: what it provides and no one before it has met.
    #[must_use]
    pub fn plan_for(&self, place: usize) -> String {
        #[derive(Serialize)]
        struct File<'a> {
            entries: Vec<&'a Require>,
        }
        let mine = self.plan.values().filter(|dependency| dependency.providers.contains(&place));
        let entries: Vec<&Require> = mine.flat_map(|dependency| &dependency.requires).collect();
        if entries.is_empty() {
            return String::new();
        }
        toml::to_string(&File { entries }).unwrap_or_default()
    }

    /// Takes out what the member at `place` met: all that it was given but `unmet`.
    pub fn met(&mut self, place: usize, unmet: &[String]) {
        self.plan.retain(|name, dependency| !dependency.providers.contains(&place) || unmet.contains(name));
        for dependency in self.plan.values_mut() {
            dependency.providers.retain(|provider| *provider != place);
        }
    }
}
