//! What is built of a push: branch, directory, builder, Dockerfile, buildpacks. All of it is for the next build.

use super::super::forms::{fact, line, lines, set_or, unix};
use super::{act, back};
use crate::action::Fields;
use crate::page::{dialog, opener};
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::AppName;
use berth_model::api::{AppInfo, PatchApp};
use berth_model::build::DEFAULT_TIMEOUT_SECS;
use maud::{Markup, html};

/// The section of the page.
pub(super) fn section(info: &AppInfo) -> Markup {
    let action = format!("{}/build", back(&info.name));
    let set = |value: &Option<String>, otherwise: &str| set_or(value.as_deref(), otherwise);
    let built = info
        .builder
        .as_ref()
        .map_or("found in the tree".to_owned(), |by| format!("found in the tree; last: {by}"));
    let timeout = info.build_timeout_secs.unwrap_or(DEFAULT_TIMEOUT_SECS);
    html! {
        section aria-labelledby="build" {
            div.heading { h2 #build { "Build" } }
            div.cards-of-settings {
                article.card {
                    div.heading { h3 { "Source" } div.actions { (opener("build-source", "Edit", "link")) } }
                    dl.facts {
                        (fact("Branch", &set(&info.deploy_branch, "that of the first push")))
                        (fact("Directory", &set(&info.build_dir, "the top of the tree")))
                        (fact("Procfile", &set(&info.procfile_path, "Procfile")))
                        (fact("app.json", &set(&info.app_json_path, "app.json")))
                    }
                }
                article.card {
                    div.heading { h3 { "Builder" } div.actions { (opener("build-builder", "Edit", "link")) } }
                    dl.facts {
                        (fact("Builder", &set(&info.builder_selected, &built)))
                        (fact("Longest build", &html! { @if timeout.is_multiple_of(60) { (timeout / 60) " min" } @else { (timeout) " s" } }))
                        (fact("Dockerfile", &set(&info.dockerfile_path, "Dockerfile")))
                        (fact("Stage", &set(&info.dockerfile_target, "the last")))
                    }
                }
                article.card {
                    div.heading { h3 { "Buildpacks" } div.actions { (opener("build-packs", "Edit", "link")) } }
                    dl.facts {
                        (fact("Stack", &set(&info.stack, "chosen by Berth")))
                        (fact("Buildpacks", &html! { @if info.buildpacks.is_empty() { span.dim { "chosen by Berth" } } @else { ol.list { @for one in &info.buildpacks { li { code { (one) } } } } } }))
                    }
                }
            }
            (dialog("build-source", "Source", &action, "Set", &source(info)))
            (dialog("build-builder", "Builder", &action, "Set", &builder(info)))
            (dialog("build-packs", "Buildpacks", &action, "Set", &packs(info)))
        }
    }
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

fn source(info: &AppInfo) -> Markup {
    html! {
        (line("build-branch", "deploy_branch", "Branch whose pushes deploy", text(&info.deploy_branch), "Empty: that of the next first push."))
        (line("build-dir", "build_dir", "Directory that is built", text(&info.build_dir), "Such as apps/web; empty: the top."))
        (line("build-procfile", "procfile_path", "Path of the Procfile", text(&info.procfile_path), ""))
        (line("build-appjson", "app_json_path", "Path of app.json", text(&info.app_json_path), ""))
        p.hint { "For the next build." }
    }
}

fn builder(info: &AppInfo) -> Markup {
    let secs = info.build_timeout_secs.map(|secs| secs.to_string()).unwrap_or_default();
    html! {
        (line("build-with", "builder", "Builder", text(&info.builder_selected), "Such as python, node, dockerfile, cnb or classic; empty: found in the tree."))
        (line("build-timeout", "build_timeout_secs", "Longest build, in seconds", &secs, &format!("10 to 86400; empty: {DEFAULT_TIMEOUT_SECS}.")))
        (line("build-dockerfile", "dockerfile_path", "Path of the Dockerfile", text(&info.dockerfile_path), ""))
        (line("build-target", "dockerfile_target", "Stage of it", text(&info.dockerfile_target), "Empty: the last."))
        p.hint { "For the next build." }
    }
}

fn packs(info: &AppInfo) -> Markup {
    html! {
        (line("build-stack", "stack", "Stack", text(&info.stack), "debian-12, heroku-24, an image, or two (RUN,BUILD); empty: chosen by Berth."))
        (lines("build-list", "buildpacks", "Buildpacks", &info.buildpacks.join("\n"), 5, "One a line, in order: heroku/nodejs, https://github.com/owner/buildpack#v2, ./buildpacks/mine, docker://ghcr.io/owner/buildpack:1. None: chosen by Berth."))
        p.hint { "For the next build." }
    }
}

/// What one of the forms asks for; what it has no field for stays.
fn patch(fields: &Fields) -> Result<PatchApp, Trouble> {
    let shown = |name: &str| fields.all(name).next().map(|text| text.trim().to_owned());
    let timeout = match shown("build_timeout_secs").as_deref() {
        None => None,
        Some("") => Some(0),
        Some(_) => Some(fields.parsed("build_timeout_secs", "number of seconds")?),
    };
    let list = |text: String| {
        unix(&text).lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    Ok(PatchApp {
        deploy_branch: shown("deploy_branch"),
        build_dir: shown("build_dir"),
        procfile_path: shown("procfile_path"),
        app_json_path: shown("app_json_path"),
        builder: shown("builder"),
        build_timeout_secs: timeout,
        dockerfile_path: shown("dockerfile_path"),
        dockerfile_target: shown("dockerfile_target"),
        stack: shown("stack"),
        buildpacks: shown("buildpacks").map(list),
        ..PatchApp::default()
    })
}

/// Sets what one of the forms has.
pub(super) async fn set(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    act(&visitor, &fields, (Method::PATCH, &format!("/v1/apps/{app}")), patch(&fields), &back(&app)).await
}
