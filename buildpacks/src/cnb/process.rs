//! Process types of buildpacks and of the Procfile.
//!
//! In: what each `launch.toml` defines, Procfile lines. Out: each type once, and which one the image starts.

use super::descriptor::Api;
use berth_model::ProcessType;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A process as one buildpack defines it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defined {
    /// `web`, `worker` …
    pub name: String,
    /// Never empty.
    pub command: Vec<String>,
    /// Arguments that a user's own replace.
    pub args: Vec<String>,
    /// Without a shell.
    pub direct: bool,
    /// What the image starts.
    pub default: bool,
    /// Empty for the app's directory.
    pub working_dir: String,
    /// Who defined it; empty for the Procfile.
    pub buildpack: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RawProcess {
    #[serde(rename = "type")]
    name: String,
    command: RawCommand,
    #[serde(default)]
    args: Vec<String>,
    direct: Option<bool>,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    working_dir: String,
    #[serde(default)]
    exec_env: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawCommand {
    One(String),
    Many(Vec<String>),
}

impl RawProcess {
    /// Whether it is for apps that serve, and not only for their tests (`exec-env`, API 0.12).
    pub(super) fn is_for_production(&self) -> bool {
        super::order::is_for(&self.exec_env, "production")
    }

    /// By the rules of `api`: from 0.9 on a command is a list and no shell comes first.
    pub(super) fn checked(self, api: Api) -> Result<Defined, String> {
        let name = self.name;
        ProcessType::parse(&name).map_err(|error| error.to_string())?;
        let (command, direct) = match (self.command, api >= Api(0, 9)) {
            (RawCommand::Many(command), true) => (command, true),
            (RawCommand::One(command), false) => (vec![command], self.direct.unwrap_or(false)),
            (RawCommand::One(_), true) => {
                return Err(format!(
                    "the process {name}: from Buildpack API 0.9 on `command` is a list of words"
                ));
            }
            (RawCommand::Many(_), false) => {
                return Err(format!("the process {name}: up to Buildpack API 0.8 `command` is one text"));
            }
        };
        let words = command.iter().chain(&self.args);
        if command.first().is_none_or(String::is_empty) || words.clone().any(|word| word.contains('\0')) {
            return Err(format!("the process {name} has no command"));
        }
        if words.map(String::len).sum::<usize>() > 64 << 10 || self.working_dir.contains('\0') {
            return Err(format!("the process {name} has a command of more than 64 KiB"));
        }
        Ok(Defined {
            name,
            command,
            args: self.args,
            direct,
            default: self.default,
            working_dir: self.working_dir,
            buildpack: String::new(),
        })
    }
}

/// All of them: later ones win over earlier ones of the same type, and a type defined anew as no default is none any
/// more; Procfile lines win over all. The last default stays, else `web` is it; without a `web`, the default is that, too.
#[must_use]
pub fn merge(defined: Vec<Defined>, procfile: &BTreeMap<ProcessType, String>) -> Vec<Defined> {
    let mut all: BTreeMap<String, Defined> = BTreeMap::new();
    let mut default: Option<String> = None;
    for process in defined {
        if process.default {
            default = Some(process.name.clone());
        } else if default.as_ref() == Some(&process.name) {
            default = None;
        }
        all.insert(process.name.clone(), process);
    }
    for (name, line) in procfile {
        all.insert(name.as_str().to_owned(), of_line(name, line));
    }
    let default = default.filter(|name| all.contains_key(name));
    // What an image starts by itself is what requests go to.
    if let Some(process) = default.as_ref().and_then(|name| all.get(name)).cloned()
        && !all.contains_key("web")
        && procfile.is_empty()
    {
        all.insert("web".to_owned(), Defined { name: "web".to_owned(), ..process });
    }
    let default = default.unwrap_or_else(|| "web".to_owned());
    all.into_values().map(|process| Defined { default: process.name == default, ..process }).collect()
}

/// A Procfile line: the shell's, after what profiles say.
fn of_line(name: &ProcessType, line: &str) -> Defined {
    Defined { name: name.as_str().to_owned(), command: vec![line.to_owned()], ..Defined::default() }
}
