//! Orders: groups of buildpacks to be tried one after another, some of which stand for groups of their own.
//!
//! In: orders, the descriptors there are. Out: flat groups, first the one to be tried first (Buildpack specification,
//! “Order Resolution”).

use super::descriptor::{Descriptor, RawGroup};
use serde::Deserialize;

/// Most flat groups that an order may come to.
const MAX_GROUPS: usize = 500;
/// Most buildpacks of a flat group.
const MAX_ENTRIES: usize = 200;
/// How deep orders may stand for orders.
const MAX_DEPTH: usize = 10;

/// Buildpacks that run together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group(pub Vec<Entry>);

/// A buildpack of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// `None` is the latest there is.
    pub version: Option<String>,
    /// Whether the group works without it.
    pub optional: bool,
    /// Execution environments it is for; empty for all (API 0.12).
    pub exec_env: Vec<String>,
}

/// One buildpack with programs, by its place in the list of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Index.
    pub at: usize,
    /// Whether the group works without it.
    pub optional: bool,
}

#[derive(Deserialize)]
struct RawOrder {
    #[serde(default)]
    order: Vec<RawGroup>,
}

/// Reads an `order.toml`.
pub fn parse(text: &str) -> Result<Vec<Group>, String> {
    let raw: RawOrder = super::toml(text, "order.toml")?;
    raw.order
        .into_iter()
        .map(RawGroup::checked)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("order.toml: {error}"))
}

/// The index of a buildpack among `all`: of the version that is named, or the latest.
#[must_use]
pub fn find(all: &[Descriptor], id: &str, version: Option<&str>) -> Option<usize> {
    let with_id = all.iter().enumerate().filter(|(_, found)| found.id == id);
    match version {
        Some(version) => {
            let mut with_id = with_id;
            with_id.find(|(_, found)| found.version == version).map(|(at, _)| at)
        }
        None => with_id.max_by_key(|(_, found)| numbers(&found.version)).map(|(at, _)| at),
    }
}

/// A version by its numbers.
fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
}

/// Whether something with this `exec-env` is for the execution environment `env`.
pub(super) fn is_for(wanted: &[String], env: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| wanted == env || wanted == "all" || wanted == "*")
}

/// All flat groups of an order. Buildpacks for another execution environment than `exec_env` are left out.
pub fn flatten(order: &[Group], all: &[Descriptor], exec_env: &str) -> Result<Vec<Vec<Member>>, String> {
    let mut groups = Vec::new();
    expand(order, all, exec_env, 0, &mut |group| {
        if groups.len() >= MAX_GROUPS {
            return Err(format!("the order of buildpacks comes to more than {MAX_GROUPS} groups"));
        }
        groups.push(group);
        Ok(())
    })?;
    Ok(groups)
}

type Take<'a> = &'a mut dyn FnMut(Vec<Member>) -> Result<(), String>;

fn expand(
    order: &[Group],
    all: &[Descriptor],
    env: &str,
    depth: usize,
    take: Take<'_>,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("buildpacks stand for others more than {MAX_DEPTH} deep"));
    }
    for group in order {
        // Every group so far, with each way to go on.
        let mut open: Vec<Vec<Member>> = vec![Vec::new()];
        for entry in &group.0 {
            if !is_for(&entry.exec_env, env) {
                continue;
            }
            let Some(at) = find(all, &entry.id, entry.version.as_deref()) else {
                if entry.optional {
                    continue;
                }
                return Err(missing(entry, all));
            };
            let mut ways: Vec<Vec<Member>> = Vec::new();
            if all[at].is_composite() {
                expand(&all[at].order, all, env, depth + 1, &mut |way| {
                    let optional = entry.optional;
                    let way = way
                        .into_iter()
                        .map(|member| Member { optional: member.optional || optional, ..member });
                    ways.push(way.collect());
                    if ways.len() > MAX_GROUPS {
                        return Err(format!("{} comes to more than {MAX_GROUPS} groups", entry.id));
                    }
                    Ok(())
                })?;
            } else {
                ways.push(vec![Member { at, optional: entry.optional }]);
            }
            if open.len() * ways.len() > MAX_GROUPS {
                return Err(format!("the order of buildpacks comes to more than {MAX_GROUPS} groups"));
            }
            open = open
                .iter()
                .flat_map(|start| ways.iter().map(|way| [start.as_slice(), way].concat()))
                .collect();
            if open.iter().any(|group| group.len() > MAX_ENTRIES) {
                return Err(format!("a group has more than {MAX_ENTRIES} buildpacks"));
            }
        }
        open.into_iter().filter(|group| !group.is_empty()).try_for_each(&mut *take)?;
    }
    Ok(())
}

fn missing(entry: &Entry, all: &[Descriptor]) -> String {
    let version = entry.version.as_deref().map_or(String::new(), |version| format!("@{version}"));
    let mut known: Vec<String> = all.iter().map(|found| format!("{}@{}", found.id, found.version)).collect();
    known.sort();
    let more = known.len().saturating_sub(20);
    known.truncate(20);
    let known = match (known.as_slice(), more) {
        ([], _) => "none was brought along".to_owned(),
        (known, 0) => format!("there are {}", known.join(", ")),
        (known, more) => format!("there are {} and {more} more", known.join(", ")),
    };
    format!(
        "the buildpack {}{version} is not there; {known}. Name where it is: `uri` in project.toml, or a builder image that has it",
        entry.id
    )
}
