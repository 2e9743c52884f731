//! Dockerfiles: stages and steps made on this node, each step's layer kept under the key of all that it is made from.
//!
//! In: a Dockerfile, the pushed tree. Out: the layers and the config of an image, ready to be published.
//!
//! The upper directory of a RUN is its layer; COPY writes one directly. A key is made of the layers below (by content),
//! the step with every word filled in, and the contents it reads. What is filled in, and by which rules, is
//! `berth_buildpacks::dockerfile`'s; here are only files and containers.

mod archive;
mod base;
mod copy;
mod find;
mod mounts;
mod steps;
#[cfg(test)]
mod tests;
mod tools;

pub(super) use copy::owner;

use super::error::BuildError;
use super::job::{Job, Parts};
use super::view::View;
use super::{Input, Turn, say, source};
use crate::images::layers::Known;
use crate::images::oci::Label;
use berth_buildpacks::dockerfile::{Base, Ignore, Options, Problem, Program, Scope, State, Step};
use berth_model::build::{BuildEvent, Dockerfile};
use berth_model::image::{Image, ImageConfig, Process};
use berth_model::{EnvName, ProcessType};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;
use tokio_util::io::SyncIoBridge;

/// The search path of images that have none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage or an image, as far as it is made.
#[derive(Clone, Debug, Default)]
pub(super) struct Below {
    /// Bottom first.
    pub(super) layers: Vec<Known>,
    pub(super) config: ImageConfig,
    /// What Berth wrote into an image that it made.
    pub(super) made: Option<Image>,
}

impl Below {
    /// By content: the same layers, the same names.
    fn chain(&self) -> Vec<&str> {
        self.layers.iter().map(|known| known.layer.diff_id.as_str()).collect()
    }
}

/// A Dockerfile that is being built.
struct Building<'a> {
    job: &'a Job,
    file: &'a Dockerfile,
    program: &'a Program,
    args: &'a BTreeMap<String, String>,
    turn: &'a Turn,
    publishing: &'a mut JoinSet<Result<(), BuildError>>,
    /// The pushed tree without what `.dockerignore` names.
    context: PathBuf,
    stages: HashMap<usize, Below>,
    /// Images that were looked up, by name.
    images: HashMap<String, Below>,
    step: usize,
    total: usize,
    /// Containers of tools so far.
    tools: usize,
    ignore: Ignore,
}

impl Job {
    /// Builds a Dockerfile.
    pub(super) async fn dockerfile(
        &self,
        file: &Dockerfile,
        input: Input,
        turn: &Turn,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Parts, BuildError> {
        say(&self.events, format!("Building from {}", file.path)).await;
        if !file.reason.is_empty() {
            self.detail(&file.reason).await;
        }
        let config = &self.request.config;
        let args = config.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
        let options = Options { target: file.target.clone(), args };
        let program = Program::parse(&file.text, &options).map_err(|problem| wrong(file, problem))?;
        fs::create_dir_all(&self.dir).map_err(BuildError::disk("make", &self.dir))?;
        let ignore =
            Ignore::parse(&file.ignore).map_err(|text| BuildError::Plan(format!(".dockerignore: {text}")))?;
        let context = self.context(ignore.clone(), input, turn).await?;
        let mut building = Building {
            job: self,
            file,
            args: &options.args,
            turn,
            publishing,
            context,
            stages: HashMap::new(),
            images: HashMap::new(),
            step: 0,
            tools: 0,
            ignore,
            total: program.step_count(),
            program: &program,
        };
        for index in &program.order {
            building.stage(*index).await?;
        }
        let Some(Below { layers, config, .. }) = building.stages.remove(&program.target_stage()) else {
            return Err(BuildError::Plan("the stage to build was not made".to_owned()));
        };
        if layers.is_empty() {
            let text = "the image has no files: FROM scratch needs at least one COPY".to_owned();
            return Err(wrong(file, Problem { line: program.stages[program.target_stage()].line, text }));
        }
        let label = self.label(&config, &file.procfile).map_err(|text| {
            wrong(file, Problem { line: program.stages[program.target_stage()].line, text })
        })?;
        if !config.volumes.is_empty() {
            let app = &self.request.app;
            let text = format!(
                "VOLUME {}: nothing is mounted there by itself, so what is written there goes when its container goes; to keep \
                 it: berth storage:mount {app} NAME:{}",
                config.volumes.join(" "),
                config.volumes[0]
            );
            self.detail(&text).await;
        }
        Ok(Parts { layers, config, label })
    }

    /// What a config says of how its image runs.
    fn label(&self, config: &ImageConfig, procfile: &BTreeMap<ProcessType, String>) -> Result<Label, String> {
        let tcp =
            config.exposed.iter().filter_map(|port| port.strip_suffix("/tcp").unwrap_or(port).parse().ok());
        Ok(Label {
            builder: self.request.plan.builder.clone(),
            processes: processes(config, procfile)?,
            exposed_ports: tcp.collect(),
            healthcheck: config.healthcheck.clone(),
        })
    }

    /// An image as it is, to run: its own command is `web`. One that Berth made keeps its process types.
    pub(super) async fn as_it_is(&self, name: &str) -> Result<Parts, BuildError> {
        say(&self.events, format!("Using the image {name}")).await;
        let Below { layers, mut config, made } = self.below(&self.request.plan.run_image).await?;
        if layers.is_empty() {
            return Err(BuildError::Plan(format!("the image {name} has no files, so it cannot run")));
        }
        if let Ok(path) = EnvName::parse("PATH") {
            config.env.entry(path).or_insert_with(|| PATH.to_owned());
        }
        let label = match made {
            Some(Image { processes, exposed_ports, healthcheck, .. }) => {
                let builder = self.request.plan.builder.clone();
                Label { builder, processes, exposed_ports, healthcheck }
            }
            None => self.label(&config, &BTreeMap::new()).map_err(BuildError::Plan)?,
        };
        let types: Vec<&str> = label.processes.keys().map(ProcessType::as_str).collect();
        self.detail(&format!("It runs {}", types.join(", "))).await;
        Ok(Parts { layers, config, label })
    }

    pub(super) async fn detail(&self, text: &str) {
        let _ = self.events.send(BuildEvent::Detail { text: text.to_owned() }).await;
    }

    /// Unpacks the tree and removes what `.dockerignore` names.
    async fn context(&self, ignore: Ignore, input: Input, turn: &Turn) -> Result<PathBuf, BuildError> {
        let tree = source::fresh(&self.dir, "tree");
        fs::create_dir(&tree).map_err(BuildError::disk("make", &tree))?;
        let (input, into) = (SyncIoBridge::new(input), tree.clone());
        let received = tokio::task::spawn_blocking(move || source::receive_for(input, &into, &[], 0)).await?;
        if self.stop.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        received?;
        let app = tree.join("app");
        self.submodules(&app, 0, turn).await?;
        let context = app.clone();
        let left_out =
            move || leave_out(&app, &ignore).map_err(BuildError::disk("apply .dockerignore to", &app));
        tokio::task::spawn_blocking(left_out).await??;
        Ok(context)
    }
}

fn wrong(file: &Dockerfile, problem: Problem) -> BuildError {
    BuildError::Dockerfile { file: file.path.clone(), line: problem.line, text: problem.text }
}

impl Building<'_> {
    async fn announce(&mut self, text: &str, note: &str) {
        self.step += 1;
        self.job.detail(&format!("Step {}/{} : {text}{note}", self.step, self.total)).await;
    }

    async fn stage(&mut self, index: usize) -> Result<(), BuildError> {
        let program = self.program;
        let stage = &program.stages[index];
        let at = |error: BuildError| match error {
            error @ (BuildError::Cancelled | BuildError::TimedOut(_) | BuildError::Dockerfile { .. }) => {
                error
            }
            source => BuildError::Instruction {
                file: self.file.path.clone(),
                line: stage.line,
                step: stage.text.clone(),
                source: Box::new(source),
            },
        };
        let mut below = match &stage.base {
            Base::Scratch => Below::default(),
            Base::Stage(other) => self.stages.get(other).cloned().unwrap_or_default(),
            Base::Image(name) => match self.images.get(name).cloned() {
                Some(known) => known,
                None => self.job.base(name).await.map_err(at)?,
            },
        };
        if let Base::Image(name) = &stage.base {
            self.images.insert(name.clone(), below.clone());
        }
        if let Ok(path) = EnvName::parse("PATH") {
            below.config.env.entry(path).or_insert_with(|| PATH.to_owned());
        }
        let mut state = State::new(below.config.clone());
        let triggers = state.take_triggers(stage.line, program.escape).map_err(|p| wrong(self.file, p))?;
        self.total += triggers.len();
        self.announce(&stage.text, "").await;
        let launch = program.in_image().contains(&index);
        for step in triggers.iter().chain(&stage.steps) {
            self.step(step, index, launch, &mut state, &mut below).await?;
        }
        below.config = state.config().clone();
        self.stages.insert(index, below);
        Ok(())
    }

    async fn step(
        &mut self,
        step: &Step,
        stage: usize,
        launch: bool,
        state: &mut State,
        below: &mut Below,
    ) -> Result<(), BuildError> {
        let scope = Scope { program: self.program, stage, args: self.args };
        let work = state.apply(step, scope).map_err(|problem| wrong(self.file, problem))?;
        let Some(work) = work else {
            self.announce(&step.text, "").await;
            return Ok(());
        };
        let made = self.make(step, &work, launch, below).await;
        let known = made.map_err(|error| match error {
            error @ (BuildError::Cancelled | BuildError::TimedOut(_) | BuildError::Dockerfile { .. }) => {
                error
            }
            BuildError::Plan(text) => wrong(self.file, Problem { line: step.line, text }),
            BuildError::StepFailed { code, .. } => {
                wrong(self.file, Problem { line: step.line, text: failed(&step.text, code) })
            }
            source => BuildError::Instruction {
                file: self.file.path.clone(),
                line: step.line,
                step: step.text.clone(),
                source: Box::new(source),
            },
        })?;
        below.layers.push(known);
        Ok(())
    }

    /// The layers on this disk, topmost first.
    async fn view(&self, below: &Below) -> Result<View, BuildError> {
        self.job.view(&below.layers).await
    }
}

/// Removes from a tree what the patterns cover.
fn leave_out(root: &Path, ignore: &Ignore) -> std::io::Result<()> {
    if ignore.is_empty() {
        return Ok(());
    }
    let mut pending = vec![String::new()];
    let mut emptied = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let covered = ignore.covers(&path);
            if !entry.file_type()?.is_dir() {
                if covered {
                    fs::remove_file(entry.path())?;
                }
            } else if covered && !ignore.has_exceptions() {
                crate::images::layers::remove_tree(&entry.path())?;
            } else {
                if covered {
                    emptied.push(entry.path());
                }
                pending.push(path);
            }
        }
    }
    // Directories that are covered stay only for the exceptions in them.
    for dir in emptied.iter().rev() {
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// A program's exit code in words; those of shells say why (POSIX.1-2024, Shell Command Language, 2.8.2).
fn failed(step: &str, code: i32) -> String {
    let why = match code {
        126 => {
            ": a file is there but cannot be run; is it executable (git update-index --chmod=+x FILE), and for this machine?"
        }
        127 => {
            ": a program was not found; is it installed by an earlier step, and spelt so? A script may also name a missing \
                one in its first line, or have Windows line ends"
        }
        134 => " (aborted, SIGABRT)",
        137 => " (killed, SIGKILL)",
        139 => " (a crash, SIGSEGV)",
        _ => "",
    };
    format!("{step} failed with exit code {code}{why}; its output is above")
}

/// Whether a command is a shell or an interpreter that waits for somebody to type: what base images have for want of
/// a program.
fn waits_for_input(argv: &[String]) -> bool {
    const SHELLS: [&str; 8] = ["sh", "bash", "ash", "dash", "python", "python3", "node", "irb"];
    matches!(argv, [only] if SHELLS.contains(&only.rsplit('/').next().unwrap_or(only)))
}

/// What the image runs: its own command as `web`, and the Procfile's lines in place of its CMD.
fn processes(
    config: &ImageConfig,
    procfile: &BTreeMap<ProcessType, String>,
) -> Result<BTreeMap<ProcessType, Process>, String> {
    let mut processes = BTreeMap::new();
    for (process, line) in procfile {
        let argv = config.entrypoint.iter().cloned().chain(procfile_words(line, &config.shell)).collect();
        processes.insert(process.clone(), Process::Command { argv });
    }
    let wants_web = procfile.keys().all(ProcessType::is_release);
    if wants_web {
        let argv: Vec<String> = config.entrypoint.iter().chain(&config.cmd).cloned().collect();
        let what_to_do = "add CMD [\"program\", \"argument\"] at the end, or a Procfile with a line such as `web: program`";
        if argv.is_empty() {
            return Err(format!("the image names no program to run; {what_to_do}"));
        }
        if waits_for_input(&argv) {
            return Err(format!(
                "the image runs {:?} alone, which waits for somebody to type and ends; {what_to_do}",
                argv[0]
            ));
        }
        processes.insert(ProcessType::web(), Process::Command { argv });
    }
    Ok(processes)
}

/// A Procfile's line as the CMD it stands for: plain words are themselves, so that an image without a shell can run
/// them and an ENTRYPOINT gets them one by one; anything that a shell would read goes to the image's.
fn procfile_words(line: &str, shell: &[String]) -> Vec<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@+=% ".contains(c) || !c.is_ascii();
    let assigns = line.split_whitespace().next().is_some_and(|word| word.contains('='));
    if line.chars().all(plain) && !assigns {
        return line.split_whitespace().map(str::to_owned).collect();
    }
    let shell = if shell.is_empty() { vec!["/bin/sh".to_owned(), "-c".to_owned()] } else { shell.to_vec() };
    shell.into_iter().chain([line.to_owned()]).collect()
}
