//! The WebSocket of a terminal, joined to the API's terminal stream.
//!
//! In: the browser's first message ([`Start`]), then what is typed (binary) and [`Said`] (text). Out: what the program writes
//! (binary), `{"taken":BYTES}` for what was typed, and as the last one `{"exit":CODE}` or `{"failed":TEXT}`.
//!
//! Nothing is kept without bound. Output that the browser has not shown yet is at most [`WINDOW`]: then the API's stream is not
//! read, and the program waits. What is typed waits here, at most [`TYPED`], so that the browser is always heard: it is what it
//! says to be shown that lets the program go on.

use crate::pages::jobs::argv_of;
use crate::session::Visitor;
use axum::extract::ws::{Message, WebSocket};
use berth_model::AppName;
use berth_model::api::{EnterRequest, RunRequest, SessionInfo};
use berth_model::cron::words;
use berth_model::{ContainerId, ProcessType};
use berth_wire::{Frame, Upgraded, WireError, read_frame, write_frame};
use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Bytes that were sent and not shown yet, at most. A terminal of 200 columns shows them in about 2600 lines.
const WINDOW: usize = 512 << 10;
/// Bytes of one message; a part of the window.
const PIECE: usize = 64 << 10;
/// Bytes typed that the program has not taken, at most: the script keeps to a quarter of it.
const TYPED: usize = 1 << 20;
/// What a message costs beside its bytes.
const MESSAGE: usize = 64;
/// How long the first message may take.
const GREETING: Duration = Duration::from_secs(10);
/// Between two signs of life that are asked for; then, too, whether the session still is.
const BEAT: Duration = Duration::from_secs(30);
/// A browser that says nothing for so long, not even to a ping, is gone: its lid was closed, perhaps.
const SILENCE: Duration = Duration::from_secs(100);
/// How long the last message may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// Without a command in a new container, which has no shell to be found out before it runs.
const SHELL: &str = "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi";

/// The first message: where, and what.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    /// The id of a container; without it and a name, a new one.
    container: Option<String>,
    /// As in `web.1`: the one that is called so now, for beginning again after it was replaced.
    name: Option<String>,
    /// The longest that one may run.
    seconds: Option<u32>,
    /// A command line; empty for a shell.
    #[serde(default)]
    command: String,
    /// Rows and columns.
    size: (u16, u16),
}

/// A text message after the first.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Said {
    /// Rows and columns of the terminal now.
    size: Option<(u16, u16)>,
    /// Bytes that were shown since this was last said.
    seen: Option<usize>,
}

/// How it came to its end.
#[derive(Debug, PartialEq)]
enum End {
    Exit(i32),
    Failed(String),
    /// The browser is gone; there is nobody to be told.
    Left,
}

enum Out {
    Say(Message),
    End(End),
}

/// Serves one terminal until its end. When this returns, the API's stream is closed, which ends what ran in it.
pub(super) async fn converse(websocket: WebSocket, visitor: Visitor, app: AppName) {
    let (mut to, mut from) = websocket.split();
    let end = match begin(&mut from, &visitor, &app).await {
        Ok(stream) => pass(stream, &mut to, &mut from, &visitor).await,
        Err(end) => end,
    };
    let last = match end {
        End::Exit(code) => json!({ "exit": code }),
        End::Failed(text) => json!({ "failed": text }),
        End::Left => return,
    };
    let farewell = async {
        to.send(Message::text(last.to_string())).await?;
        to.close().await?;
        // Closing a socket with unread bytes resets it (RFC 2525 §2.17), and what was just sent would be lost.
        while let Some(Ok(_)) = from.next().await {}
        Ok::<_, axum::Error>(())
    };
    // Whoever left meanwhile does not hear it.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

async fn begin<E>(
    from: &mut (impl Stream<Item = Result<Message, E>> + Unpin),
    visitor: &Visitor,
    app: &AppName,
) -> Result<Upgraded, End> {
    let failed = |text: &str| End::Failed(text.to_owned());
    let first = tokio::time::timeout(GREETING, from.next()).await;
    let Ok(Some(Ok(Message::Text(text)))) = first else {
        return Err(failed("nothing was asked for; load the page anew"));
    };
    let start: Start = serde_json::from_str(&text).map_err(|error| End::Failed(error.to_string()))?;
    let (what, request) = asked(&start).map_err(End::Failed)?;
    let begun = visitor.api.upgrade(&format!("/v1/apps/{app}/{what}")).await;
    let mut stream = begun.map_err(|error| End::Failed(error.to_string()))?;
    let written = write_frame(&mut stream, &Frame::Start(request)).await;
    written.map_err(|error| End::Failed(error.to_string()))?;
    Ok(stream)
}

/// `enter` or `run`, and the request for it as JSON.
fn asked(start: &Start) -> Result<(&'static str, Vec<u8>), String> {
    let command = start.command.trim();
    let size = (start.size.0.clamp(1, 1000), start.size.1.clamp(1, 1000));
    let json = |value: serde_json::Result<Vec<u8>>| value.map_err(|error| error.to_string());
    if start.container.is_none() && start.name.is_none() {
        let request = RunRequest {
            argv: argv_of(if command.is_empty() { SHELL } else { command }),
            tty: Some(size),
            env: BTreeMap::new(),
            process_type: None,
            ttl_secs: start.seconds,
        };
        return Ok(("run", json(serde_json::to_vec(&request))?));
    }
    let container = start.container.as_deref().map(ContainerId::parse).transpose();
    let container = container.map_err(|error| error.to_string())?.map(|id| id.to_string());
    let (process, ordinal) = match &start.name {
        Some(name) => called(name).ok_or_else(|| format!("{name:?} is no container's name"))?,
        None => (ProcessType::web(), 1),
    };
    let request = EnterRequest {
        process,
        ordinal,
        container,
        argv: if command.is_empty() { Vec::new() } else { words(command)? },
        tty: Some(size),
    };
    Ok(("enter", json(serde_json::to_vec(&request))?))
}

/// `web.1`.
fn called(name: &str) -> Option<(ProcessType, u32)> {
    let (process, ordinal) = name.rsplit_once('.')?;
    Some((ProcessType::parse(process).ok()?, ordinal.parse().ok()?))
}

/// Output that is on its way: how much more may be sent.
struct Window {
    free: Semaphore,
    sent: AtomicUsize,
}

impl Window {
    fn new() -> Self {
        Self { free: Semaphore::new(WINDOW), sent: AtomicUsize::new(0) }
    }

    /// Waits until so many bytes, at most [`PIECE`], may be sent.
    async fn take(&self, bytes: usize) {
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(permit) = self.free.acquire_many(wanted).await {
            permit.forget();
            self.sent.fetch_add(bytes, Relaxed);
        }
    }

    /// So many were shown. A browser that says more than it was sent does not get a wider window.
    fn shown(&self, bytes: usize) {
        let before = self.sent.load(Relaxed);
        let bytes = bytes.min(before);
        self.sent.store(before - bytes, Relaxed);
        self.free.add_permits(bytes);
    }
}

async fn pass<E>(
    stream: Upgraded,
    to: &mut (impl Sink<Message> + Unpin),
    from: &mut (impl Stream<Item = Result<Message, E>> + Unpin),
    visitor: &Visitor,
) -> End {
    let (mut from_api, mut to_api) = tokio::io::split(stream);
    let window = Window::new();
    let waiting = AtomicUsize::new(0);
    let (say, mut said) = mpsc::channel::<Out>(8);
    let (typed, mut to_type) = mpsc::unbounded_channel::<Frame>(); // bounded by `waiting`

    let reading = async {
        let end = loop {
            match read_frame(&mut from_api).await {
                Ok(Some(Frame::Stdout(bytes) | Frame::Stderr(bytes))) => {
                    let mut rest = Bytes::from(bytes);
                    while !rest.is_empty() {
                        let piece = rest.split_to(rest.len().min(PIECE));
                        window.take(piece.len()).await;
                        let _ = say.send(Out::Say(Message::Binary(piece))).await;
                    }
                }
                Ok(Some(Frame::Exit(code))) => break End::Exit(code),
                Ok(Some(Frame::Failed(text))) => break End::Failed(text),
                Ok(Some(_)) => {}
                Ok(None) => break End::Failed("the connection ended before the command did".to_owned()),
                Err(error) => break End::Failed(error.to_string()),
            }
        };
        // Behind all that was written.
        let _ = say.send(Out::End(end)).await;
        pending().await
    };
    let writing = async {
        while let Some(out) = said.recv().await {
            match out {
                Out::Say(message) => {
                    if to.send(message).await.is_err() {
                        return End::Left;
                    }
                }
                Out::End(end) => return end,
            }
        }
        End::Left
    };
    let typing = async {
        while let Some(frame) = to_type.recv().await {
            if write_frame(&mut to_api, &frame).await.is_err() {
                break; // the reading half says why
            }
            let bytes = if let Frame::Stdin(bytes) = &frame { bytes.len() } else { 0 };
            waiting.fetch_sub(bytes + MESSAGE, Relaxed);
            if bytes > 0 {
                let taken = Message::text(json!({ "taken": bytes }).to_string());
                let _ = say.send(Out::Say(taken)).await;
            }
        }
        pending().await
    };
    let hearing = async {
        loop {
            let frame = match tokio::time::timeout(SILENCE, from.next()).await {
                Err(_) | Ok(None | Some(Err(_) | Ok(Message::Close(_)))) => return End::Left,
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                Ok(Some(Ok(Message::Binary(bytes)))) => Frame::Stdin(bytes.to_vec()),
                Ok(Some(Ok(Message::Text(text)))) => {
                    let Ok(said) = serde_json::from_str::<Said>(&text) else {
                        return End::Failed("the page said what cannot be read; load it anew".to_owned());
                    };
                    window.shown(said.seen.unwrap_or(0));
                    let Some((rows, columns)) = said.size else { continue };
                    Frame::Resize { rows: rows.clamp(1, 1000), columns: columns.clamp(1, 1000) }
                }
            };
            let cost = MESSAGE + if let Frame::Stdin(bytes) = &frame { bytes.len() } else { 0 };
            if waiting.fetch_add(cost, Relaxed) + cost > TYPED {
                return End::Failed("more was typed than the program takes".to_owned());
            }
            let _ = typed.send(frame);
        }
    };
    let keeping = async {
        loop {
            tokio::time::sleep(BEAT).await;
            let asked = visitor.api.get::<SessionInfo>("/v1/sessions/current").await;
            if let Err(WireError::Refused { status: StatusCode::UNAUTHORIZED, .. }) = asked {
                return End::Failed("you are signed out; sign in again".to_owned());
            }
            let _ = say.send(Out::Say(Message::Ping(Bytes::new()))).await;
        }
    };
    tokio::select! {
        end = writing => end,
        end = reading => end,
        end = typing => end,
        end = hearing => end,
        end = keeping => end,
        () = visitor.stop().cancelled() => End::Failed("Berth is being restarted; begin again in a moment".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str) -> Start {
        serde_json::from_str(text).expect("a first message")
    }

    #[test]
    fn a_shell_is_the_default_and_a_command_is_read_as_a_shell_reads_it() {
        let request = |text: &str| {
            let (what, json) = asked(&start(text)).expect("it can be asked for");
            (what, serde_json::from_slice::<serde_json::Value>(&json).expect("JSON"))
        };
        let (what, json) = request(r#"{"container":"a.web.1.xyzxyz","size":[24,80]}"#);
        assert_eq!((what, &json["argv"], &json["tty"]), ("enter", &json!([]), &json!([24, 80])));
        let (_, json) = request(r#"{"container":"a.web.1.xyzxyz","command":" ls 'a b' ","size":[0,65535]}"#);
        assert_eq!((&json["argv"], &json["tty"]), (&json!(["ls", "a b"]), &json!([1, 1000])));
        let (what, json) = request(r#"{"seconds":600,"command":"rake db:seed | cat","size":[24,80]}"#);
        assert_eq!(
            (what, &json["argv"], &json["ttl_secs"]),
            ("run", &json!(["rake db:seed | cat"]), &json!(600))
        );
        let (_, json) = request(r#"{"seconds":600,"size":[24,80]}"#);
        assert_eq!(json["argv"], json!([SHELL]));
        asked(&start(r#"{"container":"a.web.1.xyzxyz","command":"ls 'a","size":[24,80]}"#))
            .expect_err("a quote");
        asked(&start(r#"{"container":"../x","size":[24,80]}"#)).expect_err("no id");
        let (what, json) = request(r#"{"name":"worker.2","size":[24,80]}"#);
        assert_eq!((what, &json["process"], &json["ordinal"]), ("enter", &json!("worker"), &json!(2)));
        asked(&start(r#"{"name":"worker","size":[24,80]}"#)).expect_err("no number");
    }

    #[tokio::test]
    async fn no_more_is_sent_than_is_shown() {
        let window = Window::new();
        for _ in 0..WINDOW / PIECE {
            window.take(PIECE).await;
        }
        let wait = |bytes| tokio::time::timeout(Duration::from_millis(20), window.take(bytes));
        assert!(wait(1).await.is_err(), "it is full");
        window.shown(usize::MAX);
        assert_eq!(window.free.available_permits(), WINDOW, "not more than was sent");
        assert!(wait(PIECE).await.is_ok());
    }
}
