//! Slow clients and floods: they get their time and their part, and the others their answers.

use crate::origin::Origin;
use crate::proxy::{Client, Running, one, quick, until};
use berth_proxy::Settings;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A client from another address of this machine.
fn from(source: [u8; 4], to: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    Client { stream, pending: Vec::new() }
}

/// The latencies of `count` requests on one connection, sorted.
fn latencies(proxy: &Running, count: usize) -> Vec<Duration> {
    let mut client = from([127, 0, 0, 2], proxy.address);
    let mut all: Vec<Duration> = (0..count)
        .map(|_| {
            let began = Instant::now();
            client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
            assert_eq!(client.reply("GET").status, 200);
            began.elapsed()
        })
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn two_thousand_slow_heads_hold_nobody_up_and_end_in_time() {
    let origin = Origin::fixed("ok");
    let settings = Settings { header_read: Duration::from_secs(3), ..Settings::default() };
    let proxy = Running::start_with(&one("app.test", origin.address), settings);
    latencies(&proxy, 200);
    let p99 = |all: &[Duration]| all[all.len() * 99 / 100];
    let before = latencies(&proxy, 1000);
    let began = Instant::now();
    let mut slow: Vec<TcpStream> = (0..2000)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.address).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nX-Slow: ").unwrap();
            stream
        })
        .collect();
    for stream in &mut slow {
        let _ = stream.write_all(b"a"); // drop by drop; some may have had their time already
    }
    let during = latencies(&proxy, 1000);
    // Twice as long and a little more: this machine has other work too.
    let allowed = p99(&before) * 2 + Duration::from_millis(50);
    assert!(p99(&during) <= allowed, "p99 went from {:?} to {:?}", p99(&before), p99(&during));
    // Each gets its 408 (RFC 9110 §15.5.9), however it drips.
    let mut text = String::new();
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        text.clear();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_flood_from_one_address_leaves_room_for_others() {
    let origin = Origin::fixed("ok");
    let settings = Settings { max_connections: Some(40), ..Settings::default() };
    let proxy = Running::start_with(&one("app.test", origin.address), settings);
    let mut flood: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(proxy.address).unwrap()).collect();
    // Those that are refused are closed at once; the others are idle.
    let closed = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        !matches!(stream.read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let end = Instant::now() + Duration::from_secs(20);
    let mut refused = 0;
    while refused < 150 && Instant::now() < end {
        let mut left = Vec::new();
        for mut stream in flood.drain(..) {
            if closed(&mut stream) { refused += 1 } else { left.push(stream) }
        }
        flood = left;
    }
    assert!(refused >= 150, "{refused} of 200 were refused");
    for number in 2..8 {
        let mut client = from([127, 0, 0, number], proxy.address);
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        assert_eq!(client.reply("GET").status, 200, "127.0.0.{number}");
    }
    drop(flood);
    until("the first address may come again", || proxy.get("app.test", "/").status == 200);
}

#[test]
fn idle_connections_are_kept_shortly_when_there_are_too_many() {
    let origin = Origin::fixed("ok");
    let settings =
        Settings { max_connections: Some(8), idle: Duration::from_secs(60), ..Settings::default() };
    let proxy = Running::start_with(&one("app.test", origin.address), settings);
    let idle: Vec<Client> = (2..10).map(|number| from([127, 0, 0, number], proxy.address)).collect();
    let began = Instant::now();
    let mut late = from([127, 0, 0, 99], proxy.address);
    late.stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    late.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(late.reply("GET").status, 200);
    assert!(began.elapsed() < Duration::from_secs(40), "far less than 60 s");
    drop(idle);
}

#[test]
fn slow_bodies_and_slow_readers_end_in_time() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            if head.starts_with("POST") {
                peer.body(&head);
            }
            let part = vec![b'x'; 1 << 20];
            peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 << 20));
            for _ in 0..64 {
                peer.say(&part);
            }
        }
    });
    let proxy = Running::start_with(&one("app.test", origin.address), quick());
    // A body that stops: 408 (RFC 9110 §15.5.9).
    let began = Instant::now();
    let stopped = proxy.once("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100\r\n\r\nhalf");
    assert_eq!(stopped.status, 408);
    assert!(began.elapsed() < quick().progress * 8);
    // A reader that stops: cut, and the app's connection with it.
    let mut reader = proxy.client();
    reader.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(reader.head().unwrap().0, 200);
    let log = || std::fs::read_to_string(proxy.dir.path().join("proxy/access.log")).unwrap();
    until("the reader is given up", || {
        log().contains("\"status\":200") && log().contains("\"aborted\":true")
    });
}
