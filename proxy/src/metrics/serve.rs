//! A small listener for scrapers: `GET /metrics`, one request a connection.
//!
//! In: an address, usually of the loopback interface: there is no password. Out: the page. Few at once, each with little
//! time and memory; an address that is taken is tried again, for serving apps does not wait for metrics.

use super::{Source, render};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Scrapes at once; more wait.
const AT_ONCE: usize = 8;
/// For one of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request head.
const MAX_HEAD: usize = 16 * 1024;
/// Pause before an address that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Serves `address` for ever.
pub(crate) async fn serve(address: SocketAddr, source: Source) {
    let listener = listen_on(address).await;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source.clone();
                tokio::spawn(async move {
                    if timeout(PATIENCE, answer(stream, &source)).await.is_err() {
                        tracing::debug!("a scraper of metrics was too slow");
                    }
                    drop(slot);
                });
            }
            Err(error) => crate::worker::pause_after(&error).await,
        }
    }
}

async fn listen_on(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are at /metrics");
                return listener;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%address, %error, "cannot listen for scrapers of metrics; trying again");
                }
                sleep(AGAIN).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, source: &Source) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        if memchr::memmem::find(&head, b"\r\n\r\n").is_some() {
            break;
        }
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(reply(&head, source).as_bytes()).await?;
    stream.shutdown().await?;
    // What else it says is read to its end, so that closing does not reset what it has not read yet.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

fn reply(head: &[u8], source: &Source) -> String {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return whole("400 Bad Request", "text/plain", "This is not HTTP/1.1.\n", "GET");
    }
    let method = request.method.unwrap_or_default();
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    if path != "/metrics" {
        return whole("404 Not Found", "text/plain", "Metrics are at /metrics.\n", method);
    }
    if !matches!(method, "GET" | "HEAD") {
        return whole("405 Method Not Allowed\r\nAllow: GET, HEAD", "text/plain", "Only GET.\n", method);
    }
    let open = request.headers.iter().any(|field| {
        field.name.eq_ignore_ascii_case("accept")
            && memchr::memmem::find(field.value, b"application/openmetrics-text").is_some()
    });
    let kind = match open {
        true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        false => "text/plain; version=0.0.4; charset=utf-8",
    };
    whole("200 OK", kind, &render(source, open), method)
}

fn whole(status: &str, kind: &str, body: &str, method: &str) -> String {
    let shown = if method == "HEAD" { "" } else { body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{shown}",
        body.len()
    )
}
