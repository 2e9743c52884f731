//! Policies through the proxy's door: real requests, real origins.

use crate::origin::Origin;
use crate::proxy::{Client, Reply, Running, backend, quick, route, table};
use berth_model::AppName;
use berth_model::policy::{
    Balance, Cidr, Circuit, Health, Limits, PasswordHash, PathPrefix, PathRoute, Policy, SecretText, Sleep,
};
use berth_model::route::{Backend, RouteTable, Target};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn app() -> AppName {
    AppName::parse("app").unwrap()
}

fn with(mut table: RouteTable, policy: Policy) -> RouteTable {
    table.rules.policies = BTreeMap::from([(app(), policy)]);
    table
}

fn single(origin: &Origin, policy: Policy) -> RouteTable {
    with(table(1, &[("app.test", &[backend("app.web.1.a", 1, origin.address)])]), policy)
}

fn asks(proxy: &Running, head: &str) -> Reply {
    proxy.once(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{head}\r\n"))
}

#[test]
fn a_password_lets_in_and_the_connection_goes_on() {
    let origin = Origin::fixed("in");
    let hash = PasswordHash(bcrypt::hash("sesame", 4).unwrap());
    let policy = Policy { users: BTreeMap::from([("ali".to_owned(), hash)]), ..Policy::default() };
    let proxy = Running::start(&single(&origin, policy));
    let mut client = proxy.client();
    for (field, status) in [
        ("", 401),
        ("Authorization: Basic YWxpOndyb25n\r\n", 401),
        ("Authorization: Basic YWxpOnNlc2FtZQ==\r\n", 200),
        ("Authorization: Basic YWxpOnNlc2FtZQ==\r\n", 200),
        ("Authorization: Basic YWxpOndyb25n\r\n", 401),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{field}\r\n"));
        let reply = client.reply("GET");
        assert_eq!(reply.status, status, "{field}");
        assert_eq!(reply.field("www-authenticate").is_some(), status == 401);
    }
}

#[test]
fn sizes_times_and_rates_have_limits() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            if head.contains("/slow") {
                std::thread::sleep(Duration::from_millis(1500));
            }
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let limits =
        Limits { body_bytes: Some(10), response_ms: Some(300), head_bytes: Some(1024), ..Limits::default() };
    let proxy = Running::start(&single(&origin, Policy { limits, ..Policy::default() }));
    let post = |length: usize| {
        let body = "x".repeat(length);
        proxy
            .once(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n{body}"))
            .status
    };
    assert_eq!((post(10), post(11)), (200, 413));
    let chunked = |chunks: &str| {
        let head = "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        proxy.once(format!("{head}{chunks}0\r\n\r\n")).status
    };
    assert_eq!(chunked("5\r\naaaaa\r\n"), 200);
    assert_eq!(chunked("6\r\naaaaaa\r\n6\r\nbbbbbb\r\n"), 413);
    // One that comes later than the head.
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n6\r\naaaaaa\r\n");
    std::thread::sleep(Duration::from_millis(50)); // so that the first part is on its way
    client.send("6\r\nbbbbbb\r\n0\r\n\r\n");
    assert_eq!(client.reply("POST").status, 413);
    assert_eq!(asks(&proxy, &format!("X: {}\r\n", "y".repeat(1024))).status, 431);
    let began = Instant::now();
    assert_eq!(proxy.get("app.test", "/slow").status, 504);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn paths_of_one_host_lead_to_several_apps() {
    let heads = |name: &'static str| {
        Origin::start(move |peer| {
            while let Some(head) = peer.head() {
                let line = head.lines().next().unwrap().to_owned();
                let prefix = crate::origin::field(&head, "x-forwarded-prefix").unwrap_or_default();
                let body = format!("{name} {line} {prefix}");
                peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            }
        })
    };
    let (root, api) = (heads("root"), heads("api"));
    let mut routes = table(1, &[("app.test", &[backend("root.web.1.a", 1, root.address)])]);
    let path = |host: &str, prefix: &str, strip| PathRoute {
        host: berth_model::HostPattern::parse(host).unwrap(),
        prefix: PathPrefix::parse(prefix).unwrap(),
        strip,
        app: AppName::parse("api").unwrap(),
        release: None,
        target: Target::Backends { backends: vec![backend("api.web.1.a", 1, api.address)] },
    };
    routes.rules.paths = vec![
        path("app.test", "/api", true),
        path("app.test", "/api/kept", false),
        path("only.test", "/in", false),
    ];
    routes.rules.pages = BTreeMap::from([(404, "<p>nothing here".to_owned())]);
    let proxy = Running::start(&routes);
    let says = |target: &str| proxy.get("app.test", target).text();
    assert_eq!(says("/"), "root GET / HTTP/1.1 ");
    assert_eq!(says("/apis"), "root GET /apis HTTP/1.1 ");
    assert_eq!(says("/api"), "api GET / HTTP/1.1 /api");
    assert_eq!(says("/api/a%2Fb?c"), "api GET /a%2Fb?c HTTP/1.1 /api");
    assert_eq!(says("/%61pi/x"), "api GET /x HTTP/1.1 /api");
    assert_eq!(says("/api/kept/x"), "api GET /api/kept/x HTTP/1.1 ");
    for odd in ["//api/x", "/x/../api", "/x/%2e%2e/api", "/api%2fx", "/api\\x", "/..;/api"] {
        assert_eq!(proxy.get("app.test", odd).status, 400, "{odd}");
    }
    assert_eq!(proxy.get("only.test", "/in/x").text(), "api GET /in/x HTTP/1.1 ");
    let missing = proxy.get("only.test", "/out");
    assert_eq!((missing.status, missing.text().as_str()), (404, "<p>nothing here"));
    // A swap keeps a request on its path.
    proxy.handle.apply(&RouteTable { revision: 2, ..routes });
    assert_eq!(says("/api/x"), "api GET /x HTTP/1.1 /api");
}

#[test]
fn requests_are_held_while_paused_and_nothing_is_lost() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let body = peer.body(&head);
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.say(body);
        }
    });
    let paused = Policy { paused_ms: Some(10_000), ..Policy::default() };
    let proxy = Running::start_with(&single(&origin, paused), quick());
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\n{n:04}"));
    }
    std::thread::sleep(Duration::from_millis(1500)); // longer than `quick` lets anything else wait
    assert_eq!(origin.count(), 0);
    proxy.handle.apply(&RouteTable { revision: 2, ..single(&origin, Policy::default()) });
    for (n, client) in clients.iter_mut().enumerate() {
        let reply = client.reply("POST");
        assert_eq!((reply.status, reply.text()), (200, format!("{n:04}")));
    }
    // And not for ever.
    let short = Policy { paused_ms: Some(200), ..Policy::default() };
    proxy.handle.apply(&RouteTable { revision: 3, ..single(&origin, short) });
    let reply = proxy.get("app.test", "/");
    assert_eq!((reply.status, reply.field("retry-after").is_some()), (503, true));
}

#[test]
fn requests_wait_for_containers_that_restart() {
    let origin = Origin::fixed("back");
    let policy = || Policy { hold_ms: 10_000, ..Policy::default() };
    let none = with(table(1, &[("app.test", &[])]), policy());
    let proxy = Running::start(&none);
    let address = proxy.address;
    let waiting = std::thread::spawn(move || {
        let mut client = Client::connect(address);
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        client.reply("GET").text()
    });
    std::thread::sleep(Duration::from_millis(300)); // it waits by now, or comes to the same
    assert!(!waiting.is_finished());
    proxy.handle.apply(&RouteTable { revision: 2, ..single(&origin, policy()) });
    assert_eq!(waiting.join().unwrap(), "back");
    // A container that takes no connection, of which no table says so yet.
    let dead = Origin::fixed("never");
    dead.close();
    let dead_table = with(
        table(3, &[("app.test", &[backend("app.web.1.b", 1, dead.address)])]),
        Policy { hold_ms: 300, ..Policy::default() },
    );
    proxy.handle.apply(&dead_table);
    let began = Instant::now();
    assert_eq!(proxy.get("app.test", "/").status, 502);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
}

#[test]
fn a_request_for_a_sleeping_app_wakes_it_and_waits() {
    let origin = Origin::fixed("awake");
    let asleep = Policy { sleep: Some(Sleep { asleep: true, wake_ms: 10_000 }), ..Policy::default() };
    let mut routes = RouteTable { revision: 1, ..RouteTable::default() };
    routes.http = vec![route("app.test", Target::NoWeb)];
    let proxy = Running::start(&with(routes, asleep.clone()));
    let address = proxy.address;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
                client.reply("GET").text()
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200)); // they wait by now, or come to the same
    proxy.handle.apply(&RouteTable { revision: 2, ..single(&origin, asleep) });
    for one in waiting {
        assert_eq!(one.join().unwrap(), "awake");
    }
}

#[test]
fn a_container_gets_no_more_than_it_may_and_the_rest_waits() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, seen) = (now.clone(), most.clone());
    let origin = Origin::start(move |peer| {
        while peer.head().is_some() {
            seen.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20)); // the work
            counted.fetch_sub(1, Ordering::SeqCst);
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let limits = Limits { in_flight: Some(2), queue: Some(10), queue_ms: Some(5000), ..Limits::default() };
    let proxy = Running::start(&single(&origin, Policy { limits, ..Policy::default() }));
    let mut clients: Vec<_> = (0..30).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"));
    let statuses: Vec<_> = clients.iter_mut().map(|client| client.reply("GET").status).collect();
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!((12..=30).contains(&served), "two and a queue of ten at least: {statuses:?}");
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn a_client_stays_with_its_container_while_that_is_there() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let backends = [backend("app.web.1.a", 1, one.address), backend("app.web.2.a", 1, two.address)];
    let policy = || Policy { balance: Balance { sticky: true, ..Balance::default() }, ..Policy::default() };
    let routes = |revision, backends: &[Backend]| {
        let mut table = with(table(revision, &[("app.test", backends)]), policy());
        table.rules.cookie_key = SecretText("5".repeat(64));
        table
    };
    let proxy = Running::start(&routes(1, &backends));
    let first = proxy.get("app.test", "/");
    let set = first.field("set-cookie").unwrap();
    assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
    let cookie = format!("Cookie: {}\r\n", set.split(';').next().unwrap());
    for _ in 0..20 {
        let reply = asks(&proxy, &cookie);
        assert_eq!((reply.text(), reply.field("set-cookie")), (first.text(), None));
    }
    let other = if first.text() == "one" { &backends[1..] } else { &backends[..1] };
    proxy.handle.apply(&routes(2, other));
    let moved = asks(&proxy, &cookie);
    assert!(moved.text() != first.text() && moved.field("set-cookie").is_some(), "{moved:?}");
    assert_eq!(asks(&proxy, "Cookie: berth_sticky=made-up\r\n").status, 200);
}

#[test]
fn a_container_that_fails_is_left_alone() {
    let failing = Origin::start(|peer| {
        while peer.head().is_some() {
            peer.say("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let good = Origin::fixed("good");
    let backends = [backend("app.web.1.a", 1, failing.address), backend("app.web.2.a", 1, good.address)];
    let circuit = Some(Circuit { failures: 3, open_ms: 60_000 });
    let policy = Policy { balance: Balance { circuit, ..Balance::default() }, ..Policy::default() };
    let proxy = Running::start(&with(table(1, &[("app.test", &backends)]), policy));
    let statuses: Vec<_> = (0..60).map(|_| proxy.get("app.test", "/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 3, "{statuses:?}");
}

#[test]
fn checks_find_who_is_unwell() {
    let well = Arc::new(AtomicBool::new(false));
    let seen = well.clone();
    let sick = Origin::start(move |peer| {
        while let Some(head) = peer.head() {
            let status = match head.starts_with("GET /healthz ") && !seen.load(Ordering::SeqCst) {
                true => "500 Sick",
                false => "200 OK",
            };
            peer.say(format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nsick"));
        }
    });
    let good = Origin::fixed("good");
    let backends = [backend("app.web.1.a", 1, sick.address), backend("app.web.2.a", 1, good.address)];
    let health = Some(Health { path: "/healthz".into(), interval_ms: 100 });
    let policy = Policy { balance: Balance { health, ..Balance::default() }, ..Policy::default() };
    let proxy = Running::start(&with(table(1, &[("app.test", &backends)]), policy));
    let says = |text: &str| (0..20).any(|_| proxy.get("app.test", "/").text() == text);
    crate::proxy::until("the sick one to be passed over", || !says("sick"));
    well.store(true, Ordering::SeqCst);
    crate::proxy::until("it to be taken back", || says("sick"));
}

#[test]
fn a_trusted_proxy_says_who_asks() {
    let origin = Origin::fixed("in");
    let deny = vec![Cidr::parse("192.0.2.7").unwrap()];
    let mut routes = single(&origin, Policy { deny, ..Policy::default() });
    let proxy = Running::start(&routes);
    assert_eq!(asks(&proxy, "X-Forwarded-For: 192.0.2.7\r\n").status, 200, "nobody believes a stranger");
    routes.rules.trusted = vec![Cidr::parse("127.0.0.0/8").unwrap()];
    proxy.handle.apply(&RouteTable { revision: 2, ..routes });
    assert_eq!(asks(&proxy, "X-Forwarded-For: 192.0.2.7\r\n").status, 403);
    assert_eq!(asks(&proxy, "X-Forwarded-For: 192.0.2.7, 192.0.2.8\r\n").status, 200);
    assert!(origin.text().contains("X-Forwarded-For: 192.0.2.7, 192.0.2.8, 127.0.0.1\r\n"));
}

#[test]
fn an_app_shows_its_own_pages() {
    let dead = Origin::fixed("never");
    dead.close();
    let pages = BTreeMap::from([(502, "<p>our own".to_owned())]);
    let proxy = Running::start(&single(&dead, Policy { pages, ..Policy::default() }));
    let reply = proxy.get("app.test", "/");
    assert_eq!((reply.status, reply.text().as_str()), (502, "<p>our own"));
    assert_eq!(reply.field("content-type").as_deref(), Some("text/html; charset=utf-8"));
}
