//! One-off containers as specs: what `berth run` or the clock asks for, as a container of a release.
//!
//! In: the app, its release, what is wanted, a number and a unique suffix. Out: the spec. Pure.

use crate::errors::{internal, invalid};
use crate::release::{launched, main_port, one_off};
use berth_buildpacks::quoted;
use berth_model::api::ApiError;
use berth_model::container::{ContainerSpec, Once};
use berth_model::image::Process;
use berth_model::release::{App, Release};
use berth_model::run::RunKind;
use berth_model::{ContainerId, EnvName, ProcessType};
use std::collections::BTreeMap;

/// Most bytes of a command line: `execve` takes about 2 MiB with the environment.
const MAX_ARGV: usize = 128 * 1024;

/// What is to run once.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// `run` or `cron`.
    pub(crate) kind: RunKind,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<EnvName, String>,
    /// Whose limits it has; `None`: those of its own kind.
    pub(crate) limits_of: Option<ProcessType>,
    pub(crate) once: Once,
}

/// The container that runs the command with everything the app's own processes have: `run.<number>`.
pub(crate) fn spec(
    app: &App,
    release: &Release,
    wanted: &Wanted,
    number: u32,
    unique: &str,
) -> Result<ContainerSpec, ApiError> {
    let wrong = |error: berth_model::NameError| internal("a one-off container", &error);
    let kind = ProcessType::parse(wanted.kind.as_str()).map_err(wrong)?;
    if let Some(process) = &wanted.limits_of
        && !release.image.processes.contains_key(process)
        && !app.limits.contains_key(process)
    {
        let known: Vec<_> = release.image.processes.keys().map(ProcessType::as_str).collect();
        return Err(invalid(format!(
            "App {} has no process type {process}; it has: {}",
            app.name,
            known.join(", ")
        )));
    }
    let process = Process::Command { argv: expand(release, &wanted.argv)? };
    let limited = wanted.limits_of.as_ref().unwrap_or(&kind);
    let mut spec = one_off(app, release, limited, process, unique).map_err(wrong)?;
    spec.id = ContainerId::of(&app.name, &kind, number, unique).map_err(wrong)?;
    spec.env.insert(EnvName::parse("PORT").map_err(wrong)?, main_port(&release.image).to_string());
    spec.env.insert(EnvName::parse("DYNO").map_err(wrong)?, format!("{kind}.{number}"));
    spec.env.extend(wanted.env.clone());
    (spec.process, spec.ordinal, spec.once) = (kind, number, Some(wanted.once));
    Ok(spec)
}

/// The command to run: a process type stands for its own command, with the rest as further arguments; one word with blanks
/// in it is a line for the shell, as Heroku and Dokku take it.
pub(crate) fn expand(release: &Release, argv: &[String]) -> Result<Vec<String>, ApiError> {
    check_argv(argv)?;
    let (first, rest) = argv.split_first().expect("checked: it is not empty");
    let named = ProcessType::parse(first).ok().and_then(|process| release.image.processes.get(&process));
    match named {
        Some(Process::Static(_)) => Err(invalid(format!(
            "{first} of this app is a static site: nothing runs; give a command, such as: berth run {} ls",
            release.app
        ))),
        Some(Process::Command { argv }) => match argv.as_slice() {
            [shell, flag, line] if flag == "-c" => {
                let rest = rest.iter().map(|word| format!(" {}", quoted(word)));
                let line = std::iter::once(line.clone()).chain(rest).collect();
                Ok(vec![shell.clone(), flag.clone(), line])
            }
            argv => Ok(argv.iter().chain(rest).cloned().collect()),
        },
        None if rest.is_empty() && first.contains(char::is_whitespace) => {
            Ok(launched(&release.image, ["/bin/sh", "-c", first].map(str::to_owned).to_vec()))
        }
        None => Ok(launched(&release.image, argv.to_vec())),
    }
}

pub(crate) fn check_argv(argv: &[String]) -> Result<(), ApiError> {
    if argv.first().is_none_or(|first| first.trim().is_empty()) {
        return Err(invalid("give a command to run"));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(invalid("a command cannot hold NUL bytes"));
    }
    if argv.iter().map(|word| word.len() + 1).sum::<usize>() > MAX_ARGV {
        return Err(invalid("the command is longer than 128 KiB; put it in a file of the app"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::digest::Digest;
    use berth_model::image::{Image, ImageRef, StaticSite};
    use berth_model::release::Outcome;
    use berth_model::{AppName, ReleaseVersion};

    fn release() -> Release {
        let worker =
            Process::Command { argv: ["/bin/bash", "-c", "python w.py"].map(str::to_owned).to_vec() };
        let tool = Process::Command { argv: vec!["/tool".to_owned(), "-x".to_owned()] };
        let site = Process::Static(StaticSite {
            root: "/app".to_owned(),
            spa_fallback: false,
            rules: Default::default(),
        });
        let processes = [("worker", worker), ("tool", tool), ("web", site)]
            .map(|(name, run)| (ProcessType::parse(name).expect("valid"), run));
        Release {
            app: AppName::parse("hello").expect("valid"),
            version: ReleaseVersion(3),
            image: Image {
                reference: ImageRef { repository: "apps/hello".to_owned(), digest: Digest::of(b"") },
                builder: "python".to_owned(),
                processes: processes.into(),
                exposed_ports: Vec::new(),
                healthcheck: None,
            },
            config: BTreeMap::from([(EnvName::parse("A").expect("valid"), "1".to_owned())]),
            secrets: Default::default(),
            checks: BTreeMap::new(),
            cron: Vec::new(),
            formation: Default::default(),
            max_parallel: BTreeMap::new(),
            git_rev: Some("f".repeat(40)),
            created_ms: 0,
            by: "local".to_owned(),
            description: String::new(),
            outcome: Outcome::Live,
        }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_process_type_stands_for_its_command() {
        let release = release();
        let expanded = |argv: &[&str]| expand(&release, &words(argv));
        assert_eq!(expanded(&["worker"]), Ok(words(&["/bin/bash", "-c", "python w.py"])));
        assert_eq!(
            expanded(&["worker", "a b", "it's"]),
            Ok(words(&["/bin/bash", "-c", r"python w.py 'a b' 'it'\''s'"]))
        );
        assert_eq!(expanded(&["tool", "y"]), Ok(words(&["/tool", "-x", "y"])));
        assert_eq!(expanded(&["ls", "-l"]), Ok(words(&["ls", "-l"])));
        assert_eq!(expanded(&["echo $A | wc"]), Ok(words(&["/bin/sh", "-c", "echo $A | wc"])));
        for bad in [&[][..], &[""], &["web"], &["a\0"]] {
            assert!(expanded(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn images_of_buildpacks_have_a_launcher() {
        let mut release = release();
        let web = Process::Command { argv: words(&["/cnb/process/web"]) };
        release.image.processes = [(ProcessType::web(), web)].into();
        let expanded = |argv: &[&str]| expand(&release, &words(argv));
        assert_eq!(expanded(&["web", "-x"]), Ok(words(&["/cnb/process/web", "-x"])));
        let launcher = ["/cnb/lifecycle/launcher", "--profile", "--", "ls", "-l"];
        assert_eq!(expanded(&["ls", "-l"]), Ok(words(&launcher)));
    }

    #[test]
    fn a_one_off_has_what_the_app_has_and_a_name_of_its_own() {
        let release = release();
        let app: App = serde_json::from_value(serde_json::json!({
            "name": "hello", "created_ms": 0, "deploy_branch": null, "domains": [], "default_domain": true,
            "formation": {}, "stopped": false, "limits": {}, "restart": {"policy": "always"},
            "stop": {"signal": 15, "grace_secs": 30}, "current": 3, "next_version": 4
        }))
        .expect("an app");
        let once = Once { begin_by_ms: None, until_ms: Some(9) };
        let env = BTreeMap::from([(EnvName::parse("B").expect("valid"), "2".to_owned())]);
        let mut wanted = Wanted { kind: RunKind::Run, argv: words(&["worker"]), env, limits_of: None, once };
        let spec = super::spec(&app, &release, &wanted, 7, "k7x2m9").expect("a spec");
        assert_eq!(spec.id.as_str(), "hello.run.7.k7x2m9");
        let env = |name: &str| spec.env.get(&EnvName::parse(name).expect("valid")).map(String::as_str);
        assert_eq!(["A", "B", "DYNO", "PORT"].map(env), [Some("1"), Some("2"), Some("run.7"), Some("5000")]);
        assert_eq!(env("GIT_REV"), release.git_rev.as_deref());
        assert_eq!(spec.restart, berth_model::container::RestartPolicy::Never);
        assert!(spec.checks.is_empty() && spec.published.is_empty());
        assert_eq!((spec.process.as_str(), spec.once), ("run", Some(once)));

        wanted.limits_of = ProcessType::parse("worker").ok();
        let spec = super::spec(&app, &release, &wanted, 7, "k7x2m9").expect("a spec");
        assert_eq!(spec.process.as_str(), "run");
        wanted.limits_of = ProcessType::parse("nosuch").ok();
        assert!(super::spec(&app, &release, &wanted, 7, "k7x2m9").is_err());
    }
}
