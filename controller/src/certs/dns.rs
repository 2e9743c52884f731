//! Records for DNS-01 (RFC 8555 §8.4), made by what the operator brought: a program, or a webhook.
//!
//! In: whether to make or take away a record, its name, its value. Out: done, or why not. A program is called as
//! `PROGRAM present|cleanup NAME VALUE`; a webhook gets `{"action","name","value"}`. Neither is ever named by pushed code.

use super::fetch::{Fetch, url};
use bytes::Bytes;
use http::{Request, header};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Longest run of a program, and longest call of a webhook.
const LIMIT: Duration = Duration::from_secs(120);
/// How much of what a program says is shown.
const SHOWN: u64 = 1000;

/// Who makes records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Provider {
    /// A program of the machine's.
    Exec(PathBuf),
    /// An address.
    Webhook(String),
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec(path) => write!(f, "{}", path.display()),
            Self::Webhook(url) => f.write_str(url),
        }
    }
}

/// What is to become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    /// Make it, beside others of the same name.
    Present,
    /// Take it away again.
    Cleanup,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Cleanup => "cleanup",
        }
    }
}

impl Provider {
    /// A path, or an address.
    pub(super) fn parse(text: &str, by_root: bool) -> Result<Self, String> {
        if !text.starts_with('/') {
            return url(text, false).map(Self::Webhook).map_err(|why| {
                format!("{why}; a DNS provider is a program's absolute path, or the address of a webhook")
            });
        }
        if !by_root {
            return Err(format!(
                "{text} would run with all rights: a program can only be set on the machine itself, as root, with \
                 berth letsencrypt:set"
            ));
        }
        let path = PathBuf::from(text);
        check_program(&path)?;
        Ok(Self::Exec(path))
    }

    /// Makes or takes away a TXT record.
    pub(super) async fn call(
        &self,
        fetch: &Fetch,
        token: Option<&str>,
        action: Action,
        name: &str,
        value: &str,
    ) -> Result<(), String> {
        match self {
            Self::Exec(path) => exec(path, token, action, name, value).await,
            Self::Webhook(url) => webhook(fetch, url, token, action, name, value).await,
        }
        .map_err(|why| format!("the DNS provider could not {} {name}: {why}", action.word()))
    }
}

/// A program that somebody else may change would run as the controller: refused, also when it became so later.
fn check_program(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|error| format!("cannot use {shown}: {error}"))?;
    let me = nix::unistd::geteuid().as_raw();
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err(format!("{shown} is no program: it must be a file with execute permission"));
    }
    if (meta.uid() != 0 && meta.uid() != me) || meta.mode() & 0o022 != 0 {
        return Err(format!(
            "{shown} may be changed by others: run chown root {shown} and chmod go-w {shown}"
        ));
    }
    Ok(())
}

async fn exec(
    path: &Path,
    token: Option<&str>,
    action: Action,
    name: &str,
    value: &str,
) -> Result<(), String> {
    check_program(path)?;
    let mut command = tokio::process::Command::new(path);
    command.args([action.word(), name, value]).current_dir("/").env_clear();
    for kept in ["PATH", "HOME", "LANG", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    if let Some(token) = token {
        command.env("BERTH_DNS_TOKEN", token);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // Its children die with it: a group of its own is what is killed.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{} does not start: {error}", path.display()))?;
    let group = child.id();
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (said, complained, status) =
            tokio::join!(beginning(out.as_mut()), beginning(err.as_mut()), child.wait());
        (format!("{said}{complained}"), status)
    };
    let ended = tokio::time::timeout(LIMIT, work).await;
    if let (Err(_), Some(group)) = (&ended, group.and_then(|pid| i32::try_from(pid).ok())) {
        let group = nix::unistd::Pid::from_raw(group);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
    match ended {
        Err(_) => Err(format!("{} did not end within {} s", path.display(), LIMIT.as_secs())),
        Ok((_, Err(error))) => Err(format!("{} cannot be waited for: {error}", path.display())),
        Ok((_, Ok(status))) if status.success() => Ok(()),
        Ok((said, Ok(status))) => {
            let said = printable(&said);
            let said = if said.is_empty() { "nothing".to_owned() } else { said };
            Err(format!("{} ended with {status} and said: {said}", path.display()))
        }
    }
}

/// The beginning of what a program says; the rest is read too, or it would hang.
async fn beginning(pipe: Option<&mut (impl tokio::io::AsyncRead + Unpin)>) -> String {
    let Some(pipe) = pipe else { return String::new() };
    let mut text = Vec::new();
    let _ = (&mut *pipe).take(SHOWN).read_to_end(&mut text).await;
    let _ = tokio::io::copy(pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&text).into_owned()
}

fn printable(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    flat.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[derive(Serialize)]
struct Call<'a> {
    action: Action,
    name: &'a str,
    value: &'a str,
}

async fn webhook(
    fetch: &Fetch,
    url: &str,
    token: Option<&str>,
    action: Action,
    name: &str,
    value: &str,
) -> Result<(), String> {
    let body = serde_json::to_vec(&Call { action, name, value }).map_err(|error| error.to_string())?;
    let mut request = Request::post(url).header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Bytes::from(body)).map_err(|error| error.to_string())?;
    let answer = fetch.send(request, LIMIT).await.map_err(|error| error.to_string())?;
    if answer.status().is_success() {
        return Ok(());
    }
    let said = &answer.body()[..answer.body().len().min(1000)];
    Err(format!("{url} answered {}: {}", answer.status(), printable(&String::from_utf8_lossy(said))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dns");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("own file");
        (dir, path)
    }

    #[tokio::test]
    async fn a_program_is_called_with_what_it_needs_and_heard_when_it_fails() {
        let (dir, path) = script("echo \"$@ $BERTH_DNS_TOKEN\" > \"$(dirname \"$0\")/said\"");
        let (fetch, provider) = (Fetch::new(None).expect("set up"), Provider::Exec(path));
        provider
            .call(&fetch, Some("t"), Action::Present, "_acme-challenge.a.example", "v")
            .await
            .expect("runs");
        let said = std::fs::read_to_string(dir.path().join("said")).expect("it ran");
        assert_eq!(said, "present _acme-challenge.a.example v t\n");
        let (_dir, path) = script("echo no such zone >&2; exit 3");
        let failed = Provider::Exec(path).call(&fetch, None, Action::Cleanup, "n", "v").await;
        let failed = failed.expect_err("it fails");
        assert!(failed.contains("could not cleanup n") && failed.contains("no such zone"), "{failed}");
    }

    #[test]
    fn a_program_that_others_may_change_is_refused() {
        let (_dir, path) = script("true");
        assert_eq!(check_program(&path), Ok(()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("own file");
        assert!(check_program(&path).expect_err("refused").contains("chmod go-w"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("own file");
        assert!(check_program(&path).is_err());
        assert!(check_program(Path::new("/nonexistent")).is_err());
    }
}
