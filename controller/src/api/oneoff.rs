//! One-off containers: what `berth run` asks for, as a container of the current release.
//!
//! In: the app, its release, the request, a number and a unique suffix. Out: the spec. Pure.

use crate::errors::{internal, invalid};
use crate::release::{launched, main_port, one_off};
use berth_buildpacks::quoted;
use berth_model::api::{ApiError, RunRequest};
use berth_model::container::ContainerSpec;
use berth_model::image::Process;
use berth_model::release::{App, Release};
use berth_model::{ContainerId, EnvName, ProcessType};

/// Most bytes of a command line: `execve` takes about 2 MiB with the environment.
const MAX_ARGV: usize = 128 * 1024;

/// The container that runs the request's command with everything the app's own processes have: `run.<number>`.
pub(super) fn spec(
    app: &App,
    release: &Release,
    request: &RunRequest,
    number: u32,
    unique: &str,
) -> Result<ContainerSpec, ApiError> {
    let wrong = |error: berth_model::NameError| internal("a one-off container", &error);
    let run = ProcessType::parse("run").map_err(wrong)?;
    let process = Process::Command { argv: expand(release, &request.argv)? };
    let mut spec = one_off(app, release, &run, process, unique).map_err(wrong)?;
    spec.id = ContainerId::of(&app.name, &run, number, unique).map_err(wrong)?;
    spec.ordinal = number;
    spec.env.insert(EnvName::parse("PORT").map_err(wrong)?, main_port(&release.image).to_string());
    spec.env.insert(EnvName::parse("DYNO").map_err(wrong)?, format!("run.{number}"));
    spec.env.extend(request.env.clone());
    Ok(spec)
}

/// The command to run: a process type stands for its own command, with the rest as further arguments; one word with blanks
/// in it is a line for the shell, as Heroku and Dokku take it.
pub(super) fn expand(release: &Release, argv: &[String]) -> Result<Vec<String>, ApiError> {
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

pub(super) fn check_argv(argv: &[String]) -> Result<(), ApiError> {
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
    use std::collections::BTreeMap;

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
            checks: BTreeMap::new(),
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
        let mut request = RunRequest { argv: words(&["worker"]), tty: None, env: BTreeMap::new() };
        request.env.insert(EnvName::parse("B").expect("valid"), "2".to_owned());
        let spec = spec(&app, &release, &request, 7, "k7x2m9").expect("a spec");
        assert_eq!(spec.id.as_str(), "hello.run.7.k7x2m9");
        let env = |name: &str| spec.env.get(&EnvName::parse(name).expect("valid")).map(String::as_str);
        assert_eq!(["A", "B", "DYNO", "PORT"].map(env), [Some("1"), Some("2"), Some("run.7"), Some("5000")]);
        assert_eq!(env("GIT_REV"), release.git_rev.as_deref());
        assert_eq!(spec.restart, berth_model::container::RestartPolicy::Never);
        assert!(spec.checks.is_empty() && spec.published.is_empty());
    }
}
