//! Machines: what they are, what is wanted of them, who may become one.

use super::answer::Refusal;
use super::extract::{Json, OptionalJson, Path, Query};
use crate::cluster;
use crate::errors::{conflict, from_agent, invalid, not_found};
use crate::platform::Platform;
use axum::Json as Answer;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use berth_model::NodeName;
use berth_model::api::{ApiError, CreateNodeToken, NodeInfo, NodeToken, SetNode};
use berth_model::cluster::Finding;
use berth_model::network::NetworkReport;
use berth_model::node::NodeRecord;
use serde::Deserialize;
use std::collections::BTreeMap;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How long a token is good, in seconds, unless it is said otherwise, and at most.
const TOKEN_SECONDS: (u64, u64) = (15 * 60, 7 * 24 * 60 * 60);
/// Labels of one node.
const MOST_LABELS: usize = 32;
/// Longest part of a label.
const LONGEST_LABEL: usize = 63;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(nodes))
        .routes(routes!(node, set_node, remove_node))
        .routes(routes!(create_token))
        .routes(routes!(renew))
        .routes(routes!(doctor))
}

/// What of every machine is known, by name: the store's records and what was reported.
async fn infos(platform: &Platform) -> Result<BTreeMap<NodeName, NodeInfo>, ApiError> {
    let mut containers: BTreeMap<NodeName, usize> = BTreeMap::new();
    for (_, plan) in platform.deploys().plans() {
        for planned in plan.containers.values() {
            *containers.entry(planned.node.clone()).or_default() += 1;
        }
    }
    let records = platform.nodes().await?.into_iter();
    let mut records: BTreeMap<NodeName, NodeRecord> =
        records.map(|record| (record.name.clone(), record)).collect();
    let mut views: BTreeMap<NodeName, crate::nodes::NodeView> =
        platform.deploys().fleet().nodes().into_iter().map(|view| (view.name.clone(), view)).collect();
    let placed = crate::placing::view(platform).await?.nodes;
    let mut networks = platform.deploys().fleet().network_reports();
    let names: Vec<NodeName> = records.keys().chain(views.keys()).cloned().collect();
    let info = |name: NodeName| {
        let view = views.remove(&name);
        let record = records.remove(&name);
        if view.is_none() && record.is_none() {
            return None; // named twice
        }
        let record = record.unwrap_or_else(|| NodeRecord::new(name.clone(), 0));
        let network = networks.remove(&name);
        let info = NodeInfo {
            alive: view.as_ref().is_some_and(|view| view.alive),
            last_seen_ms: view.as_ref().map_or(0, |view| view.last_seen_ms),
            pressure: view.as_ref().map(|view| view.pressure).unwrap_or_default(),
            stalls: view.as_ref().map(|view| view.stalls).unwrap_or_default(),
            reserved: placed.get(&name).map(crate::schedule::Node::reserved).unwrap_or_default(),
            capacity: view.map(|view| view.capacity).unwrap_or_default(),
            containers: containers.get(&name).copied().unwrap_or_default(),
            joined: record.is_joined(),
            joined_ms: record.joined_ms,
            address: record.address,
            subnet: record.subnet,
            labels: record.labels,
            cordoned: record.cordoned,
            draining: record.draining,
            offered: record.offered,
            volumes_waiting: platform.kept().about(&name),
            overlay: network.as_ref().map(|network| network.ways).unwrap_or_default(),
            overlay_note: network.and_then(|network| overlay_note(&network)),
            name: name.clone(),
        };
        Some((name, info))
    };
    Ok(names.into_iter().filter_map(info).collect())
}

/// What a machine says of its way to others, bounded: it may have been stolen.
fn overlay_note(network: &NetworkReport) -> Option<String> {
    let unencrypted = network.unencrypted.as_ref().filter(|_| network.ways.vxlan > 0);
    let unencrypted = unencrypted.map(|why| format!("not encrypted: {why}"));
    let said = [network.error.clone(), unencrypted].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let said: String = said.chars().filter(|c| !c.is_control()).take(500).collect();
    (!said.is_empty()).then_some(said)
}

fn no_such(node: &NodeName) -> ApiError {
    not_found(format!("there is no node {node}; see them with: berth node:list"))
}

/// Every machine that runs containers.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", responses((status = 200, body = Vec<NodeInfo>)))]
async fn nodes(State(platform): State<Platform>) -> Result<Answer<Vec<NodeInfo>>, Refusal> {
    Ok(Answer(infos(&platform).await?.into_values().collect()))
}

/// One machine.
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "nodes", params(("node" = String, Path)),
    responses((status = 200, body = NodeInfo), (status = 404, description = "There is no such node")))]
async fn node(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
) -> Result<Answer<NodeInfo>, Refusal> {
    let info = infos(&platform).await?.remove(&node);
    Ok(Answer(info.ok_or_else(|| no_such(&node))?))
}

/// A part of a label: letters, digits and inner `.`, `_`, `-`, `/` (names only).
fn check_label(text: &str, is_name: bool) -> Result<(), ApiError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b) || (is_name && b == b'/');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.len() > LONGEST_LABEL
        || !bytes.iter().copied().all(allowed)
        || !edge(bytes.first())
        || !edge(bytes.last())
    {
        let shown: String = text.chars().take(80).collect();
        return Err(invalid(format!(
            "{shown:?} cannot be (part of) a label: use letters, digits and inner . _ -, at most {LONGEST_LABEL} bytes"
        )));
    }
    Ok(())
}

/// The record as it is wanted.
fn changed(record: NodeRecord, set: &SetNode) -> Result<NodeRecord, ApiError> {
    let mut record = record;
    for (name, value) in &set.labels {
        check_label(name, true)?;
        match value {
            None => drop(record.labels.remove(name)),
            Some(value) => {
                check_label(value, false)?;
                record.labels.insert(name.clone(), value.clone());
            }
        }
    }
    if record.labels.len() > MOST_LABELS {
        return Err(invalid(format!("a node may have at most {MOST_LABELS} labels")));
    }
    let offer = |value: u64| Some(value).filter(|value| *value > 0);
    if let Some(cpu) = set.cpu_millis {
        record.offered.cpu_millis = offer(cpu);
    }
    if let Some(memory) = set.memory_mib {
        record.offered.memory_mib = offer(memory);
    }
    record.cordoned = set.cordoned.unwrap_or(record.cordoned);
    Ok(record)
}

/// An error of either kind that changing a record meets.
struct Either(ApiError);

impl<E: Into<ApiError>> From<E> for Either {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Changes what is wanted of a machine: labels, whether it gets new containers, what of it may be reserved.
#[utoipa::path(patch, path = "/v1/nodes/{node}", tag = "nodes", params(("node" = String, Path)), request_body = SetNode,
    responses((status = 200, body = NodeInfo), (status = 404, description = "There is no such node")))]
async fn set_node(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    Json(set): Json<SetNode>,
) -> Result<Answer<NodeInfo>, Refusal> {
    let known = infos(&platform).await?.contains_key(&node);
    let change = |record: Option<NodeRecord>| {
        let fresh = || known.then(|| NodeRecord::new(node.clone(), crate::platform::now_ms()));
        let record = record.or_else(fresh).ok_or_else(|| no_such(&node))?;
        Ok::<_, Either>(changed(record, &set)?)
    };
    platform.change_node(&node, change).await.map_err(|Either(error)| error)?;
    let info = infos(&platform).await?.remove(&node);
    Ok(Answer(info.ok_or_else(|| no_such(&node))?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    /// Even if containers are placed on it.
    #[serde(default)]
    force: bool,
}

/// Takes a machine out of the cluster: it is locked out at once. Refused while containers are placed on it, unless forced.
#[utoipa::path(delete, path = "/v1/nodes/{node}", tag = "nodes", params(("node" = String, Path), RemoveQuery),
    responses((status = 204, description = "It is gone"), (status = 404, description = "There is no such node"),
        (status = 409, description = "It has containers, or is the controller's own machine")))]
async fn remove_node(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
    Query(RemoveQuery { force }): Query<RemoveQuery>,
) -> Result<StatusCode, Refusal> {
    let info = infos(&platform).await?.remove(&node).ok_or_else(|| no_such(&node))?;
    if !info.joined && info.alive {
        let text = format!(
            "{node} is the controller's own machine, and its agent runs; stop `berth agent` there first"
        );
        return Err(conflict(text).into());
    }
    if info.containers > 0 && !force {
        return Err(conflict(format!(
            "{node} has {} containers; move them first with: berth node:drain {node}, or, if the machine is lost, say --force",
            info.containers
        ))
        .into());
    }
    platform.forget_node(&node).await?;
    platform.cluster().seats().cut(&node);
    platform.deploys().fleet().forget(&node);
    tracing::info!(%node, "a node was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a token that lets one machine join. The first one makes the cluster's certificate authority and opens its port.
#[utoipa::path(post, path = "/v1/node-tokens", tag = "nodes", request_body = CreateNodeToken,
    responses((status = 201, body = NodeToken), (status = 503, description = "The cluster port cannot be opened")))]
async fn create_token(
    State(platform): State<Platform>,
    OptionalJson(CreateNodeToken { node, seconds }): OptionalJson<CreateNodeToken>,
) -> Result<(StatusCode, Answer<NodeToken>), Refusal> {
    let seconds = seconds.unwrap_or(TOKEN_SECONDS.0);
    if !(1..=TOKEN_SECONDS.1).contains(&seconds) {
        return Err(invalid("a token is good for 1 s to 7 days".to_owned()).into());
    }
    let life_ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    let created = cluster::create_token(&platform, node, life_ms).await?;
    Ok((StatusCode::CREATED, Answer(created)))
}

/// Has a node get its next certificate now.
#[utoipa::path(post, path = "/v1/nodes/{node}/renew", tag = "nodes", params(("node" = String, Path)),
    responses((status = 204, description = "It has it"), (status = 409, description = "It is the controller's own machine")))]
async fn renew(State(platform): State<Platform>, Path(node): Path<NodeName>) -> Result<StatusCode, Refusal> {
    let record = platform.node(&node).await?.ok_or_else(|| no_such(&node))?;
    if !record.is_joined() {
        return Err(
            conflict(format!("{node} is the controller's own machine: it needs no certificate")).into()
        );
    }
    let agent = platform.agent_of(&node);
    agent.call(Method::POST, "/v1/certificate/renew", None::<&()>).await.map_err(from_agent)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a node finds when it looks at itself: kernel, cgroups, overlayfs, namespaces, packet rules, ports, disk, clock.
#[utoipa::path(get, path = "/v1/nodes/{node}/doctor", tag = "nodes", params(("node" = String, Path)),
    responses((status = 200, body = Vec<Finding>)))]
async fn doctor(
    State(platform): State<Platform>,
    Path(node): Path<NodeName>,
) -> Result<Answer<Vec<Finding>>, Refusal> {
    if !infos(&platform).await?.contains_key(&node) {
        return Err(no_such(&node).into());
    }
    Ok(Answer(platform.agent_of(&node).get("/v1/doctor").await.map_err(from_agent)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NodeRecord {
        NodeRecord::new(NodeName::parse("a").expect("valid"), 0)
    }

    #[test]
    fn labels_come_and_go_and_nothing_else_changes() {
        let labels = |pairs: &[(&str, Option<&str>)]| SetNode {
            labels: pairs.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect(),
            ..SetNode::default()
        };
        let set = labels(&[("zone", Some("a")), ("disk/kind", Some("ssd"))]);
        let with = changed(record(), &set).expect("taken");
        assert_eq!(with.labels["zone"], "a");
        assert_eq!(changed(with, &labels(&[("zone", None), ("disk/kind", None)])).expect("taken"), record());
        for bad in ["", "-a", "a b", "a\n", "ä", &"a".repeat(64)] {
            assert!(changed(record(), &labels(&[(bad, Some("x"))])).is_err(), "{bad}");
            assert!(changed(record(), &labels(&[("x", Some(bad))])).is_err(), "{bad}");
        }
        assert!(changed(record(), &labels(&[("x", Some("a/b"))])).is_err());
    }

    #[test]
    fn what_is_offered_can_be_all_again() {
        let set = SetNode {
            cpu_millis: Some(500),
            memory_mib: Some(64),
            cordoned: Some(true),
            ..SetNode::default()
        };
        let offered = changed(record(), &set).expect("taken");
        assert_eq!((offered.offered.cpu_millis, offered.offered.memory_mib), (Some(500), Some(64)));
        assert!(offered.cordoned);
        let all =
            SetNode { cpu_millis: Some(0), memory_mib: Some(0), cordoned: Some(false), ..SetNode::default() };
        assert_eq!(changed(offered, &all).expect("taken"), record());
    }
}
