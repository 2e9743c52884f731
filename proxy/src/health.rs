//! Active checks: containers whose app asks for it are asked whether they are well, by one task for all threads.
//!
//! In: the table's backends with their checks. Out: each one's word, which balancing goes by. A container is passed over
//! after two failures in a row and taken back at the first answer that is well; how many are unwell never matters to the
//! others: the last ones left are used whatever their checks say.

use crate::policy::compiled::Compiled;
use crate::table::Target;
use crate::upstream::Backend;
use crate::worker::Shared;
use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Failures in a row until a container is passed over.
const FAILURES: u32 = 2;
/// Checks under way at once.
const AT_ONCE: usize = 64;
/// Longest time for one.
const LONGEST: Duration = Duration::from_secs(5);
/// How often new containers are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// One backend under watch.
struct Watched {
    backend: Arc<Backend>,
    rules: Arc<Compiled>,
    due: Instant,
    failures: u32,
    busy: bool,
}

/// Checks for ever.
pub(crate) async fn check(shared: Arc<Shared>) {
    let mut watched: HashMap<usize, Watched> = HashMap::new();
    let mut checks: JoinSet<(usize, Result<()>)> = JoinSet::new();
    let mut swapped = shared.swaps.subscribe();
    loop {
        swapped.mark_unchanged();
        refresh(&shared, &mut watched);
        let now = Instant::now();
        for (key, one) in &mut watched {
            if !one.busy && one.due <= now && checks.len() < AT_ONCE {
                let Some(health) = &one.rules.balance.health else { continue };
                one.busy = true;
                let longest = LONGEST.min(Duration::from_millis(health.interval_ms));
                let (key, address, path) = (*key, one.backend.name.address, health.path.clone());
                checks.spawn(async move {
                    let asked = tokio::time::timeout(longest, ask(address, &path)).await;
                    (key, asked.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())))
                });
            }
        }
        let next = watched.values().filter(|one| !one.busy).map(|one| one.due).min();
        let next = next.unwrap_or(now + LOOK).min(now + LOOK).max(now + Duration::from_millis(10));
        tokio::select! {
            Some(Ok((key, result))) = checks.join_next(), if !checks.is_empty() => {
                if let Some(one) = watched.get_mut(&key) {
                    one.heard(result);
                }
            }
            _ = swapped.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Watches what the table has, and nothing else.
fn refresh(shared: &Shared, watched: &mut HashMap<usize, Watched>) {
    let table = shared.table.load();
    let mut there = HashMap::new();
    for route in table.http_routes().filter(|route| route.rules.balance.health.is_some()) {
        let Target::Backends(backends) = &route.target else { continue };
        for backend in backends {
            there.insert(Arc::as_ptr(backend) as usize, (backend, &route.rules));
        }
    }
    watched.retain(|key, one| {
        let kept = there.contains_key(key);
        if !kept {
            one.backend.set_well(true); // it may be there for another app, or its check was taken away
        }
        kept
    });
    for (key, (backend, rules)) in there {
        let one = watched.entry(key).or_insert_with(|| Watched {
            backend: backend.clone(),
            rules: rules.clone(),
            due: Instant::now(),
            failures: 0,
            busy: false,
        });
        one.rules = rules.clone();
    }
}

impl Watched {
    fn heard(&mut self, result: Result<()>) {
        self.busy = false;
        let interval = self.rules.balance.health.as_ref().map_or(1000, |health| health.interval_ms);
        self.due = Instant::now() + Duration::from_millis(interval);
        let container = &self.backend.name.container;
        match result {
            Ok(()) => {
                if self.failures >= FAILURES {
                    tracing::info!(%container, "its checks pass again");
                }
                self.failures = 0;
                self.backend.set_well(true);
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures == FAILURES {
                    tracing::warn!(%container, %error, "its checks fail: requests go to others");
                }
                self.backend.set_well(self.failures < FAILURES);
            }
        }
    }
}

/// One check: 2xx and 3xx are well.
async fn ask(address: std::net::SocketAddr, path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: berth-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    // `HTTP/1.1 200`
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let status = line.strip_prefix(b"HTTP/1.").map(|rest| &rest[1..]);
    match status {
        Some([b' ', b'2' | b'3', b'0'..=b'9', b'0'..=b'9']) => Ok(()),
        _ => Err(Error::other(format!("it answered {}", String::from_utf8_lossy(&line).escape_debug()))),
    }
}
