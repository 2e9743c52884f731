//! The dashboard in front of a made-up platform of 200 apps, 50 nodes and 1,000 containers, for looking at pages with a lot of
//! data and for timing them: `cargo run -p berth-dashboard --example crowd -- LISTEN [API]`. Figures change every second. Sign
//! in with any token.
//!
//! - [`cluster`]: apps, machines, containers; what they do changes.
//! - [`apps`]: what pages of an app ask for besides; [`platform`]: those of the platform; [`lines`]: logs.
//! - [`text`]: words that are hard on a page.

#![expect(clippy::print_stdout, reason = "it says where it is")]

mod apps;
mod cluster;
mod lines;
mod platform;
mod text;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use berth_dashboard::{Api, Peer};
use berth_wire::{Client, Endpoint};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Here(SocketAddr);

impl Api for Here {
    fn client(&self, _: Peer) -> Client {
        Client::new(Endpoint::Tcp { address: self.0.to_string() })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let listen = words.next().ok_or("usage: crowd LISTEN [API]")?;
    let own = tokio::net::TcpListener::bind(words.next().as_deref().unwrap_or("127.0.0.1:0")).await?;
    let address = own.local_addr()?;
    tokio::spawn(async move { axum::serve(own, apps::router().merge(platform::router())).await });
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let peer = async |mut request: Request, next: Next| {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        request.extensions_mut().insert(Peer { address, encrypted: false });
        next.run(request).await
    };
    let app = berth_dashboard::router(Arc::new(Here(address)), CancellationToken::new()).layer(from_fn(peer));
    println!("http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
