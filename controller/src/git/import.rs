//! Deploys of what nobody pushed: an archive, or a branch of another repository.
//!
//! In: an archive's bytes or address, a repository's address. Out: a commit on the app's deploy branch, built and deployed
//! like a pushed one; the branch moves only when that succeeded. Whoever may do this may push anything anyway.

pub(crate) use super::commit::Kind;
use super::commit::{self, Authorship, CommitError};
use super::from_image;
use super::push::{self, Pushes, deploy_commit};
use super::repository;
use super::tree::Source;
use crate::Platform;
use crate::errors::{failed, internal, invalid};
use crate::platform::{ProgressSender, say};
use berth_model::AppName;
use berth_model::api::{ApiError, Progress, SyncDeploys};
use futures_util::{Stream, StreamExt};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

/// Largest archive, packed, in bytes: as much as a push may bring.
pub(crate) const MAX_ARCHIVE: u64 = 2 << 30;
/// How long a download may take.
const DOWNLOAD: Duration = Duration::from_secs(900);
/// Where a fetched branch is kept until it is deployed.
const FETCHED: &str = "refs/berth/sync";

/// Who asks for what, for the commit and the release.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) app: AppName,
    pub(crate) by: String,
}

fn broken(what: &str) -> impl Fn(std::io::Error) -> ApiError + '_ {
    move |error| internal(what, &error)
}

/// Takes an archive to the disk, in a file without a name: whatever happens, nothing of it stays.
pub(crate) async fn spool<E: std::fmt::Display>(
    platform: &Platform,
    mut bytes: impl Stream<Item = Result<bytes::Bytes, E>> + Unpin,
    limit: u64,
) -> Result<File, ApiError> {
    let failed_to = broken("cannot take the archive over");
    let file = tempfile::tempfile_in(platform.options().controller_dir()).map_err(&failed_to)?;
    let mut writer = tokio::fs::File::from_std(file.try_clone().map_err(&failed_to)?);
    let mut length = 0;
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(|error| invalid(format!("the archive broke off: {error}")))?;
        length += piece.len() as u64;
        if length > limit {
            return Err(invalid(format!("the archive is larger than {} GiB", limit >> 30)));
        }
        writer.write_all(&piece).await.map_err(&failed_to)?;
    }
    writer.flush().await.map_err(&failed_to)?;
    Ok(file)
}

/// Gets an archive from the web, by `curl`, which knows proxies and certificates as the machine is set up.
async fn download(platform: &Platform, url: &str, progress: &ProgressSender) -> Result<File, ApiError> {
    say(progress, Progress::Step { text: format!("Downloading {}", shown(url)) }).await;
    let failed_to = broken("cannot take the archive over");
    let file = tempfile::tempfile_in(platform.options().controller_dir()).map_err(&failed_to)?;
    let mut command = tokio::process::Command::new("curl");
    command
        .args(["--fail", "--silent", "--show-error", "--location", "--max-redirs", "5"])
        .args(["--proto", "=http,https", "--proto-redir", "=http,https"])
        .args(["--max-filesize", &MAX_ARCHIVE.to_string()])
        .args(["--max-time", &DOWNLOAD.as_secs().to_string(), "--connect-timeout", "30"])
        .args(["--", url])
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(&failed_to)?)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child =
        command.spawn().map_err(broken("cannot start curl, which downloads archives; is it installed?"))?;
    let output = child.wait_with_output().await.map_err(&failed_to)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(format!("cannot download {}: {}", shown(url), said.replace(url, &shown(url)))));
    }
    Ok(file)
}

fn check_url(url: &str, schemes: &[&str]) -> Result<(), ApiError> {
    let known = schemes.iter().any(|scheme| url.starts_with(scheme));
    if !known || url.len() > 2000 || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let shown: String = url.chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(invalid(format!(
            "{shown:?} is no address here: it begins with {}",
            schemes.join(" or ")
        )));
    }
    Ok(())
}

/// An address without the password in it, for people and logs.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// Where an archive is.
pub(crate) enum Archive {
    /// Taken over already.
    Here(File),
    /// On the web.
    Web(String),
}

impl Archive {
    /// An archive on the web.
    pub(crate) fn web(url: String) -> Result<Self, ApiError> {
        check_url(&url, &["https://", "http://"])?;
        Ok(Self::Web(url))
    }
}

/// The deploy branch, what it holds now, and the repository.
pub(super) struct Branch {
    name: String,
    is_new: bool,
    pub(super) before: Option<String>,
    pub(super) repository: PathBuf,
}

pub(super) async fn branch(platform: &Platform, app: &AppName) -> Result<Branch, ApiError> {
    push::open(platform, app).await?;
    let chosen = platform.existing_app(app).await?.deploy_branch;
    let repository = platform.options().repository_dir(app);
    let name = chosen.clone().unwrap_or_else(|| "main".to_owned());
    let before = repository::current(&repository, &format!("refs/heads/{name}"))?;
    Ok(Branch { name, is_new: chosen.is_none(), before, repository })
}

impl Branch {
    /// After a deploy: the branch is what runs.
    async fn advance(&self, platform: &Platform, app: &AppName, commit: &str) -> Result<(), ApiError> {
        repository::set_branch(&self.repository, &self.name, commit)?;
        if self.is_new {
            let name = self.name.clone();
            platform.update_app(app, |app| app.deploy_branch = Some(name.clone())).await?;
            repository::set_head(&self.repository, &self.name)?;
        }
        Ok(())
    }
}

/// Deploys the files of an archive. The same files again are no change, and no error.
pub(crate) async fn from_archive(
    platform: &Platform,
    pushes: &Pushes,
    order: &Order,
    archive: Archive,
    kind: Option<Kind>,
    author: Option<(String, String)>,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let _turn = pushes.wait_for_turn(&order.app, progress).await;
    let (file, message) = match archive {
        Archive::Here(file) => (file, "Deploy an archive".to_owned()),
        Archive::Web(url) => (download(platform, &url, progress).await?, format!("Deploy {}", shown(&url))),
    };
    let branch = branch(platform, &order.app).await?;
    let (name, email) = author.unwrap_or_else(|| (order.by.clone(), format!("{}@berth", order.by)));
    let by = Authorship { name, email, message, parent: branch.before.clone() };
    let repository = branch.repository.clone();
    let made =
        tokio::task::spawn_blocking(move || commit::commit_archive(&repository, file, kind, &by)).await;
    let made = made.map_err(|error| internal("reading the archive broke off", &error))?;
    let made = made.map_err(|error| match error {
        CommitError::Git(_) => internal("cannot keep the archive's files", &error),
        _ => failed(error.to_string()),
    })?;
    let Some(commit) = made else {
        let text = format!("The archive has the very files that {} has: nothing to deploy", order.app);
        say(progress, Progress::Step { text }).await;
        return Ok(());
    };
    deploy(platform, order, &branch, commit, progress).await
}

/// Gets a branch, tag or commit of another repository; deploys it as `deploys` says.
pub(crate) async fn sync(
    platform: &Platform,
    pushes: &Pushes,
    order: &Order,
    url: &str,
    reference: Option<&str>,
    deploys: SyncDeploys,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    check_url(url, &["https://", "http://", "ssh://", "git://"])?;
    let _turn = pushes.wait_for_turn(&order.app, progress).await;
    let branch = branch(platform, &order.app).await?;
    let what = reference.unwrap_or("HEAD");
    let odd = |c: char| {
        c.is_control() || c.is_whitespace() || matches!(c, ':' | '^' | '~' | '?' | '*' | '[' | '\\' | '+')
    };
    if what.is_empty() || what.starts_with('-') || what.len() > 250 || what.contains(odd) {
        return Err(invalid(format!("{what:?} is no branch, tag or commit")));
    }
    say(progress, Progress::Step { text: format!("Fetching {what} of {}", shown(url)) }).await;
    fetch(&branch.repository, url, what).await?;
    let found = repository::current(&branch.repository, FETCHED)?;
    let commit = found.ok_or_else(|| failed(format!("{} has no {what}", shown(url))))?;
    let commit = repository::commit_of(&branch.repository, &commit)?;
    let is_same = branch.before.as_deref() == Some(commit.as_str());
    match deploys {
        SyncDeploys::Never => {
            repository::set_branch(&branch.repository, &branch.name, &commit)?;
            let text =
                format!("{} of {} is {commit} now; berth ps:rebuild deploys it", branch.name, order.app);
            say(progress, Progress::Step { text }).await;
            Ok(())
        }
        SyncDeploys::IfChanged if is_same => {
            say(progress, Progress::Step { text: format!("{commit} is deployed already") }).await;
            Ok(())
        }
        SyncDeploys::Always | SyncDeploys::IfChanged => {
            deploy(platform, order, &branch, commit, progress).await
        }
    }
}

/// Builds the deploy branch as it is once more, and deploys it. An app that is an image gets what the image's name means
/// now.
pub(crate) async fn rebuild(
    platform: &Platform,
    pushes: &Pushes,
    order: &Order,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let _turn = pushes.wait_for_turn(&order.app, progress).await;
    let branch = branch(platform, &order.app).await?;
    let commit = branch.before.clone();
    let commit = commit.ok_or_else(|| invalid(format!("{} has no code yet: git push first", order.app)))?;
    let newer = from_image::refreshed(platform, order, &branch, &commit, progress).await?;
    let commit = newer.unwrap_or(commit);
    deploy(platform, order, &branch, commit, progress).await
}

pub(super) async fn deploy(
    platform: &Platform,
    order: &Order,
    branch: &Branch,
    commit: String,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let source = Source {
        repository: branch.repository.clone(),
        objects: Vec::new(),
        commit: commit.clone(),
        directory: None,
    };
    // Nobody waits on a connection that could break: it runs to its end.
    let cancel = CancellationToken::new();
    deploy_commit(platform, &order.app, &order.by, source, progress, &cancel).await?;
    branch.advance(platform, &order.app, &commit).await
}

async fn fetch(repository: &Path, url: &str, what: &str) -> Result<(), ApiError> {
    let mut command = tokio::process::Command::from(repository::plumbing(repository, &[]));
    for scheme in ["https", "http", "ssh", "git"] {
        command.args(["-c", &format!("protocol.{scheme}.allow=always")]);
    }
    // How the machine reaches the world; nothing else of its environment gets through.
    for name in
        ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"]
    {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env(
        "GIT_SSH_COMMAND",
        "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/dev/null",
    );
    command.args([
        "-c",
        "transfer.fsckObjects=true",
        "-c",
        "http.lowSpeedLimit=1000",
        "-c",
        "http.lowSpeedTime=60",
    ]);
    command.args([
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--no-recurse-submodules",
        "--force",
    ]);
    command.arg("--").arg(url).arg(format!("+{what}:{FETCHED}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(broken("cannot start git"))?;
    let ended = tokio::time::timeout(DOWNLOAD, child.wait_with_output()).await;
    let output = ended
        .map_err(|_| {
            failed(format!("{} did not come within {} minutes", shown(url), DOWNLOAD.as_secs() / 60))
        })?
        .map_err(broken("cannot wait for git"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(format!(
            "cannot fetch {what} of {}: {}",
            shown(url),
            said.replace(url, &shown(url))
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("https://me:secret@host:1/a@b.git?x"), "https://host:1/a@b.git?x");
        assert_eq!(shown("https://host"), "https://host");
        assert_eq!(shown("ssh://git@host/x"), "ssh://host/x");
    }

    #[test]
    fn only_addresses_on_the_network_are_taken() {
        for bad in
            ["file:///etc/passwd", "ext::sh -c id", "/srv/git", "-x", "https://a b", "https://a\nb", ""]
        {
            assert!(check_url(bad, &["https://", "http://", "ssh://"]).is_err(), "{bad:?}");
        }
        assert!(check_url("https://example.com/x.git", &["https://"]).is_ok());
    }
}
