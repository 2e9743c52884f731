//! Who changed what, from where, and how it went.

use crate::Ui;
use crate::page::{empty, heading};
use crate::session::Visitor;
use crate::show::{duration, moment, state};
use crate::trouble::Trouble;
use axum::Router;
use axum::extract::Query;
use axum::http::Method;
use axum::response::Response;
use axum::routing::get;
use berth_model::events::{EventInfo, EventResult};
use maud::{Markup, html};
use serde::Deserialize;

/// Events on a page.
const SHOWN: usize = 100;
/// Families of kinds, for choosing.
const KINDS: [&str; 25] = [
    "alerts",
    "apps",
    "builds",
    "certs",
    "checks",
    "config",
    "cron",
    "deploy",
    "domains",
    "drains",
    "images",
    "letsencrypt",
    "logs",
    "network",
    "node",
    "proxy",
    "ps",
    "registry",
    "releases",
    "run",
    "secrets",
    "sessions",
    "ssh-keys",
    "storage",
    "tokens",
];

pub(crate) fn router() -> Router<Ui> {
    Router::new().route("/ui/activity", get(page))
}

/// What is wanted; empty is all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    app: String,
    kind: String,
    by: String,
    result: String,
    /// Only events before this one.
    before: Option<u64>,
}

impl Wanted {
    fn fields(&self) -> [(&'static str, &str); 4] {
        [("app", &self.app), ("kind", &self.kind), ("by", &self.by), ("result", &self.result)]
    }

    /// Whether every event is.
    fn is_any(&self) -> bool {
        self.fields().iter().all(|(_, value)| value.trim().is_empty()) && self.before.is_none()
    }

    /// What the API is asked: one more than is shown, to see whether there are older ones.
    fn path(&self) -> String {
        format!("/v1/events?{}", self.query(self.before, Some(SHOWN + 1)))
    }

    fn query(&self, before: Option<u64>, lines: Option<usize>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in self.fields() {
            if !value.trim().is_empty() {
                query.append_pair(name, value.trim());
            }
        }
        let numbers =
            [("before", before.map(|seq| seq.to_string())), ("lines", lines.map(|most| most.to_string()))];
        for (name, value) in numbers {
            if let Some(value) = value {
                query.append_pair(name, &value);
            }
        }
        query.finish()
    }

    /// The page of the same choice; `before`: that goes on before this event.
    fn address(&self, before: Option<u64>) -> String {
        format!("/ui/activity?{}", self.query(before, None))
    }
}

async fn page(visitor: Visitor, Query(wanted): Query<Wanted>) -> Response {
    visitor
        .show("Activity", move |visitor| {
            let wanted = wanted.clone();
            async move {
                match look(&visitor, &wanted).await {
                    Err(Trouble::SignedOut) => Err(Trouble::SignedOut),
                    found => Ok(view(&wanted, &found)),
                }
            }
        })
        .await
}

/// All that the API gives, oldest first.
async fn look(visitor: &Visitor, wanted: &Wanted) -> Result<Vec<EventInfo>, Trouble> {
    let mut lines = visitor.api.lines(Method::GET, &wanted.path(), None::<&()>).await?;
    let mut events = Vec::new();
    while let Some(event) = lines.next::<EventInfo>().await? {
        events.push(event);
    }
    Ok(events)
}

fn view(wanted: &Wanted, found: &Result<Vec<EventInfo>, Trouble>) -> Markup {
    html! {
        (heading("Activity", &html! { @if wanted.before.is_some() { a.button href=(wanted.address(None)) { "Newest" } } }))
        (filters(wanted))
        @match found {
            Err(trouble) => p.wrong role="alert" { (trouble.message()) },
            Ok(events) => (list(wanted, events)),
        }
    }
}

fn filters(wanted: &Wanted) -> Markup {
    html! {
        form.row #filters action="/ui/activity" data-keep role="search" {
            div { label for="by-app" { "App" } input #by-app name="app" value=(wanted.app) maxlength="63" autocomplete="off" spellcheck="false"; }
            div { label for="by-kind" { "Kind" } input #by-kind name="kind" value=(wanted.kind) list="kinds" maxlength="60" autocomplete="off" spellcheck="false"; }
            datalist #kinds { @for kind in KINDS { option value=(kind); } }
            div { label for="by-who" { "Who" } input #by-who name="by" value=(wanted.by) maxlength="64" autocomplete="off" spellcheck="false"; }
            div { label for="by-result" { "Result" } select #by-result name="result" {
                option value="" { "Any" }
                @for result in EventResult::ALL {
                    option value=(result.as_str()) selected[wanted.result == result.as_str()] { (result.as_str()) }
                }
            } }
            button { "Show" }
            @if !wanted.is_any() { a href="/ui/activity" { "All" } }
        }
    }
}

fn list(wanted: &Wanted, found: &[EventInfo]) -> Markup {
    let shown = found.get(found.len().saturating_sub(SHOWN)..).unwrap_or_default();
    let older = shown.first().filter(|_| shown.len() < found.len());
    html! {
        @if shown.is_empty() {
            (empty(if wanted.is_any() { "Nothing was changed yet." } else { "There are no such events." }, &html! {}))
        } @else {
            div.wide { table #events .cards {
                thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "App" } th scope="col" { "What" } th scope="col" { "Result" } } }
                tbody { @for event in shown.iter().rev() { (row(event)) } }
            } }
        }
        @if let Some(last) = older { p { a href=(wanted.address(Some(last.seq))) { "Older" } } }
        @else if !shown.is_empty() { p.hint { "That is all. Events are kept for 400 days, 100000 at most. The same in a shell: " code { "berth events" } } }
    }
}

fn row(event: &EventInfo) -> Markup {
    let seconds = event.took_ms.map(|ms| ms / 1000).filter(|seconds| *seconds > 0);
    html! {
        tr id={ "e-" (event.seq) } {
            td { (moment(event.at_ms)) }
            td { b { (event.by) } @if !event.from.is_empty() { span.under title=(event.from) { (event.from) } } }
            td.of { @if let Some(app) = &event.app { a href={ "/ui/apps/" (app) } { (app) } } }
            td.said {
                (event.text)
                span.under { (event.kind) @if let Some(seconds) = seconds { ", took " (duration(seconds)) } }
                @if let Some(reason) = &event.reason { (why(event.seq, reason)) }
            }
            td { (state(event.result.as_str())) }
        }
    }
}

/// Why it failed: of prose that is longer than a sentence the first line, and the rest when asked for.
fn why(seq: u64, reason: &str) -> Markup {
    let reason = reason.trim();
    match reason.split_once('\n') {
        None => html! { p.reason { (reason) } },
        Some((first, rest)) => html! {
            details.reason id={ "why-" (seq) } { summary { (first) } (rest) }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::AppName;

    fn event(seq: u64, by: &str, result: EventResult) -> EventInfo {
        EventInfo {
            seq,
            at_ms: i64::try_from(seq).unwrap_or(0) * 10,
            app: AppName::parse("shop").ok(),
            by: by.into(),
            from: "ssh 192.0.2.1".into(),
            kind: "config.set".into(),
            text: "set <A>".into(),
            result,
            reason: None,
            took_ms: Some(2100),
        }
    }

    #[test]
    fn older_events_are_a_link_away() {
        let all: Vec<_> = (50..=150).map(|seq| event(seq, "ann", EventResult::Done)).collect();
        let text = list(&Wanted { by: "ann".into(), ..Wanted::default() }, &all).into_string();
        assert!(
            text.contains("id=\"e-150\"") && text.contains("id=\"e-51\"") && !text.contains("id=\"e-50\"")
        );
        assert!(text.contains("by=ann&amp;before=51\""), "{text}");
        let text = list(&Wanted::default(), &all[1..]).into_string();
        assert!(text.contains("id=\"e-51\"") && text.contains("That is all") && text.contains("&lt;A&gt;"));
        assert!(list(&Wanted::default(), &[]).into_string().contains("Nothing was changed yet"));
    }

    #[test]
    fn the_api_is_asked_for_what_is_wanted() {
        let wanted = Wanted {
            by: " bob&x ".into(),
            kind: "config".into(),
            result: "failed".into(),
            ..Wanted::default()
        };
        assert_eq!(wanted.path(), "/v1/events?kind=config&by=bob%26x&result=failed&lines=101");
        assert_eq!(wanted.address(Some(7)), "/ui/activity?kind=config&by=bob%26x&result=failed&before=7");
        assert!(!wanted.is_any() && Wanted::default().is_any());
        let text = filters(&wanted).into_string();
        assert!(
            text.contains("value=\"failed\" selected") && !text.contains("value=\"done\" selected"),
            "{text}"
        );
    }
}
