//! Detection: which group of buildpacks is for the app.
//!
//! In: an order, the tree. Out: the group that runs and its plan. Each buildpack is asked once, all those of a group in
//! one container, whose writable directory is thrown away: detection changes nothing.

use super::super::error::BuildError;
use super::super::output::Lines;
use super::Building;
use super::fetch::{Fetched, Module};
use super::space::{self, OUT, Space};
use super::stack::Stack;
use crate::images::layers::remove_tree;
use berth_buildpacks::cnb::order::{Group, Member, flatten};
use berth_buildpacks::cnb::resolve::{self, Detected, Resolved};
use berth_launcher::{Phase, Run};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;

/// Most lines of one detection's output that are shown.
const MAX_LINES: usize = 60;

/// What is known of one buildpack's detection.
struct Asked {
    detected: Detected,
    output: Vec<String>,
}

impl Building<'_> {
    /// Finds the first group of `order` that is for the app.
    pub(super) async fn detect(
        &self,
        order: &[Group],
        fetched: &Fetched,
        stack: &Stack,
        lowers: &[PathBuf],
    ) -> Result<Resolved, BuildError> {
        let all: Vec<_> = fetched.modules.iter().map(|module| module.descriptor.clone()).collect();
        let groups = flatten(order, &all, "production").map_err(BuildError::Plan)?;
        let mut asked: HashMap<usize, Asked> = HashMap::new();
        let mut unfit: BTreeMap<usize, String> = BTreeMap::new();
        let mut reasons = Vec::new();
        for (number, group) in groups.iter().enumerate() {
            for member in group {
                if let Err(wanted) = all[member.at].supports(&stack.target) {
                    unfit.insert(member.at, wanted);
                }
            }
            let new: Vec<usize> = group
                .iter()
                .map(|member| member.at)
                .filter(|at| !asked.contains_key(at) && !unfit.contains_key(at))
                .collect();
            // One that must take part and cannot makes asking the others idle.
            let hopeless = group.iter().any(|member| !member.optional && unfit.contains_key(&member.at));
            if !hopeless && !new.is_empty() {
                asked.extend(self.ask(number, &new, fetched, stack, lowers).await?);
            }
            let of = |at: usize| asked.get(&at).map_or(Detected::Failed, |asked| asked.detected.clone());
            match resolve::resolve(group, &of) {
                Ok(resolved) => return Ok(resolved),
                Err(reason) => reasons.push((group.clone(), reason)),
            }
        }
        self.explain(&reasons, &asked, &unfit, fetched, stack).await
    }

    /// Runs `bin/detect` of each.
    async fn ask(
        &self,
        number: usize,
        members: &[usize],
        fetched: &Fetched,
        stack: &Stack,
        lowers: &[PathBuf],
    ) -> Result<Vec<(usize, Asked)>, BuildError> {
        let space = Space::new(self.job, lowers.to_vec(), self.turn.base, stack.env.clone())?;
        let view = space.view();
        let mut runs = Vec::new();
        for at in members {
            let module = &fetched.modules[*at];
            let program = format!("{}/bin/detect", module.dir);
            if !space::has_program(&view, &program) {
                continue;
            }
            let plan = format!("/{OUT}/{at}.plan");
            runs.push(Run {
                argv: vec![program, "/platform".to_owned(), plan.clone()],
                cwd: format!("/{}", super::WORKSPACE),
                clear_env: module.descriptor.clear_env,
                status: Some(format!("/{OUT}/{at}.status")),
                log: Some(format!("/{OUT}/{at}.log")),
                env: env(module, stack, [("CNB_BUILD_PLAN_PATH", plan)]),
            });
        }
        if !runs.is_empty() {
            let phase = Phase { run: runs, ..Phase::default() };
            space.phase(self.job, &format!("detect{number}"), "Detecting", phase, Vec::new()).await?;
        }
        let view = space.view();
        let mut answers = Vec::new();
        for at in members {
            answers.push((*at, self.answer(*at, &fetched.modules[*at], &view)?));
        }
        remove_tree(&space.upper).map_err(BuildError::disk("remove", &space.upper))?;
        Ok(answers)
    }

    fn answer(
        &self,
        at: usize,
        module: &Module,
        view: &super::super::view::View,
    ) -> Result<Asked, BuildError> {
        // From API 0.10 on a buildpack without bin/detect is for every app.
        let Some(status) = space::text(view, &format!("/{OUT}/{at}.status"))? else {
            return Ok(Asked {
                detected: Detected::Passed(vec![resolve::Sections::default()]),
                output: Vec::new(),
            });
        };
        let mut output = log(view, &format!("/{OUT}/{at}.log"));
        let code: i32 = status.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(1);
        if let Some((_, why)) = status.split_once(' ') {
            output.push(why.to_owned());
        }
        let detected = match code {
            0 => {
                let text = space::text(view, &format!("/{OUT}/{at}.plan"))?.unwrap_or_default();
                let plans = resolve::parse(&text).map_err(|error| {
                    BuildError::Plan(format!(
                        "{} wrote a build plan that cannot be read: {error}",
                        module.descriptor.id
                    ))
                })?;
                Detected::Passed(plans)
            }
            100 => Detected::Failed,
            code => Detected::Broken(code),
        };
        Ok(Asked { detected, output })
    }

    /// No group is for the app: what each buildpack said, and what to do.
    async fn explain(
        &self,
        reasons: &[(Vec<Member>, String)],
        asked: &HashMap<usize, Asked>,
        unfit: &BTreeMap<usize, String>,
        fetched: &Fetched,
        stack: &Stack,
    ) -> Result<Resolved, BuildError> {
        let name = |at: usize| {
            let descriptor = &fetched.modules[at].descriptor;
            format!("{} {}", descriptor.id, descriptor.version)
        };
        let mut shown: Vec<usize> = asked.keys().copied().collect();
        shown.sort_unstable();
        for at in shown {
            let Asked { detected, output } = &asked[&at];
            let verdict = match detected {
                Detected::Passed(_) => "is for this app".to_owned(),
                Detected::Failed => "is not for this app (exit code 100)".to_owned(),
                Detected::Broken(code) => format!("broke off with exit code {code}"),
            };
            self.job.detail(&format!("{}: {verdict}", name(at))).await;
            for line in output {
                self.job.detail(&format!("  {line}")).await;
            }
        }
        if let Some((at, wanted)) = unfit.iter().next()
            && reasons.iter().all(|(group, _)| {
                group.iter().any(|member| !member.optional && unfit.contains_key(&member.at))
                    || group.iter().all(|member| unfit.contains_key(&member.at))
            })
        {
            let app = &self.job.request.app;
            return Err(BuildError::Plan(format!(
                "the buildpack {} is for {wanted}, but the stack {} is {}. Choose one that it supports, such as \
                 `berth stack:set {app} heroku-24` (or an image: `berth stack:set {app} RUN-IMAGE,BUILD-IMAGE`), and push again",
                name(*at),
                stack.name,
                stack.target
            )));
        }
        let mut why: Vec<&str> = reasons.iter().map(|(_, reason)| reason.as_str()).collect();
        why.dedup();
        why.truncate(3);
        let (count, what) = (reasons.len(), if reasons.len() == 1 { "group" } else { "groups" });
        Err(BuildError::Plan(format!(
            "no buildpack is for this app ({count} {what} tried): {}. What each one said is above. Push what it looks for, or \
             choose others in project.toml or with `berth buildpacks:set {} URL`",
            why.join("; "),
            self.job.request.app
        )))
    }
}

/// What a program of `module` finds in its environment besides what the platform gives.
pub(super) fn env<const N: usize>(
    module: &Module,
    stack: &Stack,
    own: [(&str, String); N],
) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> =
        space::target_env(&stack.target, module.descriptor.api).into_iter().collect();
    env.insert("CNB_PLATFORM_DIR".to_owned(), "/platform".to_owned());
    env.insert("CNB_BUILDPACK_DIR".to_owned(), module.dir.clone());
    env.extend(own.into_iter().map(|(name, value)| (name.to_owned(), value)));
    env
}

/// The end of a log, fit for a terminal.
fn log(view: &super::super::view::View, path: &str) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    const LONGEST: u64 = 64 << 10;
    let Ok(found) = view.resolve(std::path::Path::new(path), false) else { return Vec::new() };
    let Some(super::super::view::Node::Other(at, found)) = found.node else { return Vec::new() };
    if !found.is_file() {
        return Vec::new();
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(at).and_then(|mut file| {
        file.seek(SeekFrom::Start(found.len().saturating_sub(LONGEST)))?;
        file.take(LONGEST).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    let mut lines = Lines::default();
    let mut all = lines.push(&bytes);
    all.extend(lines.finish());
    let skipped = all.len().saturating_sub(MAX_LINES);
    all.split_off(skipped)
}
