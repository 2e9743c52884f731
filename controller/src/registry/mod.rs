//! The registry: images by name and digest, over the OCI distribution protocol 1.1 (`/v2/`).
//!
//! In: HTTP requests of agents, builds and ordinary clients (`skopeo`, `podman`, `crane`). Out: blobs and manifests on
//! disk, named by their digests. A push is acknowledged only when its bytes would survive a power loss. Who may do what
//! is decided before a request gets here.

pub(crate) mod archive;
mod collect;
mod durable;
mod error;
mod give;
mod http;
mod layers;
mod manifest;
mod name;
mod overview;
mod store;
mod uploads;

pub use collect::Collected;
pub use error::RegistryError;
pub(crate) use layers::LayersError;
pub(crate) use overview::Kept;
pub use store::Registry;

use std::sync::Arc;

/// The routes under `/v2/`.
pub fn router(registry: Arc<Registry>) -> axum::Router {
    axum::Router::new()
        .route("/v2", axum::routing::any(http::serve))
        .route("/v2/", axum::routing::any(http::serve))
        .route("/v2/{*rest}", axum::routing::any(http::serve))
        .with_state(registry)
}
