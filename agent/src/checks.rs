//! Checks: looking at one container from outside, or by a command inside it.
//!
//! In: a [`Check`] and the container it looks at. Out: passed, or a reason that people can act on.
//!
//! A deploy waits for startup checks, so they look often while the container is young: a port that does not accept
//! connections yet is no failed attempt until the attempt's time is over.

use berth_model::check::{Check, CheckKind, Probe};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Between two looks at a young container's port.
const FAST: Duration = Duration::from_millis(15);
/// Between two looks once it is older than [`YOUNG`].
const SLOW: Duration = Duration::from_millis(100);
const YOUNG: Duration = Duration::from_secs(3);
/// How much of an answer is searched for `content`.
const BODY_LIMIT: usize = 64 * 1024;

/// Runs a command in the container and gives its exit code.
pub trait Commands: Send + Sync {
    /// The error says why it could not be run.
    fn run(&self, argv: &[String]) -> BoxFuture<'_, Result<i32, String>>;
}

/// The container that is looked at.
#[derive(Clone)]
pub struct Subject<C> {
    /// Where it listens.
    pub address: Ipv4Addr,
    /// Its main port.
    pub port: Option<u16>,
    /// When its process started.
    pub since: Instant,
    /// For command probes.
    pub commands: C,
}

fn seconds(n: u32) -> Duration {
    Duration::from_secs(u64::from(n))
}

impl<C: Commands> Subject<C> {
    fn port(&self, own: Option<u16>) -> Result<u16, String> {
        own.or(self.port).ok_or_else(|| "it names no port and the process type has none".to_owned())
    }

    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let stream = TcpStream::connect((self.address, port)).await;
        stream.map_err(|error| {
            format!("port {port} does not accept connections ({error}); does it listen on 0.0.0.0:$PORT?")
        })
    }

    /// Whether connections to `port` are accepted now.
    pub(crate) async fn accepts(&self, port: u16) -> bool {
        matches!(timeout(Duration::from_secs(1), self.connect(port)).await, Ok(Ok(_)))
    }

    fn pause(&self) -> Duration {
        if self.since.elapsed() < YOUNG { FAST } else { SLOW }
    }

    /// Connects as soon as the port accepts; gives up with the last reason at `deadline`.
    async fn connect_by(&self, port: u16, deadline: Instant) -> Result<TcpStream, String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let reason = match timeout(left, self.connect(port)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(reason)) => reason,
                Err(_) => format!("a connection to port {port} hangs"),
            };
            if Instant::now() + self.pause() >= deadline {
                return Err(reason);
            }
            sleep(self.pause()).await;
        }
    }

    /// Waits until whoever listens on the port says something, or `end`. Servers that start workers listen long before one of
    /// them has loaded the app, and go on listening for a while when none can. Anything is an answer: a status of HTTP,
    /// what another protocol says to HTTP, or that it hangs up and listens on.
    async fn answer_by(&self, port: u16, end: Instant) {
        let mut hung_up = false;
        while let Ok(stream) = self.connect_by(port, end).await {
            match timeout(end.saturating_duration_since(Instant::now()), speaks(stream)).await {
                Ok(false) if !hung_up => hung_up = true,
                Ok(_) | Err(_) => return,
            }
            sleep(self.pause()).await;
        }
    }

    async fn get(
        &self,
        mut stream: Option<TcpStream>,
        port: u16,
        path: &str,
        content: Option<&str>,
        headers: &[(String, String)],
    ) -> Result<(), String> {
        let stream = match stream.take() {
            Some(stream) => stream,
            None => self.connect(port).await?,
        };
        let broke = |error: hyper::Error| format!("GET {path} on port {port} broke off: {error}");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let connection = tokio::spawn(connection);
        let mut request = http::Request::get(path).header("user-agent", "berth-check/1");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", format!("{}:{port}", self.address));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| format!("its path or headers are not valid: {error}"))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broke)?;
            let status = response.status();
            if !(200..400).contains(&status.as_u16()) {
                return Err(format!("GET {path} on port {port} answered {status} instead of 200 to 399"));
            }
            let Some(content) = content else { return Ok(()) };
            // A longer body is searched as far as it was read.
            let mut body = Limited::new(response.into_body(), BODY_LIMIT);
            let mut read = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(bytes) = frame.into_data() {
                    read.extend_from_slice(&bytes);
                }
            }
            if String::from_utf8_lossy(&read).contains(content) {
                Ok(())
            } else {
                Err(format!("GET {path} on port {port} answered {status}, but without {content:?}"))
            }
        };
        let result = answer.await;
        connection.abort();
        result
    }

    /// One attempt.
    async fn attempt(&self, check: &Check, patient: bool) -> Result<(), String> {
        let limit = seconds(check.timeout_secs.max(1));
        let deadline = Instant::now() + limit;
        let work = async {
            match &check.probe {
                Probe::Http { path, port, content, headers } => {
                    let port = self.port(*port)?;
                    let stream = if patient { Some(self.connect_by(port, deadline).await?) } else { None };
                    self.get(stream, port, path, content.as_deref(), headers).await
                }
                Probe::Listening { port } => {
                    let port = self.port(*port)?;
                    if patient { self.connect_by(port, deadline).await } else { self.connect(port).await }
                        .map(drop)
                }
                Probe::Command { argv } => match self.commands.run(argv).await? {
                    0 => Ok(()),
                    code => Err(format!("the command `{}` exited with {code} instead of 0", argv.join(" "))),
                },
                Probe::Uptime { seconds: wanted } => {
                    sleep_until(self.since + seconds(*wanted)).await;
                    Ok(())
                }
                Probe::ListeningOrUptime { seconds: wanted } => {
                    let end = self.since + seconds(*wanted);
                    match self.port(None) {
                        Ok(port) => self.answer_by(port, end).await,
                        Err(_) => sleep_until(end).await,
                    }
                    Ok(())
                }
            }
        };
        match check.probe {
            // These take as long as they say.
            Probe::Uptime { .. } | Probe::ListeningOrUptime { .. } => work.await,
            // A moment more than the limit: the reason found at the deadline says more than "no answer".
            _ => timeout(limit + Duration::from_millis(200), work)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", check.timeout_secs))),
        }
    }

    /// One attempt, at once.
    pub async fn once(&self, check: &Check) -> Result<(), String> {
        self.attempt(check, false).await
    }

    /// A startup check: passes once, or fails after its attempts.
    pub async fn start(&self, check: &Check) -> Result<(), String> {
        sleep_until(self.since + seconds(check.initial_delay_secs)).await;
        let attempts = check.attempts.max(1);
        let mut tried = 0;
        loop {
            tried += 1;
            match self.attempt(check, true).await {
                Ok(()) => return Ok(()),
                Err(reason) if tried >= attempts => {
                    let times = if tried == 1 { String::new() } else { format!(" {tried} times") };
                    return Err(format!("check {:?} failed{times}: {reason}", check.name));
                }
                Err(_) => sleep(seconds(check.wait_secs)).await,
            }
        }
    }
}

/// Whether a byte comes back when HTTP is spoken to it; not if it hangs up.
async fn speaks(mut stream: TcpStream) -> bool {
    // Safe for any app (RFC 9110, 9.2.1), and answered without a body.
    let request =
        "HEAD / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: berth-check/1\r\nConnection: close\r\n\r\n";
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    matches!(stream.read(&mut [0]).await, Ok(read) if read > 0)
}

/// What a running container's checks found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Readiness check number `.0` passes now.
    Ready(usize),
    /// Readiness check number `.0` fails now, and why.
    Unready(usize, String),
    /// A liveness check failed, and why: the container is to be restarted.
    Dead(String),
    /// A check that only warns failed, and why.
    Warning(String),
}

/// Watches a running container with its readiness and liveness checks, for ever; says only what changes.
pub async fn watch<C: Commands>(checks: &[Check], subject: &Subject<C>, findings: mpsc::Sender<Finding>) {
    let lasting = checks.iter().enumerate().filter(|(_, check)| check.kind != CheckKind::Startup);
    let watches = lasting.map(|(index, check)| watch_one(index, check, subject, &findings));
    futures_util::future::join_all(watches).await;
}

async fn watch_one<C: Commands>(
    index: usize,
    check: &Check,
    subject: &Subject<C>,
    findings: &mpsc::Sender<Finding>,
) {
    sleep(seconds(check.initial_delay_secs)).await;
    let mut passing: Option<bool> = None;
    let mut failures = 0;
    loop {
        let result = subject.attempt(check, false).await;
        let finding = match result {
            Ok(()) => {
                failures = 0;
                let news = passing != Some(true);
                passing = Some(true);
                (news && check.kind == CheckKind::Readiness).then_some(Finding::Ready(index))
            }
            Err(reason) => {
                failures += 1;
                let news = failures >= check.attempts.max(1) && passing != Some(false);
                let reason = format!("check {:?} failed: {reason}", check.name);
                if news {
                    passing = Some(false);
                }
                let found = match check.kind {
                    _ if check.warn_only => Finding::Warning(reason),
                    CheckKind::Liveness => Finding::Dead(reason),
                    CheckKind::Readiness | CheckKind::Startup => Finding::Unready(index, reason),
                };
                news.then_some(found)
            }
        };
        if let Some(finding) = finding
            && findings.send(finding).await.is_err()
        {
            return;
        }
        sleep(seconds(check.wait_secs.max(1))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Says(i32);
    impl Commands for Says {
        fn run(&self, _: &[String]) -> BoxFuture<'_, Result<i32, String>> {
            Box::pin(async { Ok(self.0) })
        }
    }

    fn subject(port: Option<u16>, code: i32) -> Subject<Says> {
        Subject { address: Ipv4Addr::LOCALHOST, port, since: Instant::now(), commands: Says(code) }
    }

    fn check(probe: Probe) -> Check {
        Check {
            name: "test".into(),
            kind: CheckKind::Startup,
            probe,
            attempts: 2,
            timeout_secs: 1,
            wait_secs: 0,
            initial_delay_secs: 0,
            warn_only: false,
        }
    }

    fn http(content: Option<&str>) -> Probe {
        let content = content.map(str::to_owned);
        Probe::Http {
            path: "/up".into(),
            port: None,
            content,
            headers: vec![("Host".into(), "x.test".into())],
        }
    }

    async fn serve(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn http_checks_look_at_status_and_content() {
        let port = serve("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        let subject = subject(Some(port), 0);
        assert_eq!(subject.start(&check(http(None))).await, Ok(()));
        assert_eq!(subject.start(&check(http(Some("ell")))).await, Ok(()));
        let reason = subject.start(&check(http(Some("bye")))).await.expect_err("not there");
        assert!(reason.contains("2 times") && reason.contains("without \"bye\""), "{reason}");
    }

    #[tokio::test]
    async fn a_bad_status_is_said() {
        let port = serve("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n").await;
        let reason = subject(Some(port), 0).start(&check(http(None))).await.expect_err("500");
        assert!(reason.contains("answered 500"), "{reason}");
    }

    #[tokio::test]
    async fn a_closed_port_is_said_and_a_late_one_is_waited_for() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        drop(taken);
        let listening = check(Probe::Listening { port: Some(port) });
        let reason = subject(None, 0).start(&listening).await.expect_err("closed");
        assert!(reason.contains("does not accept connections"), "{reason}");
        let late = tokio::spawn(async move {
            sleep(Duration::from_millis(300)).await;
            let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("free");
            sleep(Duration::from_secs(5)).await;
            drop(listener);
        });
        assert_eq!(subject(None, 0).start(&listening).await, Ok(()));
        late.abort();
    }

    #[tokio::test]
    async fn commands_and_uptime() {
        let command = check(Probe::Command { argv: vec!["check".into()] });
        assert_eq!(subject(None, 0).start(&command).await, Ok(()));
        let reason = subject(None, 3).start(&command).await.expect_err("3");
        assert!(reason.contains("exited with 3"), "{reason}");
        let began = Instant::now();
        assert_eq!(subject(None, 0).start(&check(Probe::ListeningOrUptime { seconds: 1 })).await, Ok(()));
        assert!(began.elapsed() >= Duration::from_millis(990));
    }

    #[tokio::test]
    async fn the_default_waits_for_whoever_listens_to_say_something() {
        let default = check(Probe::ListeningOrUptime { seconds: 30 });
        // One that hangs up on HTTP speaks something else.
        let began = Instant::now();
        let port = serve("").await;
        assert_eq!(subject(Some(port), 0).start(&default).await, Ok(()));
        assert!(began.elapsed() < Duration::from_secs(5), "it need not wait");
        // One that listens and loads: what it says at last counts, however bad.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let began = Instant::now();
        tokio::spawn(async move {
            sleep(Duration::from_millis(300)).await;
            let (mut stream, _) = listener.accept().await.expect("a check");
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 500 Oh\r\n\r\n").await;
        });
        assert_eq!(subject(Some(port), 0).start(&default).await, Ok(()));
        assert!((300..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        // One that listened, but whose workers never came: it is waited for like one that never listened.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let asked = listener.accept().await.expect("a check");
            drop((listener, asked));
        });
        let began = Instant::now();
        assert_eq!(
            subject(Some(port), 0).start(&check(Probe::ListeningOrUptime { seconds: 1 })).await,
            Ok(())
        );
        assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn findings_come_only_when_they_change() {
        let (send, mut receive) = mpsc::channel(4);
        let mut live = check(Probe::Command { argv: vec!["x".into()] });
        live.kind = CheckKind::Liveness;
        let watching = tokio::spawn(async move { watch(&[live], &subject(None, 1), send).await });
        assert!(matches!(receive.recv().await, Some(Finding::Dead(_))));
        watching.abort();
    }
}
