//! Tests of [`super`].

use super::*;
use crate::release::tests::{app, image};
use crate::release::{Parts, desire, release};
use berth_model::image::StaticSite;
use berth_model::ports::AppProtocol;
use berth_model::site::SiteRules;
use berth_model::{AppName, ProcessType};
use std::net::{IpAddr, Ipv4Addr};

fn specs(count: u32) -> Vec<ContainerSpec> {
    let parts = Parts {
        image: image(&["web"]),
        config: BTreeMap::new(),
        secrets: Default::default(),
        checks: BTreeMap::new(),
        cron: Vec::new(),
        formation: Default::default(),
        max_parallel: BTreeMap::new(),
        git_rev: None,
        now_ms: 0,
        by: "a".into(),
        description: "d".into(),
    };
    let slots: Vec<_> = (1..=count).map(|ordinal| (ProcessType::web(), ordinal)).collect();
    desire(&app(), &release(&app(), parts), &slots, || "x".into()).expect("exists")
}

fn status(state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        state,
        incarnation: 3,
        restarts: 0,
        address: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9))),
        published: Vec::new(),
        pid: None,
        static_root: None,
        static_rules: SiteRules::default(),
        advice: None,
    }
}

fn running(ready: bool) -> ContainerStatus {
    status(ContainerState::Running { since_ms: 0, ready })
}

fn global() -> Vec<HostPattern> {
    vec![HostPattern::parse("berth.test").expect("valid"), HostPattern::parse("*.wild.test").expect("valid")]
}

#[test]
fn an_app_answers_at_its_default_and_its_own_names() {
    let mut app = app();
    app.domains = vec![HostPattern::parse("www.example.com").expect("valid")];
    let names = |app: &App| hosts(app, &global()).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&app), ["hello.berth.test", "www.example.com"]);
    app.default_domain = false;
    assert_eq!(names(&app), ["www.example.com"]);
    let named = App { name: AppName::parse("shop.example.org").expect("valid"), default_domain: true, ..app };
    assert_eq!(names(&named), ["shop.example.org", "www.example.com"]);
}

/// An app with these `web` containers, as routing sees it.
fn serving<'a>(app: &'a App, web: &'a [ContainerSpec]) -> Serving<'a> {
    Serving {
        app,
        hosts: hosts(app, &global()),
        release: None,
        web: web.iter().collect(),
        trial: None,
        waits: false,
        counted: false,
    }
}

#[test]
fn only_ready_containers_get_traffic() {
    let (app, specs) = (app(), specs(4));
    let mut health = BTreeMap::new();
    health.insert(specs[0].id.clone(), running(true));
    health.insert(specs[1].id.clone(), running(false));
    health.insert(specs[2].id.clone(), status(ContainerState::Starting { since_ms: 0 }));
    let serving = serving(&app, &specs);
    let table = routes(&[serving], &health);
    let Target::Backends { backends } = &table.http[0].target else { panic!("{table:?}") };
    let expected = Backend {
        container: specs[0].id.clone(),
        incarnation: 3,
        address: "10.0.0.9:5000".parse().expect("valid"),
        protocol: AppProtocol::Http1,
        proxy_protocol: None,
    };
    assert_eq!(backends, &[expected]);
}

#[test]
fn an_app_without_web_says_so_and_one_whose_web_is_not_ready_waits() {
    let (app, specs) = (app(), specs(1));
    let none = serving(&app, &[]);
    assert_eq!(routes(&[none], &BTreeMap::new()).http[0].target, Target::NoWeb);
    let unready = serving(&app, &specs);
    assert_eq!(
        routes(&[unready], &BTreeMap::new()).http[0].target,
        Target::Backends { backends: Vec::new() }
    );
}

#[test]
fn a_static_site_is_served_from_where_its_node_has_it() {
    let (app, mut specs) = (app(), specs(1));
    specs[0].run = Process::Static(StaticSite {
        root: "/app/public".into(),
        spa_fallback: true,
        rules: Default::default(),
    });
    let ready = ContainerStatus { static_root: Some("/data/layer/app/public".into()), ..running(true) };
    let health = BTreeMap::from([(specs[0].id.clone(), ready)]);
    let serving = serving(&app, &specs);
    let table = routes(&[serving], &health);
    let expected = Target::Static {
        roots: BTreeMap::new(),
        root: "/data/layer/app/public".into(),
        spa_fallback: true,
        rules: Default::default(),
    };
    assert_eq!(table.http[0].target, expected);
}

#[test]
fn one_host_and_one_port_belong_to_the_older_app() {
    let old = App { ports: mappings(&["tcp:6000:7000"]), ..app() };
    let young = App { name: AppName::parse("young").expect("valid"), created_ms: 2, ..old.clone() };
    let specs = specs(1);
    let health = BTreeMap::from([(specs[0].id.clone(), running(true))]);
    let host = vec![HostPattern::parse("same.test").expect("valid")];
    let one = |app| Serving { hosts: host.clone(), ..serving(app, &specs) };
    for order in [[one(&old), one(&young)], [one(&young), one(&old)]] {
        let table = routes(&order, &health);
        assert_eq!((table.http.len(), table.tcp.len()), (1, 1));
        assert_eq!((&table.http[0].app, &table.tcp[0].app), (&old.name, &old.name));
        assert_eq!(table.tcp[0].backends[0].address.port(), 7000);
    }
}

fn mappings(words: &[&str]) -> Vec<PortMapping> {
    words.iter().map(|word| word.parse().expect("valid")).collect()
}

#[test]
fn further_ports_lead_by_host_name_and_datagram() {
    let ports =
        mappings(&["grpc:80:9000", "grpcs:443:9000", "http:8080:8000", "tls:8443:4433", "udp:53:5353"]);
    let first = App { ports, ..app() };
    let second = App { name: AppName::parse("second").expect("valid"), created_ms: 2, ..first.clone() };
    let specs = specs(1);
    let health = BTreeMap::from([(specs[0].id.clone(), running(true))]);
    let host = |name: &str| vec![HostPattern::parse(name).expect("valid")];
    let serving = [(&first, "one.test"), (&second, "two.test")]
        .map(|(app, name)| Serving { hosts: host(name), ..serving(app, &specs) });
    let table = routes(&serving, &health);
    let backend = |target: &Target| match target {
        Target::Backends { backends } => (backends[0].address.port(), backends[0].protocol),
        other => panic!("{other:?}"),
    };
    assert!(table.http.iter().all(|route| backend(&route.target) == (9000, AppProtocol::H2c)));
    let [http] = &table.ports.http[..] else { panic!("{:?}", table.ports.http) };
    assert_eq!((http.port, http.secure, http.routes.len()), (8080, false, 2));
    assert_eq!(backend(&http.routes[0].target), (8000, AppProtocol::Http1));
    let names: Vec<_> = table.ports.tls.iter().map(|route| (route.port, route.name.as_str())).collect();
    assert_eq!(names, [(8443, "one.test"), (8443, "two.test")]);
    let [udp] = &table.ports.udp[..] else { panic!("{:?}", table.ports.udp) };
    assert_eq!((udp.port, &udp.app, udp.backends[0].address.port()), (53, &first.name, 5353));
}
