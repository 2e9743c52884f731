//! Requests and answers: keep-alive, streaming, early answers, timeouts, WebSockets, dying apps.

use crate::origin::{Origin, Peer, field};
use crate::proxy::{Client, Running, backend, one, quick, route, table, until};
use berth_model::route::{RouteTable, Target};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn connections_are_reused_on_both_sides() {
    let origin = Origin::fixed("hello");
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    for number in 0..50 {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        let reply = client.reply("GET");
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            let path = head.split(' ').nth(1).unwrap().to_owned();
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    let request = |n: u32| match n % 3 {
        0 => format!("GET /{n} HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        1 => format!("POST /{n} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello"),
        _ => format!(
            "POST /{n} HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        ),
    };
    client.send((0..30).map(request).collect::<String>());
    for n in 0..30 {
        assert_eq!(client.reply("GET").text(), format!("/{n}"));
    }
}

#[test]
fn what_the_app_gets_says_who_asked() {
    let origin = Origin::fixed("ok");
    let proxy = Running::start(&one("app.test", origin.address));
    proxy.once(
        "GET /x HTTP/1.1\r\nHost: App.Test:8080\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-Id: given-1\r\n\r\n",
    );
    let seen = origin.text();
    assert_eq!(field(&seen, "host").as_deref(), Some("App.Test:8080"));
    assert_eq!(field(&seen, "x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(field(&seen, "x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(field(&seen, "x-forwarded-host").as_deref(), Some("App.Test:8080"));
    assert_eq!(field(&seen, "x-forwarded-port"), Some(proxy.address.port().to_string()));
    assert_eq!(field(&seen, "x-request-id").as_deref(), Some("given-1"));
    assert!(field(&seen, "x-request-start").unwrap().parse::<u64>().unwrap() > 1_700_000_000_000);
}

#[test]
fn hosts_without_an_answer() {
    let routes = RouteTable {
        revision: 1,
        http: vec![
            route("stopped.test", Target::NoWeb),
            route("starting.test", Target::Backends { backends: Vec::new() }),
        ],
        ..RouteTable::default()
    };
    let proxy = Running::start(&routes);
    assert_eq!(proxy.get("unknown.test", "/").status, 0);
    assert_eq!(proxy.get("stopped.test", "/").status, 502);
    let starting = proxy.get("starting.test", "/");
    assert_eq!((starting.status, starting.field("retry-after").as_deref()), (503, Some("2")));
    let page = proxy.once("GET / HTTP/1.1\r\nHost: stopped.test\r\nAccept: text/html,*/*\r\n\r\n");
    assert!(page.text().starts_with("<!doctype html>"), "{}", page.text());
    assert!(!page.text().contains("stopped") && page.field("server").is_none());
    // The connection goes on after such a page.
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: stopped.test\r\n\r\n");
        assert_eq!(client.reply("GET").status, 502);
    }
}

#[test]
fn without_a_table_the_answer_is_not_yet() {
    let proxy = Running::start_in(tempfile::tempdir().unwrap(), quick());
    assert_eq!(proxy.get("app.test", "/").status, 503);
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            match head.split(' ').nth(1).unwrap() {
                "/204" => peer.say("HTTP/1.1 204 No Content\r\n\r\n"),
                "/304" => peer.say("HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nETag: x\r\n\r\n"),
                "/103" => peer.say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
                _ => peer.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
            }
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    for (method, path, status) in
        [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("GET", "/103", 103)]
    {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        assert_eq!(client.reply(method).status, status);
    }
    assert_eq!(client.reply("GET").text(), "x");
    assert_eq!(origin.count(), 1);
}

#[test]
fn an_answer_until_the_end_of_the_connection_is_chunked_and_its_end_is_seen() {
    let origin = Origin::start(|peer| {
        if let Some(head) = peer.head() {
            peer.say("HTTP/1.0 200 OK\r\nX-Old: 1\r\n\r\nhello ");
            if head.contains("/cut") {
                // An answer that breaks is not an answer that ends: reset, do not close.
                let socket = socket2::SockRef::from(&peer.stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
                std::thread::sleep(Duration::from_millis(50)); // let the first part get through before the reset
            } else {
                peer.say("world");
            }
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let whole = proxy.get("app.test", "/");
    assert_eq!((whole.text().as_str(), whole.complete), ("hello world", true));
    let cut = proxy.get("app.test", "/cut");
    assert!(!cut.complete);
    let old = proxy.once("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
    assert_eq!(old.text(), "hello world");
    assert!(old.field("transfer-encoding").is_none());
}

#[test]
fn a_cut_answer_is_cut_for_the_client_too() {
    let origin = Origin::start(|peer| {
        if peer.head().is_some() {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let reply = proxy.get("app.test", "/");
    assert_eq!((reply.status, reply.complete), (200, false));
}

#[test]
fn both_bodies_stream_at_once() {
    // The origin answers each part of the request as it comes; neither waits for the other's end.
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            assert!(field(&head, "transfer-encoding").is_some());
            peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            loop {
                if let Some(at) = peer.pending.windows(5).position(|window| window == b"0\r\n\r\n") {
                    peer.pending.drain(..at + 5);
                    break;
                }
                if let Some(at) = peer.pending.windows(4).position(|window| window == b"ping") {
                    peer.pending.drain(..at + 4);
                    peer.say("4\r\npong\r\n");
                    continue;
                }
                if !peer.fill() {
                    return;
                }
            }
            peer.say("0\r\n\r\n");
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().unwrap().0, 200);
    for _ in 0..5 {
        client.send("4\r\nping\r\n");
        assert_eq!(client.take(9), b"4\r\npong\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.take(5), b"0\r\n\r\n");
}

#[test]
fn an_early_answer_ends_the_upload() {
    let origin = Origin::start(|peer| {
        if peer.head().is_some() {
            peer.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge");
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000000\r\n\r\n");
    client.send(vec![b'x'; 100_000]);
    let reply = client.reply("POST");
    assert_eq!((reply.status, reply.text().as_str()), (413, "large"));
    assert_eq!(reply.field("connection").as_deref(), Some("close"));
}

#[test]
fn a_client_that_waits_for_100_gets_the_apps_word() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            assert_eq!(field(&head, "expect").as_deref(), Some("100-continue"));
            if head.contains("/no") {
                peer.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            peer.say("HTTP/1.1 100 Continue\r\n\r\n");
            let body = peer.body(&head);
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            peer.say(body);
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.reply("POST").status, 100);
    client.send("hello");
    assert_eq!(client.reply("POST").text(), "hello");
    client.send("POST /no HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let refused = client.reply("POST");
    assert_eq!((refused.status, refused.field("connection").as_deref()), (403, Some("close")));
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_large_body_streams_through_a_small_memory() {
    const SIZE: usize = 64 << 20;
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            let mut left =
                field(&head, "content-length").map_or(0, |length| length.parse::<usize>().unwrap());
            let mut space = vec![0; 65536];
            left -= peer.pending.len().min(left);
            peer.pending.clear();
            while left > 0 {
                let count = peer.stream.read(&mut space).unwrap();
                assert!(count > 0);
                left -= count;
            }
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            for _ in 0..SIZE / space.len() {
                peer.say(&space);
            }
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    assert_eq!(proxy.get("app.test", "/unknown-to-nobody").status, 200); // warm: threads, buffers, pools
    let before = resident_kib();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {SIZE}\r\n\r\n"));
    let part = vec![b'x'; 65536];
    for _ in 0..SIZE / part.len() {
        client.send(&part);
    }
    assert_eq!(client.head().unwrap().0, 200);
    let mut left = SIZE - client.pending.len();
    let mut space = vec![0; 65536];
    while left > 0 {
        let count = client.stream.read(&mut space).unwrap();
        assert!(count > 0);
        left -= count;
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "grew by {grown} KiB while {SIZE} bytes went each way");
}

#[test]
fn a_slow_reader_holds_up_the_app_and_no_memory() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let origin = Origin::start(move |peer: &mut Peer| {
        if peer.head().is_some() {
            peer.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let part = [&b"10000\r\n"[..], &[b'x'; 65536], b"\r\n"].concat();
            peer.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            use std::io::Write;
            for _ in 0..2000 {
                if peer.stream.write_all(&part).is_err() {
                    return;
                }
                counter.fetch_add(part.len(), Ordering::SeqCst);
            }
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.head().unwrap().0, 200);
    // Nobody reads: what the kernel's buffers take is all that moves, and the origin's writes come to a stop.
    until("the origin is held up", || {
        let before = sent.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(350));
        sent.load(Ordering::SeqCst) == before && before > 0
    });
    assert!(sent.load(Ordering::SeqCst) < 40 << 20);
}

#[test]
fn a_websocket_is_a_tunnel_after_101_only() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            if field(&head, "upgrade").is_none() || head.contains("/no") {
                assert!(peer.pending.is_empty(), "nothing of a tunnel before the 101");
                peer.say("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno");
                continue;
            }
            assert_eq!(field(&head, "connection").as_deref(), Some("Upgrade"));
            peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: x\r\n\r\nhi");
            loop {
                let bytes = std::mem::take(&mut peer.pending);
                peer.say(bytes);
                if !peer.fill() {
                    peer.say("bye");
                    return;
                }
            }
        }
    });
    let mut proxy = Running::start_with(&one("app.test", origin.address), quick());
    let ask = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
        )
    };
    let mut client = proxy.client();
    client.send(ask("/no"));
    assert_eq!(client.reply("GET").text(), "no");
    client.send(ask("/yes"));
    let (status, head) = client.head().unwrap();
    assert_eq!((status, field(&head, "sec-websocket-accept").as_deref()), (101, Some("x")));
    assert_eq!(client.take(2), b"hi");
    for size in [1, 100, 100_000] {
        let message = vec![b'm'; size];
        client.send(&message);
        assert_eq!(client.take(size), message);
    }
    // It outlives the times for requests, and each side's end is passed on.
    std::thread::sleep(quick().progress * 2);
    client.send("still here");
    assert_eq!(client.take(10), b"still here");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.take(3), b"bye");
    assert!(client.is_closed());
    proxy.stop();
}

#[test]
fn timeouts_have_their_answers() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            if head.contains("/stall") {
                peer.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            }
            while peer.fill() {}
        }
    });
    let proxy = Running::start_with(&one("app.test", origin.address), quick());
    let began = Instant::now();
    assert_eq!(proxy.get("app.test", "/silent").status, 504);
    assert!(began.elapsed() >= quick().progress);
    let stalled = proxy.get("app.test", "/stall");
    assert_eq!((stalled.status, stalled.complete), (200, false));
    assert_eq!(proxy.once("GET / HTTP/1.1\r\nHost: app.te").status, 408);
    let unfinished = proxy.once("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nhalf");
    assert_eq!(unfinished.status, 408);
}

#[test]
fn a_client_that_goes_away_ends_the_request() {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let origin = Origin::start(move |peer| {
        if peer.head().is_some() {
            peer.say(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            while peer.fill() {}
            flag.store(true, Ordering::SeqCst);
        }
    });
    let settings = berth_proxy::Settings { progress: Duration::from_secs(60), ..quick() };
    let proxy = Running::start_with(&one("app.test", origin.address), settings);
    let mut client = proxy.client();
    client.send("GET /events HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.head().unwrap().0, 200);
    drop(client);
    until("the app sees the end", || ended.load(Ordering::SeqCst));
}

#[test]
fn a_client_that_only_shuts_its_side_still_gets_its_answer() {
    let origin = Origin::start(|peer| {
        while peer.head().is_some() {
            std::thread::sleep(Duration::from_millis(100)); // an app that thinks
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.reply("GET").text(), "ok");
}

#[test]
fn another_backend_answers_for_one_that_is_down() {
    let origin = Origin::fixed("up");
    let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let backends = [backend("a", 1, down), backend("b", 1, origin.address)];
    let proxy = Running::start(&table(1, &[("app.test", &backends), ("down.test", &backends[..1])]));
    for _ in 0..40 {
        let reply = proxy.once("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(reply.status, 200);
    }
    assert_eq!(proxy.get("down.test", "/").status, 502);
}

#[test]
fn a_connection_the_app_has_closed_costs_no_request() {
    // Every connection carries one request and is then closed without a word, as an app's idle timeout does.
    let origin = Origin::start(|peer| {
        if let Some(head) = peer.head() {
            peer.body(&head);
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    for number in 0..100 {
        match number % 2 {
            0 => client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"),
            _ => client.send("PUT / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello"),
        }
        assert_eq!(client.reply("GET").status, 200, "request {number}");
    }
}

#[test]
fn a_request_that_may_have_been_done_is_not_sent_twice() {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let origin = Origin::start(move |peer| {
        if let Some(head) = peer.head() {
            peer.body(&head);
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let backends = [backend("a", 1, origin.address), backend("b", 1, origin.address)];
    let proxy = Running::start(&table(1, &[("app.test", &backends)]));
    let reply = proxy.once("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((reply.status, count.load(Ordering::SeqCst)), (502, 1));
    assert_eq!(proxy.get("app.test", "/").status, 502);
    assert_eq!(count.load(Ordering::SeqCst), 3, "a GET is tried on both");
}

#[test]
fn a_bad_answer_is_a_502_that_tells_nothing() {
    let origin = Origin::start(|peer| {
        if let Some(head) = peer.head() {
            peer.say(match head.split(' ').nth(1).unwrap() {
                "/ssh" => "SSH-2.0-OpenSSH_9.2 secret\r\n\r\n".to_owned(),
                "/101" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nsecret".to_owned(),
                "/two" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(),
                "/huge" => format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(70_000)),
                _ => "HTTP/1.1 200 OK\r\nA: b".to_owned(),
            });
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    for path in ["/ssh", "/101", "/two", "/huge", "/cut"] {
        let reply = proxy.get("app.test", path);
        assert_eq!(reply.status, 502, "{path}");
        assert!(!reply.text().contains("secret") && !reply.text().contains("127.0.0.1"));
    }
}

#[test]
fn extra_bytes_behind_an_answer_reach_nobody() {
    let origin = Origin::start(|peer| {
        while peer.head().is_some() {
            peer.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
        }
    });
    let proxy = Running::start(&one("app.test", origin.address));
    let mut client = proxy.client();
    for _ in 0..5 {
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(client.reply("GET").text(), "ok");
    }
    assert_eq!(origin.count(), 5, "no such connection is used again");
}

#[test]
fn every_request_is_logged() {
    let origin = Origin::fixed("hello");
    let mut proxy = Running::start(&one("app.test", origin.address));
    let mut client = Client::connect(proxy.address);
    client.send(
        "POST /a?token=secret HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: r1\r\nContent-Length: 3\r\n\r\nabc",
    );
    client.reply("POST");
    drop(client);
    proxy.stop();
    let log = proxy.log();
    assert_eq!(log.len(), 1);
    let line = &log[0];
    for (key, value) in [
        ("app", "app".into()),
        ("release", 3.into()),
        ("container", "app.web.1.a".into()),
        ("client", "127.0.0.1".into()),
        ("method", "POST".into()),
        ("host", "app.test".into()),
        ("path", "/a".into()),
        ("status", 200.into()),
        ("received", 3.into()),
        ("id", serde_json::Value::from("r1")),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert!(line["total_us"].as_u64() >= line["first_byte_us"].as_u64());
}
