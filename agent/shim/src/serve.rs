//! The life of a container as its shim sees it: one loop over everything that can happen.
//!
//! In: output, requests on the control socket, ends of processes, kills for memory. Out: log segments, replies,
//! `exit.json`. Single-threaded; it only ever waits in `poll`.

use crate::container::Container;
use crate::disk::Usage;
use crate::init::{self, tag};
use crate::log::{Lines, Writer, now_us};
use crate::session::{self, Place, Session};
use crate::{packet, sys};
use berth_shim::protocol::{
    EXIT, Exit, Failure, Kept, Process, Reply, Request, SOCKET, START_WITHIN_SECS, Spec,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Read from a pipe at once, in bytes.
const CHUNK: usize = 64 * 1024;
/// Read from one pipe before the others get their turn.
const TURNS: usize = 16;

/// The shim of a container that has been set up.
pub(crate) struct Shim {
    spec: Spec,
    container: Container,
    own_program: (u64, u64),
    listener: OwnedFd,
    /// The connection it was born with, until the program runs.
    boot: Option<OwnedFd>,
    phase: Phase,
    deadline: Instant,
    connections: Vec<Connection>,
    outputs: Vec<(OwnedFd, Lines)>,
    log: Option<Writer>,
    error_text: Vec<u8>,
    ended: Option<i32>,
    oom_watch: Option<File>,
    oom_kills: u64,
    usage: Option<Usage>,
    reason: Option<String>,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Set up; waits for `Request::Start`.
    Created,
    /// Told to go; the program does not run yet.
    Starting,
    /// The program runs.
    Running,
    /// It could not be run; its first process is about to end.
    Failed,
}

struct Connection {
    socket: OwnedFd,
    role: Role,
    is_open: bool,
}

enum Role {
    Asking,
    Watching,
    Session(Box<Session>),
}

/// What a ready descriptor means.
#[derive(Clone, Copy)]
enum Source {
    Boot,
    Listener,
    Init,
    Sync,
    Errors,
    Output(usize),
    Oom,
    Connection(usize),
    SessionErrors(usize),
    SessionEnd(usize),
}

/// Makes the control socket of `dir`, in the place of a dead shim's. Its path may be longer than an address allows:
/// reached by descriptor.
pub(crate) fn listen(dir: &OwnedFd) -> io::Result<OwnedFd> {
    match rustix::fs::unlinkat(dir, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

impl Shim {
    pub(crate) fn new(
        spec: Spec,
        mut container: Container,
        own_program: (u64, u64),
        listener: OwnedFd,
        boot: OwnedFd,
    ) -> io::Result<Self> {
        let log = match &spec.log_dir {
            Some(dir) => Some(Writer::open(dir, spec.log_bytes)?),
            None => None,
        };
        let outputs = std::mem::take(&mut container.outputs);
        let outputs = outputs.into_iter().map(|(stream, fd)| (fd, Lines::new(stream))).collect();
        let mut oom_watch = spec.oom_events.as_ref().and_then(|path| File::open(path).ok());
        let (mut phase, mut oom_kills) = (Phase::Created, 0);
        if spec.adopt.is_some() {
            phase = Phase::Running;
            oom_kills = oom_watch.as_mut().and_then(|file| count_kills(file).ok()).unwrap_or(0); // told of before
        }
        let usage = spec.disk_bytes.map(|_| Usage::new());
        Ok(Self {
            spec,
            container,
            own_program,
            listener,
            boot: Some(boot),
            phase,
            deadline: Instant::now() + Duration::from_secs(START_WITHIN_SECS),
            connections: Vec::new(),
            outputs,
            log,
            error_text: Vec::new(),
            ended: None,
            oom_watch,
            oom_kills,
            usage,
            reason: None,
            buffer: Vec::new(),
        })
    }

    /// Tells the agent that the container is set up, or taken over, then serves it until its end.
    pub(crate) fn run(mut self) -> ! {
        let for_agent = std::mem::take(&mut self.container.for_agent);
        if self.phase == Phase::Running {
            if let Some(boot) = self.boot.take() {
                let _ = reply(&boot, &Reply::Running, &[]);
            }
        } else if let Some(boot) = &self.boot {
            let _ =
                reply(boot, &Reply::Created { pid: self.container.pid.unsigned_abs() }, &borrow(&for_agent));
        }
        drop(for_agent);
        loop {
            let ready = self.wait();
            let mut init_ended = false;
            for source in ready {
                match source {
                    Source::Boot => self.boot_spoke(),
                    Source::Listener => self.accept(),
                    Source::Init => init_ended = true,
                    Source::Sync => self.init_spoke(),
                    Source::Errors => self.program_spoke(),
                    Source::Output(index) => self.read_output(index, TURNS),
                    Source::Oom => self.count_oom(),
                    Source::Connection(index) => self.connection_spoke(index),
                    Source::SessionErrors(index) => self.session_spoke(index),
                    Source::SessionEnd(index) => self.session_ended(index),
                }
            }
            if init_ended {
                self.finish();
            }
            self.tick();
            self.connections.retain(|connection| connection.is_open);
        }
    }

    fn wait(&mut self) -> Vec<Source> {
        let mut polled: Vec<(Source, PollFd<'_>)> = Vec::with_capacity(16);
        let input = PollFlags::IN;
        polled.push((Source::Listener, PollFd::new(&self.listener, input)));
        polled.push((Source::Init, PollFd::new(&self.container.pidfd, input)));
        if self.ended.is_none() {
            polled.push((Source::Sync, PollFd::new(&self.container.sync, input)));
        }
        if let Some(boot) = &self.boot {
            polled.push((Source::Boot, PollFd::new(boot, input)));
        }
        if let Some(errors) = &self.container.errors {
            polled.push((Source::Errors, PollFd::new(errors, input)));
        }
        for (index, (fd, _)) in self.outputs.iter().enumerate() {
            polled.push((Source::Output(index), PollFd::new(fd, input)));
        }
        if let Some(oom) = &self.oom_watch {
            polled.push((Source::Oom, PollFd::new(oom, PollFlags::PRI)));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            polled.push((Source::Connection(index), PollFd::new(&connection.socket, input)));
            if let Role::Session(session) = &connection.role {
                if let Some(errors) = &session.errors {
                    polled.push((Source::SessionErrors(index), PollFd::new(errors, input)));
                }
                polled.push((Source::SessionEnd(index), PollFd::new(&session.pidfd, input)));
            }
        }
        let next = match self.phase {
            Phase::Created => Some(self.deadline),
            _ => self.usage.as_ref().map(|usage| usage.next),
        };
        let timeout = next.map(|next| {
            let left = next.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) = polled.into_iter().unzip();
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => sources
                .into_iter()
                .zip(&fds)
                .filter(|(source, fd)| {
                    let happened = fd.revents();
                    // kernfs files are always "ready" with an error flag until they are read again.
                    if matches!(source, Source::Oom) {
                        happened.contains(PollFlags::PRI)
                    } else {
                        !happened.is_empty()
                    }
                })
                .map(|(source, _)| source)
                .collect(),
            Err(_) => Vec::new(), // interrupted
        }
    }

    fn boot_spoke(&mut self) {
        let Some(boot) = &self.boot else { return };
        let request = packet::receive(boot).ok().and_then(|(bytes, _)| serde_json::from_slice(&bytes).ok());
        match request {
            Some(Request::Start) if self.phase == Phase::Created => {
                self.phase = Phase::Starting;
                let _ = packet::send(&self.container.sync, &[tag::GO], &[]);
            }
            Some(_) => {}
            None => {
                // The agent is gone.
                self.boot = None;
                if self.phase == Phase::Created {
                    self.kill_container("the agent went away before it was started");
                }
            }
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        if let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            self.connections.push(Connection { socket, role: Role::Asking, is_open: true });
        }
    }

    fn init_spoke(&mut self) {
        match packet::receive(&self.container.sync) {
            Ok((message, _)) => match message.split_first() {
                Some((&tag::ENDED, rest)) => {
                    self.ended = rest.try_into().ok().map(i32::from_le_bytes);
                }
                Some(_) => {}
                None => self.ended = self.ended.or(Some(libc::SIGKILL)), // ends at once, without a word: killed
            },
            Err(_) => self.ended = self.ended.or(Some(libc::SIGKILL)),
        }
    }

    /// The program runs, or says why not.
    fn program_spoke(&mut self) {
        let Some(errors) = &self.container.errors else { return };
        if !drain(errors.as_fd(), &mut self.error_text) {
            return;
        }
        self.container.errors = None;
        if self.phase != Phase::Starting {
            return; // it was killed before
        }
        let answer = if self.error_text.is_empty() {
            self.phase = Phase::Running;
            Reply::Running
        } else {
            self.phase = Phase::Failed;
            Reply::Failed(failure_of(&self.error_text))
        };
        if self.phase == Phase::Failed
            && let (Some(log), Reply::Failed(failure)) = (&mut self.log, &answer)
        {
            log.remark(&failure.text);
        }
        if let Some(boot) = self.boot.take() {
            let _ = reply(&boot, &answer, &[]);
        }
    }

    fn read_output(&mut self, index: usize, turns: usize) {
        let Some((fd, lines)) = self.outputs.get_mut(index) else { return };
        let Some(log) = &mut self.log else { return };
        self.buffer.resize(CHUNK, 0);
        for _ in 0..turns {
            match rustix::io::read(&*fd, &mut self.buffer[..]) {
                Ok(0) => {
                    lines.end(log);
                    self.outputs.remove(index);
                    return;
                }
                Ok(count) => lines.take(&self.buffer[..count], log),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return, // nothing there for now
            }
        }
    }

    fn count_oom(&mut self) {
        let Some(file) = &mut self.oom_watch else { return };
        let Ok(kills) = count_kills(file) else {
            self.oom_watch = None; // the cgroup is gone
            return;
        };
        if kills > self.oom_kills {
            self.oom_kills = kills;
            let limit = &self.spec.memory_words;
            if let Some(log) = &mut self.log {
                log.remark(&format!(
                    "out of memory: the kernel killed a process of this container (limit {limit})"
                ));
            }
        }
    }

    fn connection_spoke(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let received = packet::receive(&connection.socket);
        let (request, fds) = match received {
            Ok((bytes, fds)) if !bytes.is_empty() => match serde_json::from_slice::<Request>(&bytes) {
                Ok(request) => (request, fds),
                Err(error) => {
                    let text = format!("this shim does not know the request: {error}");
                    let _ = reply(
                        &connection.socket,
                        &Reply::Failed(Failure { stage: "request".into(), text }),
                        &[],
                    );
                    return;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => {
                connection.is_open = false;
                if let Role::Session(session) = &connection.role {
                    // Whoever asked for it hung up.
                    let _ = sys::pidfd_kill(session.pidfd.as_fd(), libc::SIGKILL);
                    sys::wait_child(session.pid);
                }
                return;
            }
        };
        match (&mut connection.role, request) {
            (Role::Session(session), Request::Signal(number)) => {
                let _ = sys::pidfd_kill(session.pidfd.as_fd(), number);
            }
            (Role::Session(session), Request::Resize(rows, cols)) => {
                if let Some(master) = &session.master {
                    let _ = init::resize(master.as_fd(), (rows, cols));
                }
            }
            (Role::Session(_) | Role::Watching, _) | (Role::Asking, Request::Start) => {}
            (Role::Asking, Request::Watch) => {
                connection.role = Role::Watching;
                let container = &self.container;
                let kept = Kept {
                    pid: container.pid.unsigned_abs(),
                    outputs: self.outputs.iter().map(|(_, lines)| lines.stream).collect(),
                    terminal: container.master.is_some(),
                };
                let mut fds = vec![container.pidfd.as_fd(), container.sync.as_fd(), container.devpts.as_fd()];
                fds.extend(self.outputs.iter().map(|(fd, _)| fd.as_fd()));
                fds.extend(container.master.as_ref().map(AsFd::as_fd));
                let state = Reply::State {
                    kept,
                    running: self.phase == Phase::Running,
                    disk_bytes: self.usage.as_ref().map(|usage| usage.bytes),
                };
                let _ = reply(&connection.socket, &state, &fds);
            }
            (Role::Asking, Request::Signal(number)) => {
                let sent = sys::pidfd_kill(self.container.pidfd.as_fd(), number);
                let answer = done(sent, "signal");
                let _ = reply(&connection.socket, &answer, &[]);
            }
            (Role::Asking, Request::Resize(rows, cols)) => {
                let resized = match &self.container.master {
                    Some(master) => init::resize(master.as_fd(), (rows, cols)).map_err(io::Error::from),
                    None => Err(io::Error::other("it has no terminal")),
                };
                let _ = reply(&connection.socket, &done(resized, "resize"), &[]);
            }
            (Role::Asking, Request::Exec) => {
                let place = Place {
                    spec: &self.spec,
                    init: self.container.pidfd.as_fd(),
                    devpts: self.container.devpts.as_fd(),
                    own_program: self.own_program,
                };
                let running = self.phase == Phase::Running && self.ended.is_none();
                match start_session(&place, running, fds) {
                    Ok(session) => connection.role = Role::Session(Box::new(session)),
                    Err(failure) => {
                        let _ = reply(&connection.socket, &Reply::Failed(failure), &[]);
                    }
                }
            }
        }
    }

    /// The session's program runs, or says why not.
    fn session_spoke(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Role::Session(session) = &mut connection.role else { return };
        let Some(errors) = &session.errors else { return };
        if !drain(errors.as_fd(), &mut session.error_text) {
            return;
        }
        session.errors = None;
        if session.error_text.is_empty() {
            let started = Reply::Started { pid: session.pid.unsigned_abs() };
            let for_agent = std::mem::take(&mut session.for_agent);
            let _ = reply(&connection.socket, &started, &borrow(&for_agent));
        } else {
            let _ = reply(&connection.socket, &Reply::Failed(failure_of(&session.error_text)), &[]);
        }
    }

    fn session_ended(&mut self, index: usize) {
        self.session_spoke(index); // the start is told before the end
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Role::Session(session) = &mut connection.role else { return };
        if !connection.is_open {
            return;
        }
        let Some((_, status)) = sys::reap(session.pid) else { return };
        let (code, signal) = sys::exit_code(status);
        let exit = Exit { code, signal, oom_kills: 0, at_ms: now_us() / 1000, reason: None };
        let _ = reply(&connection.socket, &Reply::Exited(exit), &[]);
        connection.is_open = false;
    }

    fn tick(&mut self) {
        if self.phase == Phase::Created {
            if Instant::now() >= self.deadline {
                self.kill_container("it was not started within a minute");
                self.deadline = Instant::now() + Duration::from_secs(START_WITHIN_SECS);
            }
            return;
        }
        let (Some(usage), Some(limit)) = (&self.usage, self.spec.disk_bytes) else { return };
        if Instant::now() < usage.next {
            return;
        }
        self.count_oom(); // v1 does not tell by itself
        let Some(usage) = &mut self.usage else { return };
        usage.count(&self.spec.upper, limit);
        if usage.bytes > limit {
            let text = format!(
                "disk limit: it wrote more than {} MiB to its own file system and was stopped; \
                 use a volume, or raise the limit",
                limit / (1024 * 1024)
            );
            self.usage = None;
            self.kill_container(&text);
        }
    }

    fn kill_container(&mut self, reason: &str) {
        if let Some(log) = &mut self.log {
            log.remark(reason);
        }
        self.reason.get_or_insert_with(|| reason.to_owned());
        let _ = sys::pidfd_kill(self.container.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Pid 1 has ended and the kernel has killed the rest: what is left is to tell.
    fn finish(mut self) -> ! {
        let status = sys::wait_child(self.container.pid);
        if let Some(errors) = &self.container.errors {
            // Its last words may have come together with its end.
            drain(errors.as_fd(), &mut self.error_text);
            self.program_spoke();
        }
        if self.ended.is_none() {
            self.init_spoke();
        }
        // Killed from outside, the first process has not told of the program: then its own end counts.
        let status = if libc::WIFSIGNALED(status) { status } else { self.ended.unwrap_or(status) };
        while !self.outputs.is_empty() {
            let before = self.outputs.len();
            self.read_output(0, usize::MAX);
            if self.outputs.len() == before {
                // Nothing more in it, though somebody outside may hold it open.
                let (_, mut lines) = self.outputs.remove(0);
                if let Some(log) = &mut self.log {
                    lines.end(log);
                }
            }
        }
        self.count_oom();
        let (code, signal) = sys::exit_code(status);
        let exit = Exit {
            code,
            signal,
            oom_kills: self.oom_kills,
            at_ms: now_us() / 1000,
            reason: self.reason.clone(),
        };
        if self.phase == Phase::Running || self.phase == Phase::Failed {
            let _ = write_exit(&self.spec.dir, &exit);
        }
        if let Some(boot) = &self.boot {
            let text = self.reason.unwrap_or_else(|| "it was killed before it ran".into());
            let _ = reply(boot, &Reply::Failed(Failure { stage: "start".into(), text }), &[]);
        }
        for connection in &self.connections {
            let answer = match &connection.role {
                Role::Watching => Reply::Exited(exit.clone()),
                Role::Session(_) => {
                    let (code, signal) = (128 + libc::SIGKILL, Some(libc::SIGKILL));
                    Reply::Exited(Exit { code, signal, reason: None, ..exit })
                }
                Role::Asking => continue,
            };
            let _ = reply(&connection.socket, &answer, &[]);
        }
        // Not by way of our destructors: closing the last of the container's file systems takes the kernel some
        // milliseconds, and the lock, which is closed before them this way, is what the next step waits for.
        sys::exit(0)
    }
}

fn start_session(place: &Place<'_>, running: bool, fds: Vec<OwnedFd>) -> Result<Session, Failure> {
    let refuse = |text: &str| Failure { stage: "enter the container".into(), text: text.into() };
    if !running {
        return Err(refuse("it does not run"));
    }
    let fd = fds.into_iter().next().ok_or_else(|| refuse("the request came without a process"))?;
    let process: Process = serde_json::from_reader(File::from(fd))
        .map_err(|error| refuse(&format!("the process is unreadable: {error}")))?;
    session::start(place, &process)
}

/// Reads what is there; whether that was the end.
fn drain(fd: BorrowedFd<'_>, to: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => return true,
            Ok(count) => to.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
}

fn failure_of(text: &[u8]) -> Failure {
    serde_json::from_slice(text).unwrap_or_else(|_| Failure {
        stage: "exec".into(),
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

fn done(result: io::Result<()>, stage: &str) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(Failure { stage: stage.into(), text: error.to_string() }),
    }
}

/// Sends a reply to `socket`.
pub(crate) fn reply(socket: &OwnedFd, reply: &Reply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(reply)?;
    packet::send(socket, &bytes, fds)
}

fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

/// How many processes the kernel has killed for memory, by a cgroup's file of events.
fn count_kills(file: &mut File) -> io::Result<u64> {
    let mut text = String::new();
    rustix::fs::seek(&*file, rustix::fs::SeekFrom::Start(0))?;
    file.read_to_string(&mut text)?;
    let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    Ok(kills.unwrap_or(0))
}

/// Write and rename, without a sync: the file matters to agents of this boot only (after a crash of the machine there
/// is no container to attach to, and an unreadable file says just that), and a sync waits for the whole disk.
fn write_exit(dir: &Path, exit: &Exit) -> io::Result<()> {
    let new = dir.join("exit.json.new");
    std::fs::write(&new, serde_json::to_vec(exit)?)?;
    std::fs::rename(&new, dir.join(EXIT))
}
