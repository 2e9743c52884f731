//! Certificates: brought by users, and got by ACME from a server that really looks.

use anyhow::{Context, Result, ensure};
use berth_tests::{Acme, AcmeOptions, Berth, Output, Repo, Role, until};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("acme_renews_by_itself", renewal),
    ("certs_of_ones_own", own),
    ("certs_of_the_platform", global),
    ("acme_by_http_then_a_new_domain_then_by_tls", by_http),
    ("acme_wildcards_by_dns", by_dns),
    ("acme_failures_say_what_to_do", failures),
    ("acme_on_demand", on_demand),
];

pub(crate) const ROUGH: &[(&str, crate::RoughScenario)] =
    &[("acme_order_survives_the_controller", interrupted)];

const LONG: Duration = Duration::from_secs(90 * 24 * 3600);

fn acme(berth: &Berth, life: Duration) -> Result<Acme> {
    Acme::start(AcmeOptions { http: berth.http, https: berth.https, life })
}

/// Makes an app that gets its certificates from `acme`.
fn app(berth: &Berth, acme: &Acme, app: &str) -> Result<()> {
    berth.ok(&["apps:create", app])?;
    use_acme(berth, acme, app)
}

fn use_acme(berth: &Berth, acme: &Acme, app: &str) -> Result<()> {
    berth.ok(&["letsencrypt:set", app, "email", "ops@example.com"])?;
    berth.ok(&["letsencrypt:set", app, "server", &acme.url()])?;
    let ca = acme.ca_file();
    berth.ok(&["letsencrypt:set", app, "ca-bundle", ca.to_str().context("a path")?])?;
    Ok(())
}

fn curl(host: &str, to: SocketAddr, root: &Path, more: &[&str]) -> Result<Output> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "60", "--noproxy", "*", "--cacert"]).arg(root).args(more);
    command.args(["--resolve", &format!("{host}:{}:{}", to.port(), to.ip())]);
    let output = command.arg(format!("https://{host}:{}/", to.port())).stdin(Stdio::null()).output()?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A host is served by TLS with a certificate that `root` signed.
fn trusted(berth: &Berth, host: &str, root: &Path) -> Result<()> {
    until(Duration::from_secs(20), &format!("https://{host} to be trusted"), || {
        curl(host, berth.https, root, &["-o", "/dev/null"])?.success().map(drop)
    })
}

fn report(berth: &Berth, app: &str, key: &str) -> Result<String> {
    Ok(berth.ok(&["certs:report", app, key])?.stdout.trim().to_owned())
}

/// A certificate that signs itself: (certificate, key).
fn self_signed(directory: &Path, names: &str, name: &str) -> Result<(String, String)> {
    let path = |end: &str| directory.join(format!("{name}.{end}"));
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=Mine", "-addext",
        ])
        .arg(format!("subjectAltName={names}"))
        .arg("-keyout")
        .arg(path("key"))
        .arg("-out")
        .arg(path("crt"))
        .stderr(Stdio::null())
        .status()?;
    ensure!(made.success(), "openssl made a certificate");
    let text = |end: &str| path(end).to_str().map(str::to_owned).context("a path");
    Ok((text("crt")?, text("key")?))
}

fn own(berth: &Berth) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let repo = Repo::new(berth, "certown", &[("public/index.html", "over TLS")])?;
    repo.push()?;
    let host = berth.host("certown");
    let url = berth.ok(&["url", "certown"])?.stdout;
    ensure!(url.starts_with("http://"), "{url}");
    ensure!(report(berth, "certown", "--ssl-enabled")? == "false", "none yet");
    let (crt, key) = self_signed(directory.path(), &format!("DNS:{host}"), "server")?;
    let (_, strange) = self_signed(directory.path(), &format!("DNS:{host}"), "strange")?;
    let refused = berth.berth(&["certs:add", "certown", &crt, &strange])?;
    ensure!(refused.code == 1 && refused.stderr.contains("does not belong"), "{refused:?}");
    berth.ok(&["domains:add", "certown", "other.certown.test"])?;
    let added = berth.ok(&["certs:add", "certown", &crt, &key])?;
    ensure!(added.stderr.contains("not for these domains of the app: other.certown.test"), "{added:?}");
    until(Duration::from_secs(20), "the app to be served by TLS", || {
        let reply = curl(&host, berth.https, Path::new(&crt), &[])?.success()?;
        ensure!(reply.stdout == "over TLS", "{}", reply.all());
        Ok(())
    })?;
    let urls = berth.ok(&["urls", "certown"])?.stdout;
    ensure!(urls.contains(&format!("https://{host}:{}", berth.https.port())), "{urls}");
    ensure!(urls.contains(&format!("http://other.certown.test:{}", berth.http.port())), "{urls}");
    ensure!(repo.push()?.all().contains("Everything up-to-date"), "nothing new");
    repo.write(&[("public/index.html", "again")])?;
    repo.commit("Again")?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains(&format!("https://{host}:{}", berth.https.port())), "{pushed}");
    ensure!(report(berth, "certown", "--ssl-verified")? == "self signed", "as openssl says");
    ensure!(report(berth, "certown", "--ssl-hostnames")? == host, "its names");
    let shown = berth.ok(&["certs:show", "certown", "crt"])?.stdout;
    ensure!(shown == std::fs::read_to_string(&crt)?, "what was added comes back");
    // Dokku's way, over SSH: a tar on standard input.
    let tar = directory.path().join("both.tar");
    let mut pack = Command::new("tar");
    pack.arg("cf").arg(&tar).arg("-C").arg(directory.path()).args(["server.crt", "server.key"]);
    let packed = pack.status()?;
    ensure!(packed.success(), "tar");
    berth.ok(&["certs:remove", "certown"])?;
    ensure!(report(berth, "certown", "--ssl-enabled")? == "false", "it is gone");
    let line = format!(
        "{} -p {} paas@{} certs:add certown < {}",
        berth.ssh_command(),
        berth.ssh.port(),
        berth.ssh.ip(),
        tar.display()
    );
    let over_ssh = Command::new("sh").args(["-c", &line]).output()?;
    ensure!(over_ssh.status.success(), "{over_ssh:?}");
    ensure!(report(berth, "certown", "--ssl-enabled")? == "true", "it is back");
    let refused = berth.over_ssh(&["certs:add", "certown", "/etc/passwd", "/etc/shadow"])?;
    ensure!(refused.code == 2 && refused.stderr.contains("standard input"), "{refused:?}");
    let refused = berth.over_ssh(&["letsencrypt:set", "certown", "dns-provider", "/bin/true"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("on the machine itself"), "{refused:?}");
    // No key lies about in the open.
    let begin: String = std::fs::read_to_string(&key)?.lines().skip(1).take(1).collect();
    let found = Command::new("grep").args(["-rlaF", &begin]).arg(berth.data_dir()).output()?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    ensure!(!found.contains("controller/"), "the key is readable in {found}");
    berth.ok(&["apps:rename", "certown", "certowned"])?;
    ensure!(report(berth, "certowned", "--ssl-source")? == "certs:add", "it went with the app");
    berth.ok(&["apps:destroy", "--force", "certowned"])?;
    Ok(())
}

fn global(berth: &Berth) -> Result<()> {
    let directory = tempfile::tempdir()?;
    berth.ok(&["apps:create", "certglobal"])?;
    berth.ok(&["domains:add", "certglobal", "shop.certglobal.test"])?;
    let (crt, key) = self_signed(directory.path(), "DNS:*.certglobal.test", "wild")?;
    berth.ok(&["certs:add", "--global", &crt, &key])?;
    trusted(berth, "shop.certglobal.test", Path::new(&crt))?;
    let urls = berth.ok(&["urls", "certglobal"])?.stdout;
    ensure!(urls.contains("https://shop.certglobal.test"), "{urls}");
    let all = berth.ok(&["certs:report", "--global", "--format", "json"])?.stdout;
    let all: serde_json::Value = serde_json::from_str(&all)?;
    let id = all[0]["id"].as_str().context("an id")?.to_owned();
    berth.ok(&["certs:remove", "--global", &id])?;
    let generated = berth.ok(&["certs:generate", "certglobal"])?;
    ensure!(generated.stderr.contains("signed by itself"), "{generated:?}");
    let shown = berth.ok(&["certs:show", "certglobal", "crt"])?.stdout;
    let root = directory.path().join("generated.crt");
    std::fs::write(&root, shown)?;
    trusted(berth, "shop.certglobal.test", &root)?;
    berth.ok(&["apps:destroy", "--force", "certglobal"]).map(drop)
}

fn by_http(berth: &Berth) -> Result<()> {
    let acme = acme(berth, LONG)?;
    berth.ok(&["apps:create", "acmehttp"])?;
    let refused = berth.berth(&["letsencrypt:enable", "acmehttp"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("set an email address first"), "{refused:?}");
    use_acme(berth, &acme, "acmehttp")?;
    let said = berth.ok(&["letsencrypt:enable", "acmehttp"]).with_context(|| acme.log())?;
    ensure!(said.stdout.contains("Proving acmehttp.test.localhost by http-01"), "{said:?}");
    let root = acme.root_file()?;
    let host = berth.host("acmehttp");
    trusted(berth, &host, &root)?;
    ensure!(report(berth, "acmehttp", "--ssl-source")? == "letsencrypt", "where it is from");
    let first = report(berth, "acmehttp", "--ssl-starts-at")?;
    let said = berth.ok(&["letsencrypt:auto-renew", "acmehttp"])?;
    ensure!(said.stdout.contains("not due"), "{said:?}");
    // A new domain gets into the certificate by itself.
    berth.ok(&["domains:add", "acmehttp", "new.acmehttp.test"])?;
    until(Duration::from_secs(60), "the new domain to be in the certificate", || {
        let names = report(berth, "acmehttp", "--ssl-hostnames")?;
        ensure!(names.contains("new.acmehttp.test") && names.contains(&host), "{names}");
        Ok(())
    })?;
    trusted(berth, "new.acmehttp.test", &root)?;
    // The other way, and by force.
    berth.ok(&["letsencrypt:set", "acmehttp", "challenge", "tls-alpn-01"])?;
    let said = berth.ok(&["certs:auto:refresh", "acmehttp", "--force"]).with_context(|| acme.log())?;
    ensure!(said.stdout.contains("by tls-alpn-01"), "{said:?}");
    ensure!(report(berth, "acmehttp", "--ssl-starts-at")? != first, "it is another one");
    let list = berth.ok(&["letsencrypt:list"])?.stdout;
    ensure!(list.contains("acmehttp") && list.contains("good"), "{list}");
    ensure!(berth.ok(&["letsencrypt:active", "acmehttp"])?.stdout.trim() == "true", "it is on");
    berth.ok(&["letsencrypt:revoke", "acmehttp", "--force"]).with_context(|| acme.log())?;
    ensure!(report(berth, "acmehttp", "--ssl-enabled")? == "false", "it is gone");
    ensure!(berth.ok(&["letsencrypt:active", "acmehttp"])?.stdout.trim() == "false", "it is off");
    berth.ok(&["apps:destroy", "--force", "acmehttp"]).map(drop)
}

fn by_dns(berth: &Berth) -> Result<()> {
    let acme = acme(berth, LONG)?;
    let directory = tempfile::tempdir()?;
    app(berth, &acme, "acmedns")?;
    berth.ok(&["domains:set", "acmedns", "*.acmedns.test", "acmedns.test"])?;
    berth.ok(&["domains:disable", "acmedns"])?;
    let partly = berth.ok(&["letsencrypt:enable", "acmedns"])?;
    ensure!(
        partly.stderr.contains("*.acmedns.test is left out: a wildcard can only be proved by DNS"),
        "{partly:?}"
    );
    // By a program: the wildcard comes by itself.
    let program = acme.dns_program(directory.path())?;
    berth.ok(&["letsencrypt:set", "acmedns", "dns-wait", "0"])?;
    berth.ok(&["letsencrypt:set", "acmedns", "dns-provider", program.to_str().context("a path")?])?;
    until(Duration::from_secs(60), "the wildcard to be in the certificate", || {
        let names = report(berth, "acmedns", "--ssl-hostnames")?;
        ensure!(names.contains("*.acmedns.test"), "{names}\n{}", acme.log());
        Ok(())
    })?;
    let root = acme.root_file()?;
    trusted(berth, "anything.acmedns.test", &root)?;
    trusted(berth, "acmedns.test", &root)?;
    let calls = std::fs::read_to_string(directory.path().join("calls"))?;
    ensure!(calls.contains("cleanup _acme-challenge.acmedns.test"), "records are taken away: {calls}");
    // By a webhook, both names: two records of one name at once.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (notes, servers) = (seen.clone(), Arc::new(acme));
    let dns = Arc::downgrade(&servers); // the thread below outlives this scenario
    let hook = answer(move |request| {
        let call: serde_json::Value = serde_json::from_str(&request.body).unwrap_or_default();
        let text = |key: &str| call[key].as_str().unwrap_or_default().to_owned();
        let Some(dns) = dns.upgrade() else { return 503 };
        let made = dns.record(text("action") == "present", &text("name"), &text("value"));
        if let Ok(mut notes) = notes.lock() {
            notes.push(format!("{} {}", request.authorization, text("action")));
        }
        if made.is_ok() { 204 } else { 500 }
    })?;
    berth.ok(&["letsencrypt:disable", "acmedns"])?;
    berth.ok(&["letsencrypt:set", "acmedns", "challenge", "dns-01"])?;
    berth.ok(&["letsencrypt:set", "acmedns", "dns-provider", &format!("http://{hook}/records")])?;
    berth.berth_with_input(&["letsencrypt:set", "acmedns", "dns-token", "-"], b"s3cret\n")?.success()?;
    // Other names: one in a hundred times pebble takes a name for proved that it saw proved before.
    berth.ok(&["domains:set", "acmedns", "*.hooked.test", "hooked.test"])?;
    berth.ok(&["letsencrypt:enable", "acmedns"]).with_context(|| servers.log())?;
    let calls = seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    ensure!(calls.iter().filter(|call| *call == "Bearer s3cret present").count() == 2, "{calls:?}");
    let shown = berth.ok(&["letsencrypt:report", "acmedns"])?.all();
    ensure!(!shown.contains("s3cret"), "{shown}");
    berth.ok(&["apps:destroy", "--force", "acmedns"]).map(drop)
}

fn failures(berth: &Berth) -> Result<()> {
    let acme = acme(berth, LONG)?;
    app(berth, &acme, "acmefail")?;
    berth.ok(&["domains:disable", "acmefail"])?;
    berth.ok(&["domains:set", "acmefail", "refused.test.localhost"])?;
    let refused = berth.berth(&["letsencrypt:enable", "acmefail"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("(rejectedIdentifier)"), "{refused:?}");
    ensure!(
        refused.stderr.contains("take the domain away") && refused.stderr.contains("tried again at"),
        "{refused:?}"
    );
    // A name that leads elsewhere.
    acme.lead("elsewhere.acmefail.test", "127.0.0.66")?;
    berth.ok(&["domains:set", "acmefail", "elsewhere.acmefail.test"])?;
    let refused = berth.berth(&["letsencrypt:enable", "acmefail"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("elsewhere.acmefail.test: "), "{refused:?}");
    ensure!(refused.stderr.contains("look at its A and AAAA records"), "{refused:?}");
    let list = berth.ok(&["letsencrypt:list", "acmefail"])?.stdout;
    ensure!(list.contains("failed 2 times: elsewhere.acmefail.test"), "{list}");
    ensure!(report(berth, "acmefail", "--ssl-problem")?.contains("elsewhere"), "it is in the report too");
    // One such name does not take TLS from the others.
    berth.ok(&["domains:add", "acmefail", "good.acmefail.test"])?;
    let partly = berth.berth(&["letsencrypt:enable", "acmefail"])?;
    ensure!(partly.code == 1 && partly.stderr.contains("elsewhere.acmefail.test: "), "{partly:?}");
    ensure!(report(berth, "acmefail", "--ssl-covered-domains")? == "good.acmefail.test", "{partly:?}");
    ensure!(report(berth, "acmefail", "--ssl-uncovered-domains")? == "elsewhere.acmefail.test", "{partly:?}");
    trusted(berth, "good.acmefail.test", &acme.root_file()?)?;
    // It is left alone, and works again once the name leads here.
    let before = acme.orders();
    acme.lead("elsewhere.acmefail.test", "127.0.0.1")?;
    berth.ok(&["letsencrypt:enable", "acmefail"]).with_context(|| acme.log())?;
    ensure!(acme.orders() == before + 1, "one order for one wish: {}", acme.log());
    berth.ok(&["letsencrypt:disable", "acmefail"])?;
    berth.ok(&["letsencrypt:set", "acmefail", "server", "https://127.0.0.1:1/dir"])?;
    let refused = berth.berth(&["letsencrypt:enable", "acmefail"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("cannot reach 127.0.0.1:1"), "{refused:?}");
    berth.ok(&["apps:destroy", "--force", "acmefail"]).map(drop)
}

fn renewal(berth: &Berth) -> Result<()> {
    let acme = acme(berth, Duration::from_secs(30))?;
    app(berth, &acme, "acmerenew")?;
    berth.ok(&["letsencrypt:enable", "acmerenew"]).with_context(|| acme.log())?;
    let first = report(berth, "acmerenew", "--ssl-expires-at")?;
    until(Duration::from_secs(60), "the certificate to be renewed", || {
        ensure!(report(berth, "acmerenew", "--ssl-expires-at")? != first, "not yet\n{}", acme.log());
        Ok(())
    })?;
    trusted(berth, &berth.host("acmerenew"), &acme.root_file()?)?;
    ensure!(acme.orders() == 2, "one order each: {}", acme.log());
    berth.ok(&["apps:destroy", "--force", "acmerenew"]).map(drop)
}

fn on_demand(berth: &Berth) -> Result<()> {
    let acme = acme(berth, LONG)?;
    app(berth, &acme, "acmeasked")?;
    berth.ok(&["domains:set", "acmeasked", "*.acmeasked.test"])?;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    let ask = answer(move |request| {
        if let Ok(mut notes) = notes.lock() {
            notes.push(request.target.clone());
        }
        if request.target.contains("domain=good") { 200 } else { 403 }
    })?;
    berth.ok(&["certs:on-demand", "acmeasked", "ask-url", &format!("http://{ask}/allowed?x=1")])?;
    let root = acme.root_file()?;
    trusted(berth, "good.acmeasked.test", &root).with_context(|| acme.log())?;
    let list = berth.ok(&["letsencrypt:list", "acmeasked"])?.stdout;
    ensure!(list.contains("good.acmeasked.test") && list.contains("good on demand"), "{list}");
    for _ in 0..5 {
        let refused = curl("bad.acmeasked.test", berth.https, &root, &["--max-time", "3"])?;
        ensure!(refused.code != 0, "no certificate for a name that is not allowed");
        let strange = curl("good.elsewhere.test", berth.https, &root, &["--max-time", "3"])?;
        ensure!(strange.code != 0, "no certificate for a name that leads nowhere");
    }
    let asked = asked.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    let count =
        |name: &str| asked.iter().filter(|target| **target == format!("/allowed?x=1&domain={name}")).count();
    ensure!(count("good.acmeasked.test") == 1, "{asked:?}");
    ensure!(count("bad.acmeasked.test") == 1, "a no is remembered: {asked:?}");
    ensure!(count("good.elsewhere.test") == 0, "{asked:?}");
    ensure!(acme.orders() == 1, "{}", acme.log());
    berth.ok(&["apps:destroy", "--force", "acmeasked"]).map(drop)
}

fn interrupted(berth: &mut Berth) -> Result<()> {
    let acme = acme(berth, LONG)?;
    let directory = tempfile::tempdir()?;
    app(berth, &acme, "acmekill")?;
    let program = acme.dns_program(directory.path())?;
    berth.ok(&["letsencrypt:set", "acmekill", "challenge", "dns-01"])?;
    berth.ok(&["letsencrypt:set", "acmekill", "dns-wait", "0"])?;
    berth.ok(&["letsencrypt:set", "acmekill", "dns-provider", program.to_str().context("a path")?])?;
    std::fs::write(directory.path().join("hold"), "")?;
    let mut enabling = berth.command(&["letsencrypt:enable", "acmekill"])?;
    let mut enabling = enabling.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    until(Duration::from_secs(30), "the order to wait for its record", || {
        let calls = std::fs::read_to_string(directory.path().join("calls"))?;
        ensure!(calls.contains("present"), "{calls}");
        Ok(())
    })?;
    berth.kill(Role::Controller)?;
    ensure!(!enabling.wait()?.success(), "the command lost its controller");
    std::fs::remove_file(directory.path().join("hold"))?;
    berth.until_ready()?;
    until(Duration::from_secs(60), "the order to be gone on with", || {
        ensure!(report(berth, "acmekill", "--ssl-enabled")? == "true", "not yet\n{}", acme.log());
        Ok(())
    })?;
    ensure!(acme.orders() == 1, "it is the same order: {}", acme.log());
    trusted(berth, &berth.host("acmekill"), &acme.root_file()?)?;
    // What there is outlives the controller, and the proxy.
    berth.kill(Role::Proxy)?;
    berth.until_ready()?;
    trusted(berth, &berth.host("acmekill"), &acme.root_file()?)?;
    ensure!(acme.orders() == 1, "and no other is made: {}", acme.log());
    berth.ok(&["apps:destroy", "--force", "acmekill"]).map(drop)
}

struct Asked {
    target: String,
    authorization: String,
    body: String,
}

/// Answers every request with the status that `decide` gives, for as long as the test lives.
fn answer(decide: impl Fn(&Asked) -> u16 + Send + 'static) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let mut asked =
                Asked { target: String::new(), authorization: String::new(), body: String::new() };
            let mut length = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                let lower = line.to_ascii_lowercase();
                if asked.target.is_empty() {
                    line.split(' ').nth(1).unwrap_or_default().clone_into(&mut asked.target);
                } else if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                } else if lower.starts_with("authorization:") {
                    line["authorization:".len()..].trim().clone_into(&mut asked.authorization);
                }
                line.clear();
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_ok() {
                asked.body = String::from_utf8_lossy(&body).into_owned();
            }
            let status = decide(&asked);
            let _ = write!(
                reader.get_mut(),
                "HTTP/1.1 {status} Test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
        }
    });
    Ok(address)
}
