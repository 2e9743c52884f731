//! The proxy's link to the controller: routes come in, counts go out. Serving never waits for it.
//!
//! In: `DIR/run/internal.sock` (which may be missing) and `DIR/proxy/table.json`. Out: applied tables, kept on disk, and
//! [`ProxyStatus`] at every change.

use crate::tcp::Ports;
use crate::worker::Shared;
use anyhow::Context;
use berth_model::NodeName;
use berth_model::route::{ProxyStatus, RouteTable};
use berth_wire::{Client, Endpoint, WireError};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Largest route table taken.
const MAX_TABLE: usize = 64 << 20;
/// A long poll is answered within 25 s; a controller that is silent longer is gone.
const POLL: Duration = Duration::from_secs(40);
/// How long one status may take to be delivered.
const POST: Duration = Duration::from_secs(5);
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

/// The table of the last run. A file that cannot be read is reported and counts as none.
pub(crate) fn load(path: &Path) -> Option<RouteTable> {
    let read = std::fs::read(path).context("cannot read it");
    let parsed = match read {
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) =>
        {
            return None;
        }
        other => other.and_then(|bytes| serde_json::from_slice(&bytes).context("it is not a route table")),
    };
    parsed
        .inspect_err(|error| {
            tracing::error!(path = %path.display(), "the last routes are lost until the controller sends them: {error:#}");
        })
        .ok()
}

/// Keeps `table` for the next start: written, synced, renamed.
fn save(path: &Path, table: &RouteTable) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec(table)?;
    let temporary = path.with_extension("json.new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().context("the path has no folder")?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Follows the controller's routes for ever.
pub(crate) async fn follow_routes(shared: Arc<Shared>, client: Client, path: PathBuf) {
    // The first answer of a controller counts whatever its revision: after its state was restored, equal numbers may
    // mean different tables.
    let mut after = 0;
    let mut reachable = true;
    loop {
        match poll(&client, after).await {
            Ok(None) => {
                reachable = true;
            }
            Ok(Some(routes)) => {
                reachable = true;
                after = routes.revision;
                shared.apply(&routes);
                tracing::info!(revision = routes.revision, hosts = routes.http.len(), "serving new routes");
                let to = path.clone();
                let saved = tokio::task::spawn_blocking(move || save(&to, &routes)).await;
                if let Err(error) = saved.map_err(anyhow::Error::from).flatten() {
                    tracing::error!("cannot keep the routes in {}: {error:#}", path.display());
                }
            }
            Err(error) => {
                if std::mem::replace(&mut reachable, false) {
                    tracing::info!("serving the last routes until the controller answers: {error:#}");
                }
                after = 0;
                sleep(RETRY).await;
            }
        }
    }
}

async fn poll(client: &Client, after: u64) -> anyhow::Result<Option<RouteTable>> {
    let path = format!("/proxy/v1/routes?after={after}");
    let asking = async {
        let response = client.call(Method::GET, &path, None::<&()>).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let body = Limited::new(response.into_body(), MAX_TABLE).collect().await;
        let bytes =
            body.map_err(|error| anyhow::anyhow!("the route table was cut short: {error}"))?.to_bytes();
        serde_json::from_slice(&bytes).map(Some).context("the controller's answer is not a route table")
    };
    timeout(POLL, asking).await.context("the controller did not answer a poll for routes")?
}

/// Keeps the TCP ports as the table says and tells the controller what is served and draining, for ever.
pub(crate) async fn report(shared: Arc<Shared>, client: Client, node: NodeName, mut ports: Ports) {
    let mut last = None;
    loop {
        let began = Instant::now();
        let table = shared.table.load_full();
        ports.reconcile(&table);
        let status = ProxyStatus {
            proxy: node.to_string(),
            revision: table.revision,
            certificates_revision: 0,
            draining: shared.draining(),
            tcp_errors: ports.errors.clone(),
        };
        drop(table);
        let due = last
            .as_ref()
            .is_none_or(|(sent, at): &(ProxyStatus, Instant)| *sent != status || at.elapsed() >= REPEAT);
        if due {
            let sending = client.call(Method::POST, "/proxy/v1/status", Some(&status));
            match timeout(POST, sending).await {
                Ok(Ok(_)) => last = Some((status, began)),
                Ok(Err(WireError::Connect { .. })) => last = None,
                Ok(Err(error)) => tracing::debug!(%error, "cannot report to the controller"),
                Err(_) => tracing::debug!("the controller takes no report"),
            }
        }
        sleep_until(began + PAUSE).await;
        let repeat = if last.is_some() { REPEAT } else { RETRY };
        tokio::select! { // both arms only wake us
            () = shared.changed.notified() => {}
            () = sleep_until(began + repeat) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_on_disk_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("table.json");
        assert!(load(&path).is_none());
        let table = RouteTable { revision: 7, ..RouteTable::default() };
        save(&path, &table).expect("saves");
        assert_eq!(load(&path), Some(table));
        std::fs::write(&path, b"{\"revision\":").expect("writes");
        assert!(load(&path).is_none());
    }
}
