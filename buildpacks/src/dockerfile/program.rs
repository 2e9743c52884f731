//! Stages: which there are, what each stands on, which of them the target needs.
//!
//! In: a text and [`Options`]. Out: a [`Program`] whose every reference to a stage was looked up.

use super::instruction::{Command, Instruction, Step, step};
use super::lines::lines;
use super::state::platform_arg;
use super::work::{Mount, Origin};
use super::{Problem, word};
use std::collections::{BTreeMap, BTreeSet};

/// Most stages of one file.
const MAX_STAGES: usize = 200;

/// What a program depends on besides the text.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name or number of the stage to build; `None` is the last.
    pub target: Option<String>,
    /// Values for `ARG`s that the file declares.
    pub args: BTreeMap<String, String>,
}

/// A Dockerfile, read.
#[derive(Clone, Debug)]
pub struct Program {
    /// All stages in the file's order.
    pub stages: Vec<Stage>,
    /// The stages that are needed, in the order to build them; the last is the target.
    pub order: Vec<usize>,
    /// `ARG`s before the first FROM that have a value.
    pub globals: BTreeMap<String, String>,
    /// `\` or `` ` ``.
    pub escape: char,
}

/// From one FROM to the next.
#[derive(Clone, Debug)]
pub struct Stage {
    /// `AS name`, lower case.
    pub name: Option<String>,
    /// What it stands on.
    pub base: Base,
    /// Line of its FROM.
    pub line: usize,
    /// The FROM as shown to people.
    pub text: String,
    /// After FROM.
    pub steps: Vec<Step>,
}

/// What a stage stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, as written, such as `debian:bookworm`.
    Image(String),
}

impl Program {
    /// Reads a Dockerfile.
    pub fn parse(text: &str, options: &Options) -> Result<Self, Problem> {
        let (lines, escape) = lines(text)?;
        let mut program = Self { stages: Vec::new(), order: Vec::new(), globals: BTreeMap::new(), escape };
        let mut last = 1;
        for line in &lines {
            last = line.number;
            let step = step(line, escape)?;
            match &step.instruction {
                Instruction::From { image, name, platform } => {
                    let stage = program.stage(&step, image, name.as_deref(), platform.as_deref())?;
                    program.stages.push(stage);
                }
                Instruction::Arg(args) if program.stages.is_empty() => {
                    for (name, default) in args {
                        let given = options.args.get(name).cloned();
                        let default =
                            default.as_ref().map(|text| program.expand(text, step.line)).transpose()?;
                        if let Some(value) = given.or(default) {
                            program.globals.insert(name.clone(), value);
                        }
                    }
                }
                _ => match program.stages.last_mut() {
                    Some(stage) => stage.steps.push(step),
                    None => {
                        return Err(Problem::new(step.line, "the first instruction must be FROM (or ARG)"));
                    }
                },
            }
        }
        if program.stages.is_empty() {
            return Err(Problem::new(
                last,
                "there is no FROM, so there is nothing to build on; begin with FROM IMAGE",
            ));
        }
        let target = program.target(options.target.as_deref(), last)?;
        program.order = program.needed(target)?;
        Ok(program)
    }

    /// The stage that is the result.
    #[must_use]
    pub fn target_stage(&self) -> usize {
        self.order.last().copied().unwrap_or(0)
    }

    /// How many steps building takes, FROMs included.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.order.iter().map(|index| self.stages[*index].steps.len() + 1).sum()
    }

    /// Stages whose layers the image is made of.
    #[must_use]
    pub fn in_image(&self) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([self.target_stage()]);
        let mut at = self.target_stage();
        while let Base::Stage(below) = self.stages[at].base {
            found.insert(below);
            at = below;
        }
        found
    }

    /// What `--from=text` of stage `of` means: an earlier stage by name or number, or an image.
    pub(super) fn origin(&self, text: &str, of: usize) -> Result<Origin, String> {
        if text.is_empty() {
            return Err("--from needs a stage or an image".to_owned());
        }
        let lower = text.to_ascii_lowercase();
        let named = |index: &usize| self.stages[*index].name.as_deref() == Some(lower.as_str());
        if let Some(index) = (0..of).rev().find(named) {
            return Ok(Origin::Stage(index));
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return match text.parse::<usize>() {
                Ok(index) if index < of => Ok(Origin::Stage(index)),
                _ => Err(format!("there is no stage {text} before this one; stages are counted from 0")),
            };
        }
        if (of..self.stages.len()).any(|index| named(&index)) {
            return Err(format!(
                "the stage {text} is not before this one; only earlier stages can be copied from"
            ));
        }
        Ok(Origin::Image(text.to_owned()))
    }

    fn expand(&self, text: &str, line: usize) -> Result<String, Problem> {
        let lookup = |name: &str| self.globals.get(name).cloned().or_else(|| platform_arg(name));
        word::expand(text, self.escape, &lookup).map_err(|text| Problem::new(line, text))
    }

    fn stage(
        &self,
        step: &Step,
        image: &str,
        name: Option<&str>,
        platform: Option<&str>,
    ) -> Result<Stage, Problem> {
        let problem = |text: String| Problem::new(step.line, text);
        if self.stages.len() == MAX_STAGES {
            return Err(problem(format!("there are more than {MAX_STAGES} stages")));
        }
        if let Some(name) = name
            && self.stages.iter().any(|stage| stage.name.as_deref() == Some(name))
        {
            return Err(problem(format!("there are two stages named {name}")));
        }
        if let Some(platform) = platform {
            let wanted = self.expand(platform, step.line)?;
            let own = platform_arg("TARGETPLATFORM").unwrap_or_default();
            if !wanted.is_empty() && wanted != own && !wanted.starts_with(&format!("{own}/")) {
                return Err(problem(format!(
                    "--platform={wanted} cannot be built here: this machine is {own}"
                )));
            }
        }
        let image = self.expand(image, step.line)?;
        if image.is_empty() {
            return Err(problem(
                "FROM names no image: a variable in it is empty; give its ARG (before the first FROM) a default".to_owned(),
            ));
        }
        let lower = image.to_ascii_lowercase();
        let base = match self.stages.iter().rposition(|stage| stage.name.as_deref() == Some(lower.as_str())) {
            Some(index) => Base::Stage(index),
            None if image == "scratch" => Base::Scratch,
            None => Base::Image(image),
        };
        let name = name.map(str::to_owned);
        Ok(Stage { name, base, line: step.line, text: step.text.clone(), steps: Vec::new() })
    }

    fn target(&self, wanted: Option<&str>, last: usize) -> Result<usize, Problem> {
        let Some(wanted) = wanted.map(str::trim).filter(|wanted| !wanted.is_empty()) else {
            return Ok(self.stages.len() - 1);
        };
        let lower = wanted.to_ascii_lowercase();
        let named = self.stages.iter().rposition(|stage| stage.name.as_deref() == Some(lower.as_str()));
        let numbered = || wanted.parse().ok().filter(|index: &usize| *index < self.stages.len());
        named.or_else(numbered).ok_or_else(|| {
            let names: Vec<&str> = self.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
            let known =
                if names.is_empty() { "none of its stages has a name".to_owned() } else { names.join(", ") };
            Problem::new(last, format!("there is no stage {wanted:?} to build; stages are: {known}"))
        })
    }

    /// `target` and all it needs, each after what it needs.
    fn needed(&self, target: usize) -> Result<Vec<usize>, Problem> {
        let mut found = BTreeSet::new();
        let mut pending = vec![target];
        while let Some(index) = pending.pop() {
            if !found.insert(index) {
                continue;
            }
            let stage = &self.stages[index];
            if let Base::Stage(below) = stage.base {
                pending.push(below);
            }
            for step in &stage.steps {
                pending.extend(self.used_stages(step, index)?);
            }
        }
        // Only earlier stages can be used, so the file's order is one that works.
        Ok(found.into_iter().collect())
    }

    fn used_stages(&self, step: &Step, index: usize) -> Result<Vec<usize>, Problem> {
        let problem = |text: String| Problem::new(step.line, text);
        let mut origins = Vec::new();
        match &step.instruction {
            Instruction::Copy { flags, .. } => {
                for (_, value) in flags.iter().filter(|(name, _)| name == "from") {
                    origins.push(self.origin(value.as_deref().unwrap_or(""), index).map_err(problem)?);
                }
            }
            Instruction::Run { flags, command, .. } => {
                if matches!(command, Command::Exec(words) if words.is_empty()) {
                    return Err(problem("RUN has an empty list".to_owned()));
                }
                for (_, value) in flags.iter().filter(|(name, _)| name == "mount") {
                    let from = Mount::field(value.as_deref().unwrap_or(""), "from");
                    if let Some(from) = from.filter(|from| !from.contains('$')) {
                        origins.push(self.origin(&from, index).map_err(problem)?);
                    }
                }
            }
            _ => {}
        }
        let stage = |origin| match origin {
            Origin::Stage(index) => Some(index),
            Origin::Context | Origin::Image(_) => None,
        };
        Ok(origins.into_iter().filter_map(stage).collect())
    }
}
