//! Passing connections on: whoever comes to a controller that follows is served by the one that leads.
//!
//! In: connections. Out: the same bytes at the leader's port of the same kind. Nothing is read or changed on the way, so TLS and
//! SSH are between the client and the leader, which have one certificate and one host key.

use super::Knows;
use crate::store::Controller;
use berth_wire::accept_each;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections at once at each door; more wait.
const CONNECTIONS: usize = 2048;
/// How long a connection waits for somebody to lead: longer than it takes to find out that the last leader has gone.
const WAIT: Duration = Duration::from_secs(20);
/// For a connection to the leader.
const CONNECT: Duration = Duration::from_secs(2);
/// Between tries to reach the leader, who may be gone.
const PAUSE: Duration = Duration::from_millis(200);
/// What is on its way from a leader of before gets this long once another leads. Of a machine that lost its power nothing else
/// would say that it is gone.
const FAREWELL: Duration = Duration::from_secs(1);
const TLS_HANDSHAKE: u8 = 0x16;

/// What is listened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Api,
    Ssh,
    Cluster,
}

impl Door {
    fn of(self, leader: &Controller) -> Option<String> {
        let port = match self {
            Self::Api => leader.api,
            Self::Ssh => leader.ssh,
            Self::Cluster => leader.cluster?,
        };
        Some(leader.at(port))
    }
}

/// Passes connections on until `ended`; gives the listener back. Those that wait for a leader then still do, this one included.
pub(super) async fn pass(
    listener: TcpListener,
    door: Door,
    knows: Knows,
    ended: CancellationToken,
) -> TcpListener {
    let serve = |(stream, from): (TcpStream, std::net::SocketAddr)| {
        let knows = knows.clone();
        async move {
            if let Err(error) = one(stream, door, &knows).await {
                tracing::debug!(from = %from.ip(), %error, "a connection was not passed on to its end");
            }
        }
    };
    accept_each(CONNECTIONS, &ended, || listener.accept(), serve).await;
    listener
}

async fn one(mut client: TcpStream, door: Door, knows: &Knows) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let until = Instant::now() + WAIT;
    let Some((mut stream, leader)) = reach(door, knows, until).await else {
        let problem = knows.borrow().problem.clone();
        return refuse(client, door, &problem.unwrap_or_else(|| "its leader does not answer".to_owned()))
            .await;
    };
    tokio::select! {
        passed = tokio::io::copy_bidirectional(&mut client, &mut stream) => passed.map(drop),
        () = deposed(&leader, knows) => Err(std::io::Error::other("another controller leads now")),
    }
}

/// Waits until somebody else leads, and a little longer.
async fn deposed(leader: &Controller, knows: &Knows) {
    let mut known = knows.subscribe();
    let another = known.wait_for(|known| known.leader.as_ref().is_some_and(|now| now != leader));
    if another.await.is_err() {
        std::future::pending::<()>().await; // nobody looks any more: this process ends
    }
    tokio::time::sleep(FAREWELL).await;
}

/// A connection to whoever leads within `until`.
async fn reach(door: Door, knows: &Knows, until: Instant) -> Option<(TcpStream, Controller)> {
    let mut known = knows.subscribe();
    loop {
        let leader = {
            let found = tokio::time::timeout_at(until, known.wait_for(|known| known.leader.is_some())).await;
            found.ok()?.ok()?.leader.clone()?
        };
        let connecting = TcpStream::connect(door.of(&leader)?);
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, connecting).await {
            // Slower without, but it works.
            let _ = stream.set_nodelay(true);
            return Some((stream, leader));
        }
        if Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Says in plain HTTP that nobody leads; to others the connection just ends.
async fn refuse(mut client: TcpStream, door: Door, problem: &str) -> std::io::Result<()> {
    let mut first = [0];
    let begun = tokio::time::timeout(CONNECT, client.peek(&mut first)).await;
    if door != Door::Api || !matches!(begun, Ok(Ok(1))) || first[0] == TLS_HANDSHAKE {
        return Ok(());
    }
    let body = serde_json::json!({
        "code": "unavailable",
        "message": format!("no controller leads just now: {problem}"),
    });
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
         retry-after: 5\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::Known;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;
    use tokio::sync::watch;

    fn leader(port: u16) -> Controller {
        Controller {
            host: "127.0.0.1".to_owned(),
            api: port,
            ssh: port,
            cluster: Some(port),
            version: String::new(),
            since_ms: 0,
        }
    }

    /// As of a machine that lost its power: it closes nothing.
    #[tokio::test]
    async fn what_was_passed_to_a_leader_of_before_ends_when_another_leads() {
        let here = async || TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (door, old, new) = (here().await, here().await, here().await);
        let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
        let (to, ended) = (port(&door), CancellationToken::new());
        let known = |listener| Known { leader: Some(leader(port(listener))), problem: None };
        let knows: Knows = Arc::new(watch::Sender::new(known(&old)));
        let passing = tokio::spawn(pass(door, Door::Cluster, knows.clone(), ended.clone()));
        let connect = async || TcpStream::connect(("127.0.0.1", to)).await.expect("a connection");
        let mut first = connect().await;
        let (_silent, _) = old.accept().await.expect("it is passed on");
        knows.send_modify(|known| *known = Known { leader: None, problem: Some("nobody knows".to_owned()) });
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(200), first.read(&mut byte)).await;
        assert!(early.is_err(), "nobody else leads yet");
        knows.send_replace(known(&new));
        let read = tokio::time::timeout(FAREWELL * 5, first.read(&mut byte)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "it is closed: {read:?}");
        let second = connect().await;
        let (mut kept, _) = new.accept().await.expect("it is passed on to the new leader");
        knows.send_replace(Known::default());
        let mut third = connect().await;
        let early = tokio::time::timeout(Duration::from_millis(200), third.read(&mut byte)).await;
        assert!(early.is_err(), "it waits for a leader");
        // This one, which takes no more connections as a follower.
        ended.cancel();
        let door = passing.await.expect("no panic");
        knows.send_replace(known(&door));
        let (mut own, _) = door.accept().await.expect("who waited is served here");
        own.write_all(b"!").await.expect("it is open");
        third.read_exact(&mut byte).await.expect("an answer");
        let read = tokio::time::timeout(FAREWELL * 5, kept.read(&mut byte)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "and the leader of before is let go: {read:?}");
        drop(second);
    }
}
