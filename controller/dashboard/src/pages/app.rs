//! One app: what runs and where, how it does, and what changes that.

use crate::Ui;
use crate::action::Fields;
use crate::page::{TABS, button, command, danger, empty};
use crate::session::Visitor;
use crate::show::{bytes, cpus, latency, moment, percent, rate, state};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{get, post};
use berth_model::AppName;
use berth_model::ProcessType;
use berth_model::api::{AppInfo, PsContainer, PsReport, ReleaseInfo, VersionInfo};
use berth_model::container::ContainerState;
use berth_model::deploy::{DeployReport, canary_remark};
use berth_model::metrics::Usage;
use berth_model::traffic::Traffic;
use maud::{Markup, html};
use serde_json::json;
use std::collections::BTreeMap;

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}", get(overview))
        .route("/ui/apps/{app}/scale", post(scale))
        .route("/ui/apps/{app}/restart", post(restart))
        .route("/ui/apps/{app}/stop", post(stop))
        .route("/ui/apps/{app}/start", post(start))
        .route("/ui/apps/{app}/destroy", post(destroy))
}

/// What all pages of an app begin with: name, state, addresses, tabs.
pub(crate) async fn header(visitor: &Visitor, app: &AppName) -> Result<(AppInfo, Markup), Trouble> {
    let info = visitor.api.get::<AppInfo>(&format!("/v1/apps/{app}")).await?;
    let base = format!("/ui/apps/{app}");
    let head = html! {
        p.crumbs { a href="/ui/apps" { "Apps" } " /" }
        div.heading {
            h1 { (app) }
            (state(&info.status))
            @if let Some(release) = info.release { span.dim { (release) } }
            span.urls {
                @for url in info.urls.iter().take(3) { a href=(url) rel="noopener noreferrer" target="_blank" { (url.trim_start_matches("http://").trim_start_matches("https://")) } }
                @if info.urls.len() > 3 { a href={ (base) "/domains" } { "and " (info.urls.len() - 3) " more" } }
            }
        }
        @if let Some(lock) = info.life.as_ref().and_then(|life| life.lock.as_ref()) {
            p.notice { "Deploys are locked by " b { (lock.by) } @if let Some(why) = &lock.reason { ": " (why) } }
        }
        nav.tabs aria-label={ "Of " (app) } {
            @for (path, words) in TABS {
                @let address = format!("{base}{path}");
                a href=(address) aria-current=[(visitor.path == address).then_some("page")] { (words) }
            }
        }
    };
    Ok((info, head))
}

async fn overview(visitor: Visitor, Path(app): Path<AppName>) -> Response {
    let title = app.to_string();
    visitor.show_of(&title, app, view).await
}

async fn view(visitor: &Visitor, app: &AppName) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let of = |what: &str| format!("/v1/apps/{app}/{what}");
    let ((info, head), ps, top, traffic, deploy) = tokio::try_join!(
        header(visitor, app),
        async { Ok(api.get::<PsReport>(&of("ps")).await?) },
        async { Ok(api.get::<Vec<Usage>>("/v1/top").await?) },
        async { Ok(api.get::<Traffic>(&of("traffic")).await?) },
        async { Ok(api.get::<DeployReport>(&of("deploy")).await?) },
    )?;
    let Some(current) = info.release else { return Ok(html! { (head) (not_deployed(visitor, app).await?) }) };
    let of_release = of(&format!("releases/{current}"));
    let (release, version) =
        tokio::try_join!(api.get::<ReleaseInfo>(&of_release), api.get::<VersionInfo>("/v1/version"))?;
    let usage: BTreeMap<&str, &Usage> = top.iter().map(|one| (one.container.as_str(), one)).collect();
    let now = &traffic.now;
    Ok(html! {
        (head)
        (super::deploys::standing(app, &deploy))
        // That a canary is on trial is said above.
        @let said = deploy.canary.as_ref().map(|canary| canary_remark(canary.release, canary.percent));
        @for remark in ps.remarks.iter().filter(|one| Some(*one) != said.as_ref()) { p.notice { (remark) } }
        dl.figures {
            div { dt { "Requests/s" } dd { (rate(now.requests, now.seconds)) } }
            div { dt { "Under way" } dd { (traffic.in_flight) } }
            div { dt { "Errors" } dd class=(if now.server_error > 0 { "bad" } else { "" }) { (percent(now.server_error, now.requests)) } }
            div { dt { "p50" } dd { (now.p50_us.map_or_else(|| "–".to_owned(), latency)) } }
            div { dt { "p95" } dd { (now.p95_us.map_or_else(|| "–".to_owned(), latency)) } }
            div { dt { "p99" } dd { (now.p99_us.map_or_else(|| "–".to_owned(), latency)) } }
        }
        section aria-labelledby="processes" {
            div.heading {
                h2 #processes { "Processes" }
                div.actions {
                    (button(&format!("/ui/apps/{app}/restart"), "Restart all", "", &[]))
                    @if info.stopped { (button(&format!("/ui/apps/{app}/start"), "Start", "primary", &[])) }
                    @else { button type="button" data-opens="stop-app" { "Stop" } }
                }
            }
            (processes(app, &info, &ps, &release, &usage))
        }
        section aria-labelledby="charts" {
            div.heading {
                h2 #charts { "Lately" }
                div.actions role="group" aria-label="Range" data-keep #range {
                    button type="button" data-range="1h" aria-pressed="true" { "1 h" }
                    button type="button" data-range="24h" aria-pressed="false" { "24 h" }
                }
            }
            div.charts #charts-of-app data-keep data-charts={ "/ui/apps/" (app) "/metrics.json" } {
                @for (kind, words) in super::charts::KINDS { figure data-chart=(kind) { figcaption { (words) } div.plot role="img" aria-label=(words) {} p.chart-now { "…" } } }
            }
            script src=(crate::assets::href("vendor/uPlot.iife.min.js")) defer {}
            script src=(crate::assets::href("charts.js")) defer {}
            link rel="stylesheet" href=(crate::assets::href("vendor/uPlot.min.css"));
        }
        section aria-labelledby="release" {
            div.heading { h2 #release { "Release " (release.version) } div.actions { a href={ "/ui/apps/" (app) "/deploys" } { "All deploys" } } }
            dl.facts {
                div { dt { "What" } dd { (release.description) } }
                div { dt { "Who" } dd { (release.by) } }
                div { dt { "When" } dd { (moment(release.created_ms)) } }
                @if let Some(commit) = &release.git_rev { div { dt { "Commit" } dd { code { (commit.get(..12).unwrap_or(commit)) } } } }
                @if let Some(builder) = &info.builder { div { dt { "Built by" } dd { (builder) } } }
                div { dt { "Image" } dd { code.digest { (release.image) } } }
            }
            @if release.git_rev.is_some() { (get_code(app, version.ssh_port)) }
        }
        (stop_dialog(app))
    })
}

fn stop_dialog(app: &AppName) -> Markup {
    danger(
        "stop-app",
        "Stop the app",
        &format!("/ui/apps/{app}/stop"),
        "Stop",
        app.as_str(),
        "All its processes end, and its addresses answer 503 until it is started again. Nothing is lost.",
    )
}

/// How its code comes to another machine, to be pushed from there.
fn get_code(app: &AppName, ssh_port: u16) -> Markup {
    html! {
        details #code {
            summary { "Get its code" }
            div data-fill-host { (command(&format!("git clone ssh://paas@HOST:{ssh_port}/{app}"))) }
            p.hint { "Change it, commit, and " code { "git push" } ": that deploys. It needs a key at " a href="/ui/access" { "Access" } "." }
        }
    }
}

async fn not_deployed(visitor: &Visitor, app: &AppName) -> Result<Markup, Trouble> {
    let version = visitor.api.get::<VersionInfo>("/v1/version").await?;
    Ok(html! {
        (empty("Nothing was deployed yet. Push something, or begin with a sample.", &html! {}))
        ol.steps {
            li {
                h2 { "Point git at it" }
                div data-fill-host { (command(&format!("git remote add paas ssh://paas@HOST:{}/{app}", version.ssh_port))) }
            }
            li { h2 { "Push" } (command("git push paas main")) p { "The build shows at " a href={ "/ui/apps/" (app) "/deploys" } { "Deploys" } " while it runs." } }
        }
        section aria-labelledby="samples" { h2 #samples { "Or deploy a sample" } (super::samples::of_app(app)) }
        section aria-labelledby="sources" { h2 #sources { "Or what is somewhere else" } p.buttons-left { (super::deploys::other_sources(app)) } }
    })
}

fn processes(
    app: &AppName,
    info: &AppInfo,
    ps: &PsReport,
    release: &ReleaseInfo,
    usage: &BTreeMap<&str, &Usage>,
) -> Markup {
    let mut types: Vec<&ProcessType> = release.processes.keys().chain(ps.formation.0.keys()).collect();
    types.sort_by_key(|process| (!process.is_web(), *process));
    types.dedup();
    let can_scale = ps.settings.as_ref().is_none_or(|settings| settings.can_scale) && !info.stopped;
    html! {
        @for process in types {
            @let wanted = ps.formation.0.get(process).copied().unwrap_or(0);
            @let own: Vec<_> = ps.containers.iter().filter(|one| one.process == *process).collect();
            article.process id={ "process-" (process) } {
                div.process-head {
                    h3 { (process) }
                    code.dim { (release.processes.get(process).map_or("", String::as_str)) }
                    (scaler(app, process, wanted, can_scale))
                }
                @if own.is_empty() { p.dim { @if wanted == 0 { "None wanted." } @else { "None there yet." } } }
                @else { (containers(app, &own, usage)) }
            }
        }
    }
}

fn scaler(app: &AppName, process: &ProcessType, wanted: u32, can: bool) -> Markup {
    let action = format!("/ui/apps/{app}/scale");
    let step = |to: Option<u32>, sign: &str, words: &str| {
        html! {
            form.inline method="post" action=(action) data-action {
                input type="hidden" name="process" value=(process);
                input type="hidden" name="count" value=(to.unwrap_or(wanted));
                button.step disabled[to.is_none() || !can] aria-label={ (words) " " (process) " to " (to.unwrap_or(wanted)) } { (sign) }
            }
        }
    };
    html! {
        div.scaler role="group" aria-label={ "Replicas of " (process) } {
            (step(wanted.checked_sub(1), "−", "Scale down"))
            output aria-label={ "Replicas of " (process) } { (wanted) }
            (step(Some(wanted + 1), "+", "Scale up"))
        }
    }
}

/// A container's state in a word, and more to say of it.
pub(crate) fn state_of(container: &PsContainer) -> (&'static str, Option<String>) {
    let word = match container.status.as_ref().map(|status| &status.state) {
        None => "waiting",
        Some(ContainerState::Preparing) => "preparing",
        Some(ContainerState::Starting { .. }) => "starting",
        Some(ContainerState::Running { ready: true, .. }) => "running",
        Some(ContainerState::Running { ready: false, .. }) => "not ready",
        Some(ContainerState::Stopping) => "stopping",
        Some(ContainerState::BackingOff { exit, .. }) => {
            return ("backing off", Some(format!("exited with code {}", exit.code)));
        }
        Some(ContainerState::Exited { exit }) => return ("exited", Some(format!("code {}", exit.code))),
        Some(ContainerState::Failed { reason }) => return ("failed", Some(reason.clone())),
    };
    (word, container.waiting.clone())
}

fn containers(app: &AppName, all: &[&PsContainer], usage: &BTreeMap<&str, &Usage>) -> Markup {
    html! {
        div.wide { table.containers {
            thead { tr {
                th scope="col" { "Container" } th scope="col" { "State" } th scope="col" { "Node" } th scope="col" { "Since" }
                th.n scope="col" { "CPU" } th.n scope="col" { "Memory" } th.n scope="col" { "Restarts" } th scope="col" { span.hidden { "Actions" } }
            } }
            tbody { @for container in all {
                @let (word, more) = state_of(container);
                @let used = usage.get(container.id.as_str());
                @let since = container.status.as_ref().and_then(|status| match status.state { ContainerState::Running { since_ms, .. } | ContainerState::Starting { since_ms } => Some(since_ms), _ => None });
                tr id={ "c-" (container.id) } {
                    th scope="row" { (container.process) "." (container.ordinal) " " span.dim { (container.release) } }
                    td { (state(word)) @if let Some(more) = more { " " span.dim { (more) } } }
                    td data-label="Node" { @if let Some(node) = &container.node { a href={ "/ui/nodes/" (node) } { (node) } } @else { "–" } }
                    td data-label="Since" { @if let Some(since) = since { (moment(since)) } @else { "–" } }
                    td.n data-label="CPU" { (used.map_or_else(|| "–".to_owned(), |used| cpus(used.cpu_millis))) }
                    td.n data-label="Memory" { @if let Some(used) = used {
                        (bytes(used.counters.memory_bytes)) @if let Some(limit) = used.counters.memory_limit_bytes { span.dim { " of " (bytes(limit)) } }
                    } @else { "–" } }
                    td.n data-label="Restarts" { (used.map_or(0, |used| used.restarts)) }
                    td.row-actions {
                        a href={ "/ui/apps/" (app) "/logs?process=" (container.process) "&ordinal=" (container.ordinal) } { "Logs" }
                        @if container.command != "static" { a href={ "/ui/apps/" (app) "/terminal?container=" (container.process) "." (container.ordinal) } { "Terminal" } }
                        (button(&format!("/ui/apps/{app}/restart"), "Restart", "link", &[("process", container.process.as_str()), ("ordinal", &container.ordinal.to_string())]))
                    }
                }
            } }
        } }
    }
}

fn back(app: &AppName) -> String {
    format!("/ui/apps/{app}")
}

async fn scale(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let count = match fields.parsed::<u32>("count", "number of replicas") {
        Ok(count) => count,
        Err(trouble) => return fields.refuse(&trouble),
    };
    let body = json!({ "formation": { fields.text("process"): count } });
    fields.act(&visitor, Method::POST, &format!("/v1/apps/{app}/scale"), Some(&body), &back(&app)).await
}

async fn restart(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let mut body = serde_json::Map::new();
    if let Some(process) = fields.some("process") {
        body.insert("process".to_owned(), process.into());
    }
    if fields.some("ordinal").is_some() {
        match fields.parsed::<u32>("ordinal", "number of a container") {
            Ok(ordinal) => drop(body.insert("ordinal".to_owned(), ordinal.into())),
            Err(trouble) => return fields.refuse(&trouble),
        }
    }
    fields.act(&visitor, Method::POST, &format!("/v1/apps/{app}/restart"), Some(&body), &back(&app)).await
}

async fn stop(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    if let Err(trouble) = fields.must_name(app.as_str()) {
        return fields.refuse(&trouble);
    }
    fields.act(&visitor, Method::POST, &format!("/v1/apps/{app}/stop"), Some(&json!({})), &back(&app)).await
}

async fn start(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    fields.act(&visitor, Method::POST, &format!("/v1/apps/{app}/start"), Some(&json!({})), &back(&app)).await
}

async fn destroy(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    if let Err(trouble) = fields.must_name(app.as_str()) {
        return fields.refuse(&trouble);
    }
    fields.act(&visitor, Method::DELETE, &format!("/v1/apps/{app}"), None::<&()>, "/ui/apps").await
}
