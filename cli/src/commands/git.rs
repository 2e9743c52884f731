//! `git:*`: which branch deploys, and deploys of what is not pushed.
//!
//! In: a property and its value; an archive; an image's name; another repository's address. Out: a patch, a report, a deploy.

use super::not_here;
use crate::args::{command, option, report, switch};
use crate::context::Context;
use crate::error::{CliError, Result};
use crate::report::Report;
use berth_model::api::{AppInfo, ImageSource, PatchApp, SyncDeploys, SyncSource};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        report(
            "git:report",
            "Show what is known of an app's repository",
            "[<app>] [--KEY]",
            &["git:report hello"],
        ),
        command(
            "git:set",
            "Set a property; without a value, reset it",
            "[<app>] deploy-branch [BRANCH]",
            &["git:set hello deploy-branch main", "git:set hello deploy-branch"],
        ),
        command(
            "git:from-archive",
            "Deploy the files of an archive; the same files again change nothing",
            "[<app>] URL|FILE|- [NAME EMAIL]",
            &[
                "git:from-archive hello https://example.com/hello.tar.gz",
                "git:from-archive hello release.zip",
                "git archive main | berth git:from-archive hello -",
            ],
        )
        .arg(option("archive-type", "TYPE", "tar, tar.gz or zip; found out by itself")),
        command(
            "git:from-image",
            "Deploy an image; the same image again changes nothing",
            "[<app>] IMAGE[:TAG|@DIGEST] [NAME EMAIL]",
            &[
                "git:from-image hello nginx:1.27",
                "git:from-image hello ghcr.io/owner/hello@sha256:DIGEST",
                "git:from-image production apps/staging",
            ],
        ),
        command(
            "git:load-image",
            "Deploy an image of an archive, as docker save writes it",
            "[<app>] [IMAGE[:TAG]] [NAME EMAIL]  < ARCHIVE.tar[.gz|.zst]",
            &[
                "git:load-image hello owner/hello:1 < hello.tar",
                "images:export staging | berth git:load-image production",
            ],
        ),
        command(
            "git:sync",
            "Fetch another repository's branch, tag or commit",
            "[<app>] URL [REF]",
            &["git:sync --build hello https://example.com/hello.git main"],
        )
        .arg(switch("build", "Deploy it"))
        .arg(switch("build-if-changes", "Deploy it, if it is another commit than last time")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "git:report" => show(context, matches).await,
        "git:set" => set(context, matches).await,
        "git:from-archive" => from_archive(context, matches).await,
        "git:from-image" => from_image(context, matches).await,
        "git:load-image" => load_image(context, matches).await,
        "git:sync" => sync(context, matches).await,
        _ => Err(not_here(name)),
    }
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    let apps = context.infos(matches).await?;
    let describe = |app: &AppInfo| {
        Report::new(app.name.as_str(), "git")
            .row("Git deploy branch", app.deploy_branch.as_deref().unwrap_or_default())
            .row("Git sha", app.git_rev.as_deref().unwrap_or_default())
            .row("Git rev env var", "GIT_REV")
    };
    let out = context.out.of(apps.len());
    apps.iter().try_for_each(|app| describe(app).show(out, field))
}

async fn set(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let branch = match &rest[..] {
        [property] if property == "deploy-branch" => String::new(),
        [property, branch] if property == "deploy-branch" => branch.clone(),
        [property, ..] if property != "deploy-branch" => {
            return Err(CliError::Misuse(format!(
                "{property:?} is no property of git; there is: deploy-branch"
            )));
        }
        _ => return Err(CliError::Misuse("write: git:set <app> deploy-branch BRANCH".into())),
    };
    let said = if branch.is_empty() {
        "Unsetting deploy-branch".to_owned()
    } else {
        format!("Setting deploy-branch to {branch}")
    };
    context
        .act(
            Method::PATCH,
            &format!("/v1/apps/{app}"),
            Some(&PatchApp { deploy_branch: Some(branch), ..PatchApp::default() }),
        )
        .await?;
    context.out.step(&said)
}

async fn from_archive(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let (source, author) = match &rest[..] {
        [source] => (source, None),
        [source, name, email] => (source, Some((name, email))),
        _ => return Err(CliError::Misuse("write: git:from-archive <app> URL|FILE|- [NAME EMAIL]".into())),
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(kind) = matches.get_one::<String>("archive-type") {
        query.append_pair("kind", kind);
    }
    if let Some((name, email)) = author {
        query.append_pair("name", name).append_pair("email", email);
    }
    // Before anything is sent: a refusal in the middle of an upload can get lost with the connection.
    let _exists: AppInfo = context.get(&format!("/v1/apps/{app}")).await?;
    let is_url = source.starts_with("https://") || source.starts_with("http://");
    if is_url {
        query.append_pair("url", source);
    }
    let path = format!("/v1/apps/{app}/archive?{}", query.finish());
    if is_url {
        return context.act_on(&path, tokio::io::empty()).await;
    }
    context.act_on(&path, context.input(source).await?).await
}

async fn from_image(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let body = match &rest[..] {
        [image] => ImageSource { image: image.clone(), name: None, email: None },
        [image, name, email] => {
            ImageSource { image: image.clone(), name: Some(name.clone()), email: Some(email.clone()) }
        }
        _ => {
            return Err(CliError::Misuse(
                "write: git:from-image <app> IMAGE[:TAG|@DIGEST] [NAME EMAIL]".into(),
            ));
        }
    };
    context.act(Method::POST, &format!("/v1/apps/{app}/image"), Some(&body)).await
}

async fn load_image(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let (image, author) = match &rest[..] {
        [] => (None, None),
        [image] => (Some(image), None),
        [image, name, email] => (Some(image), Some((name, email))),
        _ => {
            return Err(CliError::Misuse(
                "write: git:load-image <app> IMAGE[:TAG] [NAME EMAIL] < ARCHIVE.tar".into(),
            ));
        }
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(image) = image {
        query.append_pair("image", image);
    }
    if let Some((name, email)) = author {
        query.append_pair("name", name).append_pair("email", email);
    }
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(CliError::Misuse(
            "send the archive on standard input: docker save IMAGE | berth git:load-image <app> IMAGE".into(),
        ));
    }
    // Before anything is sent: a refusal in the middle of an upload can get lost with the connection.
    let _exists: AppInfo = context.get(&format!("/v1/apps/{app}")).await?;
    let path = format!("/v1/apps/{app}/image/archive?{}", query.finish());
    context.act_on(&path, context.input("-").await?).await
}

async fn sync(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let (url, reference) = match &rest[..] {
        [url] => (url.clone(), None),
        [url, reference] => (url.clone(), Some(reference.clone())),
        _ => return Err(CliError::Misuse("write: git:sync <app> URL [REF]".into())),
    };
    let deploy = match (matches.get_flag("build"), matches.get_flag("build-if-changes")) {
        (true, _) => SyncDeploys::Always,
        (false, true) => SyncDeploys::IfChanged,
        (false, false) => SyncDeploys::Never,
    };
    let body = SyncSource { url, reference, deploy };
    context.act(Method::POST, &format!("/v1/apps/{app}/sync"), Some(&body)).await
}
