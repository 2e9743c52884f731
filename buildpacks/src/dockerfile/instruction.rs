//! Instructions: a line's words given their meaning, variables not filled in yet.
//!
//! In: a [`Line`]. Out: an [`Instruction`], or what is wrong with the line and what to write instead.

use super::Problem;
use super::lines::{Heredoc, Line, heredoc_name, raw_words};

/// One instruction of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it begins in the file, from 1.
    pub line: usize,
    /// As shown to people: one line, cut.
    pub text: String,
    /// Its meaning.
    pub(crate) instruction: Instruction,
}

/// `["a", "b"]` or a line for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// Flags by name, each given at most once unless the instruction says otherwise.
pub(crate) type Flags = Vec<(String, Option<String>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    From { image: String, name: Option<String>, platform: Option<String> },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Run { flags: Flags, command: Command, heredocs: Vec<Heredoc> },
    Copy { add: bool, flags: Flags, words: Vec<CopyWord> },
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    Workdir(String),
    User(String),
    Expose(String),
    Volume(Vec<String>),
    StopSignal(String),
    Healthcheck { flags: Flags, command: Option<Command> },
    Onbuild(String),
    Maintainer(String),
}

/// A source or the destination of COPY and ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyWord {
    Path(String),
    Inline(Heredoc),
}

const KNOWN: &str = "ADD, ARG, CMD, COPY, ENTRYPOINT, ENV, EXPOSE, FROM, HEALTHCHECK, LABEL, MAINTAINER, ONBUILD, RUN, SHELL, \
                     STOPSIGNAL, USER, VOLUME and WORKDIR";

pub(super) fn step(line: &Line, escape: char) -> Result<Step, Problem> {
    let instruction = parse(line, escape)?;
    let mut text = format!("{} {}", line.keyword, line.all).split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = text.char_indices().nth(120) {
        text.truncate(at);
        text.push('…');
    }
    Ok(Step { line: line.number, text, instruction })
}

fn parse(line: &Line, escape: char) -> Result<Instruction, Problem> {
    let problem = |text: String| Problem::new(line.number, text);
    let keyword = line.keyword.as_str();
    if line.rest.is_empty() && !KNOWN.contains(keyword) || keyword.is_empty() {
        return Err(unknown(line));
    }
    if line.rest.is_empty() && !matches!(keyword, "CMD" | "ENTRYPOINT") {
        return Err(problem(format!("{keyword} needs something after it")));
    }
    let known_flags: &[&str] = match keyword {
        "FROM" => &["platform"],
        "RUN" => &["mount", "network", "security"],
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        "ADD" => &["chown", "chmod", "link", "checksum", "keep-git-dir", "unpack", "exclude"],
        "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
        _ => &[],
    };
    for (index, (name, _)) in line.flags.iter().enumerate() {
        if !known_flags.contains(&name.as_str()) {
            let known: Vec<_> = known_flags.iter().map(|flag| format!("--{flag}")).collect();
            return Err(problem(format!("{keyword} has no flag --{name}; it knows {}", known.join(", "))));
        }
        let repeats = matches!(name.as_str(), "mount" | "exclude");
        if !repeats && line.flags[..index].iter().any(|(other, _)| other == name) {
            return Err(problem(format!("--{name} is given twice")));
        }
    }
    if matches!(keyword, "RUN" | "CMD" | "ENTRYPOINT" | "SHELL" | "COPY" | "ADD" | "VOLUME") {
        quotes(line)?;
    }
    let rest = line.rest.as_str();
    Ok(match keyword {
        "FROM" => from(line, escape)?,
        "ARG" => Instruction::Arg(
            raw_words(rest, escape)
                .into_iter()
                .map(|word| match word.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                })
                .map(|(name, value)| variable(&name).map(|()| (name, value)).map_err(problem))
                .collect::<Result<_, _>>()?,
        ),
        "ENV" => {
            let pairs = pairs(line, escape)?;
            for (name, _) in &pairs {
                variable(name).map_err(problem)?;
            }
            Instruction::Env(pairs)
        }
        "LABEL" => Instruction::Label(pairs(line, escape)?),
        "RUN" => Instruction::Run {
            flags: line.flags.clone(),
            command: command(rest),
            heredocs: line.heredocs.clone(),
        },
        "COPY" | "ADD" => copy(line, escape)?,
        "CMD" => Instruction::Cmd(command(rest)),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "SHELL" => match command(rest) {
            Command::Exec(words) if !words.is_empty() => Instruction::Shell(words),
            _ => return Err(problem("SHELL needs a list such as [\"/bin/bash\", \"-c\"]".to_owned())),
        },
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        "USER" => Instruction::User(rest.to_owned()),
        "EXPOSE" => Instruction::Expose(rest.to_owned()),
        "VOLUME" => Instruction::Volume(match command(rest) {
            Command::Exec(words) => words,
            Command::Shell(_) => raw_words(rest, escape).into_iter().map(str::to_owned).collect(),
        }),
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "HEALTHCHECK" => healthcheck(line)?,
        "ONBUILD" => {
            let trigger = line.all.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
            if matches!(trigger.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
                return Err(problem(format!("{trigger} cannot come after ONBUILD")));
            }
            // Said now, not by whoever builds on the image.
            step(&super::lines::single(&line.all, line.number, escape)?, escape)?;
            Instruction::Onbuild(line.all.clone())
        }
        "MAINTAINER" => Instruction::Maintainer(rest.to_owned()),
        _ => return Err(unknown(line)),
    })
}

fn unknown(line: &Line) -> Problem {
    let shown: String = line.written.chars().take(40).collect();
    let keyword = line.keyword.as_str();
    let words = KNOWN
        .split([',', ' '])
        .filter(|word| word.chars().all(|c| c.is_ascii_uppercase()) && !word.is_empty());
    let near = words.map(|word| (super::distance(keyword, word), word)).min();
    let text = match near {
        Some((distance, word)) if distance <= 2 => {
            format!("{shown:?} is no instruction; did you mean {word}?")
        }
        // Most often the rest of a command whose lines were not joined.
        _ => format!(
            "{shown:?} is no instruction. If this line goes on with the one above, that must end with a backslash. Known are {KNOWN}"
        ),
    };
    Problem::new(line.number, text)
}

/// `CMD ['a', 'b']` would be a line for the shell, which looks for a program called `[a,`.
fn quotes(line: &Line) -> Result<(), Problem> {
    let rest = line.rest.trim();
    let open = rest.strip_prefix('[').map(str::trim_start);
    let looks_like_a_list =
        rest.ends_with(']') && open.is_some_and(|rest| rest.starts_with(['\'', '"', '“', '‘']));
    if !looks_like_a_list || matches!(command(rest), Command::Exec(_)) {
        return Ok(());
    }
    let text = format!(
        "{} has a list that is no JSON: write it with double quotes, commas between and none at the end: [\"program\", \"argument\"]",
        line.keyword
    );
    Err(Problem::new(line.number, text))
}

fn variable(name: &str) -> Result<(), String> {
    berth_model::EnvName::parse(name).map(drop).map_err(|error| error.to_string())
}

fn command(text: &str) -> Command {
    // What is no list of strings is a line for the shell, even if it begins with a bracket: `[ -f x ] && …`.
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) if text.starts_with('[') => Command::Exec(words),
        _ => Command::Shell(text.to_owned()),
    }
}

fn from(line: &Line, escape: char) -> Result<Instruction, Problem> {
    let words = raw_words(&line.rest, escape);
    let platform =
        line.flags.iter().find(|(name, _)| name == "platform").and_then(|(_, value)| value.clone());
    let (image, name) = match words.as_slice() {
        [image] => (*image, None),
        [image, word, name] if word.eq_ignore_ascii_case("as") => (*image, Some(name.to_ascii_lowercase())),
        [image, tag] if !image.contains(':') => {
            return Err(Problem::new(
                line.number,
                format!(
                    "write FROM IMAGE, or FROM IMAGE AS NAME; did you mean FROM {image}:{tag}, or FROM {image} AS {tag}?"
                ),
            ));
        }
        _ => return Err(Problem::new(line.number, "write FROM IMAGE, or FROM IMAGE AS NAME")),
    };
    if let Some(name) = &name {
        let good = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b));
        if !good {
            let text = format!(
                "the stage name {name:?} must begin with a letter and have letters, digits, and - _ . only"
            );
            return Err(Problem::new(line.number, text));
        }
    }
    Ok(Instruction::From { image: image.to_owned(), name, platform })
}

/// `k=v k="v w"`, or the old `k all the rest`.
fn pairs(line: &Line, escape: char) -> Result<Vec<(String, String)>, Problem> {
    let words = raw_words(&line.rest, escape);
    let keyword = &line.keyword;
    if !words.first().is_some_and(|word| word.contains('=')) {
        let (name, value) = line
            .rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| Problem::new(line.number, format!("{keyword} needs NAME=VALUE")))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Problem::new(
                line.number,
                format!("{word:?} is no NAME=VALUE; put a value with blanks in quotes"),
            )),
        })
        .collect()
}

fn copy(line: &Line, escape: char) -> Result<Instruction, Problem> {
    let texts: Vec<String> = match command(&line.rest) {
        Command::Exec(words) => words,
        Command::Shell(_) => raw_words(&line.rest, escape).into_iter().map(str::to_owned).collect(),
    };
    let mut heredocs = line.heredocs.iter();
    let mut words = Vec::new();
    for text in texts {
        let inline = heredoc_name(&text).and_then(|_| heredocs.next());
        words.push(inline.map_or(CopyWord::Path(text), |doc| CopyWord::Inline(doc.clone())));
    }
    if words.len() < 2 {
        let text = format!("{} needs at least one source and a destination", line.keyword);
        return Err(Problem::new(line.number, text));
    }
    if matches!(words.last(), Some(CopyWord::Inline(_))) {
        return Err(Problem::new(line.number, "the destination must be a path, not a here-document"));
    }
    Ok(Instruction::Copy { add: line.keyword == "ADD", flags: line.flags.clone(), words })
}

fn healthcheck(line: &Line) -> Result<Instruction, Problem> {
    let rest = line.rest.as_str();
    let (kind, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = match kind.to_ascii_uppercase().as_str() {
        "NONE" if arguments.trim().is_empty() => None,
        "CMD" if !arguments.trim().is_empty() => Some(command(arguments.trim())),
        _ => {
            return Err(Problem::new(
                line.number,
                "write HEALTHCHECK NONE, or HEALTHCHECK CMD and a command",
            ));
        }
    };
    Ok(Instruction::Healthcheck { flags: line.flags.clone(), command })
}
