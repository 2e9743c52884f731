//! `buildpack.toml`, and whether a buildpack is for this machine and stack.
//!
//! In: the file's text, a target. Out: a [`Descriptor`] whose id and version are safe in paths.

use super::order::{Entry, Group};
use super::source::{check_id, check_version};
use serde::Deserialize;
use std::fmt;

/// A buildpack API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Api(pub u32, pub u32);

impl Api {
    /// The oldest and the newest that are spoken.
    pub const SUPPORTED: (Self, Self) = (Self(0, 7), Self(0, 12));

    /// Reads `0.10`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        let number = |text: &str| text.parse::<u32>().ok();
        let api = match (number(major), number(minor)) {
            (Some(major), Some(minor)) => Self(major, minor),
            _ => return Err(format!("api = {text:?} is no version such as \"0.10\"")),
        };
        let (oldest, newest) = Self::SUPPORTED;
        if api < oldest || api > newest {
            return Err(format!(
                "it speaks Buildpack API {api}; {oldest} to {newest} are spoken here. Use {} version of the buildpack",
                if api < oldest { "a newer" } else { "an older" }
            ));
        }
        Ok(api)
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What a `buildpack.toml` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Which API its programs speak.
    pub api: Api,
    /// `owner/name`.
    pub id: String,
    /// Its version.
    pub version: String,
    /// For people; may be empty.
    pub name: String,
    /// Where to read about it; may be empty.
    pub homepage: String,
    /// The user's variables only come as files.
    pub clear_env: bool,
    /// Not empty: it has no programs, but is made of others.
    pub order: Vec<Group>,
    targets: Vec<RawTarget>,
    stacks: Vec<String>,
}

/// What buildpacks are told of the machine and the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub arch: String,
    /// Such as `v8`; mostly empty.
    pub variant: String,
    /// `debian`, `ubuntu`; empty if the image does not say.
    pub distro: String,
    /// `12`, `24.04`.
    pub distro_version: String,
    /// For buildpacks that know stacks (API 0.9 and older).
    pub stack_id: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        if !self.distro.is_empty() {
            write!(f, " {} {}", self.distro, self.distro_version)?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct RawTarget {
    os: String,
    arch: String,
    variant: String,
    distros: Vec<RawDistro>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct RawDistro {
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    api: String,
    buildpack: RawBuildpack,
    #[serde(default)]
    targets: Vec<RawTarget>,
    #[serde(default)]
    stacks: Vec<RawStack>,
    #[serde(default)]
    order: Vec<RawGroup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawBuildpack {
    id: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    homepage: String,
    #[serde(default)]
    clear_env: bool,
}

#[derive(Deserialize)]
struct RawStack {
    #[serde(default)]
    id: String,
}

#[derive(Deserialize)]
pub(super) struct RawGroup {
    #[serde(default)]
    pub(super) group: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RawEntry {
    id: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    exec_env: Vec<String>,
}

impl RawGroup {
    pub(super) fn checked(self) -> Result<Group, String> {
        let entry = |raw: RawEntry| {
            check_id(&raw.id)?;
            let version = Some(raw.version).filter(|version| !version.is_empty());
            version.as_deref().map_or(Ok(()), check_version)?;
            Ok(Entry { id: raw.id, version, optional: raw.optional, exec_env: raw.exec_env })
        };
        Ok(Group(self.group.into_iter().map(entry).collect::<Result<_, String>>()?))
    }
}

impl Descriptor {
    /// Reads a `buildpack.toml`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: RawFile = super::toml(text, "buildpack.toml")?;
        let RawBuildpack { id, version, name, homepage, clear_env } = raw.buildpack;
        let wrong = |error: String| format!("buildpack.toml: {error}");
        check_id(&id).map_err(wrong)?;
        // Directories that are worked on have none yet.
        let version = if version.is_empty() { "0.0.0".to_owned() } else { version };
        check_version(&version).map_err(wrong)?;
        let api = Api::parse(if raw.api.is_empty() { "0.1" } else { &raw.api });
        let api = api.map_err(|error| format!("the buildpack {id}: {error}"))?;
        let order = raw.order.into_iter().map(RawGroup::checked).collect::<Result<_, _>>().map_err(wrong)?;
        let stacks = raw.stacks.into_iter().map(|stack| stack.id).collect();
        Ok(Self { api, id, version, name, homepage, clear_env, order, targets: raw.targets, stacks })
    }

    /// Whether it has no programs of its own.
    #[must_use]
    pub fn is_composite(&self) -> bool {
        !self.order.is_empty()
    }

    /// Whether it is for `target`; else what it is for.
    pub fn supports(&self, target: &Target) -> Result<(), String> {
        if self.is_composite() || self.targets.is_empty() && self.stacks.is_empty() {
            return Ok(());
        }
        let is_or_any = |wanted: &str, found: &str| wanted.is_empty() || wanted == "*" || wanted == found;
        let distro = |wanted: &RawDistro| {
            // Nobody knows what the image is: nothing speaks against it.
            target.distro.is_empty()
                || is_or_any(&wanted.name, &target.distro)
                    && is_or_any(&wanted.version, &target.distro_version)
        };
        let fits = |wanted: &RawTarget| {
            is_or_any(&wanted.os, &target.os)
                && is_or_any(&wanted.arch, &target.arch)
                && (target.variant.is_empty() || is_or_any(&wanted.variant, &target.variant))
                && (wanted.distros.is_empty() || wanted.distros.iter().any(distro))
        };
        let stack = |id: &String| {
            id == "*"
                || *id == target.stack_id
                || known_stack(id) == Some((&target.distro, &target.distro_version))
        };
        if self.targets.iter().any(fits) || self.stacks.iter().any(stack) {
            return Ok(());
        }
        Err(self.wanted())
    }

    fn wanted(&self) -> String {
        let mut all = Vec::new();
        for target in &self.targets {
            let os = if target.os.is_empty() { "linux" } else { &target.os };
            let arch = if target.arch.is_empty() { "any" } else { &target.arch };
            match target.distros.as_slice() {
                [] => all.push(format!("{os}/{arch}")),
                distros => {
                    all.extend(distros.iter().map(|d| format!("{os}/{arch} {} {}", d.name, d.version)));
                }
            }
        }
        all.extend(self.stacks.iter().map(|id| format!("stack {id}")));
        all.truncate(12);
        all.join(", ")
    }
}

/// The distribution that a stack of older buildpacks means.
fn known_stack(id: &str) -> Option<(&str, &str)> {
    match id {
        "io.buildpacks.stacks.bionic" | "heroku-18" => Some(("ubuntu", "18.04")),
        "heroku-20" => Some(("ubuntu", "20.04")),
        "io.buildpacks.stacks.jammy" | "heroku-22" => Some(("ubuntu", "22.04")),
        "io.buildpacks.stacks.noble" | "heroku-24" => Some(("ubuntu", "24.04")),
        "heroku-26" => Some(("ubuntu", "26.04")),
        _ => None,
    }
}

/// The distribution that `/etc/os-release` names: id and version.
#[must_use]
pub fn os_release(text: &str) -> (String, String) {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
    };
    (field("ID"), field("VERSION_ID"))
}
