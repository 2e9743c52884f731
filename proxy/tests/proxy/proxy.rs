//! A running proxy and raw clients of it.

use crate::origin::field;
use berth_model::route::{Backend, HttpRoute, RouteTable, Target, TcpRoute};
use berth_model::{AppName, ContainerId, HostPattern, NodeName, ReleaseVersion};
use berth_proxy::{Handle, Options, Proxy, Settings};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) dir: tempfile::TempDir,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// Times short enough to be waited for.
pub(crate) fn quick() -> Settings {
    Settings {
        header_read: Duration::from_millis(400),
        idle: Duration::from_secs(5),
        connect: Duration::from_millis(500),
        progress: Duration::from_millis(800),
        linger: Duration::from_millis(500),
        drain: Duration::from_secs(5),
        drain_tunnels: Duration::from_millis(500),
        ..Settings::default()
    }
}

impl Running {
    pub(crate) fn start(table: &RouteTable) -> Self {
        Self::start_with(table, Settings::default())
    }

    pub(crate) fn start_with(table: &RouteTable, settings: Settings) -> Self {
        Self::start_in(with_table(table), settings)
    }

    /// With metrics at `metrics`.
    pub(crate) fn start_watched(table: &RouteTable, metrics: SocketAddr) -> Self {
        Self::start_all(with_table(table), Settings::default(), Some(metrics))
    }

    pub(crate) fn start_in(dir: tempfile::TempDir, settings: Settings) -> Self {
        Self::start_all(dir, settings, None)
    }

    fn start_all(dir: tempfile::TempDir, settings: Settings, metrics: Option<SocketAddr>) -> Self {
        let options = Options {
            data: dir.path().to_owned(),
            node: NodeName::parse("node-1").unwrap(),
            http: "127.0.0.1:0".parse().unwrap(),
            https: Some("127.0.0.1:0".parse().unwrap()),
            take_over: false,
            threads: Some(2),
            metrics,
            access_log: berth_model::route::AccessLogFormat::Json,
        };
        let proxy = Proxy::open(options, settings).unwrap();
        let (address, handle, stop) = (proxy.address(), proxy.handle(), CancellationToken::new());
        let https = proxy.https_address().unwrap();
        let token = stop.clone();
        let thread = std::thread::spawn(move || proxy.serve(&token).unwrap());
        Self { address, https, handle, dir, stop, thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Sends `request` on a connection of its own; all that comes back until the proxy closes or answers once.
    pub(crate) fn once(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut client = self.client();
        client.send(request);
        client.reply("GET")
    }

    pub(crate) fn get(&self, host: &str, path: &str) -> Reply {
        self.once(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops and waits; how long that took.
    pub(crate) fn stop(&mut self) -> Duration {
        let began = Instant::now();
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        began.elapsed()
    }

    pub(crate) fn log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("proxy/access.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn with_table(table: &RouteTable) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("proxy")).unwrap();
    let json = serde_json::to_vec(table).unwrap();
    std::fs::write(dir.path().join("proxy/table.json"), json).unwrap();
    dir
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) pending: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// 0 when the connection was closed without an answer.
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The body came to its announced end.
    pub(crate) complete: bool,
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, pending: Vec::new() }
    }

    /// Whether the proxy ends the connection (rather than keeping it for another request).
    pub(crate) fn is_closed(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut byte = [0; 1];
        match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => panic!("unexpected bytes"),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()); // a proxy that has refused already may have closed
    }

    fn fill(&mut self) -> bool {
        let mut space = [0; 65536];
        match self.stream.read(&mut space) {
            Ok(count) => {
                self.pending.extend_from_slice(&space[..count]);
                count > 0
            }
            Err(error) => {
                assert!(error.kind() != std::io::ErrorKind::WouldBlock, "nothing came for 20 s");
                false
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.pending.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..at + 2).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        while self.pending.len() < count && self.fill() {}
        self.pending.drain(..count.min(self.pending.len())).collect()
    }

    pub(crate) fn head(&mut self) -> Option<(u16, String)> {
        let mut head = String::new();
        loop {
            let line = self.line()?;
            head.push_str(&line);
            head.push_str("\r\n");
            if line.is_empty() {
                let status =
                    head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
                return Some((status, head));
            }
        }
    }

    /// Reads one answer to a request with `method`.
    pub(crate) fn reply(&mut self, method: &str) -> Reply {
        let Some((status, head)) = self.head() else { return Reply::default() };
        let mut reply = Reply { status, head, body: Vec::new(), complete: true };
        if method == "HEAD" || status == 204 || status == 304 || status < 200 {
            return reply;
        }
        if let Some(length) = reply.field("content-length") {
            let length = length.parse().unwrap();
            reply.body = self.take(length);
            reply.complete = reply.body.len() == length;
        } else if reply.field("transfer-encoding").is_some() {
            loop {
                let Some(line) = self.line() else {
                    reply.complete = false;
                    return reply;
                };
                let size = usize::from_str_radix(&line, 16).expect("a chunk size");
                reply.body.extend(self.take(size));
                if self.line().is_none() {
                    reply.complete = false;
                    return reply;
                }
                if size == 0 {
                    break;
                }
            }
        } else {
            while self.fill() {}
            reply.body = std::mem::take(&mut self.pending);
        }
        reply
    }
}

pub(crate) fn backend(id: &str, incarnation: u32, address: SocketAddr) -> Backend {
    let container = ContainerId::parse(id).unwrap();
    Backend { container, incarnation, address, protocol: Default::default(), proxy_protocol: None }
}

pub(crate) fn route(host: &str, target: Target) -> HttpRoute {
    HttpRoute {
        host: HostPattern::parse(host).unwrap(),
        app: AppName::parse("app").unwrap(),
        release: Some(ReleaseVersion(3)),
        target,
    }
}

pub(crate) fn table(revision: u64, routes: &[(&str, &[Backend])]) -> RouteTable {
    let http =
        routes.iter().map(|(host, backends)| route(host, Target::Backends { backends: backends.to_vec() }));
    RouteTable { revision, http: http.collect(), ..RouteTable::default() }
}

pub(crate) fn one(host: &str, address: SocketAddr) -> RouteTable {
    table(1, &[(host, &[backend("app.web.1.a", 1, address)])])
}

pub(crate) fn site(root: &Path, spa_fallback: bool) -> RouteTable {
    let root = root.to_str().unwrap().to_owned();
    RouteTable {
        revision: 1,
        http: vec![route(
            "site.test",
            Target::Static { root, roots: Default::default(), spa_fallback, rules: Default::default() },
        )],
        ..RouteTable::default()
    }
}

pub(crate) fn tcp_route(port: u16, backends: Vec<Backend>) -> TcpRoute {
    TcpRoute { port, app: AppName::parse("app").unwrap(), backends }
}

/// Waits for a condition, never for a time.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn write(path: PathBuf, contents: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, contents).unwrap();
}
