//! The dashboard alone, in front of a Berth that runs: `cargo run -p berth-dashboard --example pages -- LISTEN API`, such as
//! `127.0.0.1:9000 127.0.0.1:8080`. For working on pages: it is built in seconds, and shows that the API is all it needs.

#![expect(clippy::print_stdout, reason = "it says where it is")]

use axum::extract::ConnectInfo;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use berth_dashboard::{Api, Peer, router};
use berth_wire::{Client, Endpoint};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Remote(String);

impl Api for Remote {
    fn client(&self, _: Peer) -> Client {
        Client::new(Endpoint::Tcp { address: self.0.clone() })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, api] = words.as_slice() else { return Err("usage: pages LISTEN API".into()) };
    let peer = async |request: Request, next: Next| {
        let (mut parts, body) = request.into_parts();
        if let Some(ConnectInfo(address)) = parts.extensions.get::<ConnectInfo<SocketAddr>>().copied() {
            parts.extensions.insert(Peer { address, encrypted: false });
        }
        next.run(Request::from_parts(parts, body)).await
    };
    let app = router(Arc::new(Remote(api.clone())), CancellationToken::new()).layer(from_fn(peer));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
