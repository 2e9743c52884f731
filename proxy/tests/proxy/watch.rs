//! What can be seen of a proxy: access log, metrics, traces, and what it reports of its traffic.

use crate::origin::{Origin, field};
use crate::proxy::{Client, Running, one, until};
use berth_model::route::{AccessLogFormat, ProxySettings, RouteTable, TraceContext};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn with(settings: ProxySettings, table: RouteTable) -> RouteTable {
    RouteTable { settings, ..table }
}

fn raw_log(proxy: &Running) -> String {
    std::fs::read_to_string(proxy.dir.path().join("proxy/access.log")).unwrap()
}

#[test]
fn a_table_says_how_the_log_is_written() {
    let origin = Origin::fixed("hello");
    let format = |format| ProxySettings { access_log_format: Some(format), ..ProxySettings::default() };
    let table =
        |revision, settings| with(settings, RouteTable { revision, ..one("app.test", origin.address) });
    let mut proxy = Running::start(&table(1, format(AccessLogFormat::Combined)));
    let request = |path: &str| {
        format!(
            "GET {path}?secret HTTP/1.1\r\nHost: app.test\r\nUser-Agent: a \"b\"\r\nReferer: http://r.test/x?secret\r\n\
             X-Request-Id: r1\r\ntraceparent: {TRACE}\r\n\r\n"
        )
    };
    let ask = |path: &str| {
        let mut client = Client::connect(proxy.address);
        client.send(request(path));
        assert_eq!(client.reply("GET").status, 200);
        // The connection's next request is looked at when this one's line is written.
        client.send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n");
        assert!(client.is_closed());
    };
    ask("/one");
    proxy.handle.apply(&table(2, format(AccessLogFormat::Off)));
    ask("/two");
    proxy.handle.apply(&table(3, ProxySettings::default()));
    ask("/three");
    proxy.stop();
    let log = raw_log(&proxy);
    let mut lines: Vec<&str> = log.lines().collect(); // in the order of the threads that wrote them
    lines.sort_unstable();
    let [first, second] = lines[..] else { panic!("two lines: {log}") };
    assert!(first.starts_with("127.0.0.1 - - ["), "{first}");
    let wanted = "] \"GET /one HTTP/1.1\" 200 5 \"http://r.test/x\" \"a \\x22b\\x22\" host=\"app.test\" app=app release=3 \
                  container=app.web.1.a scheme=http id=r1 trace=0af7651916cd43dd8448eb211c80319c received=0 total_us=";
    assert!(first.contains(wanted), "{first}");
    assert!(first.contains(" connect_us="), "the first request had to connect: {first}");
    let second: serde_json::Value = serde_json::from_str(second).unwrap();
    for (key, value) in [
        ("path", "/three"),
        ("protocol", "HTTP/1.1"),
        ("scheme", "http"),
        ("agent", "a \"b\""),
        ("referer", "http://r.test/x"),
        ("trace", "0af7651916cd43dd8448eb211c80319c"),
    ] {
        assert_eq!(second[key], value, "{second}");
    }
    assert!(!log.contains("secret"));
}

#[test]
fn a_line_cannot_be_forged() {
    let origin = Origin::fixed("hello");
    for format in [AccessLogFormat::Json, AccessLogFormat::Combined] {
        let settings = ProxySettings { access_log_format: Some(format), ..ProxySettings::default() };
        let mut proxy = Running::start(&with(settings, one("app.test", origin.address)));
        let mut client = Client::connect(proxy.address);
        client.send(
            b"GET /\"} HTTP/1.1\r\nHost: app.test\r\nUser-Agent: \"} {\"app\":\"other\" app=other \xe2\x80\xae\r\n\r\n",
        );
        client.reply("GET");
        drop(client);
        proxy.stop();
        let log = raw_log(&proxy);
        assert!(log.is_ascii() && log.lines().count() == 1, "{log}");
        match format {
            AccessLogFormat::Combined => assert_eq!(log.matches('"').count(), 8, "{log}"),
            _ => assert_eq!(proxy.log()[0]["app"], "app"),
        }
    }
}

#[test]
fn traces_begin_where_the_settings_say_so() {
    // W3C Trace Context §3.4, §4.3: see `trace_context`.
    let origin = Origin::fixed("hello");
    for (context, flags) in [
        (TraceContext::Pass, None),
        (TraceContext::Unsampled, Some("-00")),
        (TraceContext::Sampled, Some("-01")),
    ] {
        let settings = ProxySettings { trace_context: context, ..ProxySettings::default() };
        let mut proxy = Running::start(&with(settings, one("app.test", origin.address)));
        let ask = |fields: &str| {
            origin.received.lock().unwrap().clear();
            assert_eq!(proxy.once(format!("GET / HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n")).status, 200);
            let seen = origin.text();
            (field(&seen, "traceparent"), field(&seen, "tracestate"))
        };
        let given = ask(&format!("traceparent: {TRACE}\r\ntracestate: a=1\r\n"));
        assert_eq!(given, (Some(TRACE.to_owned()), Some("a=1".to_owned())));
        for fields in ["", "traceparent: 00-bad\r\ntracestate: a=1\r\n"] {
            let (parent, state) = ask(fields);
            assert_eq!(state, None, "tracestate goes with a valid traceparent only");
            match flags {
                None => assert_eq!(parent, None),
                Some(flags) => {
                    let parent = parent.expect("a trace begins here");
                    assert!(parent.len() == 55 && parent.ends_with(flags), "{parent}");
                }
            }
        }
        proxy.stop();
        let log = proxy.log();
        let traced = log.iter().filter_map(|line| line.get("trace")).count();
        assert!(log.iter().any(|line| line["trace"] == "0af7651916cd43dd8448eb211c80319c"), "{log:?}");
        assert_eq!(traced, if flags.is_some() { 3 } else { 1 }, "{log:?}");
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn scrape(at: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The value of a series; all of `series` must be there.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// A request is counted when its answer has been written, which its client may see first.
fn until_counted(at: SocketAddr, series: &str, count: f64) {
    until(series, || {
        TcpStream::connect(at).is_ok()
            && value(&scrape(at, "GET /metrics HTTP/1.1\r\n\r\n"), series) == Some(count)
    });
}

#[test]
fn metrics_count_what_happened() {
    let origin = Origin::start(|peer| {
        while let Some(head) = peer.head() {
            peer.body(&head);
            let status = head.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
            peer.say(format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\nhello"));
        }
    });
    let at = free_address();
    let proxy = Running::start_watched(&one("app.test", origin.address), at);
    for (method, status, times) in [("GET", 200, 3), ("POST", 200, 2), ("GET", 404, 1), ("GET", 299, 1)] {
        for _ in 0..times {
            let reply = proxy
                .once(format!("{method} /{status} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n"));
            assert_eq!(reply.status, status);
        }
    }
    assert_eq!(proxy.once("GET / HTTP/1.1\r\n\r\n").status, 400);
    assert_eq!(proxy.get("nobody.test", "/").status, 0);
    let get = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    until_counted(at, "berth_proxy_request_duration_seconds_count{app=\"app\"}", 7.0);
    let page = scrape(at, get);
    assert!(page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{page}");
    for (series, count) in [
        ("berth_proxy_requests_total{app=\"app\",code=\"200\",method=\"safe\"}", 3.0),
        ("berth_proxy_requests_total{app=\"app\",code=\"200\",method=\"unsafe\"}", 2.0),
        ("berth_proxy_requests_total{app=\"app\",code=\"404\",method=\"safe\"}", 1.0),
        ("berth_proxy_requests_total{app=\"app\",code=\"2xx\",method=\"safe\"}", 1.0),
        ("berth_proxy_request_duration_seconds_count{app=\"app\"}", 7.0),
        ("berth_proxy_request_duration_seconds_bucket{app=\"app\",le=\"+Inf\"}", 7.0),
        ("berth_proxy_first_byte_seconds_count{app=\"app\"}", 7.0),
        ("berth_proxy_in_flight{app=\"app\"}", 0.0),
        ("berth_proxy_backends{app=\"app\"}", 1.0),
        ("berth_proxy_refused_total{code=\"400\",reason=\"no Host field\"}", 1.0),
        ("berth_proxy_unknown_host_total", 1.0),
        ("berth_proxy_accepted_total", 9.0),
        ("berth_proxy_routes_revision", 1.0),
        ("berth_proxy_hosts", 1.0),
        ("berth_proxy_log_lines_dropped_total", 0.0),
    ] {
        assert_eq!(value(&page, series), Some(count), "{series} in {page}");
    }
    // Buckets only grow (the text format: "le" is cumulative).
    let buckets: Vec<f64> = page
        .lines()
        .filter(|line| line.starts_with("berth_proxy_request_duration_seconds_bucket"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(buckets.len() == 17 && buckets.is_sorted(), "{buckets:?}");
    let open =
        scrape(at, "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n");
    assert!(open.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0;"), "{open}");
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE berth_proxy_requests counter\n"), "{open}");
    assert!(scrape(at, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(scrape(at, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(scrape(at, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let head = scrape(at, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn what_fails_is_counted() {
    let dead = free_address();
    let at = free_address();
    let proxy = Running::start_watched(&one("app.test", dead), at);
    assert_eq!(proxy.get("app.test", "/").status, 502);
    until_counted(at, "berth_proxy_connect_failures_total{app=\"app\"}", 1.0);
    let page = scrape(at, "GET /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(value(&page, "berth_proxy_backends_ejected{app=\"app\"}"), Some(1.0), "{page}");
    assert_eq!(
        value(&page, "berth_proxy_requests_total{app=\"app\",code=\"502\",method=\"safe\"}"),
        Some(1.0)
    );
}
