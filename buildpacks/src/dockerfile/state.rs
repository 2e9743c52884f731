//! What a stage is at one of its steps: the config its image would have, the arguments it knows.
//!
//! In: the config of what the stage stands on, then step after step. Out: the [`Work`] of those that change files; the
//! others change the config alone.

use super::instruction::{Command, CopyWord, Flags, Instruction, Step};
use super::work::{absolute, with_heredocs};
use super::{Chmod, Copy, GitSource, Mount, Origin, Problem, Program, Run, Source, Work, lines, word};
use berth_model::EnvName;
use berth_model::image::{Healthcheck, ImageConfig};
use std::collections::BTreeMap;

const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// Longest time in nanoseconds that a check may name: a day.
const MAX_TIME: u64 = 24 * 3600 * 1_000_000_000;

/// Arguments that RUN gets without an ARG.
const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What is the same for all steps of a stage.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The file.
    pub program: &'a Program,
    /// Number of the stage.
    pub stage: usize,
    /// Values for ARGs that the file declares.
    pub args: &'a BTreeMap<String, String>,
}

/// A stage at one of its steps.
#[derive(Clone, Debug, Default)]
pub struct State {
    config: ImageConfig,
    args: BTreeMap<EnvName, String>,
    /// Whether this stage has its own CMD: its ENTRYPOINT then does not reset it.
    own_cmd: bool,
    /// Ports of this stage's own EXPOSEs.
    exposed_here: Vec<String>,
}

impl State {
    /// A stage that stands on an image with this config.
    #[must_use]
    pub fn new(config: ImageConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// The config of the image as it is now.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Takes the steps that the image below left for those who build on it (`ONBUILD`).
    pub fn take_triggers(&mut self, line: usize, escape: char) -> Result<Vec<Step>, Problem> {
        let texts = std::mem::take(&mut self.config.on_build);
        let parse = |text: &String| {
            let step =
                lines::single(text, line, escape).and_then(|line| super::instruction::step(&line, escape));
            step.map_err(|problem| {
                Problem::new(line, format!("ONBUILD of the image below: {}", problem.text))
            })
        };
        texts.iter().map(parse).collect()
    }

    /// Applies a step. What it asks for besides a change of the config is given back.
    pub fn apply(&mut self, step: &Step, scope: Scope<'_>) -> Result<Option<Work>, Problem> {
        self.step(step, scope).map_err(|text| Problem::new(step.line, text))
    }

    fn expand(&self, text: &str, scope: Scope<'_>) -> Result<String, String> {
        word::expand(text, scope.program.escape, &|name| self.value(name))
    }

    /// A variable: ENV wins over ARG.
    fn value(&self, name: &str) -> Option<String> {
        let name = EnvName::parse(name).ok()?;
        self.config.env.get(&name).or_else(|| self.args.get(&name)).cloned()
    }

    fn shell(&self) -> Vec<String> {
        if self.config.shell.is_empty() {
            DEFAULT_SHELL.map(str::to_owned).to_vec()
        } else {
            self.config.shell.clone()
        }
    }

    fn words(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) if line.is_empty() => Vec::new(),
            Command::Shell(line) => self.shell().into_iter().chain([line.clone()]).collect(),
        }
    }

    fn step(&mut self, step: &Step, scope: Scope<'_>) -> Result<Option<Work>, String> {
        match &step.instruction {
            Instruction::From { .. } => return Err("FROM cannot come here".to_owned()),
            Instruction::Maintainer(_) => {}
            Instruction::Arg(args) => {
                for (name, default) in args {
                    self.arg(name, default.as_deref(), scope)?;
                }
            }
            Instruction::Env(pairs) => {
                let values = self.pairs(pairs, scope)?;
                for (name, value) in values {
                    let name = EnvName::parse(&name).map_err(|error| error.to_string())?;
                    self.config.env.insert(name, value);
                }
            }
            Instruction::Label(pairs) => {
                let values = self.pairs(pairs, scope)?;
                self.config.labels.extend(values);
            }
            Instruction::Cmd(command) => {
                self.config.cmd = self.words(command);
                self.own_cmd = true;
            }
            Instruction::Entrypoint(command) => {
                self.config.entrypoint = self.words(command);
                // The CMD of the image below was meant for its own ENTRYPOINT.
                if !self.own_cmd {
                    self.config.cmd.clear();
                }
            }
            Instruction::Shell(words) => self.config.shell.clone_from(words),
            Instruction::User(user) => {
                let user = self.expand(user, scope)?;
                if user.is_empty() {
                    return Err("USER is empty after its variables are filled in".to_owned());
                }
                self.config.user = user;
            }
            Instruction::Workdir(path) => {
                let path = self.expand(path, scope)?;
                if path.is_empty() {
                    return Err("WORKDIR is empty after its variables are filled in".to_owned());
                }
                let path = absolute(&self.config.working_dir, &path);
                let path = if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path };
                self.config.working_dir.clone_from(&path);
                return Ok(Some(Work::Directory { path, user: self.config.user.clone() }));
            }
            Instruction::Expose(text) => self.expose(text, scope)?,
            Instruction::Volume(paths) => {
                for path in paths {
                    let path = absolute("/", &self.expand(path, scope)?);
                    if !self.config.volumes.contains(&path) {
                        self.config.volumes.push(path);
                    }
                }
            }
            Instruction::StopSignal(signal) => {
                let signal = self.expand(signal, scope)?;
                if berth_model::container::signal_number(&signal).is_none() {
                    return Err(format!(
                        "STOPSIGNAL {signal}: there is no such signal; write a name such as SIGQUIT, or a number from 1 to 64"
                    ));
                }
                self.config.stop_signal = signal;
            }
            Instruction::Healthcheck { flags, command } => {
                self.config.healthcheck = Some(self.healthcheck(flags, command.as_ref())?);
            }
            Instruction::Onbuild(text) => self.config.on_build.push(text.clone()),
            Instruction::Run { flags, command, heredocs } => {
                return self.run(flags, command, heredocs, scope).map(|run| Some(Work::Run(run)));
            }
            Instruction::Copy { add, flags, words } => {
                return self.copy(*add, flags, words, scope).map(|copy| Some(Work::Copy(copy)));
            }
        }
        Ok(None)
    }

    fn arg(&mut self, name: &str, default: Option<&str>, scope: Scope<'_>) -> Result<(), String> {
        let given = scope.args.get(name).cloned();
        let value = match (given, default) {
            (Some(value), _) => Some(value),
            (None, Some(text)) => Some(self.expand(text, scope)?),
            (None, None) if name == "TARGETSTAGE" => {
                let target = scope.program.target_stage();
                Some(scope.program.stages[target].name.clone().unwrap_or_else(|| "default".to_owned()))
            }
            (None, None) => scope.program.globals.get(name).cloned().or_else(|| platform_arg(name)),
        };
        let name = EnvName::parse(name).map_err(|error| error.to_string())?;
        if let Some(value) = value {
            self.args.insert(name, value);
        }
        Ok(())
    }

    fn pairs(&self, pairs: &[(String, String)], scope: Scope<'_>) -> Result<Vec<(String, String)>, String> {
        // All values are those before the instruction: `ENV a=1 b=$a` gives b what a was.
        let expand =
            |(name, value): &(String, String)| Ok((self.expand(name, scope)?, self.expand(value, scope)?));
        pairs.iter().map(expand).collect()
    }

    fn expose(&mut self, text: &str, scope: Scope<'_>) -> Result<(), String> {
        let mut added = Vec::new();
        for word in word::expand_words(text, scope.program.escape, &|name| self.value(name))? {
            let (ports, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
            let protocol = protocol.to_ascii_lowercase();
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
            let (Some(first), Some(last)) = (number(first), number(last)) else {
                return Err(format!(
                    "EXPOSE {word}: write ports from 1 to 65535 such as 8080, 53/udp or 7000-7010"
                ));
            };
            if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") || first > last || last - first > 1000 {
                return Err(format!(
                    "EXPOSE {word}: write ports such as 8080, 53/udp or 7000-7010 (1000 at most)"
                ));
            }
            added.extend((first..=last).map(|port| format!("{port}/{protocol}")));
        }
        // Those of the Dockerfile come before those of the image below: the first is where requests go.
        let own = std::mem::take(&mut self.config.exposed);
        let at = own.iter().take_while(|port| self.exposed_here.contains(port)).count();
        let (here, below) = own.split_at(at);
        let mut all: Vec<String> = here.to_vec();
        for port in added {
            if !self.exposed_here.contains(&port) {
                self.exposed_here.push(port.clone());
                all.push(port);
            }
        }
        all.extend(below.iter().filter(|port| !self.exposed_here.contains(port)).cloned());
        self.config.exposed = all;
        Ok(())
    }

    fn healthcheck(&self, flags: &Flags, command: Option<&Command>) -> Result<Healthcheck, String> {
        let test = match command {
            None => vec!["NONE".to_owned()],
            Some(Command::Exec(words)) => {
                std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect()
            }
            Some(Command::Shell(line)) => vec!["CMD-SHELL".to_owned(), line.clone()],
        };
        let mut check = Healthcheck { test, ..Healthcheck::default() };
        for (name, value) in flags {
            let value = value.as_deref().unwrap_or("");
            match name.as_str() {
                "retries" => {
                    let wrong = |_| format!("--retries={value} is no number from 0 to 1000");
                    check.retries = value.parse::<u16>().map_err(wrong)?.min(1000);
                }
                "interval" => check.interval = duration(value)?,
                "timeout" => check.timeout = duration(value)?,
                "start-period" => check.start_period = duration(value)?,
                _ => drop(duration(value)?),
            }
        }
        Ok(check)
    }

    fn run(
        &self,
        flags: &Flags,
        command: &Command,
        heredocs: &[lines::Heredoc],
        scope: Scope<'_>,
    ) -> Result<Run, String> {
        let cwd = if self.config.working_dir.is_empty() { "/" } else { &self.config.working_dir };
        let mut run = Run {
            argv: self.words(command),
            script: None,
            env: self.args.clone(),
            user: self.config.user.clone(),
            cwd: cwd.to_owned(),
            mounts: Vec::new(),
            files: Vec::new(),
            online: true,
        };
        // Proxies need no ARG (Dockerfile reference, "Predefined ARGs").
        for name in PROXY_ARGS {
            if let (Some(value), Ok(name)) = (scope.args.get(name), EnvName::parse(name)) {
                run.env.entry(name).or_insert_with(|| value.clone());
            }
        }
        run.env.extend(self.config.env.iter().map(|(name, value)| (name.clone(), value.clone())));
        if let Command::Shell(line) = command {
            let (script, file) = with_heredocs(line, heredocs);
            match file {
                // `#!/usr/bin/env python3`: what the kernel would start.
                Some((path, content)) => {
                    let first = content.lines().next().unwrap_or("").trim_start_matches("#!").trim();
                    let (program, argument) = first.split_once(char::is_whitespace).unwrap_or((first, ""));
                    let words = [program, argument.trim(), path.as_str()];
                    run.argv = words.into_iter().filter(|word| !word.is_empty()).map(str::to_owned).collect();
                    run.files.push((path, content));
                }
                None => {
                    run.argv = self.shell().into_iter().chain([script.clone()]).collect();
                    run.script = self.config.shell.is_empty().then_some(script);
                }
            }
        }
        if run.argv.first().is_none_or(String::is_empty) {
            return Err("RUN names no program".to_owned());
        }
        for (name, value) in flags {
            let value = value.as_deref().unwrap_or("");
            match name.as_str() {
                "network" => {
                    run.online = match self.expand(value, scope)?.as_str() {
                        "default" | "" => true,
                        "none" => false,
                        other => {
                            return Err(format!(
                                "--network={other} is not allowed here; use none, or leave it out"
                            ));
                        }
                    };
                }
                "security" => {
                    if self.expand(value, scope)? != "sandbox" {
                        return Err(
                            "--security=insecure is not allowed here: builds have no privileges".to_owned()
                        );
                    }
                }
                _ => {
                    let expand = |text: &str| self.expand(text, scope);
                    let origin = |text: &str| scope.program.origin(text, scope.stage);
                    run.mounts.push(Mount::parse(value, cwd, &expand, &origin)?);
                }
            }
        }
        Ok(run)
    }

    fn copy(&self, add: bool, flags: &Flags, words: &[CopyWord], scope: Scope<'_>) -> Result<Copy, String> {
        let cwd = if self.config.working_dir.is_empty() { "/" } else { &self.config.working_dir };
        let mut expanded = Vec::new();
        for word in words {
            expanded.push(match word {
                CopyWord::Path(text) => Source::Path(self.expand(text, scope)?),
                CopyWord::Inline(doc) => {
                    let content =
                        if doc.expand { self.document(&doc.content, scope)? } else { doc.content.clone() };
                    Source::Inline(doc.name.clone(), content)
                }
            });
        }
        let Some(Source::Path(dest)) = expanded.pop() else {
            return Err("the destination must be a path".to_owned());
        };
        if dest.is_empty() {
            return Err("the destination is empty after its variables are filled in".to_owned());
        }
        let mut copy = Copy {
            sources: expanded,
            dest: absolute(cwd, &dest),
            from: Origin::Context,
            chown: None,
            chmod: None,
            parents: false,
            exclude: Vec::new(),
            unpack: add,
            checksum: None,
        };
        let mut keep_git_dir = false;
        for (name, value) in flags {
            let value = self.expand(value.as_deref().unwrap_or(""), scope)?;
            let on = !matches!(value.as_str(), "false" | "0");
            match name.as_str() {
                "from" => copy.from = scope.program.origin(&value, scope.stage)?,
                "chown" => copy.chown = Some(value).filter(|value| !value.is_empty()),
                "chmod" => copy.chmod = Some(Chmod::parse(&value)?),
                "parents" => copy.parents = on,
                "exclude" => copy.exclude.push(value),
                "unpack" => copy.unpack = on,
                "checksum" => copy.checksum = Some(value),
                "keep-git-dir" => keep_git_dir = on,
                // --link: layers here never depend on what lies below them more than it would have them.
                _ => {}
            }
        }
        for source in &mut copy.sources {
            let Source::Path(path) = source else { continue };
            if path.is_empty() {
                return Err("a source is empty after its variables are filled in".to_owned());
            }
            if !add {
                continue;
            }
            if let Some(git) = GitSource::parse(path)? {
                *source = Source::Git(GitSource { keep_git_dir, ..git });
            } else if path.starts_with("https://") || path.starts_with("http://") {
                *source = Source::Url(std::mem::take(path));
            }
        }
        match (&copy.checksum, copy.sources.as_mut_slice()) {
            (None, _) => {}
            (Some(wanted), [Source::Url(_)]) => {
                let hex = wanted.strip_prefix("sha256:").unwrap_or("");
                if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(format!("--checksum={wanted} must be sha256: and 64 hexadecimal digits"));
                }
                copy.checksum = Some(wanted.to_ascii_lowercase());
            }
            (Some(wanted), [Source::Git(git)]) => {
                if !(7..=64).contains(&wanted.len()) || !wanted.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(format!("--checksum={wanted} must be the commit of the git repository"));
                }
                git.commit = Some(wanted.to_ascii_lowercase());
            }
            _ => {
                return Err(
                    "--checksum needs exactly one source that is a URL or a git repository".to_owned()
                );
            }
        }
        Ok(copy)
    }

    /// A here-document for COPY: variables are filled in, quotes are text.
    fn document(&self, content: &str, scope: Scope<'_>) -> Result<String, String> {
        let escape = scope.program.escape;
        let mut quoted = String::with_capacity(content.len() + 2);
        quoted.push('"');
        for c in content.chars() {
            if c == '"' {
                quoted.push(escape);
            }
            quoted.push(c);
        }
        quoted.push('"');
        self.expand(&quoted, scope)
    }
}

/// Arguments about the machine. They count when an ARG declares them, and in FROM.
pub(super) fn platform_arg(name: &str) -> Option<String> {
    let arch = berth_model::image::architecture();
    match name {
        "TARGETPLATFORM" | "BUILDPLATFORM" => Some(format!("linux/{arch}")),
        "TARGETOS" | "BUILDOS" => Some("linux".to_owned()),
        "TARGETARCH" | "BUILDARCH" => Some(arch.to_owned()),
        "TARGETVARIANT" | "BUILDVARIANT" => Some(String::new()),
        _ => None,
    }
}

/// `1m30s`, `500ms`: nanoseconds.
fn duration(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no duration; write one such as 30s, 1m30s or 500ms (24h at most)");
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let units = [
            ("ns", 1),
            ("us", 1_000),
            ("ms", 1_000_000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ];
        let (unit, nanos) = units.into_iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
        rest = &rest[unit.len()..];
        total = number.checked_mul(nanos).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
    }
    if text.is_empty() || total > MAX_TIME { Err(wrong()) } else { Ok(total) }
}
