//! One command that ran once, or runs: what is known of it, and what it wrote.

use super::{back, end_of, took};
use crate::Ui;
use crate::action::Fields;
use crate::page::{button, empty};
use crate::pages::app::header;
use crate::session::Visitor;
use crate::show::{duration, moment, part, state};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_model::AppName;
use berth_model::container::{LogLine, LogStream};
use berth_model::run::RunInfo;
use maud::{Markup, html};
use serde_json::json;
use std::convert::Infallible;

/// Lines that the page shows, the last.
const SHOWN: usize = 500;
/// Lines of the text, at most: what the API gives.
const MOST: usize = 1_000_000;
/// Characters of a line that the page shows.
const LONGEST: usize = 2000;

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}/runs/{run}", get(page))
        .route("/ui/apps/{app}/runs/{run}/log.txt", get(text))
        .route("/ui/apps/{app}/runs/{run}/stop", post(stop))
}

pub(super) fn stop_action(app: &AppName, run: &RunInfo) -> String {
    format!("/ui/apps/{app}/runs/{}/stop", part(&run.name))
}

fn api_path(app: &AppName, run: &str) -> String {
    format!("/v1/apps/{app}/runs/{}", part(run))
}

async fn page(visitor: Visitor, Path((app, name)): Path<(AppName, String)>) -> Response {
    let title = name.clone();
    visitor.show_of(&title, (app, name), view).await
}

async fn view(visitor: &Visitor, (app, name): &(AppName, String)) -> Result<Markup, Trouble> {
    let path = api_path(app, name);
    let ((_, head), run) =
        tokio::try_join!(header(visitor, app), async { Ok(visitor.api.get::<RunInfo>(&path).await?) })?;
    let log = if run.detached { Some(lines(visitor, app, &run).await) } else { None };
    Ok(html! { (head) (details(app, &run, log.as_ref())) })
}

/// The last lines of what it wrote.
async fn lines(visitor: &Visitor, app: &AppName, run: &RunInfo) -> Result<Vec<LogLine>, Trouble> {
    let path = format!("{}/logs?lines={SHOWN}", api_path(app, &run.name));
    let mut answer = visitor.api.lines(Method::GET, &path, None::<&()>).await?;
    let mut lines = Vec::new();
    while let Some(line) = answer.next::<LogLine>().await? {
        lines.push(line);
    }
    Ok(lines)
}

fn details(app: &AppName, run: &RunInfo, log: Option<&Result<Vec<LogLine>, Trouble>>) -> Markup {
    let name =
        run.name.strip_prefix(app.as_str()).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&run.name);
    let base = format!("/ui/apps/{app}/runs/{}", part(&run.name));
    let due = run.cron.as_ref().and_then(|cause| cause.due_ms);
    html! {
        p.crumbs { a href=(back(app)) { "Jobs" } " /" }
        div.heading {
            h2 { (name) }
            (state(run.status.as_str())) span { (end_of(run)) }
            div.actions {
                @if run.is_live() {
                    @if run.detached && run.started_ms.is_some() { a.button href={ "/ui/apps/" (app) "/terminal?container=" (part(name)) } { "Terminal" } }
                    (button(&stop_action(app, run), "Stop", "", &[("stay", "1")]))
                }
            }
        }
        dl.facts {
            div { dt { "Command" } dd { code { (run.command) } } }
            div { dt { "Asked for by" } dd { @if due.is_some() { "the clock" } @else { (run.by) } } }
            @if let Some(due) = due { div { dt { "Due" } dd { (moment(due)) } } }
            @match run.started_ms {
                Some(at) => div { dt { "Began" } dd { (moment(at)) } },
                None => div { dt { "Asked for" } dd { (moment(run.created_ms)) } },
            }
            @if let Some(at) = run.ended_ms { div { dt { "Ended" } dd { (moment(at)) @if let Some(took) = took(run) { span.dim { ", took " (duration(took)) } } } } }
            @if let Some(code) = run.exit_code { div { dt { "Exit code" } dd { (code) } } }
            @if let (true, Some(until)) = (run.is_live(), run.until_ms) { div { dt { "Ends at the latest" } dd { (moment(until)) } } }
            div { dt { "Release" } dd { (run.release) } }
            @if let Some(node) = &run.node { div { dt { "Node" } dd { a href={ "/ui/nodes/" (node) } { (node) } } } }
        }
        section aria-labelledby="output" {
            div.heading { h2 #output { "What it wrote" } div.actions { @if run.detached { a href={ (base) "/log.txt" } { "All of it, as text" } } } }
            @match log {
                None => (empty("Its output went to whoever started it, and is not kept.", &html! {})),
                Some(Err(trouble)) => p.wrong { (trouble.message()) },
                Some(Ok(lines)) if lines.is_empty() => (empty(if run.is_live() { "Nothing yet." } else { "Nothing." }, &html! {})),
                Some(Ok(lines)) => {
                    @if lines.len() >= SHOWN { p.hint { "The last " (SHOWN) " lines." } }
                    pre.output tabindex="0" aria-label="What it wrote" { @for line in lines { span.berth-line[line.stream == LogStream::Berth].err[line.stream == LogStream::Stderr] { (plain(&line.text, LONGEST)) } "\n" } }
                },
            }
        }
    }
}

/// A line without what only a terminal understands: escape sequences (ECMA-48 §5.4, §8.3.89) and control characters, at most
/// so many characters.
fn plain(text: &str, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(most));
    let mut chars = text.chars().peekable();
    let mut count = 0;
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\u{1b}', Some('[')) => {
                chars.next();
                // Parameters and intermediates, then one final byte.
                while chars.next_if(|c| matches!(c, '\u{20}'..='\u{3f}')).is_some() {}
                chars.next_if(|c| matches!(c, '\u{40}'..='\u{7e}'));
            }
            ('\u{1b}', Some(']')) => while chars.next_if(|c| !matches!(c, '\u{7}' | '\u{1b}')).is_some() {},
            ('\t', _) => shown.push('\t'),
            _ if c.is_control() => {}
            _ if count == most => {
                shown.push('…');
                break;
            }
            _ => {
                shown.push(c);
                count += 1;
            }
        }
    }
    shown
}

async fn text(visitor: Visitor, Path((app, name)): Path<(AppName, String)>) -> Response {
    let path = format!("{}/logs?lines={MOST}", api_path(&app, &name));
    let lines = match visitor.api.lines(Method::GET, &path, None::<&()>).await {
        Ok(lines) => lines,
        Err(error) => return Trouble::from(error).into_response(),
    };
    let body = futures_util::stream::unfold(Some(lines), |lines| async move {
        let mut lines = lines?;
        let (text, rest) = match lines.next::<LogLine>().await {
            Ok(Some(line)) => (format!("{}\n", line.text), Some(lines)),
            // Whoever reads it must not take it for all there is.
            Err(error) => (format!("\nthis is not all: {error}\n"), None),
            Ok(None) => return None,
        };
        Some((Ok::<_, Infallible>(Bytes::from(text)), rest))
    });
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(body)).into_response()
}

async fn stop(visitor: Visitor, Path((app, name)): Path<(AppName, String)>, fields: Fields) -> Response {
    let path = format!("{}/stop", api_path(&app, &name));
    let then = if fields.is_on("stay") { format!("/ui/apps/{app}/runs/{}", part(&name)) } else { back(&app) };
    fields.act(&visitor, Method::POST, &path, Some(&json!({})), &then).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shown_without_what_terminals_obey() {
        assert_eq!(plain("\u{1b}[1;31mred\u{1b}[0m\tx\r", 80), "red\tx");
        assert_eq!(plain("\u{1b}]0;title\u{7}y\u{1b}[", 80), "y");
        assert_eq!(plain("a\u{1b}b\u{9b}c\u{0}", 80), "abc");
        assert_eq!(plain("äöü", 2), "äö…");
    }
}
