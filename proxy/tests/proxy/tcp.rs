//! Raw TCP routes.

use crate::origin::Origin;
use crate::proxy::{Client, Running, backend, quick, tcp_route, until};
use berth_model::route::RouteTable;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn echo() -> Origin {
    Origin::start(|peer| {
        loop {
            let bytes = std::mem::take(&mut peer.pending);
            peer.say(bytes);
            if !peer.fill() {
                peer.say("end");
                return;
            }
        }
    })
}

#[test]
fn bytes_go_both_ways_and_each_end_is_passed_on() {
    let (origin, port) = (echo(), free_port());
    let down = backend("app.web.2.b", 1, at(free_port()));
    let route = tcp_route(port, vec![down, backend("app.web.1.a", 1, origin.address)]);
    let routes = RouteTable { revision: 1, tcp: vec![route], ..RouteTable::default() };
    let mut proxy = Running::start_with(&routes, quick());
    until("the port is open", || TcpStream::connect(at(port)).is_ok());
    for size in [1, 1000, 1_000_000] {
        let mut client = Client::connect(at(port));
        let message: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0]).collect();
        let mut writing = Client { stream: client.stream.try_clone().unwrap(), pending: Vec::new() };
        let sent = message.clone();
        let writer = std::thread::spawn(move || {
            writing.send(&sent);
            std::thread::sleep(quick().progress * 2); // an idle connection stays open
            writing.stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(client.take(message.len()) == message);
        writer.join().unwrap();
        assert_eq!(client.take(3), b"end");
        assert!(client.is_closed());
    }
    proxy.stop();
}

#[test]
fn ports_follow_the_table_and_connections_drain() {
    let (origin, port) = (echo(), free_port());
    let mut routes = RouteTable { revision: 1, ..RouteTable::default() };
    let mut proxy = Running::start_with(&routes, quick());
    assert!(TcpStream::connect(at(port)).is_err());
    let container = backend("app.web.1.a", 1, origin.address);
    routes.revision = 2;
    routes.tcp = vec![tcp_route(port, vec![container.clone()])];
    proxy.handle.apply(&routes);
    until("the port is open", || TcpStream::connect(at(port)).is_ok());
    let mut client = Client::connect(at(port));
    client.send("one");
    assert_eq!(client.take(3), b"one");
    proxy.handle.apply(&RouteTable { revision: 3, ..RouteTable::default() });
    until("the port is closed", || TcpStream::connect(at(port)).is_err());
    client.send("two");
    assert_eq!(client.take(3), b"two");
    until("only this connection drains", || {
        proxy.handle.status().draining.get(&container.container) == Some(&1)
    });
    drop(client);
    until("it has drained", || proxy.handle.status().draining.is_empty());
    proxy.stop();
}

#[test]
fn a_stop_gives_connections_their_time() {
    let (origin, port) = (echo(), free_port());
    let route = tcp_route(port, vec![backend("app.web.1.a", 1, origin.address)]);
    let mut proxy =
        Running::start_with(&RouteTable { revision: 1, tcp: vec![route], ..RouteTable::default() }, quick());
    until("the port is open", || TcpStream::connect(at(port)).is_ok());
    let mut client = Client::connect(at(port));
    client.send("one");
    assert_eq!(client.take(3), b"one");
    proxy.begin_stop();
    until("nobody listens", || TcpStream::connect(at(port)).is_err());
    client.send("two");
    assert_eq!(client.take(3), b"two");
    assert!(client.is_closed());
    assert!(proxy.stop() < Duration::from_secs(5));
}
