//! Terminal streams: this process's stdin, stdout, stderr, window size and signals, joined to a process in a container.
//!
//! In: an upgraded connection. Out: bytes both ways as they are, and the process's exit code as our own. The terminal is
//! raw meanwhile and restored whatever happens, but for SIGKILL.

use crate::context::Context;
use crate::error::{CliError, Result};
use berth_wire::{Frame, FrameError, read_frame, write_frame};
use rustix::termios::{OptionalActions, Termios};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// (rows, columns) where nobody says.
pub(super) const USUAL: (u16, u16) = (24, 80);

/// (rows, columns) of the terminal, if both standard input and output are one.
pub(super) fn size() -> Option<(u16, u16)> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    // A terminal that was never told its size, such as one made by `script`, says 0.
    let or = |size: u16, usual| if size == 0 { usual } else { size };
    Some((or(size.ws_row, USUAL.0), or(size.ws_col, USUAL.1)))
}

/// Runs `request` at `path` and ends as it does.
pub(super) async fn run(
    context: &Context,
    path: &str,
    request: &(impl Serialize + Sync),
    tty: bool,
) -> Result<()> {
    let stream = context.stream(path).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let start = serde_json::to_vec(request).map_err(|error| CliError::Failed(error.to_string()))?;
    write_frame(&mut to, &Frame::Start(start)).await.map_err(|error| broken(&error))?;

    let raw = if tty && std::io::stdin().is_terminal() { Some(RawTerminal::enter()?) } else { None };
    let (frames, mut outgoing) = mpsc::channel::<Frame>(16);
    tokio::spawn(send_input(frames.clone()));
    let sender = tokio::spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            if write_frame(&mut to, &frame).await.is_err() {
                return; // the reading half says why
            }
        }
    });
    let mut signals = Signals::new()?;
    let (incoming, mut arriving) = mpsc::channel(16);
    let receiver = tokio::spawn(async move {
        loop {
            let frame = read_frame(&mut from).await;
            let last = !matches!(frame, Ok(Some(_)));
            if incoming.send(frame).await.is_err() || last {
                return;
            }
        }
    });
    let end = loop {
        tokio::select! {
            frame = arriving.recv() => match frame {
                Some(Ok(Some(frame))) => match show(frame) {
                    Ok(None) => {}
                    Ok(Some(code)) => break Ok(code),
                    Err(error) => break Err(error),
                },
                Some(Err(error)) => break Err(broken(&error)),
                Some(Ok(None)) | None => break Err(CliError::Failed("the connection ended before the command did".into())),
            },
            caught = signals.next() => match caught {
                Caught::Resize => {
                    if let Some((rows, columns)) = size().filter(|_| tty) {
                        let _ = frames.send(Frame::Resize { rows, columns }).await;
                    }
                }
                // Without a terminal of its own the process does not see our signals: they are passed on. The second of those
                // that ask to end, we do.
                Caught::Signal(number) if signals.asked < 2 => { let _ = frames.send(Frame::Signal(number)).await; }
                Caught::Signal(number) | Caught::End(number) => break Ok(128 + number),
            },
        }
    };
    sender.abort();
    receiver.abort();
    drop(raw);
    match end? {
        0 => Ok(()),
        code => Err(CliError::Exit(u8::try_from(code & 0xff).unwrap_or(1).max(u8::from(code & 0xff == 0)))),
    }
}

fn broken(error: &FrameError) -> CliError {
    CliError::Failed(match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

/// Writes what the process wrote; its exit code when it ended.
fn show(frame: Frame) -> Result<Option<i32>> {
    let write = |out: &mut dyn Write, bytes: &[u8]| {
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| CliError::output(&error))
    };
    match frame {
        Frame::Stdout(bytes) => write(&mut std::io::stdout().lock(), &bytes).map(|()| None),
        Frame::Stderr(bytes) => write(&mut std::io::stderr().lock(), &bytes).map(|()| None),
        Frame::Exit(code) => Ok(Some(code)),
        Frame::Failed(text) => Err(CliError::Failed(text)),
        _ => Ok(None),
    }
}

async fn send_input(frames: mpsc::Sender<Frame>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let frame = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => Frame::StdinEnd,
            Ok(length) => Frame::Stdin(buffer[..length].to_vec()),
        };
        let last = frame == Frame::StdinEnd;
        if frames.send(frame).await.is_err() || last {
            return;
        }
    }
}

enum Caught {
    Resize,
    Signal(i32),
    End(i32),
}

struct Signals {
    resize: Signal,
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
    user: [Signal; 2],
    /// How often somebody asked it to end.
    asked: u32,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            resize: listen(SignalKind::window_change())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            quit: listen(SignalKind::quit())?,
            user: [listen(SignalKind::user_defined1())?, listen(SignalKind::user_defined2())?],
            asked: 0,
        })
    }

    async fn next(&mut self) -> Caught {
        let [user1, user2] = &mut self.user;
        tokio::select! {
            _ = self.resize.recv() => Caught::Resize,
            _ = self.interrupt.recv() => { self.asked += 1; Caught::Signal(2) }
            _ = self.terminate.recv() => { self.asked += 1; Caught::Signal(15) }
            _ = self.quit.recv() => Caught::Signal(3),
            _ = user1.recv() => Caught::Signal(10),
            _ = user2.recv() => Caught::Signal(12),
            // The terminal is gone, and whoever typed there.
            _ = self.hang_up.recv() => Caught::End(1),
        }
    }
}

/// The terminal in raw mode: keys go through as they are typed, Ctrl-C included. Restored when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let failed =
            |error: rustix::io::Errno| CliError::Failed(format!("cannot set up the terminal: {error}"));
        let before = rustix::termios::tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}
