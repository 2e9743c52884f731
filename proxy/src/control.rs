//! The proxy's link to the controller: routes come in, counts go out. Serving never waits for it.
//!
//! In: `DIR/run/internal.sock` (which may be missing) and `DIR/proxy/table.json`. Out: applied tables, kept on disk, and
//! [`ProxyStatus`] at every change.

use crate::stats::Totals;
use crate::table::Table;
use crate::tcp::Ports;
use crate::tls::wanted::Names;
use crate::worker::Shared;
use anyhow::Context;
use berth_model::route::{ProxyStatus, RouteTable};
use berth_model::tls::{CertificateTable, CertificateWanted};
use berth_model::{AppName, NodeName};
use berth_wire::{Client, Endpoint, WireError};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Largest route table taken.
const MAX_TABLE: usize = 64 << 20;
/// A long poll is answered within 25 s; a controller that is silent longer is gone.
const POLL: Duration = Duration::from_secs(40);
/// How long one status may take to be delivered.
const POST: Duration = Duration::from_secs(5);
/// How long the controller may take to say that it starts an app.
const WAKE: Duration = Duration::from_secs(10);
/// A status is sent at least this often,
const REPEAT: Duration = Duration::from_secs(5);
/// and at most this often.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a controller that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// The controller of this machine.
pub(crate) fn client(data: &Path) -> Client {
    Client::new(Endpoint::Unix(data.join("run/internal.sock")))
}

/// Where the last table is kept.
pub(crate) fn table_path(data: &Path) -> PathBuf {
    data.join("proxy/table.json")
}

/// Where the last certificates are kept, with their keys: in a directory only this user enters.
pub(crate) fn certificates_path(data: &Path) -> PathBuf {
    data.join("proxy/certificates.json")
}

/// A table of the last run. A file that cannot be read is reported and counts as none.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let read = std::fs::read(path).context("cannot read it");
    let parsed = match read {
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) =>
        {
            return None;
        }
        other => {
            other.and_then(|bytes| serde_json::from_slice(&bytes).context("it is not what this proxy writes"))
        }
    };
    parsed
        .inspect_err(|error| {
            tracing::error!(path = %path.display(), "what it held is lost until the controller sends it: {error:#}");
        })
        .ok()
}

/// Keeps `table` for the next start: written, synced, renamed.
fn save(path: &Path, table: &impl Serialize) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(table)?;
    let temporary = path.with_extension("json.new");
    let mut file = private(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().context("the path has no folder")?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// A new, empty file that only this user reads.
fn private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Follows the controller's routes for ever.
pub(crate) async fn follow_routes(shared: Arc<Shared>, client: Client, node: NodeName, path: PathBuf) {
    follow(&client, "/proxy/v1/routes", &path, |table: &RouteTable| {
        shared.apply(&table.clone().seen_from(&node));
        tracing::info!(revision = table.revision, hosts = table.http.len(), "serving new routes");
        (table.revision, !shared.gave_way())
    })
    .await;
}

/// Follows the controller's certificates for ever.
pub(crate) async fn follow_certificates(shared: Arc<Shared>, client: Client, path: PathBuf) {
    follow(&client, "/proxy/v1/certificates", &path, |table: &CertificateTable| {
        shared.present(table);
        tracing::info!(
            revision = table.revision,
            certificates = table.certificates.len(),
            "presenting new certificates"
        );
        (table.revision, !shared.gave_way())
    })
    .await;
}

/// Polls `from` for ever; `apply` uses what comes and says its revision, and whether it is to be kept.
async fn follow<T>(client: &Client, from: &str, path: &Path, apply: impl Fn(&T) -> (u64, bool))
where
    T: DeserializeOwned + Serialize + Send + Sync + 'static,
{
    // The first answer of a controller counts whatever its revision: after its state was restored, equal numbers may
    // mean different tables.
    let mut after = 0;
    let mut reachable = true;
    loop {
        match poll(client, from, after).await {
            Ok(None) => {
                reachable = true;
            }
            Ok(Some(table)) => {
                reachable = true;
                let keep;
                (after, keep) = apply(&table);
                if !keep {
                    continue; // the successor does
                }
                let to = path.to_owned();
                let saved = tokio::task::spawn_blocking(move || save(&to, &table)).await;
                if let Err(error) = saved.map_err(anyhow::Error::from).flatten() {
                    tracing::error!("cannot keep what the controller sent in {}: {error:#}", path.display());
                }
            }
            Err(error) => {
                if std::mem::replace(&mut reachable, false) {
                    tracing::info!(
                        from,
                        "going on with what is known until the controller answers: {error:#}"
                    );
                }
                after = 0;
                sleep(RETRY).await;
            }
        }
    }
}

async fn poll<T: DeserializeOwned>(client: &Client, from: &str, after: u64) -> anyhow::Result<Option<T>> {
    let path = format!("{from}?after={after}");
    let asking = async {
        let response = client.call(Method::GET, &path, None::<&()>).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let body = Limited::new(response.into_body(), MAX_TABLE).collect().await;
        let bytes = body.map_err(|error| anyhow::anyhow!("the answer was cut short: {error}"))?.to_bytes();
        serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{from} is not what was expected"))
    };
    timeout(POLL, asking).await.context("the controller did not answer a poll")?
}

/// Tells the controller, for ever, of names that clients asked for and no certificate has.
pub(crate) async fn pass_on_wishes(client: Client, mut names: Names) {
    while let Some(name) = names.recv().await {
        let wish = CertificateWanted { name: name.into() };
        let asking = client.call(Method::POST, "/proxy/v1/certificate-wanted", Some(&wish));
        match timeout(POST, asking).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::info!(name = wish.name, %error, "no certificate was ordered"),
            Err(_) => {
                tracing::info!(name = wish.name, "no certificate was ordered: the controller is silent");
            }
        }
    }
}

/// Has the controller start apps that sleep and are asked for, for ever.
pub(crate) async fn pass_on_wakes(shared: Arc<Shared>, client: Client) {
    /// Apps that are being started at once.
    const AT_ONCE: usize = 256;
    let Some(mut wakes) = shared.keep.take_wakes() else { return };
    let mut calls = tokio::task::JoinSet::new();
    while let Some(state) = wakes.recv().await {
        while calls.len() >= AT_ONCE {
            calls.join_next().await;
        }
        let client = client.clone();
        calls.spawn(async move {
            let path = format!("/proxy/v1/wake/{}", state.app);
            let call = client.call(Method::POST, &path, None::<&()>);
            match timeout(WAKE, call).await {
                Ok(Ok(_)) => tracing::debug!(app = %state.app, "asked for it to be woken"),
                Ok(Err(error)) => tracing::warn!(app = %state.app, %error, "cannot have it woken"),
                Err(_) => tracing::warn!(app = %state.app, "the controller did not answer a call to wake it"),
            }
            // Whoever still waits a second from now asks again.
            sleep(RETRY).await;
            state.woken();
        });
        while calls.try_join_next().is_some() {}
    }
}

/// For how long nobody asked for the apps that sleep then.
#[derive(Default)]
struct Idle(BTreeMap<AppName, (Totals, Instant)>);

impl Idle {
    fn look(&mut self, table: &Table) -> BTreeMap<AppName, u64> {
        let now = Instant::now();
        let mut idle = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for (app, totals) in table.watched() {
            let since = match self.0.remove(app) {
                Some((before, since)) if totals.in_flight() == 0 && !totals.differs(&before) => since,
                _ => now,
            };
            let ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
            idle.insert(app.clone(), ms);
            seen.insert(app.clone(), (totals, since));
        }
        self.0 = seen;
        idle
    }
}

/// What this proxy is called, and what it does.
pub(crate) fn status(shared: &Shared, node: &NodeName) -> ProxyStatus {
    let proxy = match shared.gave_way() {
        false => node.to_string(),
        true => format!("{node}~{}", std::process::id()), // the node's name is the successor's
    };
    ProxyStatus {
        proxy,
        leaving: false,
        revision: shared.table.load().revision,
        certificates_revision: shared.certificates.load().revision,
        draining: shared.draining(),
        idle_ms: BTreeMap::new(),
        tcp_errors: BTreeMap::new(),
    }
}

/// Tells the controller what is served and draining, once.
pub(crate) async fn say(shared: &Shared, client: &Client, node: &NodeName) {
    post(client, &status(shared, node)).await;
}

/// Whether the controller took it. One that cannot be reached is no news.
async fn post(client: &Client, status: &ProxyStatus) -> bool {
    match timeout(POST, client.call(Method::POST, "/proxy/v1/status", Some(status))).await {
        Ok(Ok(_)) => return true,
        Ok(Err(WireError::Connect { .. })) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot report to the controller"),
        Err(_) => tracing::debug!("the controller takes no report"),
    }
    false
}

/// Keeps the TCP ports as the table says and tells the controller what is served and draining, until `left`.
pub(crate) async fn report(
    shared: Arc<Shared>,
    client: Client,
    node: NodeName,
    mut ports: Ports,
    mut left: oneshot::Receiver<()>,
) {
    let mut last = None;
    let mut idle = Idle::default();
    loop {
        let began = Instant::now();
        let table = shared.table.load_full();
        if !shared.is_stopping() {
            ports.reconcile(&table);
        }
        let tcp_errors = ports.errors.clone();
        let status = ProxyStatus { tcp_errors, idle_ms: idle.look(&table), ..status(&shared, &node) };
        drop(table);
        let news =
            |sent: &ProxyStatus| *sent != ProxyStatus { idle_ms: sent.idle_ms.clone(), ..status.clone() };
        let due = last
            .as_ref()
            .is_none_or(|(sent, at): &(ProxyStatus, Instant)| news(sent) || at.elapsed() >= REPEAT);
        if due {
            last = post(&client, &status).await.then_some((status, began));
        }
        let repeat = if last.is_some() { REPEAT } else { RETRY };
        let pause = async {
            sleep_until(began + PAUSE).await;
            tokio::select! { // both arms only wake us
                () = shared.changed.notified() => {}
                () = sleep_until(began + repeat) => {}
            }
        };
        tokio::select! {
            () = pause => {}
            _ = &mut left => break,
        }
    }
    if last.is_some() {
        post(&client, &ProxyStatus { leaving: true, ..status(&shared, &node) }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_on_disk_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("table.json");
        assert!(load::<RouteTable>(&path).is_none());
        let table = RouteTable { revision: 7, ..RouteTable::default() };
        save(&path, &table).expect("saves");
        assert_eq!(load(&path), Some(table));
        std::fs::write(&path, b"{\"revision\":").expect("writes");
        assert!(load::<RouteTable>(&path).is_none());
    }
}
