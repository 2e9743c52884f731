//! Who changed what, from where, and how it went.
//!
//! The API chooses events by app, kind and time; by person and outcome this page does, among the newest it gets.

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
use berth_model::AppName;
use berth_model::events::{EventInfo, EventResult};
use maud::{Markup, html};
use serde::Deserialize;

/// Events on a page.
const SHOWN: usize = 100;
/// Events looked through for a person's, or for failures.
const SEARCHED: usize = 1000;
/// Events of one millisecond, at most: those a page begins with may be of the one the last page ended with.
const SAME_TIME: usize = 50;
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
    failed: String,
    /// Only until then; milliseconds since the Unix epoch.
    until: Option<i64>,
    /// Only events before this one.
    before: Option<u64>,
}

impl Wanted {
    fn is_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Whether this page has to look through more than it shows.
    fn is_searched(&self) -> bool {
        self.is_failed() || !self.by.trim().is_empty()
    }

    fn is_any(&self) -> bool {
        self.app.is_empty() && self.kind.is_empty() && !self.is_searched() && self.before.is_none()
    }

    /// What the API is asked.
    fn path(&self) -> Result<String, Trouble> {
        let lines = if self.is_searched() { SEARCHED } else { SHOWN + SAME_TIME };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("lines", &lines.to_string());
        if !self.app.trim().is_empty() {
            let app = AppName::parse(self.app.trim()).map_err(|error| Trouble::invalid(error.to_string()))?;
            query.append_pair("app", app.as_str());
        }
        if !self.kind.trim().is_empty() {
            query.append_pair("kind", self.kind.trim());
        }
        if let Some(until) = self.until {
            query.append_pair("until", &until.to_string());
        }
        Ok(format!("/v1/events?{}", query.finish()))
    }

    /// Whether it belongs on the page, of those the API gave.
    fn takes(&self, event: &EventInfo) -> bool {
        let by = self.by.trim();
        (by.is_empty() || event.by == by)
            && (!self.is_failed() || event.result != EventResult::Done)
            && self.before.is_none_or(|before| event.seq < before)
    }

    /// The page of the same choice; `before`: that goes on before this event.
    fn address(&self, before: Option<&EventInfo>) -> String {
        let mut query =
            form_urlencoded::Serializer::for_suffix("/ui/activity?".to_owned(), "/ui/activity?".len());
        for (name, value) in
            [("app", &self.app), ("kind", &self.kind), ("by", &self.by), ("failed", &self.failed)]
        {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        if let Some(event) = before {
            query
                .append_pair("until", &event.at_ms.to_string())
                .append_pair("before", &event.seq.to_string());
        }
        query.finish()
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
    let mut lines = visitor.api.lines(Method::GET, &wanted.path()?, None::<&()>).await?;
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
            label.check { input type="checkbox" name="failed" value="1" checked[wanted.is_failed()]; "Only what failed" }
            button { "Show" }
            @if !wanted.is_any() { a href="/ui/activity" { "All" } }
        }
    }
}

fn list(wanted: &Wanted, all: &[EventInfo]) -> Markup {
    let mut chosen = all.iter().rev().filter(|event| wanted.takes(event));
    let shown: Vec<&EventInfo> = chosen.by_ref().take(SHOWN).collect();
    let is_more = chosen.next().is_some();
    // What was asked for came whole: there may be older ones.
    let was_cut = all.len() >= if wanted.is_searched() { SEARCHED } else { SHOWN + SAME_TIME };
    let last = if is_more { shown.last().copied() } else { all.first().filter(|_| was_cut) };
    html! {
        @if shown.is_empty() {
            @if wanted.is_any() { (empty("Nothing was changed yet.", &html! {})) }
            @else if was_cut { (empty(&format!("Nothing of the kind among the {} events looked through.", all.len()), &html! {})) }
            @else { (empty("There are no such events.", &html! {})) }
        } @else {
            div.wide { table #events .cards {
                thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "App" } th scope="col" { "What" } th scope="col" { "Result" } } }
                tbody { @for event in &shown { (row(event)) } }
            } }
        }
        @if let Some(last) = last { p { a href=(wanted.address(Some(last))) { "Older" } } }
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
    fn older_events_are_a_link_away_and_none_is_shown_twice() {
        let all: Vec<_> = (1..=150).map(|seq| event(seq, "ann", EventResult::Done)).collect();
        let text = list(&Wanted::default(), &all).into_string();
        assert!(
            text.contains("id=\"e-150\"") && text.contains("id=\"e-51\"") && !text.contains("id=\"e-50\"")
        );
        assert!(text.contains("until=510&amp;before=51"), "{text}");
        let older = Wanted { until: Some(510), before: Some(51), ..Wanted::default() };
        assert!(!older.takes(&all[50]) && older.takes(&all[49]));
        let text = list(&older, &all[..51]).into_string();
        assert!(text.contains("That is all") && text.contains("&lt;A&gt;"));
    }

    #[test]
    fn a_person_is_searched_for_among_many() {
        let mut all: Vec<_> = (1..=SEARCHED as u64).map(|seq| event(seq, "ann", EventResult::Done)).collect();
        let wanted = Wanted { by: "bob".into(), kind: "config".into(), ..Wanted::default() };
        assert!(wanted.path().expect("valid").contains("lines=1000&kind=config"));
        let text = list(&wanted, &all).into_string();
        assert!(text.contains("among the 1000 events") && text.contains("before=1\""), "{text}");
        all[4].result = EventResult::Failed;
        let failed = Wanted { failed: "1".into(), ..Wanted::default() };
        assert_eq!(all.iter().filter(|event| failed.takes(event)).count(), 1);
        assert!(Wanted { app: "No!".into(), ..Wanted::default() }.path().is_err());
        assert_eq!(wanted.address(None), "/ui/activity?kind=config&by=bob");
    }
}
