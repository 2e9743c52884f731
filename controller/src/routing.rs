//! Routes: what the proxies serve.
//!
//! In: every app with its hosts and the containers that serve it, and what the nodes say of them. Out: one [`RouteTable`].
//! Only ready containers of the serving release get traffic.

use crate::platform::{Pages, ProxyCommon};
use berth_model::container::{ContainerSpec, ContainerState, ContainerStatus};
use berth_model::image::Process;
use berth_model::policy::{PathRoute, Policy, Rules, Share};
use berth_model::ports::{HttpPort, PortMapping, PortRoutes, Scheme, TlsRoute, UdpRoute};
use berth_model::proxy_settings::{networks, policy};
use berth_model::release::App;
use berth_model::route::{Backend, HttpRoute, RouteTable, Target, TcpRoute};
use berth_model::{AppName, ContainerId, HostPattern, NodeName, ReleaseVersion};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// One app as routing sees it.
#[derive(Clone, Debug)]
pub struct Serving<'a> {
    /// Whose; its TCP ports.
    pub app: &'a App,
    /// Everything it answers at.
    pub hosts: Vec<HostPattern>,
    /// The release that serves; `None` before the first deploy.
    pub release: Option<ReleaseVersion>,
    /// Its `web` containers that may get traffic, ready or not.
    pub web: Vec<&'a ContainerSpec>,
    /// A release that is on trial beside it.
    pub trial: Option<Trial<'a>>,
    /// It has no `web` for a moment only: requests wait for it.
    pub waits: bool,
    /// What its containers answer is counted one by one.
    pub counted: bool,
}

/// A release on trial.
#[derive(Clone, Debug)]
pub struct Trial<'a> {
    /// Its share of the requests, in percent.
    pub percent: u8,
    /// Its `web` containers, ready or not.
    pub web: Vec<&'a ContainerSpec>,
}

/// How long requests wait for an app whose old containers stop before the new ones start, in milliseconds.
const HOLD_MS: u64 = 30_000;

/// What the nodes say of every container.
pub trait Health {
    /// Of this one; `None` if no node has it.
    fn status(&self, id: &ContainerId) -> Option<&ContainerStatus>;
    /// Of this one, by every node that has it: files of static sites are on all of them.
    fn everywhere(&self, id: &ContainerId) -> Vec<(&NodeName, &ContainerStatus)>;

    /// Whether that was said by a node which has been silent for so long that it is lost.
    fn is_doubtful(&self, _id: &ContainerId) -> bool {
        false
    }
}

impl Health for BTreeMap<ContainerId, ContainerStatus> {
    fn status(&self, id: &ContainerId) -> Option<&ContainerStatus> {
        self.get(id)
    }

    fn everywhere(&self, _: &ContainerId) -> Vec<(&NodeName, &ContainerStatus)> {
        Vec::new()
    }
}

/// Everything an app answers at: its default names, one under each global domain (an app whose name has a dot is a host
/// name already, as in Dokku), unless that is turned off, and its own domains.
#[must_use]
pub fn hosts(app: &App, global: &[HostPattern]) -> Vec<HostPattern> {
    let mut hosts = Vec::new();
    if app.default_domain {
        if app.name.as_str().contains('.') {
            hosts.extend(HostPattern::parse(app.name.as_str()));
        } else {
            // A wildcard has no names of apps under it; one that would be too long for a host name is none.
            let plain = global.iter().filter(|domain| !domain.is_wildcard());
            hosts.extend(
                plain.filter_map(|domain| HostPattern::parse(&format!("{}.{domain}", app.name)).ok()),
            );
        }
    }
    hosts.extend(app.domains.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    hosts.retain(|host| seen.insert(host.clone()));
    hosts
}

/// The whole table, without a revision. Where two apps claim one host or port, the app that was made first has it.
#[must_use]
pub fn routes(serving: &[Serving<'_>], health: &impl Health) -> RouteTable {
    let mut order: Vec<_> = serving.iter().collect();
    order.sort_by_key(|one| (one.app.created_ms, &one.app.name));
    let mut http: BTreeMap<HostPattern, HttpRoute> = BTreeMap::new();
    let mut tcp: BTreeMap<u16, TcpRoute> = BTreeMap::new();
    let mut ports = Ports::default();
    for one in order {
        let main = one.app.ports.iter().find(|mapping| mapping.is_main());
        let target = target(one, main, health);
        let route = |host: &HostPattern, target: &Target| HttpRoute {
            host: host.clone(),
            app: one.app.name.clone(),
            release: one.release,
            target: target.clone(),
        };
        for host in &one.hosts {
            http.entry(host.clone()).or_insert_with(|| route(host, &target));
        }
        if one.web.is_empty() {
            continue;
        }
        for mapping in one.app.ports.iter().filter(|mapping| !mapping.is_main()) {
            let port = mapping.port;
            // Bytes and datagrams know no shares: all of them go to the release that serves.
            let raw = || backends(one, health, Some(mapping), false);
            let app = || one.app.name.clone();
            match mapping.scheme {
                Scheme::Tcp => {
                    tcp.entry(port).or_insert_with(|| TcpRoute { port, app: app(), backends: raw() });
                }
                Scheme::Udp => {
                    ports.udp.entry(port).or_insert_with(|| UdpRoute { port, app: app(), backends: raw() });
                }
                Scheme::Tls => {
                    let backends = raw();
                    for name in &one.hosts {
                        ports.tls.entry((port, name.clone())).or_insert_with(|| TlsRoute {
                            port,
                            name: name.clone(),
                            app: app(),
                            backends: backends.clone(),
                        });
                    }
                }
                Scheme::Http | Scheme::Https | Scheme::Grpc | Scheme::Grpcs => {
                    let target = Target::Backends { backends: backends(one, health, Some(mapping), true) };
                    let secure = mapping.scheme.is_secure();
                    let (known, hosts) = ports.http.entry(port).or_insert_with(|| (secure, BTreeMap::new()));
                    for host in one.hosts.iter().filter(|_| *known == secure) {
                        hosts.entry(host.clone()).or_insert_with(|| route(host, &target));
                    }
                }
            }
        }
    }
    RouteTable {
        http: http.into_values().collect(),
        tcp: tcp.into_values().collect(),
        ports: ports.routes(),
        ..RouteTable::default()
    }
}

/// Further ports, while the owner of each is found.
#[derive(Default)]
struct Ports {
    http: BTreeMap<u16, (bool, BTreeMap<HostPattern, HttpRoute>)>,
    tls: BTreeMap<(u16, HostPattern), TlsRoute>,
    udp: BTreeMap<u16, UdpRoute>,
}

impl Ports {
    fn routes(self) -> PortRoutes {
        let http = self.http.into_iter().map(|(port, (secure, hosts))| HttpPort {
            port,
            secure,
            routes: hosts.into_values().collect(),
        });
        PortRoutes {
            http: http.collect(),
            tls: self.tls.into_values().collect(),
            udp: self.udp.into_values().collect(),
        }
    }
}

/// Everything of the table that is not an address: policies, and routes below paths. Where two apps claim one path of one
/// host, the app that was made first has it.
#[must_use]
pub fn rules(serving: &[Serving<'_>], health: &impl Health, common: &ProxyCommon) -> Rules {
    let mut order: Vec<_> = serving.iter().collect();
    order.sort_by_key(|one| (one.app.created_ms, &one.app.name));
    let mut rules = Rules {
        trusted: common.values.get("trust-forwarded").map_or_else(Vec::new, |text| networks(text)),
        default_app: common.values.get("default-app").and_then(|app| AppName::parse(app).ok()),
        pages: by_status(&common.global_pages),
        ..Rules::default()
    };
    let mut paths = BTreeMap::new();
    for one in order {
        let app = one.app;
        let none = BTreeMap::new();
        let pages = common.pages.get(app.name.as_str()).unwrap_or(&none);
        let mut policy = policy(&app.proxy, &common.values, pages);
        // A name that was taken away from the app since must not be where everybody is sent.
        let leads_here = |host: &str| one.hosts.iter().any(|own| own.as_str() == host || own.covers(host));
        policy.canonical_host = policy.canonical_host.filter(|host| leads_here(host));
        if let Some(trial) = &one.trial {
            let containers = trial.web.iter().map(|spec| spec.id.clone()).collect();
            policy.balance.shares = vec![Share { weight: u32::from(trial.percent), containers }];
        }
        policy.balance.counted = one.counted;
        if one.waits {
            policy.hold_ms = policy.hold_ms.max(HOLD_MS);
        }
        if policy.balance.sticky {
            rules.cookie_key = common.cookie_key.clone();
        }
        if policy != Policy::default() {
            rules.policies.insert(app.name.clone(), policy);
        }
        if app.proxy.paths.is_empty() {
            continue;
        }
        let main = app.ports.iter().find(|mapping| mapping.is_main());
        let target = target(one, main, health);
        for path in &app.proxy.paths {
            let key = (path.host.clone(), path.prefix.clone());
            paths.entry(key).or_insert_with(|| PathRoute {
                host: path.host.clone(),
                prefix: path.prefix.clone(),
                strip: path.strip,
                app: app.name.clone(),
                release: one.release,
                target: target.clone(),
            });
        }
    }
    rules.paths = paths.into_values().collect();
    rules
}

fn by_status(pages: &Pages) -> BTreeMap<u16, String> {
    pages.iter().filter_map(|(name, page)| Some((name.parse().ok()?, page.clone()))).collect()
}

fn target(one: &Serving<'_>, main: Option<&PortMapping>, health: &impl Health) -> Target {
    let Some(first) = one.web.first() else {
        return if one.waits { Target::Backends { backends: Vec::new() } } else { Target::NoWeb };
    };
    if let Process::Static(site) = &first.run {
        let copies = one.web.iter().flat_map(|spec| health.everywhere(&spec.id));
        let roots: BTreeMap<_, _> = copies
            .filter(|(_, status)| is_ready(status))
            .filter_map(|(node, status)| Some((node.clone(), status.static_root.clone()?)))
            .collect();
        let statuses = one.web.iter().filter_map(|spec| health.status(&spec.id));
        let mut ready = statuses.filter(|status| is_ready(status));
        let root = ready.find_map(|status| Some((status.static_root.clone()?, status.static_rules.clone())));
        return match root {
            Some((root, rules)) => Target::Static { root, roots, spa_fallback: site.spa_fallback, rules },
            None => Target::Backends { backends: Vec::new() },
        };
    }
    Target::Backends { backends: backends(one, health, main, true) }
}

/// The ready containers: at the port that `mapping` leads to, or where they listen by themselves.
fn backends(
    one: &Serving<'_>,
    health: &impl Health,
    mapping: Option<&PortMapping>,
    with_trial: bool,
) -> Vec<Backend> {
    let on_trial = one.trial.iter().filter(|_| with_trial).flat_map(|trial| &trial.web);
    let ready = one.web.iter().chain(on_trial).filter_map(|spec| {
        let status = health.status(&spec.id).filter(|status| is_ready(status))?;
        let port = mapping.map(|mapping| mapping.container_port).or(spec.port)?;
        Some(Backend {
            container: spec.id.clone(),
            incarnation: status.incarnation,
            address: SocketAddr::new(status.address?, port),
            protocol: mapping.map_or_else(Default::default, |mapping| mapping.scheme.protocol()),
            proxy_protocol: mapping.and_then(|mapping| mapping.proxy_protocol),
        })
    });
    let mut ready: Vec<_> = ready.collect();
    // A lost node may be dead, or only out of the controller's sight: what it had gets traffic if there is nothing else.
    if ready.iter().any(|backend| !health.is_doubtful(&backend.container)) {
        ready.retain(|backend| !health.is_doubtful(&backend.container));
    }
    ready.sort_by(|a, b| a.container.cmp(&b.container));
    ready
}

/// Whether a container may get traffic.
#[must_use]
pub fn is_ready(status: &ContainerStatus) -> bool {
    matches!(status.state, ContainerState::Running { ready: true, .. })
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
