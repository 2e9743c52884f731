//! The web dashboard: the public API as pages.
//!
//! In: requests below `/ui` of a browser, with a session cookie. Out: HTML that is rendered here, streams of it that keep open
//! pages as they are now, and files that are part of the binary. It has no door to the controller: every value on a page and
//! every change made there is a call of the public API in the visitor's name, over a [`Client`] that [`Api`] gives.
//!
//! - [`session`]: sign-in, cookies, who may send what (a request that changes something must come from a page of ours).
//! - [`page`]: what all pages share; [`live`]: the same page again whenever it would look different.
//! - [`action`]: a form becomes a call, its progress lines are passed on.
//! - [`pages`]: one module a page.
//! - [`samples`]: apps to begin with.
//! - [`assets`]: style sheet, scripts, and what was vendored (`assets/vendor/README.md`).

mod action;
mod assets;
mod live;
mod page;
mod pages;
mod samples;
mod session;
mod show;
mod trouble;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use berth_wire::Client;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The public API, reached in the name of whoever is at `peer`.
pub trait Api: std::fmt::Debug + Send + Sync {
    /// A client whose calls come from there, as far as the API can tell.
    fn client(&self, peer: Peer) -> Client;
}

/// Where a request came from; the listener sets it as an extension.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// Whether through TLS.
    pub encrypted: bool,
}

/// What every page needs.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    api: Arc<dyn Api>,
    stop: CancellationToken,
}

/// The routes of the dashboard: all below `/ui`, and `/` that leads there. The listener must set a [`Peer`]. When `stop`
/// fires, open pages are told to come again.
pub fn router(api: Arc<dyn Api>, stop: CancellationToken) -> Router {
    let ui = Ui { api, stop };
    Router::new()
        .merge(pages::router())
        .merge(session::router())
        .layer(from_fn_with_state(ui.clone(), session::guard))
        .layer(from_fn(trouble::as_page))
        .merge(assets::router())
        .layer(from_fn(page::finish))
        .with_state(ui)
}
