//! Who may do what on the cluster port.
//!
//! In: each request, with the certificate of its connection. Out: the request with a [`Peer`] that names the node; or a refusal. The
//! node's record is read at every request, so a removed node is out from the next one on.

use super::authority::Holder;
use crate::Platform;
use crate::errors::{forbidden, unavailable};
use crate::platform::{PlatformError, now_ms};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use berth_model::NodeName;
use berth_model::api::{ApiError, ErrorCode};
use berth_model::cluster::JOIN_PATH;
use berth_model::node::NodeRecord;
use std::net::SocketAddr;
use std::sync::Arc;

/// Repositories that nodes write to: images they build, and copies of others' images that builds began with.
const WRITABLE: [&str; 2] = ["/v2/apps/", "/v2/mirror/"];

/// Who is at the other end of a connection to the cluster port.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it comes from.
    pub(crate) address: SocketAddr,
    /// What its certificate says; its signature was checked.
    pub(super) holder: Option<Arc<Holder>>,
}

impl Peer {
    /// The node it is, unless it only knocks.
    pub(crate) fn node(&self) -> Option<&NodeName> {
        self.holder.as_ref().map(|holder| &holder.name)
    }
}

fn refuse(status: StatusCode, error: ApiError) -> Response {
    (status, Json(error)).into_response()
}

/// Lets through what the peer may do.
pub(super) async fn check(State(platform): State<Platform>, request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return refuse(StatusCode::FORBIDDEN, forbidden("nobody is known to be at the other end"));
    };
    let path = request.uri().path();
    let Some(holder) = &peer.holder else {
        if path == JOIN_PATH {
            return next.run(request).await;
        }
        let message = "this port is for nodes: show the certificate that joining gave you (berth agent join)";
        let error = ApiError { code: ErrorCode::Unauthorized, message: message.to_owned() };
        return refuse(StatusCode::UNAUTHORIZED, error);
    };
    match admit(&platform, holder, now_ms()).await {
        Ok(()) => {}
        Err(Refusal::Not(message)) => {
            tracing::warn!(node = %holder.name, from = %peer.address, reason = message, "a node was refused");
            return refuse(StatusCode::FORBIDDEN, forbidden(message));
        }
        Err(Refusal::Unknown(error)) => {
            let text = format!("the record of {} cannot be read just now: {error}", holder.name);
            return refuse(StatusCode::SERVICE_UNAVAILABLE, unavailable(text));
        }
    }
    let granted = platform.cluster().grants().allow(&holder.name, request.method(), path);
    if !granted && let Err(message) = allowed(&holder.name, request.method(), path) {
        tracing::warn!(node = %holder.name, from = %peer.address, reason = message, "a node was refused");
        return refuse(StatusCode::FORBIDDEN, forbidden(message));
    }
    next.run(request).await
}

pub(super) enum Refusal {
    /// It may not.
    Not(String),
    /// That is not known just now.
    Unknown(PlatformError),
}

impl From<PlatformError> for Refusal {
    fn from(error: PlatformError) -> Self {
        Self::Unknown(error)
    }
}

/// Whether the holder of a certificate is a node now. A key that the node is about to take becomes its key.
pub(super) async fn admit(platform: &Platform, holder: &Holder, now_ms: i64) -> Result<(), Refusal> {
    if now_ms / 1000 > holder.not_after {
        return Err(Refusal::Not(format!("the certificate of {} has expired; join again", holder.name)));
    }
    let record = platform.node(&holder.name).await?;
    if standing(record.as_ref(), holder)? == Standing::Next {
        platform
            .change_node(&holder.name, |record| -> Result<NodeRecord, Refusal> {
                standing(record.as_ref(), holder)?;
                let record = record.ok_or_else(|| removed(&holder.name))?;
                Ok(NodeRecord { key: Some(holder.key.clone()), next_key: None, ..record })
            })
            .await?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Current,
    Next,
}

fn removed(node: &NodeName) -> Refusal {
    Refusal::Not(format!(
        "{node} was removed from the cluster, or never joined it; join again with a token of: berth node:token"
    ))
}

/// Which of a node's keys this is.
fn standing(record: Option<&NodeRecord>, holder: &Holder) -> Result<Standing, Refusal> {
    let record = record.filter(|record| record.is_joined()).ok_or_else(|| removed(&holder.name))?;
    let shown = Some(holder.key.as_str());
    if record.key.as_deref() == shown {
        return Ok(Standing::Current);
    }
    if record.next_key.as_deref() == shown {
        return Ok(Standing::Next);
    }
    Err(Refusal::Not(format!("this is not the key of {} any more; join again", holder.name)))
}

/// What `node` may ask for. Names of proxies and nodes inside bodies are checked where the bodies are read.
///
/// Of images it may read all, for any app may be placed on it; it writes where builds write, and cannot take an image away.
pub(super) fn allowed(node: &NodeName, method: &Method, path: &str) -> Result<(), String> {
    if let Some(rest) = path.strip_prefix("/node/v1/") {
        let of = rest.split('/').next().unwrap_or_default();
        return match of == node.as_str() {
            true => Ok(()),
            false => Err(format!("{node} asked for what is another node's: {}", shown(path))),
        };
    }
    if path.starts_with("/proxy/v1/") {
        return Ok(());
    }
    if path == "/v2" || path.starts_with("/v2/") {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let writable = WRITABLE.iter().any(|prefix| path.starts_with(prefix));
        let writes = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        // An upload of its own that it gives up; whose an upload is, only its name tells.
        let gives_up = *method == Method::DELETE && path.contains("/blobs/uploads/");
        return match reads || (writable && (writes || gives_up)) {
            true => Ok(()),
            false => Err(format!("{node} may not {method} {}", shown(path))),
        };
    }
    Err(format!("{node} asked for what is not for nodes: {}", shown(path)))
}

fn shown(path: &str) -> String {
    path.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).expect("valid")
    }

    #[test]
    fn a_node_reaches_its_own_and_nothing_else() {
        let may = |method: Method, path: &str| allowed(&node("a"), &method, path).is_ok();
        for (method, path) in [
            (Method::GET, "/node/v1/a/assignment"),
            (Method::POST, "/node/v1/a/observed"),
            (Method::GET, "/node/v1/a/tunnel"),
            (Method::GET, "/proxy/v1/routes"),
            (Method::POST, "/proxy/v1/status"),
            (Method::GET, "/v2/"),
            (Method::GET, "/v2/apps/x/manifests/sha256:00"),
            (Method::HEAD, "/v2/stacks/debian-12-run/manifests/latest"),
            (Method::POST, "/v2/apps/x/blobs/uploads/"),
            (Method::PUT, "/v2/mirror/docker.io/library/debian/manifests/12"),
            (Method::DELETE, "/v2/apps/x/blobs/uploads/1"),
        ] {
            assert!(may(method.clone(), path), "{method} {path}");
        }
        for (method, path) in [
            (Method::GET, "/node/v1/b/assignment"),
            (Method::GET, "/node/v1/aa/assignment"),
            (Method::GET, "/node/v1/%61/assignment"),
            (Method::GET, "/node/v1//assignment"),
            (Method::GET, "/node/v1/../v1/b/assignment"),
            (Method::POST, "/v2/stacks/debian-12-run/blobs/uploads/"),
            (Method::PUT, "/v2/images/debian/manifests/bookworm"),
            (Method::DELETE, "/v2/apps/x/manifests/sha256:00"),
            (Method::DELETE, "/v2/apps/x/blobs/sha256:00"),
            (Method::GET, "/v1/apps"),
            (Method::POST, "/hook/v1/refs"),
            (Method::GET, "/v2x"),
            (Method::GET, "/"),
            (Method::POST, JOIN_PATH),
        ] {
            assert!(!may(method.clone(), path), "{method} {path}");
        }
    }

    #[test]
    fn only_a_node_s_own_keys_are_it() {
        let holder = |key: &str| Holder { name: node("a"), key: key.to_owned(), not_after: i64::MAX };
        let mut record = NodeRecord::new(node("a"), 0);
        let refused = |record: Option<&NodeRecord>, key: &str| standing(record, &holder(key)).is_err();
        assert!(refused(None, "k1"), "removed");
        assert!(refused(Some(&record), "k1"), "the controller's own machine has no certificate");
        record.key = Some("k1".to_owned());
        record.next_key = Some("k2".to_owned());
        assert!(matches!(standing(Some(&record), &holder("k1")), Ok(Standing::Current)));
        assert!(matches!(standing(Some(&record), &holder("k2")), Ok(Standing::Next)));
        assert!(refused(Some(&record), "k3"));
    }
}
