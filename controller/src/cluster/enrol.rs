//! Becoming a node, and staying one.
//!
//! In: `POST /join/v1` with a token, over TLS without a certificate; `POST /node/v1/{node}/certificate` from a node. Out: node
//! records and certificates. The record is written before the certificate is given: an answer that is lost costs another try.

use super::authority::{Authority, Proven};
use super::guard::Peer;
use super::subnets::{self, Net};
use super::tokens::{self, Used};
use crate::Platform;
use crate::api::status_of;
use crate::errors::{conflict, forbidden, invalid};
use crate::events::Event;
use crate::platform::now_ms;
use crate::store::{Compare, Write};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use berth_model::NodeName;
use berth_model::api::ApiError;
use berth_model::cluster::{JOIN_PATH, JoinAnswer, JoinRequest, MembershipAnswer, RenewAnswer, RenewRequest};
use berth_model::node::NodeRecord;

/// Written by everybody who gives out a subnet, so that no two do it at once.
const SUBNET_GUARD: &str = "cluster/subnets";
/// Addresses of controllers, one each.
const CONTROLLERS: &str = "cluster/controllers/";
/// Longest body of these calls.
const LARGEST: usize = 64 << 10;
/// How many networks of a machine are looked at.
const MOST_NETWORKS: usize = 1024;

pub(super) fn router(platform: Platform) -> Router {
    Router::new()
        .route(JOIN_PATH, post(join))
        .route("/node/v1/{node}/certificate", post(renew))
        .route("/node/v1/{node}/membership", get(membership))
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(platform)
}

struct Refused(ApiError);

impl<E: Into<ApiError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (status_of(self.0.code), Json(self.0)).into_response()
    }
}

async fn join(
    State(platform): State<Platform>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinAnswer>, Refused> {
    let name = request.node.clone();
    let answer = enrol(&platform, &peer, request).await;
    if let Err(Refused(error)) = &answer {
        tracing::warn!(node = %name, from = %peer.address, reason = error.message, "a machine was refused");
        let text = format!("refused {name} ({})", peer.address.ip());
        platform.events().record_failed(Event::by_itself(None, "node.join", text), &error.message);
    }
    answer.map(Json)
}

async fn enrol(platform: &Platform, peer: &Peer, request: JoinRequest) -> Result<JoinAnswer, Refused> {
    let authority = Authority::obtain(platform).await?;
    let (name, now) = (request.node, now_ms());
    let key = Proven::parse(&request.request).map_err(invalid)?;
    let key_hash = key.sha256();
    let had = request.subnet.as_deref().and_then(Net::parse);
    let known: Vec<Net> =
        request.taken.iter().take(MOST_NETWORKS).filter_map(|text| Net::parse(text)).collect();
    let record = loop {
        let guard = platform.store().get(SUBNET_GUARD).await.map_err(crate::platform::PlatformError::from)?;
        let found = tokens::find(platform, &request.secret).await?;
        let (token, revision) = found.ok_or_else(|| forbidden(tokens::TokenRefused::Unknown.to_string()))?;
        token.check(&name, &key_hash, now).map_err(|refused| forbidden(refused.to_string()))?;
        let nodes = platform.nodes().await?;
        let before = nodes.iter().find(|node| node.name == name).cloned();
        let again = before.as_ref().is_some_and(|node| node.key.as_deref() == Some(key_hash.as_str()));
        let replaces = token.node.is_some() || again;
        if before.as_ref().is_some_and(|node| !node.is_joined()) {
            return Err(conflict(format!(
                "{name} is the controller's own machine; choose another name with --node"
            ))
            .into());
        }
        if before.is_some() && !replaces {
            return Err(conflict(format!(
                "there is a node {name} already; choose another name with --node, or, if this machine is to take its \
                 place, make a token for it with: berth node:token {name}"
            ))
            .into());
        }
        let others: Vec<Net> = nodes
            .iter()
            .filter(|node| node.name != name)
            .filter_map(|node| Net::parse(node.subnet.as_deref()?))
            .collect();
        let had = had.or_else(|| before.as_ref().and_then(|node| Net::parse(node.subnet.as_deref()?)));
        let subnet = subnets::choose(had, &others, &known).ok_or_else(|| {
            conflict("every /20 of 10.208.0.0/12 is taken by a node or by a network of this machine")
        })?;
        let mut record = before.clone().unwrap_or_else(|| NodeRecord::new(name.clone(), now));
        record.key = Some(key_hash.clone());
        record.next_key = None;
        record.subnet = Some(subnet.to_string());
        record.address = Some(request.address.unwrap_or_else(|| peer.address.ip().to_canonical()));
        let used = Used { node: name.clone(), key: key_hash.clone() };
        let (compare, write) = tokens::using(&request.secret, revision, token, used);
        let compare = vec![compare, Compare::unchanged(SUBNET_GUARD, guard.map(|entry| entry.revision))];
        let written = vec![write, Write::Put(SUBNET_GUARD.to_owned(), name.as_str().as_bytes().to_vec())];
        if platform.put_node(&record, before.as_ref(), compare, written).await? {
            // Whoever has the former key is not this node any more.
            if !again {
                platform.cluster().seats().cut(&name);
            }
            break record;
        }
    };
    let signed = authority.sign_node(&name, &key, now)?;
    tracing::info!(node = %name, from = %peer.address, subnet = record.subnet, "a machine joined");
    let text = format!("{name} ({}) joined", peer.address.ip());
    platform.events().record(Event::by_itself(None, "node.join", text));
    Ok(JoinAnswer {
        node: name,
        certificate: signed.pem,
        validity: signed.validity,
        subnet: record.subnet.unwrap_or_default(),
        address: record.address.unwrap_or_else(|| peer.address.ip()),
        controllers: controllers(platform).await?,
    })
}

/// The next certificate of a node, for a new key: the old one stays good until the new one is first used.
async fn renew(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    Json(request): Json<RenewRequest>,
) -> Result<Json<RenewAnswer>, Refused> {
    let authority = Authority::obtain(&platform).await?;
    let key = Proven::parse(&request.request).map_err(invalid)?;
    let hash = key.sha256();
    platform
        .change_node(&node, |record| -> Result<NodeRecord, ApiErrorBox> {
            let record = record.ok_or_else(|| forbidden(format!("{node} was removed")))?;
            Ok(NodeRecord { next_key: Some(hash.clone()), ..record })
        })
        .await
        .map_err(|ApiErrorBox(error)| Refused(error))?;
    let signed = authority.sign_node(&node, &key, now_ms())?;
    tracing::info!(%node, "renewed the certificate of a node");
    Ok(Json(RenewAnswer { certificate: signed.pem, validity: signed.validity }))
}

/// An error of either kind that [`Platform::change_node`] meets.
struct ApiErrorBox(ApiError);

impl<E: Into<ApiError>> From<E> for ApiErrorBox {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

async fn membership(State(platform): State<Platform>) -> Result<Json<MembershipAnswer>, Refused> {
    Ok(Json(MembershipAnswer { controllers: controllers(&platform).await?, now_ms: now_ms() }))
}

/// Where controllers are dialled, one that has just come included: the node asks again in ten minutes only.
async fn controllers(platform: &Platform) -> Result<Vec<String>, crate::platform::PlatformError> {
    if let Some(etcd) = platform.etcd() {
        announce_all(platform, &etcd.controllers().await?).await?;
    }
    let all = platform.load_all::<String>(CONTROLLERS).await?;
    Ok(all.into_iter().map(|(_, address)| address).collect())
}

/// Says where each of several controllers is dialled; one that is gone stays in the list, for it may come back.
pub(crate) async fn announce_all(
    platform: &Platform,
    controllers: &[crate::store::Controller],
) -> Result<(), crate::platform::PlatformError> {
    for one in controllers {
        let Some(address) = one.cluster.map(|port| one.at(port)) else { continue };
        let key = format!("{CONTROLLERS}{address}");
        if platform.load::<String>(&key).await?.is_none() {
            platform.save(&key, &address).await?;
        }
    }
    Ok(())
}

/// Says where this controller is dialled.
pub(super) async fn announce(
    platform: &Platform,
    address: &str,
) -> Result<(), crate::platform::PlatformError> {
    if platform.etcd().is_some() {
        return Ok(()); // all of them are announced: see `announce_all`
    }
    let instance = std::fs::read_to_string(platform.options().data.join("instance")).unwrap_or_default();
    let key = format!("{CONTROLLERS}{}", instance.trim());
    let known = platform.load::<String>(&key).await?;
    if known.is_none_or(|(known, _)| known != address) {
        platform.save(&key, &address).await?;
    }
    Ok(())
}
