//! Programs that a build makes: which of them is `web`, and which are process types of their own.
//!
//! In: their names and what the Procfile leaves open. Out: command lines by process type.

use crate::draft::{Draft, command, quoted};
use berth_model::ProcessType;
use berth_model::image::Process;
use std::collections::BTreeMap;

/// Names that say that a program answers requests.
const WEB_NAMES: [&str; 6] = ["web", "server", "api", "app", "http", "main"];

/// The program that `web` runs: the preferred one, the only one, or one whose name says so.
pub(crate) fn web<'n>(names: &'n [String], preferred: Option<&str>) -> Option<&'n str> {
    let find = |wanted: &str| names.iter().map(String::as_str).find(|name| *name == wanted);
    if let [only] = names {
        return Some(only);
    }
    preferred.and_then(find).or_else(|| WEB_NAMES.into_iter().find_map(find))
}

/// The Procfile's processes, or without any that stays: `web`, and each other program under its own name.
pub(crate) fn processes(
    draft: &Draft<'_>,
    names: &[String],
    web: Option<&str>,
    dir: &str,
) -> BTreeMap<ProcessType, Process> {
    let line = |name: &str| {
        let path = format!("{dir}/{name}");
        let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        if plain { path } else { quoted(&path) }
    };
    let mut processes = draft.processes(web.map(line));
    if !draft.wants_default_web() {
        return processes;
    }
    for name in names.iter().filter(|name| Some(name.as_str()) != web) {
        // A program called `release` is often one that makes releases: it must not run in each deploy unasked.
        if let Ok(process) = ProcessType::parse(name)
            && !process.is_release()
            && !process.is_web()
        {
            processes.entry(process).or_insert_with(|| command(&line(name)));
        }
    }
    processes
}

#[cfg(test)]
mod tests {
    use super::web;

    #[test]
    fn web_is_the_only_program_or_the_one_whose_name_says_so() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(web(&names(&["x"]), None), Some("x"));
        assert_eq!(web(&names(&["migrate", "server"]), None), Some("server"));
        assert_eq!(web(&names(&["migrate", "server"]), Some("migrate")), Some("migrate"));
        assert_eq!(web(&names(&["a", "b"]), Some("c")), None);
        assert_eq!(web(&[], None), None);
    }
}
