//! Tests of [`super`].

use super::*;
use crate::table::Table;
use berth_model::policy::{Hsts, Maintenance};
use berth_model::policy::{PasswordHash, PathPrefix, PathRoute, Policy, Rate, Redirect, Rules, Sleep};
use berth_model::route::{self, HttpRoute, RouteTable};
use berth_model::{AppName, ContainerId, HostPattern};
use std::collections::BTreeMap;

struct World {
    keep: Keep,
    table: Table,
}

fn app() -> AppName {
    AppName::parse("app").expect("valid")
}

fn host(text: &str) -> HostPattern {
    HostPattern::parse(text).expect("valid")
}

fn backend() -> route::Backend {
    let container = ContainerId::parse("app.web.1.x").expect("valid");
    route::Backend {
        container,
        incarnation: 1,
        address: ([127, 0, 0, 1], 9).into(),
        protocol: Default::default(),
        proxy_protocol: None,
    }
}

fn world(policy: Policy, target: &route::Target) -> World {
    let route =
        |name: &str| HttpRoute { host: host(name), app: app(), release: None, target: target.clone() };
    let path = PathRoute {
        host: host("shared.test"),
        prefix: PathPrefix::parse("/api").expect("valid"),
        strip: true,
        app: app(),
        release: None,
        target: target.clone(),
    };
    let rules = Rules { policies: BTreeMap::from([(app(), policy)]), paths: vec![path], ..Rules::default() };
    let http = vec![route("app.test"), route("www.app.test"), route("*.wild.test")];
    let routes = RouteTable { revision: 1, http, rules, ..RouteTable::default() };
    let keep = Keep::new();
    let table = Table::build(&routes, &Table::default(), 1, &[], &Arc::default(), &keep);
    World { keep, table }
}

fn serving(policy: Policy) -> World {
    world(policy, &route::Target::Backends { backends: vec![backend()] })
}

fn view<'a>(host: &'a str, target: &'a str) -> View<'a> {
    View {
        host: host.as_bytes(),
        target: target.as_bytes(),
        client: IpAddr::from([192, 0, 2, 7]),
        only_looks: true,
        secure: false,
        https: None,
        head: 100,
        body: None,
        field: &|_| None,
        first: true,
        now: Instant::now(),
    }
}

impl World {
    fn decide(&self, view: &View<'_>) -> Decision {
        let whole = self.table.find(view.host).expect("there is a route");
        let below = whole.below(view.target).expect("not ambiguous");
        decide(below.map_or(whole, |(route, _)| route), &self.keep, view)
    }

    fn answer(&self, view: &View<'_>) -> Answer {
        match self.decide(view) {
            Decision::Answer(answer) => *answer,
            other => panic!("{other:?}"),
        }
    }

    fn forwards(&self, view: &View<'_>) -> bool {
        matches!(self.decide(view), Decision::Forward)
    }

    fn sent_to(&self, view: &View<'_>) -> (u16, String) {
        let answer = self.answer(view);
        let location = answer.fields.strip_prefix("Location: ").expect("a redirect");
        (answer.status, location.trim_end().to_owned())
    }
}

#[test]
fn without_a_policy_there_is_no_gate() {
    let world = serving(Policy::default());
    assert!(!world.table.find(b"app.test").expect("there").gate);
    let hsts = Hsts { max_age: 1, include_subdomains: true, preload: true };
    let world = serving(Policy { hsts: Some(hsts), hold_ms: 2000, ..Policy::default() });
    let route = world.table.find(b"app.test").expect("there");
    assert!(!route.gate, "what is only said in answers needs no gate");
    let line = "Strict-Transport-Security: max-age=1; includeSubDomains; preload\r\n";
    assert_eq!((route.rules.fields(true), route.rules.fields(false)), (line, ""));
}

#[test]
fn plain_http_is_sent_to_tls() {
    let policy = |https_redirect| Policy { https_redirect, ..Policy::default() };
    let https = |https, secure| View { https, secure, ..view("app.test:8080", "/a?b=c") };
    let auto = serving(policy(HttpsRedirect::Auto));
    assert!(auto.forwards(&https(None, false)) && auto.forwards(&https(Some(443), true)));
    assert_eq!(auto.sent_to(&https(Some(443), false)), (301, "https://app.test/a?b=c".to_owned()));
    assert_eq!(auto.sent_to(&https(Some(8443), false)).1, "https://app.test:8443/a?b=c");
    let post = View { only_looks: false, ..https(Some(443), false) };
    assert_eq!(auto.sent_to(&post).0, 308);
    let on = serving(policy(HttpsRedirect::On));
    assert_eq!(on.sent_to(&https(None, false)).1, "https://app.test/a?b=c");
    assert!(on.forwards(&https(None, true)), "from a trusted proxy that speaks TLS");
    assert!(serving(policy(HttpsRedirect::Off)).forwards(&https(Some(443), false)));
}

#[test]
fn other_names_lead_to_the_one() {
    let world = serving(Policy {
        canonical_host: Some("app.test".to_owned()),
        redirects: vec![Redirect { from: host("*.wild.test"), to: host("else.test"), status: 302 }],
        redirect_code: Some(307),
        ..Policy::default()
    });
    assert!(world.forwards(&view("APP.test.", "/")));
    assert_eq!(world.sent_to(&view("www.app.test:8080", "/x")), (307, "http://app.test:8080/x".to_owned()));
    assert_eq!(world.sent_to(&view("a.wild.test", "/x?y")), (302, "http://else.test/x?y".to_owned()));
    let tls = View { https: Some(443), ..view("www.app.test", "*") };
    assert_eq!(world.sent_to(&tls).1, "https://app.test/", "both in one step");
    assert!(world.forwards(&view("shared.test", "/api/x")), "a path of a host that others share");
    let odd = View { ..view("www.app.test", "/\u{e9}\u{7f}") };
    assert_eq!(world.sent_to(&odd).1, "http://app.test/%C3%A9%7F");
}

#[test]
fn addresses_are_let_in_or_not() {
    let networks = |texts: &[&str]| texts.iter().map(|text| Cidr::parse(text).expect("valid")).collect();
    let world = serving(Policy {
        allow: networks(&["192.0.2.0/24", "2001:db8::/32"]),
        deny: networks(&["192.0.2.9"]),
        ..Policy::default()
    });
    let from = |text: &str| View { client: text.parse().expect("an address"), ..view("app.test", "/") };
    for (address, in_) in
        [("192.0.2.7", true), ("192.0.2.9", false), ("198.51.100.1", false), ("2001:db8::1", true)]
    {
        assert_eq!(world.forwards(&from(address)), in_, "{address}");
    }
    assert_eq!(world.answer(&from("192.0.2.9")).status, 403);
    // The same rules hold below a path, whatever it is spelled like.
    for target in ["/api/x", "/%61pi/x", "/api?x"] {
        let denied = View { client: IpAddr::from([192, 0, 2, 9]), ..view("shared.test", target) };
        assert_eq!(world.answer(&denied).status, 403, "{target}");
    }
}

#[test]
fn only_trusted_proxies_speak_for_others() {
    let peer = IpAddr::from([10, 0, 0, 1]);
    let trusted = [Cidr::parse("10.0.0.0/8").expect("valid")];
    let of = |peer, trusted: &[Cidr], value: &str| client(peer, trusted, Some(value.as_bytes())).to_string();
    assert_eq!(of(peer, &trusted, "6.6.6.6, 192.0.2.7, 10.0.0.1"), "192.0.2.7");
    assert_eq!(of(peer, &trusted, "6.6.6.6, 192.0.2.7, 10.3.2.1, 10.0.0.1"), "192.0.2.7");
    assert_eq!(of(peer, &[], "192.0.2.7"), "10.0.0.1");
    assert_eq!(of(IpAddr::from([192, 0, 2, 9]), &trusted, "10.0.0.1"), "192.0.2.9");
    assert_eq!(of(peer, &trusted, "192.0.2.7, nonsense, 10.0.0.1"), "10.0.0.1");
    assert_eq!(client(peer, &trusted, None).to_string(), "10.0.0.1");
}

#[test]
fn a_client_that_asks_too_often_waits() {
    let rate = Rate { requests: 1, per_ms: 60_000, burst: 2 };
    let world = serving(Policy { rate: Some(rate), ..Policy::default() });
    let now = Instant::now();
    let ask = || View { now, ..view("app.test", "/") };
    assert!(world.forwards(&ask()) && world.forwards(&ask()));
    let refused = world.answer(&ask());
    assert_eq!((refused.status, refused.retry_after), (429, Some(60)));
    assert!(world.forwards(&View { first: false, ..ask() }), "counted once, however often it is looked at");
    assert!(world.forwards(&View { client: IpAddr::from([192, 0, 2, 8]), ..ask() }));
}

#[test]
fn sizes_have_limits() {
    let limits =
        berth_model::policy::Limits { body_bytes: Some(10), head_bytes: Some(1000), ..Default::default() };
    let world = serving(Policy { limits, ..Policy::default() });
    assert!(world.forwards(&View { body: Some(10), head: 1000, ..view("app.test", "/") }));
    assert_eq!(world.answer(&View { body: Some(11), ..view("app.test", "/") }).status, 413);
    assert_eq!(world.answer(&View { head: 1001, ..view("app.test", "/") }).status, 431);
}

#[test]
fn maintenance_pause_and_sleep_go_before_the_app() {
    let maintenance = Maintenance { retry_after: 60, page: Some("<p>soon".to_owned()) };
    let world = serving(Policy { maintenance: Some(maintenance), ..Policy::default() });
    let answer = world.answer(&view("app.test", "/"));
    assert_eq!((answer.status, answer.retry_after, answer.page.as_deref()), (503, Some(60), Some("<p>soon")));

    let world = serving(Policy { paused_ms: Some(5000), ..Policy::default() });
    let held = world.decide(&view("app.test", "/"));
    assert!(matches!(held, Decision::Hold { longest, wake: false } if longest == Duration::from_secs(5)));

    let policy = |asleep| Policy { sleep: Some(Sleep { asleep, wake_ms: 9000 }), ..Policy::default() };
    let held = world_of(policy(true), &route::Target::NoWeb);
    assert!(matches!(held, Decision::Hold { longest, wake: true } if longest == Duration::from_secs(9)));
    assert!(matches!(world_of(policy(false), &route::Target::NoWeb), Decision::Forward));
    let up = route::Target::Backends { backends: vec![backend()] };
    assert!(matches!(world_of(policy(true), &up), Decision::Forward), "it has woken");
}

fn world_of(policy: Policy, target: &route::Target) -> Decision {
    world(policy, target).decide(&view("app.test", "/"))
}

#[test]
fn who_has_no_password_stays_out() {
    let users = BTreeMap::from([("ali".to_owned(), PasswordHash("$2b$04$x".to_owned()))]);
    let world = serving(Policy { users, ..Policy::default() });
    let answer = world.answer(&view("app.test", "/"));
    assert_eq!(answer.status, 401);
    assert_eq!(answer.fields, "WWW-Authenticate: Basic realm=\"app\", charset=\"UTF-8\"\r\n");
    let field = |name: &str| (name == "authorization").then_some(&b"Basic YWxpOng="[..]);
    let asked = View { field: &field, ..view("app.test", "/") };
    assert!(matches!(world.decide(&asked), Decision::Verify(_)));
}

#[test]
fn an_app_may_have_pages_of_its_own() {
    let pages = BTreeMap::from([(403, "<p>no".to_owned())]);
    let deny = vec![Cidr::parse("0.0.0.0/0").expect("valid")];
    let world = serving(Policy { pages, deny, ..Policy::default() });
    assert_eq!(world.answer(&view("app.test", "/")).page.as_deref(), Some("<p>no"));
}

#[test]
fn a_default_app_gets_what_nothing_has() {
    let mut routes = RouteTable { revision: 1, ..RouteTable::default() };
    let target = route::Target::Backends { backends: vec![backend()] };
    routes.http.push(HttpRoute { host: host("app.test"), app: app(), release: None, target });
    let build =
        |routes: &RouteTable| Table::build(routes, &Table::default(), 1, &[], &Arc::default(), &Keep::new());
    assert!(build(&routes).find(b"other.test").is_none());
    routes.rules.default_app = Some(app());
    assert_eq!(build(&routes).find(b"other.test").map(|route| route.app.as_str()), Some("app"));
}

#[test]
fn policies_are_compiled_once_for_all_tables() {
    let policy = Policy { paused_ms: Some(1), ..Policy::default() };
    let rules =
        |policy: &Policy| Rules { policies: BTreeMap::from([(app(), policy.clone())]), ..Rules::default() };
    let target = route::Target::Backends { backends: vec![backend()] };
    let http = vec![HttpRoute { host: host("app.test"), app: app(), release: None, target }];
    let mut routes = RouteTable { revision: 1, http, rules: rules(&policy), ..RouteTable::default() };
    let keep = Keep::new();
    let first = Table::build(&routes, &Table::default(), 1, &[], &Arc::default(), &keep);
    routes.revision = 2;
    let same = Table::build(&routes, &first, 1, &[], &Arc::default(), &keep);
    routes.rules = rules(&Policy { paused_ms: Some(2), ..policy });
    let other = Table::build(&routes, &same, 1, &[], &Arc::default(), &keep);
    let compiled = |table: &Table| table.find(b"app.test").expect("there").rules.clone();
    assert!(Arc::ptr_eq(&compiled(&first), &compiled(&same)));
    assert!(!Arc::ptr_eq(&compiled(&same), &compiled(&other)));
    let state = |table: &Table| table.find(b"app.test").expect("there").state.clone();
    assert!(Arc::ptr_eq(&state(&first), &state(&other)), "counts go on");
}
