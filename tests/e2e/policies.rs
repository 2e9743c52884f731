//! How the proxy treats an app's requests: each setting by its command, seen by real requests.

use crate::apps::{REQUIREMENTS, WEB, push_server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Reply, Repo, Request, until};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("policy_settings_are_checked_and_reported", settings),
    ("policy_sizes_times_rates_and_addresses", limits),
    ("policy_passwords_before_an_app", passwords),
    ("policy_redirects_and_paths_of_a_host", hosts_and_paths),
    ("policy_maintenance_and_pages", maintenance),
    ("policy_pause_holds_requests_and_loses_none", pause),
    ("policy_restart_loses_no_request", restart),
    ("policy_sleeping_app_wakes_at_a_request", sleep),
    ("policy_sticky_sessions_and_balance", sticky),
];

/// It takes the hosts that others expect to be unknown.
pub(crate) const ROUGH: &[(&str, crate::RoughScenario)] =
    &[("policy_a_default_app_takes_unknown_hosts", default_app)];

fn with(berth: &Berth, host: &str, path: &str, fields: &[(&str, &str)]) -> Result<Reply> {
    let headers = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    berth.send(&Request { headers, ..Request::get(host, path) })
}

fn settings(berth: &Berth) -> Result<()> {
    let app = "policy-set";
    berth.ok(&["apps:create", app])?;
    let set = berth.ok(&["proxy:set", app, "max-body-size", "50M"])?.stdout;
    ensure!(set.contains("Setting max-body-size to 50m"), "{set}");
    berth.ok(&["nginx:set", app, "proxy-read-timeout", "120s"])?;
    let report = berth.ok(&["proxy:report", app])?.stdout;
    for line in [
        "Proxy max body size:           50m",
        "Proxy read timeout:            2m",
        "Proxy hsts max age:            15724800",
    ] {
        ensure!(report.contains(line), "no {line:?} in {report}");
    }
    ensure!(berth.ok(&["proxy:report", app, "--proxy-read-timeout"])?.stdout == "2m\n", "one value");
    berth.ok(&["proxy:set", "--global", "total-timeout", "1h"])?;
    ensure!(berth.ok(&["proxy:report", app, "--proxy-total-timeout"])?.stdout == "1h\n", "the platform's");
    berth.ok(&["proxy:set", "--global", "total-timeout"])?;
    ensure!(berth.ok(&["proxy:report", "--global", "--proxy-total-timeout"])?.stdout == "off\n", "reset");
    for (words, told) in [
        (vec!["proxy:set", app, "hsts", "maybe"], "hsts cannot be \"maybe\": write on or off"),
        (vec!["nginx:set", app, "proxy-buffering", "off"], "bodies are streamed both ways"),
        (vec!["nginx:set", app, "x-forwarded-for-value", "x"], "trust-forwarded"),
        (vec!["proxy:set", app, "nonsense", "1"], "is no setting of the proxy; there are: access-log-format"),
        (vec!["proxy:set", app, "trust-forwarded", "10.0.0.0/8"], "proxy:set --global trust-forwarded"),
        (vec!["proxy:set", app, "canonical-host", "else.example"], "add it first: berth domains:add"),
        (vec!["proxy:set", "--global", "default-app", "no-such-app"], "does not exist"),
        (vec!["redirect:set", app, "else.example", "a.example"], "add it first"),
        (vec!["proxy:pause", app, "--max-wait", "1h"], "from 100ms to 10m"),
        (vec!["errors:set", app, "500"], "there is no page \"500\""),
    ] {
        let said = berth.berth_with_input(&words, b"<p>x")?;
        ensure!(said.code != 0 && said.all().contains(told), "{words:?}: {}", said.all());
    }
    ensure!(berth.over_ssh(&["proxy:report", app, "--proxy-max-body-size"])?.stdout == "50m\n", "over SSH");
    Ok(())
}

fn limits(berth: &Berth) -> Result<()> {
    let app = "policy-limits";
    push_server(berth, app, "one", &[])?;
    let host = berth.host(app);
    let post = |length: usize| -> Result<u16> {
        let body = Some(vec![b'x'; length]);
        Ok(berth.send(&Request { method: "POST", body, ..Request::get(&host, "/") })?.status)
    };
    ensure!(post(3 << 20)? == 200, "no limit unless one is set: 1 MB is a known trap");
    berth.ok(&["nginx:set", app, "client-max-body-size", "1m"])?;
    ensure!((post(1 << 20)?, post((1 << 20) + 1)?) == (200, 413), "1 MiB and no more");
    berth.ok(&["proxy:set", app, "client-max-body-size"])?;
    ensure!(post(2 << 20)? == 200, "reset");

    berth.ok(&["proxy:set", app, "response-timeout", "500ms"])?;
    ensure!(berth.get(app, "/slow")?.status == 504, "it takes 2 s");
    berth.ok(&["proxy:set", app, "response-timeout"])?;
    ensure!(berth.get(app, "/slow")?.status == 200, "reset");

    berth.ok(&["proxy:set", app, "deny-ips", "127.0.0.0/8"])?;
    ensure!(berth.get(app, "/")?.status == 403, "denied");
    berth.ok(&["proxy:set", app, "deny-ips"])?;
    berth.ok(&["proxy:set", app, "allow-ips", "10.0.0.0/8,192.0.2.1"])?;
    ensure!(berth.get(app, "/")?.status == 403, "not allowed");
    berth.ok(&["proxy:set", app, "allow-ips", "127.0.0.1"])?;
    ensure!(berth.get(app, "/")?.status == 200, "allowed");

    berth.ok(&["proxy:set", app, "rate-limit", "2/h"])?;
    let statuses: Vec<_> = (0..4).map(|_| Ok(berth.get(app, "/")?.status)).collect::<Result<_>>()?;
    ensure!(statuses == [200, 200, 429, 429], "{statuses:?}");
    let wait = berth.get(app, "/")?.header("retry-after").and_then(|text| text.parse::<u32>().ok());
    ensure!(wait.is_some_and(|wait| (1700..=1800).contains(&wait)), "{wait:?}");
    berth.ok(&["proxy:set", app, "rate-limit", "off"])?;
    ensure!(berth.get(app, "/")?.status == 200, "off");
    Ok(())
}

fn passwords(berth: &Berth) -> Result<()> {
    let app = "policy-auth";
    push_server(berth, app, "one", &[])?;
    let host = berth.host(app);
    let enter =
        |value: &str| Ok::<_, anyhow::Error>(with(berth, &host, "/", &[("authorization", value)])?.status);
    berth
        .berth_with_input(&["http-auth:add-user", app, "ali", "--password-stdin"], b"open sesame\n")?
        .success()?;
    let refused = berth.get(app, "/")?;
    ensure!(refused.status == 401, "{}", refused.status);
    ensure!(
        refused.header("www-authenticate").is_some_and(|value| value.starts_with("Basic ")),
        "no challenge"
    );
    ensure!(enter("Basic YWxpOm9wZW4gc2VzYW1l")? == 200, "the right password");
    ensure!(enter("Basic YWxpOndyb25n")? == 401, "a wrong one");
    let report = berth.ok(&["http-auth:report", app])?.stdout;
    ensure!(report.contains("ali") && !report.contains("$2"), "{report}");
    let kept = std::fs::read_to_string(berth.data_dir().join("proxy/table.json"))?;
    ensure!(!kept.contains("open sesame"), "only the hash is kept");
    berth.ok(&["http-auth:remove-user", app, "ali"])?;
    ensure!(berth.get(app, "/")?.status == 200, "without users everybody may enter");
    Ok(())
}

fn hosts_and_paths(berth: &Berth) -> Result<()> {
    let (site, api) = ("policy-site", "policy-api");
    push_server(berth, site, "site", &[])?;
    let echo = "import os\nfrom http.server import *\nclass H(BaseHTTPRequestHandler):\n    def do_GET(self):\n        \
                data = f\"api {self.path} {self.headers.get('X-Forwarded-Prefix')}\".encode()\n        \
                self.send_response(200)\n        self.send_header('Content-Length', str(len(data)))\n        \
                self.end_headers()\n        self.wfile.write(data)\n\
                ThreadingHTTPServer(('0.0.0.0', int(os.environ['PORT'])), H).serve_forever()\n";
    Repo::new(berth, api, &[REQUIREMENTS, ("Procfile", WEB), ("server.py", echo)])?.push()?;
    berth.ok(&["domains:add", site, "policy.example", "www.policy.example"])?;
    berth.ok(&["domains:add", api, "policy.example/api"])?;
    berth.ok(&["proxy:route-add", api, "policy.example/v2", "--strip-prefix"])?;
    let get = |path: &str| berth.send(&Request::get("policy.example", path));
    ensure!(get("/")?.text() == "hello site" && get("/apix")?.text() == "hello site", "the rest of the host");
    ensure!(get("/api/x?y")?.text() == "api /api/x?y None", "{}", get("/api/x?y")?.text());
    ensure!(get("/v2/x?y")?.text() == "api /x?y /v2", "{}", get("/v2/x?y")?.text());
    for odd in ["/x/../api", "/x/%2e%2e/api", "//api", "/api%2fx"] {
        ensure!(get(odd)?.status == 400, "{odd}: {}", get(odd)?.status);
    }
    let taken = berth.berth(&["proxy:route-add", site, "policy.example/api"])?;
    ensure!(taken.code != 0 && taken.all().contains("leads to app policy-api"), "{}", taken.all());
    ensure!(berth.ok(&["proxy:routes", api])?.stdout.contains("policy.example/v2"), "listed");
    berth.ok(&["proxy:route-remove", api, "policy.example/api"])?;
    ensure!(get("/api/x")?.text() == "hello site", "taken away");

    berth.ok(&["proxy:set", site, "canonical-host", "policy.example"])?;
    let moved = berth.send(&Request::get("www.policy.example", "/a?b"))?;
    ensure!(
        moved.status == 301 && moved.header("location") == Some("http://policy.example/a?b"),
        "{moved:?}"
    );
    ensure!(get("/")?.status == 200, "the canonical one answers");
    berth.ok(&["proxy:set", site, "canonical-host"])?;
    berth.ok(&["redirect:set", site, "www.policy.example", "else.example", "308"])?;
    let moved = berth.send(&Request::get("www.policy.example", "/a"))?;
    ensure!(moved.status == 308 && moved.header("location") == Some("http://else.example/a"), "{moved:?}");
    berth.ok(&["redirect:unset", site, "www.policy.example"])?;
    berth.ok(&["proxy:set", site, "https-redirect", "on"])?;
    let moved = get("/a")?;
    ensure!(moved.status == 301 && moved.header("location") == Some("https://policy.example/a"), "{moved:?}");
    ensure!(moved.header("strict-transport-security").is_none(), "only over TLS (RFC 6797 §7.2)");
    berth.ok(&["proxy:set", site, "https-redirect"])?;
    Ok(())
}

fn default_app(berth: &mut Berth) -> Result<()> {
    let app = "policy-default";
    push_server(berth, app, "one", &[])?;
    let unknown = Request::get("nobody.example", "/");
    ensure!(berth.send(&unknown).is_err(), "unknown hosts get no answer at all");
    berth.ok(&["proxy:set", "--global", "default-app", app])?;
    ensure!(berth.send(&unknown)?.text() == "hello one", "the default app");
    berth.ok(&["proxy:set", "--global", "default-app"])?;
    ensure!(berth.send(&unknown).is_err(), "nobody takes them any more");
    berth.ok(&["--force", "apps:destroy", app])?;
    Ok(())
}

fn maintenance(berth: &Berth) -> Result<()> {
    let app = "policy-maintenance";
    push_server(berth, app, "one", &[])?;
    berth.ok(&["maintenance:on", app])?;
    let down = berth.get(app, "/")?;
    ensure!(down.status == 503 && down.header("retry-after") == Some("60"), "{down:?}");
    berth.berth_with_input(&["maintenance:custom-page", app], b"<h1>back at noon</h1>")?.success()?;
    ensure!(berth.get(app, "/x")?.text() == "<h1>back at noon</h1>", "its own page");
    let report = berth.ok(&["maintenance:report", app])?.stdout;
    ensure!(report.contains("Maintenance enabled:           true"), "{report}");
    berth.ok(&["apps:rename", app, "policy-renamed"])?;
    ensure!(berth.get("policy-renamed", "/")?.text() == "<h1>back at noon</h1>", "it goes with the app");
    berth.ok(&["maintenance:off", "policy-renamed"])?;
    ensure!(berth.get("policy-renamed", "/")?.text() == "hello one", "and off again");
    berth.berth_with_input(&["errors:set", "policy-renamed", "502"], b"<p>our 502")?.success()?;
    berth.ok(&["ps:stop", "policy-renamed"])?;
    let stopped = berth.get("policy-renamed", "/")?;
    ensure!(stopped.status == 502 && stopped.text() == "<p>our 502", "{stopped:?}");
    berth.ok(&["errors:unset", "policy-renamed", "502"])?;
    ensure!(berth.get("policy-renamed", "/")?.text() != "<p>our 502", "reset");
    Ok(())
}

fn pause(berth: &Berth) -> Result<()> {
    let app = "policy-pause";
    let repo = push_server(berth, app, "one", &[])?;
    let load = berth.load(app, 3);
    until(Duration::from_secs(10), "answers", || {
        ensure!(load.answered() > 20, "none yet");
        Ok(())
    })?;
    berth.ok(&["proxy:pause", app, "--max-wait", "1m"])?;
    ensure!(berth.ok(&["proxy:report", app, "--proxy-paused"])?.stdout == "1m\n", "it is paused");
    let held = load.answered();
    repo.change(&[("server.py", &crate::apps::server("two"))])?;
    ensure!(load.answered() <= held + 3, "held: {held} then {}", load.answered());
    berth.ok(&["proxy:resume", app])?;
    until(Duration::from_secs(10), "answers of the new version", || {
        ensure!(load.answered() > held + 100, "not yet");
        Ok(())
    })?;
    let report = load.finish();
    ensure!(report.failures.is_empty(), "{:?}", report.failures.first());
    ensure!(report.bodies.iter().any(|body| body == "hello two"), "{:?}", report.bodies);
    Ok(())
}

/// One container, killed under load: what it had is lost, what comes then waits for its next life.
fn restart(berth: &Berth) -> Result<()> {
    let app = "policy-restart";
    push_server(berth, app, "one", &[])?;
    berth.ok(&["proxy:set", app, "hold-timeout", "15s"])?;
    let pid = *berth.pids(app)?.first().context("it has a process")?;
    ensure!(berth.get(app, "/crash").is_ok_and(|reply| reply.status == 502), "it dies under this one");
    // What a dying process has taken already is not sent again: it may be what kills it.
    until(Duration::from_secs(10), "the process to be gone", || {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it still dies");
        Ok(())
    })?;
    for n in 0..20 {
        let reply = berth.get(app, "/")?;
        ensure!(reply.status == 200, "request {n} after the crash: {} {}", reply.status, reply.text());
    }
    Ok(())
}

fn sleep(berth: &Berth) -> Result<()> {
    let app = "policy-sleep";
    push_server(berth, app, "one", &[])?;
    berth.ok(&["ps:set", app, "idle-timeout", "2s"])?;
    let asleep = |what: &str| {
        until(Duration::from_secs(40), what, || {
            let status = berth.ok(&["ps:report", app, "--status"])?.stdout;
            ensure!(status == "asleep\n", "{status}");
            ensure!(berth.containers(app)?.is_empty(), "its container is still there");
            Ok(())
        })
    };
    asleep("it to fall asleep")?;
    ensure!(berth.ok(&["ps:scale", app])?.stdout.contains("web: 1"), "what is wanted stays");
    let began = Instant::now();
    let askers: Vec<Reply> = std::thread::scope(|scope| {
        let ask = || berth.get(app, "/");
        let all: Vec<_> = (0..5).map(|_| scope.spawn(ask)).collect();
        all.into_iter().map(|one| one.join().ok().context("it panicked")?).collect::<Result<_>>()
    })?;
    ensure!(askers.iter().all(|reply| reply.text() == "hello one"), "{askers:?}");
    ensure!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    ensure!(berth.containers(app)?.len() == 1, "one was started, however many asked");
    asleep("it to fall asleep again")?;
    berth.ok(&["ps:restart", app])?;
    ensure!(berth.ok(&["ps:report", app, "--status"])?.stdout == "running\n", "a restart wakes it");
    berth.ok(&["ps:set", app, "idle-timeout"])?;
    berth.ok(&["ps:stop", app])?;
    ensure!(berth.get(app, "/")?.status == 502, "who stops it does not want it woken");
    Ok(())
}

fn sticky(berth: &Berth) -> Result<()> {
    let app = "policy-sticky";
    push_server(berth, app, "one", &[])?;
    let host = berth.host(app);
    berth.ok(&["ps:scale", app, "web=2"])?;
    berth.ok(&["proxy:set", app, "sticky", "on"])?;
    berth.ok(&["proxy:set", app, "health-path", "/"])?;
    berth.ok(&["proxy:set", app, "circuit-failures", "5"])?;
    berth.ok(&["proxy:set", app, "slow-start", "1s"])?;
    berth.ok(&["proxy:set", app, "max-requests", "50"])?;
    let first = berth.get(app, "/who")?;
    let cookie =
        first.header("set-cookie").context("no cookie")?.split(';').next().unwrap_or_default().to_owned();
    for _ in 0..20 {
        let again = with(berth, &host, "/who", &[("cookie", &cookie)])?;
        ensure!(again.text() == first.text() && again.header("set-cookie").is_none(), "{again:?}");
    }
    let mut seen = std::collections::BTreeSet::new();
    until(Duration::from_secs(10), "both containers to answer those without a cookie", || {
        seen.insert(berth.get(app, "/who")?.text());
        ensure!(seen.len() == 2, "{seen:?}");
        Ok(())
    })?;
    berth.ok(&["ps:restart", app])?;
    ensure!(
        with(berth, &host, "/who", &[("cookie", &cookie)])?.status == 200,
        "its container is gone, not the app"
    );
    Ok(())
}
