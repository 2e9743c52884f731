//! Events: what was changed, by whom and from where, kept on the disk and bounded.
//!
//! In: [`Event`]s of the API's callers (see `api::recorded`) and of what happens by itself. Out: [`EventInfo`]s, the newest
//! [`KEPT`] of the last [`KEPT_MS`], in a SQLite file of their own beside the store. One thread writes and reads it; recording
//! never waits and never fails its caller: what a full disk swallows is counted and said when there is room again.

mod database;

use berth_model::AppName;
use berth_model::events::{EventInfo, EventResult};
use database::{Command, Database};
use std::path::Path;
use std::sync::mpsc;
use tokio::sync::{oneshot, watch};

/// Events kept at most: about 30 MB.
pub const KEPT: i64 = 100_000;
/// How long they are kept: 400 days, in milliseconds.
pub const KEPT_MS: i64 = 400 * 24 * 3_600_000;
/// Longest sentence or reason, in characters.
const LONGEST: usize = 1000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When; milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The app it is about, if one.
    pub app: Option<AppName>,
    /// Who did it: the name of a token or SSH key, `local`, or `berth` for what happens by itself.
    pub by: String,
    /// From where: `ssh ADDRESS`, `https ADDRESS`, `socket`, or nothing.
    pub from: String,
    /// A word for programs: letters and dots, such as `cron.run`.
    pub kind: String,
    /// A sentence for people, without any secret.
    pub text: String,
}

impl Event {
    /// Something that happened by itself, now.
    #[must_use]
    pub fn by_itself(app: Option<&AppName>, kind: &str, text: impl Into<String>) -> Self {
        Self {
            at_ms: crate::platform::now_ms(),
            app: app.cloned(),
            by: "berth".to_owned(),
            from: String::new(),
            kind: kind.to_owned(),
            text: text.into(),
        }
    }
}

/// Which events are asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only this app's.
    pub app: Option<AppName>,
    /// Only of this kind, or of kinds that begin with it and a dot.
    pub kind: Option<String>,
    /// Only from then on; milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Only until then.
    pub until_ms: Option<i64>,
    /// Only after this one.
    pub after: u64,
    /// Only before this one.
    pub before: Option<u64>,
    /// Only of this person.
    pub by: Option<String>,
    /// Only what ended so.
    pub result: Option<EventResult>,
}

/// The events are not there: their thread has ended, or their file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the events cannot be read: {0}")]
pub struct EventError(String);

/// Every event. One for the whole controller.
#[derive(Debug)]
pub struct Events {
    to: mpsc::Sender<Command>,
    newest: watch::Receiver<u64>,
}

/// An action that is under way; it is an event when it has ended.
#[derive(Debug)]
pub struct Begun {
    to: mpsc::Sender<Command>,
    id: Option<i64>,
    began_ms: i64,
    event: Option<Event>,
}

impl Events {
    /// Opens or makes the file (mode 0600); a damaged one is put aside, for the platform is worth more than its past. What was
    /// under way when it was last used becomes an event of its own. Blocks: call it before serving.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let (publish, newest) = watch::channel(0);
        let database = Database::open(path, publish)?;
        let (to, queue) = mpsc::channel();
        std::thread::Builder::new().name("events".to_owned()).spawn(move || database.serve(&queue))?;
        Ok(Self { to, newest })
    }

    /// Keeps an event. Returns at once.
    pub fn record(&self, event: Event) {
        let _ = self.to.send(Command::Add { event: tidy(event), failed: None, took_ms: None, begun: None });
    }

    /// Keeps an event of something that did not work, and why.
    pub fn record_failed(&self, event: Event, reason: &str) {
        let failed = Some(clip(reason));
        let _ = self.to.send(Command::Add { event: tidy(event), failed, took_ms: None, begun: None });
    }

    /// Notes that something begins, before it does: if the controller ends meanwhile, the event still comes to be.
    pub async fn begin(&self, event: Event) -> Begun {
        let event = tidy(event);
        let (reply, answer) = oneshot::channel();
        let _ = self.to.send(Command::Begin { event: event.clone(), reply });
        let id = answer.await.ok().flatten();
        Begun { to: self.to.clone(), id, began_ms: event.at_ms, event: Some(event) }
    }

    /// The newest `count` of those that are wanted, oldest first.
    pub async fn list(&self, wanted: Wanted, count: u32) -> Result<Vec<EventInfo>, EventError> {
        self.ask(wanted, count, true).await
    }

    /// The first `count` of those that are wanted.
    pub async fn first(&self, wanted: Wanted, count: u32) -> Result<Vec<EventInfo>, EventError> {
        self.ask(wanted, count, false).await
    }

    async fn ask(&self, wanted: Wanted, count: u32, newest: bool) -> Result<Vec<EventInfo>, EventError> {
        let gone = || EventError("their thread has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        self.to.send(Command::List { wanted, count, newest, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(EventError)
    }

    /// Writes a copy of all of them to `to`, which is not there yet.
    pub(crate) async fn copy(&self, to: &std::path::Path) -> Result<(), EventError> {
        let gone = || EventError("their thread has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        self.to.send(Command::Copy { to: to.to_owned(), reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(EventError)
    }

    /// Wakes at every new event; its value is the newest's number, 0 before the first.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }
}

impl Begun {
    /// It is over: `Err` says why it failed.
    pub fn end(mut self, result: Result<(), String>) {
        self.finish(result.err().map(|reason| clip(&reason)));
    }

    /// Nothing happened: there is no event.
    pub fn forget(mut self) {
        self.event = None;
        if let Some(id) = self.id {
            let _ = self.to.send(Command::Forget { id });
        }
    }

    fn finish(&mut self, failed: Option<String>) {
        let Some(mut event) = self.event.take() else { return };
        event.at_ms = crate::platform::now_ms();
        let took_ms = u64::try_from(event.at_ms - self.began_ms).ok();
        let _ = self.to.send(Command::Add { event, failed, took_ms, begun: self.id });
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.finish(Some("the caller went away before it was done".to_owned()));
    }
}

fn clip(text: &str) -> String {
    let shown = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c });
    shown.collect()
}

fn tidy(event: Event) -> Event {
    Event {
        by: clip(&event.by),
        from: clip(&event.from),
        kind: clip(&event.kind),
        text: clip(&event.text),
        ..event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(app: &str, kind: &str, at_ms: i64) -> Event {
        let app = Some(AppName::parse(app).expect("valid"));
        let (by, from) = ("alice".to_owned(), "ssh 192.0.2.1".to_owned());
        Event { at_ms, app, by, from, kind: kind.to_owned(), text: format!("{kind} it") }
    }

    fn now() -> i64 {
        crate::platform::now_ms()
    }

    #[tokio::test]
    async fn events_are_kept_found_and_outlive_the_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events.db");
        let events = Events::open(&path).expect("opens");
        events.record(event("one", "config.set", now() - 3000));
        events.record(event("two", "config.unset", now() - 2000));
        events.record_failed(event("one", "deploy", now() - 1000), "no\nreason");
        let begun = events.begin(event("one", "ps.scale", now())).await;
        let _under_way = std::mem::ManuallyDrop::new(begun);
        let all = events.list(Wanted::default(), 10).await.expect("listed");
        assert_eq!(all.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((all[2].result, all[2].reason.as_deref()), (EventResult::Failed, Some("no reason")));
        let one = Wanted { app: AppName::parse("one").ok(), ..Wanted::default() };
        assert_eq!(events.list(one.clone(), 1).await.expect("listed")[0].kind, "deploy");
        assert_eq!(events.first(one, 1).await.expect("listed")[0].kind, "config.set");
        let config = Wanted { kind: Some("config".to_owned()), after: 1, ..Wanted::default() };
        assert_eq!(events.list(config, 10).await.expect("listed").len(), 1);
        events.record(Event { by: "bob".to_owned(), ..event("two", "ps.stop", now()) });
        for (wanted, found) in [
            (Wanted { by: Some("alice".to_owned()), ..Wanted::default() }, vec![1, 2, 3]),
            (Wanted { by: Some("bo".to_owned()), ..Wanted::default() }, vec![]),
            (Wanted { result: Some(EventResult::Failed), ..Wanted::default() }, vec![3]),
            (Wanted { result: Some(EventResult::Done), before: Some(4), ..Wanted::default() }, vec![1, 2]),
        ] {
            let listed = events.list(wanted, 10).await.expect("listed");
            assert_eq!(listed.iter().map(|event| event.seq).collect::<Vec<_>>(), found);
        }
        assert!(
            events
                .list(Wanted { kind: Some("conf".to_owned()), ..Wanted::default() }, 10)
                .await
                .expect("listed")
                .is_empty()
        );
        drop(events);

        let events = Events::open(&path).expect("opens again");
        let last = events.list(Wanted::default(), 1).await.expect("listed");
        assert_eq!(
            (last[0].seq, last[0].kind.as_str(), last[0].result),
            (5, "ps.scale", EventResult::Interrupted)
        );
        assert_eq!(*events.newest().borrow(), 5);
    }

    #[tokio::test]
    async fn what_begins_is_an_event_when_it_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let events = Events::open(&dir.path().join("events.db")).expect("opens");
        let mut newest = events.newest();
        events.begin(event("a", "x", now() - 500)).await.end(Ok(()));
        events.begin(event("a", "y", now())).await.forget();
        drop(events.begin(event("a", "z", now())).await);
        newest.wait_for(|seq| *seq == 2).await.expect("two events");
        let all = events.list(Wanted::default(), 10).await.expect("listed");
        assert_eq!(all.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(), ["x", "z"]);
        assert!(all[0].took_ms.is_some_and(|ms| ms >= 500), "{all:?}");
        assert_eq!(all[1].result, EventResult::Failed);
    }

    #[tokio::test]
    async fn a_damaged_file_is_put_aside_and_old_events_are_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("events.db");
        std::fs::write(&path, b"this is no database, whatever it is called".repeat(100)).expect("written");
        let events = Events::open(&path).expect("opens anyway");
        events.record(event("a", "old", now() - KEPT_MS - 1));
        events.record(event("a", "new", now()));
        assert_eq!(events.list(Wanted::default(), 10).await.expect("listed").len(), 2);
        drop(events);
        assert!(dir.path().join("events.db.damaged").exists());
        let events = Events::open(&path).expect("opens");
        let all = events.list(Wanted::default(), 10).await.expect("listed");
        assert_eq!(all.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(), ["new"]);
    }
}
