//! The link to a controller: a fake one on the real socket.

use crate::origin::Origin;
use crate::proxy::{Running, one, quick, tcp_route, until};
use crate::tls;
use berth_model::route::{ProxyStatus, RouteTable};
use berth_model::tls::{CertificateTable, CertificateWanted};
use berth_model::traffic::TrafficReport;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What a fake controller serves and has heard.
#[derive(Default)]
struct Known {
    table: RouteTable,
    certificates: CertificateTable,
    polls: Vec<u64>,
    wishes: Vec<CertificateWanted>,
    statuses: Vec<ProxyStatus>,
    traffic: Vec<TrafficReport>,
}

fn controller(data: &Path, known: &Arc<Mutex<Known>>) {
    std::fs::create_dir_all(data.join("run")).unwrap();
    let listener = UnixListener::bind(data.join("run/internal.sock")).unwrap();
    let known = known.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let known = known.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &known));
        }
    });
}

fn answer(stream: UnixStream, known: &Mutex<Known>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = first.split(' ').nth(1)?;
    let mut stream = stream;
    if let Some(after) = path.strip_prefix("/proxy/v1/routes?after=") {
        let after: u64 = after.parse().unwrap();
        known.lock().unwrap().polls.push(after);
        let table =
            wait(|| Some(known.lock().unwrap().table.clone()).filter(|table| table.revision != after));
        say(stream, &table)
    } else if let Some(after) = path.strip_prefix("/proxy/v1/certificates?after=") {
        let after: u64 = after.parse().unwrap();
        let newer =
            || Some(known.lock().unwrap().certificates.clone()).filter(|table| table.revision != after);
        say(stream, &wait(newer))
    } else {
        match path {
            "/proxy/v1/status" => known.lock().unwrap().statuses.push(serde_json::from_slice(&body).unwrap()),
            "/proxy/v1/traffic" => known.lock().unwrap().traffic.push(serde_json::from_slice(&body).unwrap()),
            "/proxy/v1/certificate-wanted" => {
                known.lock().unwrap().wishes.push(serde_json::from_slice(&body).unwrap());
            }
            _ => panic!("an unknown path: {path}"),
        }
        write!(stream, "HTTP/1.1 204 No Content\r\n\r\n").ok()
    }
}

/// A fake's long poll.
fn wait<T>(news: impl Fn() -> Option<T>) -> T {
    loop {
        if let Some(news) = news() {
            return news;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn say(mut stream: UnixStream, table: &impl serde::Serialize) -> Option<()> {
    let json = serde_json::to_string(table).unwrap();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len()).ok()
}

#[test]
fn certificates_come_from_the_controller_and_are_asked_for() {
    let origin = Origin::fixed("ok");
    let known = Known {
        table: one("first.test", origin.address),
        certificates: CertificateTable { revision: 1, on_demand: true, ..Default::default() },
        ..Known::default()
    };
    let known = Arc::new(Mutex::new(known));
    let dir = tempfile::tempdir().unwrap();
    controller(dir.path(), &known);
    let mut proxy = Running::start_in(dir, quick());
    until("the table is served", || proxy.handle.status().certificates_revision == 1);
    until("the routes are served", || proxy.handle.status().revision == 1);
    let own = tls::Certified::of(&["first.test"]);
    // A name that leads to an app is asked for once, and its handshake waits; any other is refused at once.
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (client, https) = (own.client(&[b"http/1.1"]), proxy.https);
            std::thread::spawn(move || {
                tls::connect(https, "first.test", &client)
                    .map(|mut client| client.get("first.test", "/").text())
            })
        })
        .collect();
    assert!(tls::connect(proxy.https, "other.test", &own.client(&[])).is_err());
    until("it is asked for", || !known.lock().unwrap().wishes.is_empty());
    known.lock().unwrap().certificates = CertificateTable {
        revision: 2,
        certificates: vec![own.entry.clone()],
        on_demand: true,
        ..Default::default()
    };
    for one in waiting {
        assert_eq!(one.join().unwrap().unwrap(), "ok");
    }
    let wishes: Vec<String> = known.lock().unwrap().wishes.iter().map(|wish| wish.name.clone()).collect();
    assert_eq!(wishes, ["first.test"]);
    // Kept with its key, for this user alone, and presented after a start without a controller.
    let path = proxy.dir.path().join("proxy/certificates.json");
    let kept = || serde_json::from_slice::<CertificateTable>(&std::fs::read(&path).unwrap()).ok();
    until("it is kept", || path.exists() && kept().is_some_and(|table| table.revision == 2));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    proxy.stop();
    let again = tempfile::tempdir().unwrap();
    std::fs::create_dir(again.path().join("proxy")).unwrap();
    for name in ["table.json", "certificates.json"] {
        std::fs::copy(proxy.dir.path().join("proxy").join(name), again.path().join("proxy").join(name))
            .unwrap();
    }
    let proxy = Running::start_in(again, quick());
    let mut client = tls::connect(proxy.https, "first.test", &own.client(&[])).unwrap();
    assert_eq!(client.get("first.test", "/").text(), "ok");
}

#[test]
fn routes_come_from_the_controller_and_outlive_it() {
    let origin = Origin::fixed("ok");
    let dir = tempfile::tempdir().unwrap();
    let known = Arc::new(Mutex::new(Known { table: one("first.test", origin.address), ..Known::default() }));
    let mut proxy = Running::start_in(dir, quick());
    assert_eq!(proxy.get("first.test", "/").status, 503, "it starts without a controller");
    controller(proxy.dir.path(), &known);
    until("the first table is served", || proxy.handle.status().revision == 1);
    assert_eq!(proxy.get("first.test", "/").text(), "ok");
    let second = RouteTable { revision: 7, ..one("second.test", origin.address) };
    known.lock().unwrap().table = second.clone();
    until("the second table is served", || proxy.handle.status().revision == 7);
    assert_eq!(proxy.get("second.test", "/").text(), "ok");
    assert_eq!(proxy.get("first.test", "/").status, 0);
    until("it is reported", || known.lock().unwrap().statuses.iter().any(|status| status.revision == 7));
    let path = proxy.dir.path().join("proxy/table.json");
    until("it is kept", || {
        std::fs::read(&path).is_ok_and(|json| serde_json::from_slice(&json).ok() == Some(second.clone()))
    });
    let polls = known.lock().unwrap().polls.clone();
    assert_eq!(polls[..3], [0, 1, 7]);
    let status = known.lock().unwrap().statuses[0].clone();
    assert_eq!(status.proxy, "node-1");
    proxy.stop();
}

#[test]
fn a_port_that_is_taken_is_reported() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let table = RouteTable { revision: 1, tcp: vec![tcp_route(port, Vec::new())], ..RouteTable::default() };
    let known = Arc::new(Mutex::new(Known { table, ..Known::default() }));
    let dir = tempfile::tempdir().unwrap();
    controller(dir.path(), &known);
    let mut proxy = Running::start_in(dir, quick());
    until("the port is reported", || {
        known.lock().unwrap().statuses.iter().any(|status| status.tcp_errors.contains_key(&port))
    });
    drop(taken);
    until("it is listened on once it is free", || {
        known
            .lock()
            .unwrap()
            .statuses
            .last()
            .is_some_and(|status| status.revision == 1 && status.tcp_errors.is_empty())
    });
    proxy.stop();
}

#[test]
fn traffic_is_reported_once_and_only_where_there_is_some() {
    let origin = Origin::fixed("hello");
    let known = Arc::new(Mutex::new(Known { table: one("app.test", origin.address), ..Known::default() }));
    let dir = tempfile::tempdir().unwrap();
    controller(dir.path(), &known);
    let proxy = Running::start_in(dir, quick());
    until("the table is served", || proxy.get("app.test", "/").status == 200);
    for _ in 0..20 {
        assert_eq!(proxy.get("app.test", "/").status, 200);
    }
    let sum = |reports: &[TrafficReport]| -> (u64, u64) {
        let apps = reports.iter().flat_map(|report| report.apps.values());
        apps.fold((0, 0), |(answers, latencies), app| {
            let counted: u64 = app.latency.iter().map(|(_, count)| count).sum();
            (answers + app.answers[2], latencies + counted)
        })
    };
    until("all of it is told", || sum(&known.lock().unwrap().traffic) == (21, 21));
    let reports = known.lock().unwrap().traffic.clone();
    assert!(reports.iter().all(|report| report.proxy.starts_with("node-1/") && !report.apps.is_empty()));
    assert_eq!(reports.last().unwrap().apps.values().next().unwrap().in_flight, 0);
}
