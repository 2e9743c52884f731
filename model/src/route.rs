//! Routes: what the proxy serves. One immutable table, swapped whole.

use crate::policy::Rules;
use crate::ports::{AppProtocol, PortRoutes, ProxyProtocol};
use crate::site::SiteRules;
use crate::{AppName, ContainerId, HostPattern, NodeName, ReleaseVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use utoipa::ToSchema;

/// Everything a proxy serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Grows with every change.
    pub revision: u64,
    /// HTTP routes; no two have the same host. An exact host beats a wildcard.
    pub http: Vec<HttpRoute>,
    /// Raw TCP routes; no two have the same port.
    #[serde(default)]
    pub tcp: Vec<TcpRoute>,
    /// Further HTTP listeners, TLS led by server name, UDP.
    #[serde(default)]
    pub ports: PortRoutes,
    /// Everything else: policies, routes below paths, who is trusted.
    #[serde(default)]
    pub rules: Rules,
    /// What holds for all of them.
    #[serde(default)]
    pub settings: ProxySettings,
}

impl RouteTable {
    /// The same, with the directories of static sites on `node`. A site whose files are not there yet has nothing that
    /// answers.
    #[must_use]
    pub fn seen_from(mut self, node: &NodeName) -> Self {
        let further = self.ports.http.iter_mut().flat_map(|port| &mut port.routes);
        let whole = self.http.iter_mut().chain(further).map(|route| &mut route.target);
        for target in whole.chain(self.rules.paths.iter_mut().map(|route| &mut route.target)) {
            if let Target::Static { root, roots, .. } = target {
                match roots.get(node) {
                    Some(own) => root.clone_from(own),
                    None if roots.is_empty() => {}
                    None => *target = Target::Backends { backends: Vec::new() },
                }
            }
        }
        self
    }
}

/// Where proxies post their [`TrafficReport`](crate::traffic::TrafficReport)s, on the controller's internal socket.
pub const TRAFFIC_PATH: &str = "/proxy/v1/traffic";

/// Settings of the proxy that are no route's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxySettings {
    /// How the access log is written; `None` is what the proxy was started with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log_format: Option<AccessLogFormat>,
    /// What becomes of a request without a trace.
    pub trace_context: TraceContext,
}

/// How the access log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// As Apache's and nginx's `combined`, with more fields at the end.
    Combined,
    /// Not at all.
    Off,
}

impl AccessLogFormat {
    /// Every format's name.
    pub const NAMES: [&str; 3] = ["json", "combined", "off"];

    /// By its name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "json" => Some(Self::Json),
            "combined" => Some(Self::Combined),
            "off" => Some(Self::Off),
            _ => None,
        }
    }
}

/// What becomes of a request that brings no valid `traceparent` (W3C Trace Context). A valid one is always passed on as
/// it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TraceContext {
    /// It goes without one, and the app decides whether a trace begins.
    #[default]
    Pass,
    /// A trace begins here, not marked as sampled.
    Unsampled,
    /// A trace begins here, marked as sampled.
    Sampled,
}

impl TraceContext {
    /// Every value's name.
    pub const NAMES: [&str; 3] = ["pass", "unsampled", "sampled"];

    /// By its name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "pass" => Some(Self::Pass),
            "unsampled" => Some(Self::Unsampled),
            "sampled" => Some(Self::Sampled),
            _ => None,
        }
    }
}

/// Where requests with one host name go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    /// Which hosts.
    pub host: HostPattern,
    /// Whose.
    pub app: AppName,
    /// Which release serves it; for the access log.
    pub release: Option<ReleaseVersion>,
    /// What answers.
    pub target: Target,
}

/// What answers a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "snake_case")]
pub enum Target {
    /// One of these containers; an empty list answers 503.
    Backends {
        /// Ready ones.
        backends: Vec<Backend>,
    },
    /// Berth's own file server.
    Static {
        /// Absolute directory, on one of the nodes that have it.
        root: String,
        /// The directory on each node that has it. A proxy serves the one of its own node.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        roots: BTreeMap<NodeName, String>,
        /// See [`crate::image::StaticSite::spa_fallback`].
        spa_fallback: bool,
        /// Headers and redirects.
        #[serde(default, skip_serializing_if = "SiteRules::is_empty")]
        rules: SiteRules,
    },
    /// The app has no running `web`: 502.
    NoWeb,
}

/// One container that may be sent requests. A connection belongs to one (`container`, `incarnation`) and is never used
/// for another, whatever address that has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// Which container.
    pub container: ContainerId,
    /// Which life of it.
    pub incarnation: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks, where it is sent HTTP.
    #[serde(default, skip_serializing_if = "AppProtocol::is_default")]
    pub protocol: AppProtocol,
    /// What connections to it begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// A port of the proxy whose connections go, byte for byte, to one of the containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpRoute {
    /// Port of the proxy.
    pub port: u16,
    /// Whose.
    pub app: AppName,
    /// Ready ones.
    pub backends: Vec<Backend>,
}

/// What a proxy tells the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Which proxy: the node's name, or that and a process number while a successor serves the node already.
    pub proxy: String,
    /// It serves no more and is not to be waited for.
    #[serde(default)]
    pub leaving: bool,
    /// The revision it serves.
    pub revision: u64,
    /// The revision of the [`CertificateTable`](crate::tls::CertificateTable) it presents; 0 is none.
    #[serde(default)]
    pub certificates_revision: u64,
    /// Containers that are no longer in its table but still have requests or tunnels in flight, and how many.
    pub draining: BTreeMap<ContainerId, u64>,
    /// Apps that sleep when nobody asks for them, and for how many milliseconds nobody did.
    #[serde(default)]
    pub idle_ms: BTreeMap<AppName, u64>,
    /// Ports it could not listen on, TCP or UDP, and why.
    #[serde(default)]
    pub tcp_errors: BTreeMap<u16, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_serves_its_own_copy_of_a_site() {
        let node = |name: &str| NodeName::parse(name).expect("valid");
        let roots = BTreeMap::from([(node("a"), "/a".to_owned()), (node("b"), "/b".to_owned())]);
        let site = |root: &str, roots| Target::Static {
            root: root.to_owned(),
            roots,
            spa_fallback: false,
            rules: SiteRules::default(),
        };
        let table = |target| RouteTable {
            http: vec![HttpRoute {
                host: HostPattern::parse("site.test").expect("valid"),
                app: AppName::parse("site").expect("valid"),
                release: None,
                target,
            }],
            ..RouteTable::default()
        };
        let seen = |target, name: &str| table(target).seen_from(&node(name)).http.remove(0).target;
        assert_eq!(seen(site("/a", roots.clone()), "b"), site("/b", roots.clone()));
        assert_eq!(seen(site("/a", roots), "c"), Target::Backends { backends: Vec::new() });
        assert_eq!(seen(site("/old", BTreeMap::new()), "c"), site("/old", BTreeMap::new()));
    }
}
