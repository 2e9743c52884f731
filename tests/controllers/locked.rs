//! An etcd that is locked: by certificates on both sides, and by a user with a password.

use crate::plant::{Controller, Etcd, apps, berth, create, files};
use anyhow::{Context, Result, ensure};
use berth_tests::etcd::{EtcdTls, etcd_call};
use berth_tests::until;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const OPENSSL: &str = r#"set -e; cd "$1"
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -subj "/CN=$1" "${@:2}"; }
for ca in ca other; do new $ca -x509 -days 2 -out $ca.pem; done
member='subjectAltName=IP:127.0.0.1'
for one in "member ca serverAuth,clientAuth" "controller ca clientAuth" "stranger other clientAuth"; do
  set -- $one; new $1 -out $1.csr
  printf '%s\nextendedKeyUsage=%s\n' "$member" "$3" > $1.ext
  openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 2 -extfile $1.ext -out $1.pem
done"#;

/// A CA with certificates of a member and of a controller, and another CA with one of a stranger.
fn certificates(dir: &Path) -> Result<EtcdTls> {
    let made = Command::new("bash").args(["-c", OPENSSL, "bash"]).arg(dir).stdin(Stdio::null()).output()?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| dir.join(name);
    Ok(EtcdTls { ca: file("ca.pem"), certificate: file("member.pem"), key: file("member.key") })
}

fn shown(ca: &Path, dir: &Path, who: &str) -> Vec<String> {
    let path = |path: PathBuf| path.display().to_string();
    let (certificate, key) = (path(dir.join(format!("{who}.pem"))), path(dir.join(format!("{who}.key"))));
    let ca = ca.display().to_string();
    ["--store-ca", &ca, "--store-cert", &certificate, "--store-key", &key].map(str::to_owned).into()
}

/// Two controllers that say `how` they get in; the first leads, and what it writes is there when the second does.
fn two_work(etcd: &Etcd, name: &str, dir: &Path, how: &[String]) -> Result<()> {
    let store = Some((etcd.url(name), files(dir)?));
    let (mut first, mut second) = (Controller::new(store.clone())?, Controller::new(store)?);
    for one in [&mut first, &mut second] {
        (one.more, one.lease) = (how.to_vec(), 3);
    }
    first.begin()?;
    first.until_it_leads()?;
    second.take_key(&first)?;
    second.begin()?;
    let token = until(Duration::from_secs(30), "a token", || first.token("locked"))?;
    ensure!(create(first.api, &token, "one")?, "acknowledged");
    until(Duration::from_secs(30), "a write through the one that follows", || {
        ensure!(create(second.api, &token, "two")?, "not yet");
        Ok(())
    })
    .with_context(|| second.log())?;
    // Longer than the lease: it is renewed, and what the client keeps open is used again.
    let led = std::time::Instant::now();
    until(Duration::from_secs(20), "5 s of leading", || {
        ensure!(first.leads()?, "it lost the lead");
        ensure!(led.elapsed() > Duration::from_secs(5), "not yet");
        Ok(())
    })?;
    first.process.as_mut().context("it runs")?.kill();
    second.until_it_leads()?;
    ensure!(create(second.api, &token, "three")?, "acknowledged");
    let mut found = apps(second.api, &token)?;
    found.sort();
    ensure!(found == ["one", "three", "two"], "{found:?}");
    Ok(())
}

/// Each of those who come that way is kept out, and says why.
fn kept_out(etcd: &Etcd, dir: &Path, all: &[(Vec<String>, &str)]) -> Result<()> {
    let begin = |how: &Vec<String>, words: &str| {
        let mut outside = Controller::new(Some((etcd.url("outside"), files(dir)?)))?;
        outside.more.clone_from(how);
        outside.begin()?;
        Ok((outside, words.to_owned()))
    };
    let begun: Vec<_> = all.iter().map(|(how, words)| begin(how, words)).collect::<Result<_>>()?;
    for (outside, words) in begun {
        until(Duration::from_secs(30), "it to say that it is kept out", || {
            ensure!(outside.log().contains(&words), "{words:?} in {}", outside.log());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_etcd_with_certificates_lets_those_in_that_show_one_of_its_ca() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tls = certificates(dir.path())?;
    let etcd = Etcd::start_with(3, Some(tls.clone()))?;
    two_work(&etcd, "tls", dir.path(), &shown(&tls.ca, dir.path(), "controller"))?;
    let nothing = vec!["--store-ca".to_owned(), tls.ca.display().to_string()];
    let strange = shown(&tls.ca, dir.path(), "stranger");
    let mistaken = shown(&dir.path().join("other.pem"), dir.path(), "controller");
    let all = [(nothing, "ertificate"), (strange, "ertificate"), (mistaken, "UnknownIssuer")];
    kept_out(&etcd, dir.path(), &all)
}

#[test]
fn an_etcd_with_users_lets_those_in_that_know_the_password() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut etcd = Etcd::start_with(3, None)?;
    // All that a controller needs is its own names.
    let end = base64("berth0");
    let own = json!({ "permType": "READWRITE", "key": base64("berth/"), "range_end": end });
    for (call, body) in [
        ("auth/user/add", json!({ "name": "root", "password": "rooted" })),
        ("auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("auth/user/add", json!({ "name": "berth", "password": "secret:with a colon" })),
        ("auth/role/add", json!({ "name": "platform" })),
        ("auth/role/grant", json!({ "name": "platform", "perm": own })),
        ("auth/user/grant", json!({ "user": "berth", "role": "platform" })),
        ("auth/enable", json!({})),
    ] {
        if call == "auth/user/grant" && body["user"] == "root" {
            etcd_call(etcd.places[0].client, "auth/role/add", &json!({ "name": "root" }))?;
        }
        etcd_call(etcd.places[0].client, call, &body).with_context(|| call.to_owned())?;
    }
    let file = |name: &str, text: &str| -> Result<Vec<String>> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(vec!["--store-user-file".to_owned(), path.display().to_string()])
    };
    let right = file("right", "berth:secret:with a colon\n")?;
    two_work(&etcd, "berth", dir.path(), &right)?;
    // A member that was away knows no token of before: whoever asks it logs in again.
    for index in 0..3 {
        etcd.members[index] = None;
        etcd.begin(index)?;
    }
    let data = tempfile::tempdir()?;
    let copied = until(Duration::from_secs(30), "a copy of it", || {
        let mut copy = berth()?;
        copy.arg("store:copy").arg("--data").arg(data.path()).args(["--from", &etcd.url("berth")]);
        let said = copy.args(&right).output()?;
        ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        Ok(said)
    })?;
    ensure!(String::from_utf8_lossy(&copied.stderr).contains("copied"), "{copied:?}");
    let wrong = file("wrong", "berth:guess\n")?;
    // The right one for another platform's names, too.
    let all =
        [(wrong, "authentication failed"), (vec![], "user name is empty"), (right, "permission denied")];
    kept_out(&etcd, dir.path(), &all)
}

fn base64(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let at = |index: usize| u32::from(bytes.get(index).copied().unwrap_or(0));
        let whole = at(0) << 16 | at(1) << 8 | at(2);
        let letter = |n: usize| match n <= bytes.len() {
            true => char::from(LETTERS[(whole >> (18 - 6 * n) & 63) as usize]),
            false => '=',
        };
        (0..4).map(letter).collect::<String>()
    };
    text.as_bytes().chunks(3).map(group).collect()
}
