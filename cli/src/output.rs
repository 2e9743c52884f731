//! What a command says: data and progress to stdout, everything else to stderr, in Dokku's shapes.
//!
//! In: texts and [`Progress`]. Out: `-----> step`, `=====> section`, seven spaces before detail, ` !     ` before
//! warnings. Headers of lists and reports vanish with `--quiet` and when stdout is no terminal, so that scripts get
//! bare data; the progress of an operation vanishes only with `--quiet`. With `--format json` data is one JSON value and
//! progress one JSON line an event.

use crate::error::{CliError, Result};
use crate::text::{safe_json, safe_line};
use berth_model::api::{ApiError, ErrorCode, Progress};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Where a command's words go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// `--quiet`.
    pub(crate) quiet: bool,
    /// `--format json`.
    pub(crate) json: bool,
    /// Whether headers are shown.
    headers: bool,
    /// Several JSON values come, each on a line of its own.
    compact: bool,
    /// Whether marks at the beginning of lines are coloured.
    colour: bool,
}

/// Whether `stream` shows colours: it is a terminal that can, and nobody asked for none (<https://no-color.org>).
fn takes_colour(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `mark` in bold, and in a colour of SGR (ECMA-48 §8.3.117).
fn painted(mark: &str, colour: u8) -> String {
    format!("\u{1b}[1;{colour}m{mark}\u{1b}[0m")
}

const BLUE: u8 = 34;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;

impl Output {
    /// For these flags and this process's stdout.
    pub(crate) fn new(quiet: bool, json: bool) -> Self {
        let stdout = std::io::stdout();
        let colour = takes_colour(&stdout);
        Self { quiet, json, headers: !quiet && !json && stdout.is_terminal(), compact: false, colour }
    }

    /// For reports on `count` things: more than one are JSON lines, for several values after each other are no JSON.
    pub(crate) fn of(self, count: usize) -> Self {
        Self { compact: count > 1, ..self }
    }

    /// One line of data, made safe to show.
    pub(crate) fn line(self, text: &str) -> Result<()> {
        self.raw(format!("{}\n", safe_line(text)).as_bytes())
    }

    /// Bytes of data, exactly as they are.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| CliError::output(&error))
    }

    /// A value of data that must come out exactly when a program reads it, and safely when a person does.
    pub(crate) fn value(self, text: &str) -> Result<()> {
        if std::io::stdout().is_terminal() {
            return self.raw(format!("{}\n", crate::text::safe_text(text)).as_bytes());
        }
        self.raw(format!("{text}\n").as_bytes())
    }

    /// `=====> text` above a list or report.
    pub(crate) fn header(self, text: &str) -> Result<()> {
        if self.headers { self.marked(Progress::SECTION, GREEN, text) } else { Ok(()) }
    }

    /// `-----> text`: an operation's step, said by the command itself.
    pub(crate) fn step(self, text: &str) -> Result<()> {
        if self.quiet || self.json { Ok(()) } else { self.marked(Progress::STEP, BLUE, text) }
    }

    /// Seven spaces and `text`: more about a step.
    pub(crate) fn detail(self, text: &str) -> Result<()> {
        if self.quiet || self.json { Ok(()) } else { self.line(&format!("{}{text}", Progress::DETAIL)) }
    }

    /// One JSON value, for people too.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<()> {
        if self.compact {
            return self.json_line(value);
        }
        let text =
            serde_json::to_string_pretty(value).map_err(|error| CliError::Failed(error.to_string()))?;
        self.raw(format!("{}\n", safe_json(&text)).as_bytes())
    }

    /// One JSON value on one line.
    pub(crate) fn json_line(self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|error| CliError::Failed(error.to_string()))?;
        self.raw(format!("{}\n", safe_json(&text)).as_bytes())
    }

    /// Shows one event of an operation; `Some` when it was the last.
    pub(crate) fn progress(self, event: &Progress) -> Result<Option<Result<()>>> {
        if self.json {
            self.json_line(event)?;
        }
        let silent = self.quiet || self.json;
        match event {
            Progress::Step { text } if !silent => self.marked(Progress::STEP, BLUE, text)?,
            Progress::Section { text } if !silent => self.marked(Progress::SECTION, GREEN, text)?,
            Progress::Detail { text } if !silent => self.lines(Progress::DETAIL, text)?,
            Progress::Warning { text } if !self.json => warning(text),
            Progress::Done => return Ok(Some(Ok(()))),
            Progress::Failed { error } => return Ok(Some(Err(error.clone().into()))),
            _ => {}
        }
        Ok(None)
    }

    /// The same with a mark that is coloured where colours are.
    fn marked(self, mark: &str, colour: u8, text: &str) -> Result<()> {
        if self.colour { self.lines(&painted(mark, colour), text) } else { self.lines(mark, text) }
    }

    /// `text` line by line, the first after `prefix`, the others indented alike.
    fn lines(self, prefix: &str, text: &str) -> Result<()> {
        for (index, line) in text.split('\n').enumerate() {
            self.line(&format!("{}{line}", if index == 0 { prefix } else { Progress::DETAIL }))?;
        }
        Ok(())
    }
}

/// ` !     text` on stderr. Nothing can be done when that is closed.
pub(crate) fn warning(text: &str) {
    let plain = Progress::WARNING;
    let mark = if takes_colour(&std::io::stderr()) { painted(plain, YELLOW) } else { plain.to_owned() };
    let shown: String = text.split('\n').map(|line| format!("{mark}{}\n", safe_line(line))).collect();
    let _ = std::io::stderr().lock().write_all(shown.as_bytes());
}

/// A plain line on stderr: prompts and hints.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", safe_line(text));
}

/// The stream of an operation ended without saying how it went.
pub(crate) fn broke_off() -> ApiError {
    ApiError {
        code: ErrorCode::Unavailable,
        message: "the connection ended before the operation did; `releases` and `ps:report` show how it went"
            .into(),
    }
}

/// Rows as columns two spaces apart; the last column is not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| safe_line(cell).chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let show = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", safe_line(cell)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(show).collect()
}

/// Milliseconds since the epoch as `2026-03-04T05:06:07Z`.
pub(crate) fn time(milliseconds: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(milliseconds);
    time.map_or_else(|_| "unknown".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
