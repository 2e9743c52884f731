//! One SSH session: its requests, the one command it runs, and the bytes between the two.
//!
//! In: the messages of a channel. Out: git or the CLI, with the exit code as the session's. When the client goes away, all of
//! the command's processes end.

use super::lfs_transfer::Operation;
use super::process::Group;
use super::pty::Terminal;
use super::push::{self, Pushes, Ticket};
use super::repository::{self, Service};
use crate::Platform;
use bytes::Bytes;
use nix::sys::signal::Signal;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Longest command line, in bytes.
const LONGEST_COMMAND: usize = 128 * 1024;
/// What may wait between client and command, in bytes, each way. The SSH library stops sending while it waits for us to
/// receive, so input must never wait for output: what does not fit ends the session instead of stopping both for ever.
const INPUT_ROOM: usize = 64 << 20;
const OUTPUT_ROOM: usize = 1 << 20;
/// `git receive-pack` reads on only if somebody takes its progress: that is little, and never waits.
const RECEIVE_OUTPUT_ROOM: usize = 64 << 20;
/// How long output is waited for once the command itself has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
const CHUNK: usize = 32 * 1024;
const STDERR: u32 = 1;

/// What a session knows.
pub(super) struct Context {
    pub(super) platform: Platform,
    pub(super) pushes: Pushes,
    pub(super) who: String,
    pub(super) address: std::net::IpAddr,
    pub(super) handle: Handle,
}

/// What was asked for a terminal, if one was.
#[derive(Clone, Debug)]
struct Wanted {
    term: String,
    rows: u16,
    columns: u16,
}

fn size(number: u32) -> u16 {
    u16::try_from(number.clamp(1, 10_000)).unwrap_or(80)
}

/// Serves a channel to its end.
pub(super) async fn serve(context: Context, channel: Channel<Msg>) {
    let id = channel.id();
    let (mut read, write) = channel.split();
    let mut terminal = None;
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::RequestPty { term, col_width, row_height, .. } => {
                // Only what terminfo names: it becomes a variable of the command.
                let plain = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
                let term = if term.chars().all(plain) && term.len() < 64 { term } else { "dumb".to_owned() };
                terminal = Some(Wanted { term, rows: size(row_height), columns: size(col_width) });
            }
            ChannelMsg::Exec { command, .. } => {
                return run(&context, id, read, write, &command, terminal).await;
            }
            ChannelMsg::RequestShell { .. } => {
                return finish(&context, id, &write, greeting(&context).as_bytes(), None, 0).await;
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    let _ = context.handle.close(id).await;
}

fn greeting(context: &Context) -> String {
    let port = context.platform.options().ssh.port();
    format!(
        "Hello {}, this is Berth. There is no shell here, but every command:\r\n\r\n    \
         ssh -p {port} paas@HOST apps:list\r\n    ssh -p {port} paas@HOST help\r\n\r\n\
         To deploy:\r\n\r\n    git remote add paas ssh://paas@HOST:{port}/APP\r\n    git push paas main\r\n",
        context.who
    )
}

/// Says something and ends the session.
async fn finish(
    context: &Context,
    id: ChannelId,
    write: &ChannelWriteHalf<Msg>,
    text: &[u8],
    stream: Option<u32>,
    code: u32,
) {
    let mut to = write.make_writer_ext(stream);
    let _ = to.write_all(text).await;
    end(context, id, code).await;
}

async fn end(context: &Context, id: ChannelId, code: u32) {
    let _ = context.handle.exit_status_request(id, code).await;
    let _ = context.handle.eof(id).await;
    let _ = context.handle.close(id).await;
}

/// What a command line asks for.
enum Asked {
    Git(Service, String),
    Lfs(Operation, String),
    Cli(Vec<String>),
}

fn parse(line: &[u8]) -> Result<Asked, String> {
    if line.len() > LONGEST_COMMAND {
        return Err("the command is too long".to_owned());
    }
    let line = std::str::from_utf8(line).map_err(|_| "the command is not UTF-8".to_owned())?;
    let words = shlex::split(line).ok_or_else(|| "the command has an open quote".to_owned())?;
    if words.first().is_some_and(|word| word == "git-lfs-transfer") {
        let operation = words.get(2).and_then(|word| Operation::parse(word));
        return match (operation, &words[..]) {
            (Some(operation), [_, path, _]) => Ok(Asked::Lfs(operation, path.clone())),
            _ => Err("git-lfs-transfer takes the name of an app, and upload, download or lock".to_owned()),
        };
    }
    let service = words.first().and_then(|word| Service::parse(word));
    match (service, &words[..]) {
        (Some(service), [_, path]) => Ok(Asked::Git(service, path.clone())),
        (Some(service), _) => {
            Err(format!("git-{} takes the name of an app and nothing else", service.name()))
        }
        (None, _) => Ok(Asked::Cli(words)),
    }
}

async fn run(
    context: &Context,
    id: ChannelId,
    read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
    line: &[u8],
    terminal: Option<Wanted>,
) {
    let started = match parse(line) {
        Err(text) => Err(text),
        Ok(Asked::Git(service, path)) => git(context, service, &path).await,
        Ok(Asked::Lfs(operation, path)) => lfs(context, operation, &path).await,
        Ok(Asked::Cli(words)) => cli(context, &words, terminal.as_ref()),
    };
    match started {
        Err(text) => {
            finish(context, id, &write, format!(" !     {text}\n").as_bytes(), Some(STDERR), 1).await;
        }
        Ok(started) => {
            let code = relay(started, read, write).await;
            end(context, id, code).await;
        }
    }
}

/// A command that runs.
struct Started {
    group: Group,
    terminal: Option<Terminal>,
    output_room: usize,
    /// Kept to its end: the push is under way.
    _ticket: Option<Ticket>,
}

async fn git(context: &Context, service: Service, path: &str) -> Result<Started, String> {
    let app = repository::app_of(path).map_err(|error| error.message)?;
    if service == Service::Upload {
        context.platform.existing_app(&app).await.map_err(|error| error.to_string())?;
    }
    push::open(&context.platform, &app).await.map_err(|error| error.message)?;
    let from = format!("ssh {}", context.address);
    let ticket = context.pushes.begin(&app, &context.who, &from).map_err(|error| error.message)?;
    let mut command = repository::serving(&context.platform, &app, service, &[], Some(ticket.id()));
    piped(&mut command);
    let stay = context.pushes.enter(context.platform.options().repository_dir(&app));
    let mut group = Group::spawn(command).map_err(|error| format!("cannot start git: {error}"))?;
    group.keep(stay);
    let output_room = if service == Service::Receive { RECEIVE_OUTPUT_ROOM } else { OUTPUT_ROOM };
    Ok(Started { group, terminal: None, output_room, _ticket: Some(ticket) })
}

/// Large files of a push or a clone.
async fn lfs(context: &Context, operation: Operation, path: &str) -> Result<Started, String> {
    let app = repository::app_of(path).map_err(|error| error.message)?;
    if operation == Operation::Download {
        context.platform.existing_app(&app).await.map_err(|error| error.to_string())?;
    }
    push::open(&context.platform, &app).await.map_err(|error| error.message)?;
    let options = context.platform.options();
    let mut command = Command::new(&options.berth_exe);
    command.arg("git-lfs-transfer").arg(options.repository_dir(&app)).arg(operation.name());
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8").current_dir("/");
    piped(&mut command);
    let group = Group::spawn(command).map_err(|error| format!("cannot start git-lfs-transfer: {error}"))?;
    // Answers to an upload are short; a download has little input.
    let output_room = if operation == Operation::Upload { RECEIVE_OUTPUT_ROOM } else { OUTPUT_ROOM };
    Ok(Started { group, terminal: None, output_room, _ticket: None })
}

fn piped(command: &mut Command) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// The CLI, as the person whose key this is. The words that decide who and where come before any of the user's.
fn cli(context: &Context, words: &[String], terminal: Option<&Wanted>) -> Result<Started, String> {
    let options = context.platform.options();
    let exe = options.berth_exe.as_os_str();
    let mut command = match terminal {
        None => Command::new(exe),
        Some(_) => {
            // `setsid --ctty` makes the terminal the controlling one, which is what Ctrl-C needs.
            let mut command = Command::new("/usr/bin/setsid");
            command.arg("--ctty").arg(exe);
            command
        }
    };
    command.arg("--data").arg(&options.data).arg("--ssh-session").args(words);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8").env("BERTH_AS", &context.who);
    command.env("BERTH_FROM", context.address.to_string());
    command.current_dir("/");
    let started = |group, terminal| Started { group, terminal, output_room: OUTPUT_ROOM, _ticket: None };
    let failed = |error: std::io::Error| format!("cannot start the command: {error}");
    match terminal {
        None => {
            piped(&mut command);
            Ok(started(Group::spawn(command).map_err(failed)?, None))
        }
        Some(wanted) => {
            command.env("TERM", &wanted.term);
            let (terminal, slave) = Terminal::open(wanted.rows, wanted.columns).map_err(failed)?;
            let copy = |slave: &std::os::fd::OwnedFd| slave.try_clone().map(Stdio::from);
            command
                .stdin(copy(&slave).map_err(failed)?)
                .stdout(copy(&slave).map_err(failed)?)
                .stderr(Stdio::from(slave));
            Ok(started(Group::spawn_session(command).map_err(failed)?, Some(terminal)))
        }
    }
}

/// Bytes for the client: which stream, and the room they take until they are sent.
type Output = mpsc::UnboundedSender<(Option<u32>, Bytes, OwnedSemaphorePermit)>;

/// Moves bytes until the command has ended and its output is sent; gives the exit code.
async fn relay(mut started: Started, mut read: ChannelReadHalf, write: ChannelWriteHalf<Msg>) -> u32 {
    let (output, mut to_send) = mpsc::unbounded_channel::<(Option<u32>, Bytes, OwnedSemaphorePermit)>();
    let sending = tokio::spawn(async move {
        let (mut out, mut err) = (write.make_writer(), write.make_writer_ext(Some(STDERR)));
        while let Some((stream, bytes, _room)) = to_send.recv().await {
            let sent = match stream {
                None => out.write_all(&bytes).await,
                Some(_) => err.write_all(&bytes).await,
            };
            if sent.is_err() {
                return;
            }
        }
    });
    let room = Arc::new(Semaphore::new(started.output_room));
    let input_room = Arc::new(Semaphore::new(INPUT_ROOM));
    let (input, to_write) = mpsc::unbounded_channel::<(Bytes, OwnedSemaphorePermit)>();
    let mut pumps = Vec::new();
    let mut input = Some(input);
    if let Some(terminal) = &started.terminal {
        pumps.push(tokio::spawn(pump(terminal.reader(), None, output, room)));
        tokio::spawn(write_input(terminal.writer(), to_write));
    } else if let Some(child) = started.group.child() {
        if let Some(stdout) = child.stdout.take() {
            pumps.push(tokio::spawn(pump(stdout, None, output.clone(), room.clone())));
        }
        if let Some(stderr) = child.stderr.take() {
            pumps.push(tokio::spawn(pump(stderr, Some(STDERR), output, room)));
        }
        if let Some(stdin) = child.stdin.take() {
            tokio::spawn(write_input(stdin, to_write));
        }
    }
    let code = loop {
        let message = tokio::select! {
            code = started.group.wait() => break code.unwrap_or(255),
            message = read.wait() => message,
        };
        match message {
            Some(ChannelMsg::Data { data }) => {
                let wanted = u32::try_from(data.len()).unwrap_or(u32::MAX);
                match input_room.clone().try_acquire_many_owned(wanted) {
                    Ok(permit) => {
                        if let Some(input) = &input {
                            // A command that closed its input wants no more.
                            let _ = input.send((data, permit));
                        }
                    }
                    Err(_) if started.terminal.is_none() && started.output_room == RECEIVE_OUTPUT_ROOM => {
                        // A push: its output never waits, so its input may.
                        let Ok(permit) = input_room.clone().acquire_many_owned(wanted).await else {
                            continue;
                        };
                        if let Some(input) = &input {
                            let _ = input.send((data, permit));
                        }
                    }
                    Err(_) => {
                        tracing::warn!(
                            "an SSH client sends faster than its command reads; the session is ended"
                        );
                        return 255;
                    }
                }
            }
            Some(ChannelMsg::Eof) => input = None,
            Some(ChannelMsg::WindowChange { col_width, row_height, .. }) => {
                if let Some(terminal) = &started.terminal {
                    terminal.resize(size(row_height), size(col_width));
                }
            }
            Some(ChannelMsg::Signal { signal }) => {
                if let Some(signal) = known(&signal) {
                    started.group.signal(signal);
                }
            }
            // The client is gone: dropping the group ends the command.
            Some(ChannelMsg::Close) | None => return 255,
            Some(_) => {}
        }
    };
    // A process left in the background may hold the pipes open for ever.
    let all = async {
        for pump in pumps {
            let _ = pump.await;
        }
        let _ = sending.await;
    };
    let _ = tokio::time::timeout(LAST_OUTPUT.max(Duration::from_secs(if code == 255 { 2 } else { 10 })), all)
        .await;
    code
}

fn known(signal: &Sig) -> Option<Signal> {
    match signal {
        Sig::INT => Some(Signal::SIGINT),
        Sig::TERM => Some(Signal::SIGTERM),
        Sig::HUP => Some(Signal::SIGHUP),
        Sig::QUIT => Some(Signal::SIGQUIT),
        Sig::KILL => Some(Signal::SIGKILL),
        Sig::USR1 => Some(Signal::SIGUSR1),
        _ => None,
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, stream: Option<u32>, to: Output, room: Arc<Semaphore>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        match from.read_buf(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let wanted = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        let Ok(permit) = room.clone().acquire_many_owned(wanted).await else { return };
        if to.send((stream, chunk.into(), permit)).is_err() {
            return;
        }
    }
}

async fn write_input(
    mut to: impl AsyncWrite + Unpin,
    mut from: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
) {
    while let Some((bytes, _room)) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_commands_take_an_app_and_nothing_else() {
        assert!(
            matches!(parse(b"git-receive-pack 'hello'"), Ok(Asked::Git(Service::Receive, path)) if path == "hello")
        );
        assert!(matches!(parse(b"git-upload-pack '/hello.git'"), Ok(Asked::Git(Service::Upload, _))));
        for bad in
            ["git-receive-pack", "git-receive-pack 'a' ; id", "git-receive-pack --x a", "git-receive-pack 'a"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_commands_are_the_clis() {
        let words = |line: &str| match parse(line.as_bytes()) {
            Ok(Asked::Cli(words)) => words,
            _ => panic!("{line}"),
        };
        assert_eq!(
            words(r"config:set app KEY=VAL\ WITH\ SPACES"),
            ["config:set", "app", "KEY=VAL WITH SPACES"]
        );
        assert_eq!(words("apps:list; id"), ["apps:list;", "id"], "no shell looks at it");
    }
}
