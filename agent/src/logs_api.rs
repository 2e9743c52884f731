//! Logs of an app: the lines of all its containers, those that are gone included, merged by time.
//!
//! In: which app, and optionally which process or container; how many lines; whether to go on. Out: [`LogLine`]s. Following
//! includes containers that are started later.

use crate::files::{self, Durability};
use crate::node::Node;
use crate::remarks::{self, Remark};
use crate::runtime::logs::{self, Entry, Filter, Follower, Position};
use berth_model::container::{ContainerSpec, LogLine, LogStream};
use berth_model::{AppName, ContainerId, ProcessType};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Whose a log directory is.
pub(crate) const FILE: &str = "owner.json";
/// Containers that are looked at, the newest of those that last and of those that run once: an app may have had thousands.
const CONTAINERS: usize = 100;
/// How often a follower looks for new containers and for Berth's own lines.
const LOOK: Duration = Duration::from_millis(300);
/// Longest expression to look for, and what it may take in memory; in bytes.
const LONGEST_PATTERN: usize = 1000;
const PATTERN_BYTES: usize = 1 << 20;
/// A line of more pieces is shown in several.
const LONGEST_LINE: usize = 256 * 1024;

/// Whose a log directory is; beside the lines, for when the container is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub(crate) app: AppName,
    process: ProcessType,
    ordinal: u32,
    container: ContainerId,
}

impl Owner {
    /// Of a container.
    #[must_use]
    pub fn of(spec: &ContainerSpec) -> Self {
        Self {
            app: spec.app.clone(),
            process: spec.process.clone(),
            ordinal: spec.ordinal,
            container: spec.id.clone(),
        }
    }

    /// Whether it is of a command that runs once.
    fn is_once(&self) -> bool {
        matches!(self.process.as_str(), "run" | "cron")
    }

    /// Writes it into the log directory.
    pub fn save(&self, log_dir: &Path) -> io::Result<()> {
        files::store(&log_dir.join(FILE), self, Durability::Rename)
    }

    pub(crate) fn line(&self, at_us: i64, stream: LogStream, text: String) -> LogLine {
        LogLine {
            at_us,
            app: self.app.clone(),
            process: self.process.clone(),
            ordinal: self.ordinal,
            container: self.container.clone(),
            stream,
            text,
        }
    }

    pub(crate) fn remarks(&self, remarks: Vec<Remark>) -> impl Iterator<Item = LogLine> {
        remarks.into_iter().map(|remark| self.line(remark.at_us, LogStream::Berth, remark.text))
    }
}

/// What is asked for.
#[derive(Clone, Debug, Deserialize)]
pub struct Query {
    app: AppName,
    process: Option<ProcessType>,
    container: Option<ContainerId>,
    ordinal: Option<u32>,
    /// Milliseconds since the Unix epoch.
    since: Option<i64>,
    until: Option<i64>,
    /// A regular expression.
    grep: Option<String>,
    #[serde(default = "Query::lines")]
    lines: usize,
    #[serde(default)]
    follow: bool,
}

impl Query {
    fn lines() -> usize {
        100
    }

    /// What of the lines is wanted. Errors: what is wrong with the expression.
    pub fn filter(&self) -> Result<Filter, String> {
        let matching = self.grep.as_deref().map(pattern_of).transpose()?;
        let micros = |ms: i64| ms.saturating_mul(1000);
        Ok(Filter { since_us: self.since.map(micros), until_us: self.until.map(micros), matching })
    }

    fn wants(&self, owner: &Owner) -> bool {
        owner.app == self.app
            && self.ordinal.is_none_or(|ordinal| ordinal == owner.ordinal)
            && self.process.as_ref().is_none_or(|process| *process == owner.process)
            && self.container.as_ref().is_none_or(|container| *container == owner.container)
    }

    /// The log directories that are asked for, newest last.
    fn find(&self, logs: &Path) -> io::Result<Vec<(PathBuf, Owner)>> {
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(logs.join(self.app.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        for entry in entries {
            let path = entry?.path();
            if let Ok(Some(owner)) = files::load::<Owner>(&path.join(FILE))
                && self.wants(&owner)
            {
                let changed = std::fs::metadata(&path).and_then(|found| found.modified());
                found.push((changed.unwrap_or(std::time::UNIX_EPOCH), path, owner));
            }
        }
        found.sort();
        // By kind: a cron task a minute must not hide the web process that has run for days.
        let (mut once, mut lasting): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(_, _, owner)| owner.is_once());
        for of_kind in [&mut once, &mut lasting] {
            of_kind.drain(..of_kind.len().saturating_sub(CONTAINERS));
        }
        lasting.append(&mut once);
        lasting.sort();
        Ok(lasting.into_iter().map(|(_, path, owner)| (path, owner)).collect())
    }
}

/// A regular expression that takes little memory and time that grows with the text only.
fn pattern_of(text: &str) -> Result<regex::Regex, String> {
    if text.len() > LONGEST_PATTERN {
        return Err(format!("the expression to look for is longer than {LONGEST_PATTERN} bytes"));
    }
    let made = regex::RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES)
        .nest_limit(50)
        .build();
    made.map_err(|error| format!("the expression to look for cannot be used: {error}"))
}

impl PartialOrd for Owner {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Owner {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.container.cmp(&other.container)
    }
}

/// Puts the pieces of long lines together, each stream by itself.
#[derive(Debug, Default)]
struct Joiner(BTreeMap<u8, (i64, String)>);

impl Joiner {
    fn push(&mut self, entry: &Entry) -> Option<(i64, LogStream, String)> {
        let key = entry.stream as u8;
        let (at_us, mut text) = self.0.remove(&key).unwrap_or((entry.at_us, String::new()));
        text.push_str(&entry.text);
        if entry.continues && text.len() < LONGEST_LINE {
            self.0.insert(key, (at_us, text));
            return None;
        }
        Some((at_us, entry.stream, text))
    }
}

/// Where a follower goes on after the lines that were read.
struct Place {
    path: PathBuf,
    owner: Owner,
    position: Position,
    remarks: u64,
}

fn read(query: &Query, filter: &Filter, logs: &Path) -> io::Result<(Vec<LogLine>, Vec<Place>)> {
    let mut lines = Vec::new();
    let mut places = Vec::new();
    for (path, owner) in query.find(logs)? {
        let (entries, position) = logs::tail_of(&path, query.lines, filter)?;
        let mut joiner = Joiner::default();
        let whole = entries.into_iter().filter_map(|entry| joiner.push(&entry));
        lines.extend(whole.map(|(at_us, stream, text)| owner.line(at_us, stream, text)));
        let (remarks, next) = remarks::read(&path, 0);
        lines.extend(owner.remarks(remarks).filter(|line| filter.wants(line.at_us, &line.text)));
        places.push(Place { path, owner, position, remarks: next });
    }
    lines.sort_by_key(|line| line.at_us);
    let surplus = lines.len().saturating_sub(query.lines);
    Ok((lines.split_off(surplus), places))
}

/// Sends what `query` asks for to `to`, until all is sent (or for ever, when following) or nobody listens.
pub async fn stream(
    node: Arc<Node>,
    query: Query,
    filter: Filter,
    to: mpsc::Sender<LogLine>,
) -> io::Result<()> {
    let logs = node.paths.logs();
    let first = query.clone();
    let from = logs.clone();
    let wanted = filter.clone();
    let read =
        tokio::task::spawn_blocking(move || read(&first, &wanted, &from)).await.map_err(io::Error::other)?;
    let (lines, places) = read?;
    for line in lines {
        if to.send(line).await.is_err() {
            return Ok(());
        }
    }
    if !query.follow {
        return Ok(());
    }
    let (found, mut unordered) = mpsc::channel::<LogLine>(1024);
    let mut followed: BTreeSet<PathBuf> = BTreeSet::new();
    // Ends with this function: dropping the set ends its tasks.
    let mut followers = tokio::task::JoinSet::new();
    for place in places {
        followed.insert(place.path.clone());
        followers.spawn(follow(place, found.clone()));
    }
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Every arm is cancel-safe.
        tokio::select! {
            () = to.closed() => return Ok(()),
            Some(line) = unordered.recv() => {
                let lines = berth_wire::batch(line, &mut unordered).await;
                for line in lines.into_iter().filter(|line| filter.wants(line.at_us, &line.text)) {
                    if to.send(line).await.is_err() {
                        return Ok(());
                    }
                }
            }
            _ = look.tick() => {
                for (path, owner) in query.find(&logs)? {
                    if followed.insert(path.clone()) {
                        let place = Place { path, owner, position: Position::default(), remarks: 0 };
                        followers.spawn(follow(place, found.clone()));
                    }
                }
            }
        }
    }
}

/// Follows one container's log until nobody listens or the log is removed.
async fn follow(mut place: Place, to: mpsc::Sender<LogLine>) -> io::Result<()> {
    let mut follower = Follower::new(&place.path, place.position)?;
    let mut joiner = Joiner::default();
    let mut look = tokio::time::interval(LOOK);
    loop {
        // Both arms are cancel-safe.
        let lines: Vec<LogLine> = tokio::select! {
            entries = follower.next() => {
                let whole = entries?.into_iter().filter_map(|entry| joiner.push(&entry));
                whole.map(|(at_us, stream, text)| place.owner.line(at_us, stream, text)).collect()
            }
            _ = look.tick() => {
                if !place.path.exists() {
                    return Ok(());
                }
                let (remarks, next) = remarks::read(&place.path, place.remarks);
                place.remarks = next;
                place.owner.remarks(remarks).collect()
            }
        };
        for line in lines {
            if to.send(line).await.is_err() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str, stream: LogStream, continues: bool) -> Entry {
        Entry { at_us: 1, stream, text: text.into(), continues }
    }

    #[test]
    fn expressions_are_bounded() {
        assert!(pattern_of("err(or)?").is_ok_and(|pattern| pattern.is_match("an error")));
        assert!(pattern_of("(?i)ERROR").is_ok_and(|pattern| pattern.is_match("an error")));
        for bad in ["(", "a{1000}{1000}{1000}", &"(".repeat(200), &"x".repeat(1001)] {
            assert!(pattern_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pieces_of_a_line_are_joined_within_their_stream() {
        let mut joiner = Joiner::default();
        assert_eq!(joiner.push(&entry("a", LogStream::Stdout, true)), None);
        assert_eq!(
            joiner.push(&entry("x", LogStream::Stderr, false)),
            Some((1, LogStream::Stderr, "x".into()))
        );
        assert_eq!(
            joiner.push(&entry("b", LogStream::Stdout, false)),
            Some((1, LogStream::Stdout, "ab".into()))
        );
    }
}
