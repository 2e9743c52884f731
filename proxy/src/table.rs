//! The route table as the data path reads it: immutable, looked up by host or port, swapped whole.
//!
//! In: [`RouteTable`] and the table before it. Out: [`Table`], which keeps the backends (with their connections and
//! counts) that both have. Memory only.

use crate::fields;
use crate::static_files::Site;
use crate::stats::Stats;
use crate::upstream::Backend;
use berth_model::route::{self, HttpRoute, RouteTable};
use berth_model::{AppName, ContainerId, ReleaseVersion};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;

/// Everything that is served.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) revision: u64,
    /// A table was ever given; before that nothing is known about any host.
    pub(crate) known: bool,
    hosts: Hosts,
    /// Of further HTTP listeners.
    pub(crate) ports: BTreeMap<u16, HttpPort>,
    /// Server names of ports whose TLS is not ended here.
    pub(crate) tls: BTreeMap<u16, Hosts>,
    pub(crate) udp: BTreeMap<u16, Arc<Route>>,
    pub(crate) tcp: BTreeMap<u16, Arc<Route>>,
    backends: HashMap<route::Backend, Arc<Backend>>,
    /// Of every app that has a route.
    pub(crate) stats: BTreeMap<AppName, Arc<Stats>>,
}

/// Routes by host name.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    exact: HashMap<Box<str>, Arc<Route>>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Arc<Route>>,
}

/// A further HTTP listener.
#[derive(Debug)]
pub(crate) struct HttpPort {
    pub(crate) secure: bool,
    hosts: Hosts,
}

impl Hosts {
    fn insert(&mut self, host: &str, route: Arc<Route>) {
        let app = route.app.clone();
        let replaced = match host.strip_prefix("*.") {
            Some(parent) => self.wildcard.insert(parent.into(), route),
            None => self.exact.insert(host.into(), route),
        };
        if replaced.is_some() {
            tracing::warn!(%host, %app, "two routes have this host; the last one is served");
        }
    }

    fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.exact.values().chain(self.wildcard.values())
    }

    /// The route of a host; an exact one beats a wildcard.
    pub(crate) fn find(&self, host: &[u8]) -> Option<&Arc<Route>> {
        let mut space = [0; 256];
        let name = fields::route_host(host, &mut space)?;
        self.exact.get(name).or_else(|| {
            let (label, parent) = name.split_once('.')?;
            self.wildcard.get(parent).filter(|_| !label.is_empty())
        })
    }
}

/// What answers a host's requests or a port's connections.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) app: AppName,
    /// The further HTTP listener it is of; `None` for the main ones.
    pub(crate) listener: Option<u16>,
    pub(crate) release: Option<ReleaseVersion>,
    pub(crate) target: Target,
    pub(crate) stats: Arc<Stats>,
}

#[derive(Debug)]
pub(crate) enum Target {
    Backends(Vec<Arc<Backend>>),
    Static(Site),
    NoWeb,
}

/// What a table is built with.
struct Building<'a> {
    before: &'a Table,
    threads: usize,
    bases: &'a [PathBuf],
    changed: &'a Arc<Notify>,
}

impl Table {
    /// The table for `routes`. Backends and counts are taken over from `before` where they are the same.
    pub(crate) fn build(
        routes: &RouteTable,
        before: &Self,
        threads: usize,
        bases: &[PathBuf],
        changed: &Arc<Notify>,
    ) -> Self {
        let mut table = Self { revision: routes.revision, known: true, ..Self::default() };
        let building = Building { before, threads, bases, changed };
        for entry in &routes.http {
            let route = table.http_route(entry, None, &building);
            table.hosts.insert(entry.host.as_str(), route);
        }
        for listener in &routes.ports.http {
            let mut hosts = Hosts::default();
            for entry in &listener.routes {
                hosts.insert(entry.host.as_str(), table.http_route(entry, Some(listener.port), &building));
            }
            table.ports.insert(listener.port, HttpPort { secure: listener.secure, hosts });
        }
        for entry in &routes.ports.tls {
            let route = table.raw_route(&entry.app, &entry.backends, &building);
            table.tls.entry(entry.port).or_default().insert(entry.name.as_str(), route);
        }
        for entry in &routes.ports.udp {
            let route = table.raw_route(&entry.app, &entry.backends, &building);
            table.udp.insert(entry.port, route);
        }
        for entry in &routes.tcp {
            let route = table.raw_route(&entry.app, &entry.backends, &building);
            if table.tcp.insert(entry.port, route).is_some() {
                tracing::warn!(port = entry.port, app = %entry.app, "two routes have this port; the last one is served");
            }
        }
        table
    }

    fn http_route(&mut self, entry: &HttpRoute, listener: Option<u16>, of: &Building<'_>) -> Arc<Route> {
        let target = match &entry.target {
            route::Target::Backends { backends } => Target::Backends(self.backends_of(backends, of)),
            route::Target::Static { root, spa_fallback, rules } => {
                Target::Static(Site::new(root.as_ref(), of.bases, *spa_fallback, rules))
            }
            route::Target::NoWeb => Target::NoWeb,
        };
        let stats = self.stats_of(&entry.app, of.before, of.threads);
        Arc::new(Route { app: entry.app.clone(), listener, release: entry.release, target, stats })
    }

    /// A route of bytes or datagrams.
    fn raw_route(&mut self, app: &AppName, backends: &[route::Backend], of: &Building<'_>) -> Arc<Route> {
        let target = Target::Backends(self.backends_of(backends, of));
        let stats = self.stats_of(app, of.before, of.threads);
        Arc::new(Route { app: app.clone(), listener: None, release: None, target, stats })
    }

    fn backends_of(&mut self, wanted: &[route::Backend], of: &Building<'_>) -> Vec<Arc<Backend>> {
        let mut own = |name: &route::Backend| {
            let made = || Arc::new(Backend::new(name.clone(), of.threads, of.changed.clone()));
            let backend = self.backends.entry(name.clone());
            backend.or_insert_with(|| of.before.backends.get(name).cloned().unwrap_or_else(made)).clone()
        };
        wanted.iter().map(&mut own).collect()
    }

    fn stats_of(&mut self, app: &AppName, before: &Self, threads: usize) -> Arc<Stats> {
        if let Some(known) = self.stats.get(app) {
            return known.clone();
        }
        let stats = before.stats.get(app).cloned().unwrap_or_else(|| Arc::new(Stats::new(threads)));
        self.stats.insert(app.clone(), stats.clone());
        stats
    }

    /// Hosts that lead somewhere.
    pub(crate) fn hosts(&self) -> usize {
        let further: usize = self.ports.values().map(|port| port.hosts.len()).sum();
        self.hosts.len() + further
    }

    /// Every route.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let further = self.ports.values().flat_map(|port| port.hosts.routes());
        let named = self.tls.values().flat_map(Hosts::routes);
        self.hosts.routes().chain(further).chain(named).chain(self.tcp.values()).chain(self.udp.values())
    }

    /// The route of a `Host` value at the main listeners; an exact host beats a wildcard.
    pub(crate) fn find(&self, host: &[u8]) -> Option<&Arc<Route>> {
        self.hosts.find(host)
    }

    /// The same at a further listener, if there is one.
    pub(crate) fn find_at(&self, listener: Option<u16>, host: &[u8]) -> Option<&Arc<Route>> {
        match listener {
            None => self.hosts.find(host),
            Some(port) => self.ports.get(&port)?.hosts.find(host),
        }
    }

    /// The backends this table has and `next` has not.
    pub(crate) fn missing_in<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = &'a Arc<Backend>> {
        self.backends.iter().filter(|(name, _)| !next.backends.contains_key(name)).map(|(_, backend)| backend)
    }

    /// The containers that have routes.
    pub(crate) fn containers(&self) -> HashSet<&ContainerId> {
        self.backends.keys().map(|name| &name.container).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::HostPattern;

    fn routes(hosts: &[(&str, &str)]) -> RouteTable {
        let http = hosts.iter().map(|(host, app)| HttpRoute {
            host: HostPattern::parse(host).expect("valid"),
            app: AppName::parse(app).expect("valid"),
            release: None,
            target: route::Target::Backends { backends: vec![backend(app, 1)] },
        });
        RouteTable { revision: 1, http: http.collect(), ..RouteTable::default() }
    }

    fn backend(app: &str, incarnation: u32) -> route::Backend {
        let container = ContainerId::parse(app).expect("valid");
        route::Backend {
            container,
            incarnation,
            address: ([127, 0, 0, 1], 9).into(),
            protocol: Default::default(),
            proxy_protocol: None,
        }
    }

    fn build(routes: &RouteTable, before: &Table) -> Table {
        Table::build(routes, before, 1, &[], &Arc::default())
    }

    #[test]
    fn an_exact_host_beats_a_wildcard() {
        let table = build(&routes(&[("*.b.example", "wild"), ("a.b.example", "exact")]), &Table::default());
        let app = |host: &str| table.find(host.as_bytes()).map(|route| route.app.as_str());
        assert_eq!(app("a.b.example"), Some("exact"));
        assert_eq!(app("A.B.Example.:8080"), Some("exact"));
        assert_eq!(app("x.b.example"), Some("wild"));
        assert_eq!(app("x.y.b.example"), None);
        assert_eq!(app("b.example"), None);
        assert_eq!(app(".b.example"), None);
        assert_eq!(app("other"), None);
    }

    #[test]
    fn only_the_same_life_at_the_same_address_is_the_same_backend() {
        let first = build(&routes(&[("a.example", "a")]), &Table::default());
        let same = build(&routes(&[("a.example", "a"), ("b.example", "b")]), &first);
        assert_eq!(first.missing_in(&same).count(), 0);
        assert!(Arc::ptr_eq(&first.backends[&backend("a", 1)], &same.backends[&backend("a", 1)]));
        let mut restarted = routes(&[("a.example", "a")]);
        restarted.http[0].target = route::Target::Backends { backends: vec![backend("a", 2)] };
        let next = build(&restarted, &same);
        assert_eq!(same.missing_in(&next).count(), 2);
    }
}
