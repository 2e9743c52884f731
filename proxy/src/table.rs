//! The route table as the data path reads it: immutable, looked up by host or port, swapped whole.
//!
//! In: [`RouteTable`] and the table before it. Out: [`Table`], which keeps the backends (with their connections and
//! counts) that both have. Memory only.

use crate::balance::{self, Shares, Token};
use crate::hosts;
use crate::policy::compiled::Compiled;
use crate::policy::keep::{AppState, Keep};
use crate::policy::paths::{self, Ambiguous};
use crate::static_files::Site;
use crate::stats::{Stats, Totals};
use crate::upstream::Backend;
use berth_model::policy::{Cidr, PathRoute, Policy};
use berth_model::route::{self, RouteTable};
use berth_model::traffic::ContainerAnswers;
use berth_model::{AppName, ContainerId, HostPattern, ReleaseVersion};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;

/// Routes by host name.
pub(crate) type Hosts = hosts::Hosts<Arc<Route>>;

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
    /// What gets requests for hosts that are not in it.
    default: Option<Arc<Route>>,
    /// Pages of the platform, by status.
    pages: BTreeMap<u16, Arc<str>>,
    /// Proxies in front of this one.
    pub(crate) trusted: Vec<Cidr>,
    backends: HashMap<route::Backend, Arc<Backend>>,
    /// Of every app that has a route.
    pub(crate) stats: BTreeMap<AppName, Arc<Stats>>,
    rules: HashMap<AppName, Arc<Compiled>>,
    states: HashMap<AppName, Arc<AppState>>,
    /// Of apps without a policy.
    no_rules: Option<Arc<Compiled>>,
}

/// A further HTTP listener.
#[derive(Debug)]
pub(crate) struct HttpPort {
    pub(crate) secure: bool,
    hosts: Hosts,
}

/// Inserts a route for a host that should have none yet.
fn add(hosts: &mut Hosts, host: &str, route: Arc<Route>) {
    let app = route.app.clone();
    if hosts.insert(host, route).is_some() {
        tracing::warn!(%host, %app, "two routes have this host; the last one is served");
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
    /// [`crate::policy::decide`] has a say.
    pub(crate) gate: bool,
    pub(crate) rules: Arc<Compiled>,
    pub(crate) state: Arc<AppState>,
    /// The path it is for; without one the whole host.
    pub(crate) prefix: Option<Box<str>>,
    /// The app does not see the prefix.
    pub(crate) strip: bool,
    /// Routes of the same host below paths, the longest first.
    below: Vec<Arc<Route>>,
    /// What names each of the backends in cookies, in their order; empty if clients do not stick.
    pub(crate) tokens: Vec<Token>,
    pub(crate) shares: Shares,
}

#[derive(Clone, Debug)]
pub(crate) enum Target {
    Backends(Vec<Arc<Backend>>),
    Static(Site),
    NoWeb,
    /// The host has routes below paths, and this is not one.
    Missing,
}

impl Table {
    /// The table for `routes`. Backends, counts and policies are taken over from `before` where they are the same.
    pub(crate) fn build(
        routes: &RouteTable,
        before: &Self,
        threads: usize,
        bases: &[PathBuf],
        changed: &Arc<Notify>,
        keep: &Keep,
    ) -> Self {
        let rules = &routes.rules;
        let no_rules = before.no_rules.clone();
        let no_rules = no_rules.unwrap_or_else(|| Arc::new(Compiled::new(&Policy::default())));
        let mut table = Self {
            revision: routes.revision,
            known: true,
            trusted: rules.trusted.clone(),
            pages: rules.pages.iter().map(|(status, page)| (*status, page.as_str().into())).collect(),
            no_rules: Some(no_rules),
            ..Self::default()
        };
        let build = Build { routes, before, threads, bases, changed, keep };
        for entry in &routes.http {
            let made = Arc::new(build.route(&mut table, &entry.app, entry.release, &entry.target, None));
            if rules.default_app.as_ref() == Some(&entry.app) {
                table.default = Some(made.clone());
            }
            add(&mut table.hosts, entry.host.as_str(), made);
        }
        for listener in &routes.ports.http {
            let mut hosts = Hosts::default();
            for entry in &listener.routes {
                let made = build.route(&mut table, &entry.app, entry.release, &entry.target, None);
                add(
                    &mut hosts,
                    entry.host.as_str(),
                    Arc::new(Route { listener: Some(listener.port), ..made }),
                );
            }
            table.ports.insert(listener.port, HttpPort { secure: listener.secure, hosts });
        }
        for entry in &routes.ports.tls {
            let route = build.raw(&mut table, &entry.app, &entry.backends);
            add(table.tls.entry(entry.port).or_default(), entry.name.as_str(), route);
        }
        for entry in &routes.ports.udp {
            let route = build.raw(&mut table, &entry.app, &entry.backends);
            table.udp.insert(entry.port, route);
        }
        let mut below: BTreeMap<&HostPattern, Vec<Arc<Route>>> = BTreeMap::new();
        for entry in &rules.paths {
            let made = build.route(&mut table, &entry.app, entry.release, &entry.target, Some(entry));
            below.entry(&entry.host).or_default().push(Arc::new(made));
        }
        for (host, paths) in below {
            table.put_below(host, paths, &build);
        }
        for entry in &routes.tcp {
            let route = build.raw(&mut table, &entry.app, &entry.backends);
            if table.tcp.insert(entry.port, route).is_some() {
                tracing::warn!(port = entry.port, app = %entry.app, "two routes have this port; the last one is served");
            }
        }
        table
    }

    /// Gives the routes of `host` below paths to its own route; where it has none, to what would serve it otherwise.
    fn put_below(&mut self, host: &HostPattern, mut paths: Vec<Arc<Route>>, build: &Build<'_>) {
        let length = |route: &Arc<Route>| route.prefix.as_ref().map_or(0, |prefix| prefix.len());
        paths.sort_by_key(|route| std::cmp::Reverse(length(route)));
        let whole = match (self.hosts.serving(host.as_str()), paths.first()) {
            (Some(own), _) => own.like(own.target.clone(), paths),
            (None, Some(first)) => {
                let mut missing = first.like(Target::Missing, Vec::new());
                missing.rules = build.no_rules(self);
                missing.gate = false;
                missing.prefix = None;
                Route { below: paths, ..missing }
            }
            (None, None) => return,
        };
        self.hosts.insert(host.as_str(), Arc::new(whole));
    }

    fn backends_of(&mut self, wanted: &[route::Backend], build: &Build<'_>) -> Vec<Arc<Backend>> {
        let mut own = |name: &route::Backend| {
            let made = || Arc::new(Backend::new(name.clone(), build.threads, build.changed.clone()));
            let backend = self.backends.entry(name.clone());
            backend.or_insert_with(|| build.before.backends.get(name).cloned().unwrap_or_else(made)).clone()
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
        let further = self.ports.values().flat_map(|port| port.hosts.values());
        let named = self.tls.values().flat_map(Hosts::values);
        self.http_routes().chain(further).chain(named).chain(self.tcp.values()).chain(self.udp.values())
    }

    fn state_of(&mut self, app: &AppName, build: &Build<'_>) -> Arc<AppState> {
        let made = || Arc::new(build.keep.app(app));
        let state = self.states.entry(app.clone());
        state.or_insert_with(|| build.before.states.get(app).cloned().unwrap_or_else(made)).clone()
    }

    fn rules_of(&mut self, app: &AppName, build: &Build<'_>) -> Arc<Compiled> {
        let Some(policy) = build.routes.rules.policies.get(app) else { return build.no_rules(self) };
        let made = || {
            let known = build.before.rules.get(app).filter(|rules| rules.is_of(policy)).cloned();
            known.unwrap_or_else(|| Arc::new(Compiled::new(policy)))
        };
        self.rules.entry(app.clone()).or_insert_with(made).clone()
    }

    /// The route of a `Host` value at the main listeners; an exact host beats a wildcard.
    pub(crate) fn find(&self, host: &[u8]) -> Option<&Arc<Route>> {
        self.hosts.find(host).or(self.default.as_ref())
    }

    /// The same at a further listener, if there is one.
    pub(crate) fn find_at(&self, listener: Option<u16>, host: &[u8]) -> Option<&Arc<Route>> {
        match listener {
            None => self.find(host),
            Some(port) => self.ports.get(&port)?.hosts.find(host),
        }
    }

    /// The page for a status: the app's own, else the platform's.
    pub(crate) fn page(&self, route: Option<&Route>, status: u16) -> Option<Arc<str>> {
        let own = route.and_then(|route| route.rules.page(status));
        own.or_else(|| self.pages.get(&status)).cloned()
    }

    /// The route that has taken the place of `old`, which a request for `host` was on.
    pub(crate) fn again(&self, host: &[u8], old: &Route) -> Option<&Arc<Route>> {
        let whole = self.find_at(old.listener, host)?;
        match &old.prefix {
            None => Some(whole),
            Some(_) => whole.below.iter().find(|route| route.prefix == old.prefix),
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

    /// Every route of a host.
    pub(crate) fn http_routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.hosts.values().flat_map(|route| std::iter::once(route).chain(&route.below))
    }

    /// Apps of which the controller wants to know how long nobody asked, with what they had so far.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (&AppName, Totals)> {
        let watched = self.rules.iter().filter(|(_, rules)| rules.watched);
        watched.map(|(app, _)| {
            let totals = self.stats.get(app).and_then(|stats| stats.totals());
            (app, totals.unwrap_or_default())
        })
    }
}

/// What routes are made of.
struct Build<'a> {
    routes: &'a RouteTable,
    before: &'a Table,
    threads: usize,
    bases: &'a [PathBuf],
    changed: &'a Arc<Notify>,
    keep: &'a Keep,
}

impl Build<'_> {
    /// A route of bytes or datagrams.
    fn raw(&self, table: &mut Table, app: &AppName, backends: &[route::Backend]) -> Arc<Route> {
        let target = route::Target::Backends { backends: backends.to_vec() };
        Arc::new(self.route(table, app, None, &target, None))
    }

    fn no_rules(&self, table: &Table) -> Arc<Compiled> {
        table.no_rules.clone().unwrap_or_else(|| Arc::new(Compiled::new(&Policy::default())))
    }

    fn route(
        &self,
        table: &mut Table,
        app: &AppName,
        release: Option<ReleaseVersion>,
        target: &route::Target,
        path: Option<&PathRoute>,
    ) -> Route {
        let rules = table.rules_of(app, self);
        let target = match target {
            route::Target::Backends { backends } => Target::Backends(table.backends_of(backends, self)),
            route::Target::Static { root, spa_fallback, rules, .. } => {
                Target::Static(Site::new(root.as_ref(), self.bases, *spa_fallback, rules))
            }
            route::Target::NoWeb => Target::NoWeb,
        };
        let backends = match &target {
            Target::Backends(backends) => &backends[..],
            _ => &[],
        };
        let key = if rules.balance.sticky { self.routes.rules.cookie_key.0.as_bytes() } else { &[] };
        Route {
            app: app.clone(),
            listener: None,
            release,
            gate: rules.gate || (matches!(target, Target::NoWeb) && rules.wakes_within.is_some()),
            stats: table.stats_of(app, self.before, self.threads),
            state: table.state_of(app, self),
            prefix: path.map(|path| path.prefix.as_str().into()),
            strip: path.is_some_and(|path| path.strip),
            below: Vec::new(),
            tokens: balance::tokens(key, app, backends),
            shares: Shares::new(rules.shares(), backends),
            rules,
            target,
        }
    }
}

impl Table {
    /// What the containers whose answers are counted got since the last call.
    pub(crate) fn take_counts(&self) -> BTreeMap<ContainerId, ContainerAnswers> {
        let mut counts: BTreeMap<ContainerId, ContainerAnswers> = BTreeMap::new();
        for backend in self.backends.values() {
            let new = backend.take_counts();
            if new.requests > 0 {
                let sum = counts.entry(backend.name.container.clone()).or_default();
                sum.requests += new.requests;
                sum.errors += new.errors;
            }
        }
        counts
    }
}

impl Route {
    fn like(&self, target: Target, below: Vec<Arc<Self>>) -> Self {
        Self {
            app: self.app.clone(),
            listener: self.listener,
            release: self.release,
            target,
            stats: self.stats.clone(),
            gate: self.gate,
            rules: self.rules.clone(),
            state: self.state.clone(),
            prefix: self.prefix.clone(),
            strip: self.strip,
            below,
            tokens: self.tokens.clone(),
            shares: self.shares.clone(),
        }
    }

    /// The host has routes below paths.
    pub(crate) fn is_divided(&self) -> bool {
        !self.below.is_empty()
    }

    /// The route below a path that `target` leads to, and how much of the target is that path.
    pub(crate) fn below(&self, target: &[u8]) -> Result<Option<(&Arc<Self>, usize)>, Ambiguous> {
        let prefixes = self.below.iter().map(|route| route.prefix.as_deref().unwrap_or_default());
        let found = paths::find(prefixes, target)?;
        Ok(found.and_then(|(index, length)| Some((self.below.get(index)?, length))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::route::HttpRoute;

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
        Table::build(routes, before, 1, &[], &Arc::default(), &Keep::new())
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
