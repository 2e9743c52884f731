//! Changing routes and stopping under load: nothing fails, nothing reaches the wrong container.

use crate::origin::Origin;
use crate::proxy::{Running, backend, one, quick, table, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// An origin that says `name`, and counts what it is asked after it was told that it is over.
fn named(name: &'static str) -> Origin {
    Origin::fixed(name)
}

#[test]
fn no_request_fails_while_routes_are_swapped() {
    let origins = [named("a"), named("b"), named("c")];
    let backends: Vec<_> = origins
        .iter()
        .zip(["app.web.1.a", "app.web.1.b", "app.web.1.c"])
        .map(|(origin, id)| backend(id, 1, origin.address))
        .collect();
    let proxy = Running::start(&table(1, &[("app.test", &backends[..1])]));
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (stop, answered, address) = (stop.clone(), answered.clone(), proxy.address);
            std::thread::spawn(move || {
                let mut client = crate::proxy::Client::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    match number % 2 {
                        0 => client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"),
                        _ => {
                            client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\nbody");
                        }
                    }
                    let reply = client.reply("GET");
                    assert_eq!((reply.status, reply.complete), (200, true));
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for revision in 2..150 {
        let one = [backends[usize::try_from(revision).unwrap() % 3].clone()];
        proxy.handle.apply(&table(revision, &[("app.test", &one)]));
        let seen = answered.load(Ordering::SeqCst);
        until("requests are answered", || answered.load(Ordering::SeqCst) > seen + 5);
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("no request failed");
    }
    until("nothing is in flight", || proxy.handle.status().draining.is_empty());
}

#[test]
fn a_container_drains_until_its_last_request_ends() {
    let release = Arc::new(AtomicBool::new(false));
    let gate = release.clone();
    let slow = Origin::start(move |peer| {
        while peer.head().is_some() {
            until("the gate opens", || gate.load(Ordering::SeqCst));
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
        }
    });
    let fast = Origin::fixed("fast");
    let old = backend("app.web.1.old", 1, slow.address);
    let proxy = Running::start(&table(1, &[("app.test", std::slice::from_ref(&old))]));
    let mut waiting: Vec<_> = (0..3).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    }
    until("three are in flight", || slow.text().matches("GET / ").count() == 3);
    assert!(proxy.handle.status().draining.is_empty(), "a routed container does not drain");
    proxy.handle.apply(&table(2, &[("app.test", &[backend("app.web.1.new", 1, fast.address)])]));
    assert_eq!(proxy.get("app.test", "/").text(), "fast");
    let status = proxy.handle.status();
    assert_eq!((status.revision, status.draining.get(&old.container)), (2, Some(&3)));
    release.store(true, Ordering::SeqCst);
    for client in &mut waiting {
        assert_eq!(client.reply("GET").text(), "slow");
    }
    until("it has drained", || proxy.handle.status().draining.is_empty());
}

#[test]
fn an_address_that_changes_hands_gets_no_old_connection() {
    let origin = Origin::fixed("ok");
    let address = origin.address;
    let proxy = Running::start(&table(1, &[("a.test", &[backend("a.web.1.x", 1, address)])]));
    let mut client = proxy.client();
    let mut ask = |host: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.reply("GET").status, 200);
    };
    ask("a.test");
    ask("a.test");
    assert_eq!(origin.count(), 1);
    // The same address, another life of the same container; then another app's container.
    proxy.handle.apply(&table(2, &[("a.test", &[backend("a.web.1.x", 2, address)])]));
    ask("a.test");
    assert_eq!(origin.count(), 2);
    proxy.handle.apply(&table(3, &[("b.test", &[backend("b.web.1.y", 2, address)])]));
    ask("b.test");
    ask("b.test");
    assert_eq!(origin.count(), 3);
}

#[test]
fn a_replica_that_dies_under_load_loses_no_get() {
    let doomed = Origin::fixed("doomed");
    let other = Origin::fixed("other");
    let backends = [backend("app.web.1.a", 1, doomed.address), backend("app.web.2.b", 1, other.address)];
    let proxy = Running::start(&table(1, &[("app.test", &backends)]));
    let mut client = proxy.client();
    for number in 0..400 {
        if number == 100 {
            doomed.close();
        }
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.reply("GET").status, 200, "request {number}");
    }
}

#[test]
fn a_stop_finishes_what_is_in_flight() {
    let gate = Arc::new(AtomicBool::new(false));
    let opened = gate.clone();
    let origin = Origin::start(move |peer| {
        while peer.head().is_some() {
            until("the gate opens", || opened.load(Ordering::SeqCst));
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let mut proxy = Running::start_with(&one("app.test", origin.address), berth_proxy::Settings::default());
    let mut busy = proxy.client();
    let mut idle = proxy.client();
    busy.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    until("the request is in flight", || origin.text().contains("GET / "));
    proxy.begin_stop();
    assert!(idle.is_closed());
    let address = proxy.address;
    until("nobody listens", || std::net::TcpStream::connect(address).is_err());
    gate.store(true, Ordering::SeqCst);
    let reply = busy.reply("GET");
    assert_eq!((reply.status, reply.field("connection").as_deref()), (200, Some("close")));
    assert!(proxy.stop() < Duration::from_secs(5));
    assert_eq!(proxy.log().len(), 1);
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            if head.contains("Upgrade: websocket") {
                peer.say(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
                );
            }
            while peer.fill() {}
        }
    });
    let settings = berth_proxy::Settings { drain: Duration::from_secs(4), ..quick() };
    let settings = berth_proxy::Settings { progress: Duration::from_secs(60), ..settings };
    let mut proxy = Running::start_with(&one("app.test", origin.address), settings);
    let mut tunnel = proxy.client();
    tunnel.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(tunnel.head().unwrap().0, 101);
    let mut stuck = proxy.client();
    stuck.send("GET /stuck HTTP/1.1\r\nHost: app.test\r\n\r\n");
    until("it is stuck", || origin.text().contains("/stuck"));
    let began = Instant::now();
    proxy.begin_stop();
    assert!(tunnel.is_closed());
    assert!(began.elapsed() < Duration::from_millis(3800), "tunnels end before requests do");
    let took = proxy.stop();
    assert!(took < Duration::from_secs(12), "took {took:?}");
}

#[test]
fn a_new_proxy_serves_the_last_table_without_a_controller() {
    let origin = Origin::fixed("ok");
    let proxy = Running::start(&one("app.test", origin.address));
    assert_eq!(proxy.handle.status().revision, 1);
    assert_eq!(proxy.get("app.test", "/").text(), "ok");
}

#[test]
fn a_wildcard_serves_what_no_exact_host_takes() {
    let (wild, exact) = (named("wild"), named("exact"));
    let routes: [(&str, &[_]); 2] = [
        ("*.apps.test", &[backend("w", 1, wild.address)]),
        ("my.apps.test", &[backend("e", 1, exact.address)]),
    ];
    let proxy = Running::start(&table(1, &routes));
    assert_eq!(proxy.get("my.apps.test", "/").text(), "exact");
    assert_eq!(proxy.get("Other.Apps.Test:80", "/").text(), "wild");
    assert_eq!(proxy.get("a.b.apps.test", "/").status, 0);
    assert_eq!(proxy.get("apps.test", "/").status, 0);
}
