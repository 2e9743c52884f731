//! The SSH server: git, and every command of the CLI, for whoever has a key.
//!
//! In: connections. Out: for each session `git receive-pack`, `git upload-pack` or the CLI, wired to its channel. Any login
//! name will do: the key says who it is. Nothing else of SSH is offered: no passwords, no forwarding, no sftp, no agent, no
//! environment.

use super::push::Pushes;
use super::session;
use crate::Platform;
use crate::secrets::random;
use anyhow::{Context, anyhow};
use berth_wire::{accept_each, drain, write_private};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{HashAlg, PrivateKey, PublicKey};
use russh::server::{self, Auth, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet, Pty, SshId};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at once; more wait.
const CONNECTIONS: usize = 512;
/// Sessions of one connection (OpenSSH's `ControlMaster` uses several).
const SESSIONS: usize = 16;
/// How long a client may take until its key is accepted.
const LOGIN: Duration = Duration::from_secs(30);
/// What sessions under way get when the controller ends.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves `listener` until `stop`.
///
/// Errors: the host key cannot be made or read.
pub async fn serve(
    platform: Platform,
    pushes: Pushes,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let key = host_key(&platform.options().ssh_host_key_file())?;
    let config = Arc::new(server::Config {
        server_id: SshId::Standard("SSH-2.0-Berth".into()),
        methods: MethodSet::from([MethodKind::PublicKey].as_slice()),
        auth_rejection_time: Duration::from_millis(100),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key],
        max_auth_attempts: 20,
        // A build may be silent for long; a client that is gone is found out by asking.
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(15)),
        keepalive_max: 4,
        nodelay: true,
        ..server::Config::default()
    });
    let serve = |(stream, address): (TcpStream, std::net::SocketAddr)| {
        let connection = Connection {
            platform: platform.clone(),
            pushes: pushes.clone(),
            address: address.ip().to_canonical(),
            who: None,
            known: Arc::default(),
            sessions: Arc::new(Semaphore::new(SESSIONS)),
        };
        let (config, stop) = (config.clone(), stop.clone());
        async move {
            if let Err(error) = serve_one(config, stream, connection, stop).await {
                tracing::debug!(from = %address.ip(), %error, "an SSH connection ended");
            }
        }
    };
    let tasks = accept_each(CONNECTIONS, &stop, || listener.accept(), serve).await;
    drain(tasks, DRAIN).await;
    Ok(())
}

/// Resolves when `grace` is over and nobody has logged in. Who has logged in may stay: a push lasts as long as its build.
async fn login_missed(known: Arc<AtomicBool>, grace: Duration) {
    tokio::time::sleep(grace).await;
    if known.load(Ordering::Acquire) {
        std::future::pending::<()>().await;
    }
}

async fn serve_one(
    config: Arc<server::Config>,
    stream: TcpStream,
    connection: Connection,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let known = connection.known.clone();
    let begun = tokio::time::timeout(LOGIN, server::run_stream(config, stream, connection)).await;
    let mut session = begun.context("no SSH greeting")??;
    let handle = session.handle();
    let mut missed = std::pin::pin!(login_missed(known, LOGIN));
    let mut stopping = false;
    loop {
        let goodbye = tokio::select! {
            ended = &mut session => return ended,
            () = &mut missed => "no login in time",
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                "Berth is being stopped; what it runs goes on"
            }
        };
        let said = handle.disconnect(russh::Disconnect::ByApplication, goodbye.to_owned(), "en".to_owned());
        said.await.map_err(|_| anyhow!(goodbye))?;
        if !stopping {
            return Ok(());
        }
    }
}

/// The server's own key; made at the first start.
/// The host key; made if there is none.
pub(crate) fn host_key(path: &Path) -> anyhow::Result<PrivateKey> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let parsed = PrivateKey::from_openssh(&text);
            parsed.with_context(|| format!("{} is no private key of OpenSSH", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let seed = random::<32>()?;
            let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
            let text = key.to_openssh(LineEnding::LF).context("cannot write the SSH host key")?;
            let written = write_private(path, text.as_bytes());
            written.with_context(|| format!("cannot write {}", path.display()))?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// One client.
struct Connection {
    platform: Platform,
    pushes: Pushes,
    /// From where.
    address: std::net::IpAddr,
    /// The name of the key it showed.
    who: Option<String>,
    /// Whether it showed one.
    known: Arc<AtomicBool>,
    sessions: Arc<Semaphore>,
}

impl Connection {
    async fn owner(&self, key: &PublicKey) -> anyhow::Result<Option<String>> {
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        Ok(self.platform.ssh_key_by_fingerprint(&fingerprint).await?.map(|key| key.name))
    }
}

impl server::Handler for Connection {
    type Error = anyhow::Error;

    async fn auth_publickey_offered(
        &mut self,
        _: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(match self.owner(offer.public_key).await? {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        })
    }

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.who = self.owner(key.public_key).await?;
        if self.who.is_none() {
            return Ok(Auth::reject());
        }
        self.known.store(true, Ordering::Release);
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: server::ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let (Some(who), Ok(slot)) = (self.who.clone(), self.sessions.clone().try_acquire_owned()) else {
            return Ok(()); // dropping `reply` rejects the channel
        };
        reply.accept().await;
        let context = session::Context {
            platform: self.platform.clone(),
            pushes: self.pushes.clone(),
            who,
            address: self.address,
            handle: session.handle(),
        };
        tokio::spawn(async move {
            let _slot = slot;
            session::serve(context, channel).await;
        });
        Ok(())
    }

    // Requests are answered here, while the library knows whether an answer is wanted; `session` acts on them.

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_success(channel)?)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        _: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_success(id)?)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        Ok(session.channel_success(id)?)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_failure(id)?)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_failure(id)?)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_failure(channel)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_has_not_logged_in_is_sent_away() {
        let grace = Duration::from_millis(20);
        let known = Arc::new(AtomicBool::new(false));
        login_missed(known.clone(), grace).await;
        // Logged in after the waiting began, as it always is.
        let waiting = tokio::spawn(login_missed(known.clone(), grace));
        known.store(true, Ordering::Release);
        let missed = tokio::time::timeout(grace * 10, waiting).await;
        assert!(missed.is_err(), "a session may last");
    }
}
