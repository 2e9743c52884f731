//! What an app writes: a live tail, and the same as a text file.
//!
//! In: which process, how many lines back, a regular expression. Out: a page whose script (`assets/logs.js`) reads the stream
//! and shows it, the stream (the API's, passed on), and the lines as text.

mod passing;
mod text;

pub(crate) use passing::pass_on;
pub(crate) use text::plain;

use crate::Ui;
use crate::assets::href;
use crate::page::attachment;
use crate::session::Visitor;
use crate::show;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_model::AppName;
use berth_model::api::PsReport;
use berth_model::container::{LogLine, LogStream};
use berth_wire::Lines;
use futures_util::stream::unfold;
use maud::{Markup, html};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// Choices of how many lines back are shown.
const BACK: [(u32, &str); 3] = [(100, "100"), (1000, "1,000"), (5000, "5,000")];
/// Unless one was chosen.
const DEFAULT_BACK: u32 = 1000;
/// How many lines a download has at most: the API holds them all before it sends the first.
const DOWNLOADED: u32 = 100_000;
/// Longest regular expression the API takes, in bytes.
const LONGEST_PATTERN: usize = 1000;
/// Lines of a download are sent in pieces of about so many bytes.
const PIECE: usize = 64 << 10;

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}/logs", get(page))
        .route("/ui/apps/{app}/logs/stream", get(stream))
        .route("/ui/apps/{app}/logs/download", get(download))
}

/// What was asked for, as the address has it: the API says what is wrong with it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    process: String,
    ordinal: String,
    grep: String,
    lines: String,
    /// Milliseconds since the Unix epoch.
    since: String,
}

impl Asked {
    /// `web`, `web.1`, or nothing for all.
    fn source(&self) -> String {
        match (self.process.as_str(), self.ordinal.as_str()) {
            (process, "") => process.to_owned(),
            (process, ordinal) => format!("{process}.{ordinal}"),
        }
    }

    fn back(&self) -> u32 {
        let said = self.lines.parse().ok();
        said.filter(|lines| BACK.iter().any(|(choice, _)| choice == lines)).unwrap_or(DEFAULT_BACK)
    }

    /// The path of the API.
    fn path(&self, app: &AppName, lines: &str, follow: bool) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("lines", lines).append_pair("follow", if follow { "true" } else { "false" });
        let rest = [
            ("process", &self.process),
            ("ordinal", &self.ordinal),
            ("since", &self.since),
            ("grep", &self.grep),
        ];
        for (name, value) in rest.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        format!("/v1/apps/{app}/logs?{}", query.finish())
    }
}

async fn page(visitor: Visitor, Path(app): Path<AppName>, Query(asked): Query<Asked>) -> Response {
    let title = format!("Logs of {app}");
    visitor.show_of(&title, (app, asked), view).await
}

async fn view(visitor: &Visitor, (app, asked): &(AppName, Asked)) -> Result<Markup, Trouble> {
    let ((info, head), ps) = tokio::try_join!(super::app::header(visitor, app), async {
        Ok(visitor.api.get::<PsReport>(&format!("/v1/apps/{app}/ps")).await?)
    })?;
    let sources = sources(&ps);
    Ok(html! {
        (head)
        @if info.release.is_none() {
            p.notice { "Nothing was deployed yet, so nothing writes here. " a href={ "/ui/apps/" (app) } { "How to push it" } }
        }
        // Beside what is kept: the script takes new ones from here.
        div #log-sources hidden data-sources=(sources.join(" ")) {}
        (viewer(app, asked, &sources))
        script src=(href("logs.js")) defer {}
    })
}

/// Process types and containers to choose from, each type before its containers.
fn sources(ps: &PsReport) -> Vec<String> {
    let types = ps.formation.0.keys().chain(ps.containers.iter().map(|one| &one.process));
    let types: BTreeSet<_> = types.collect();
    let mut all = Vec::new();
    for process in types {
        all.push(process.to_string());
        let own = ps.containers.iter().filter(|one| one.process == *process);
        let own: BTreeSet<u32> = own.map(|one| one.ordinal).collect();
        all.extend(own.into_iter().map(|ordinal| format!("{process}.{ordinal}")));
    }
    all
}

fn viewer(app: &AppName, asked: &Asked, sources: &[String]) -> Markup {
    let chosen = asked.source();
    let unknown = !chosen.is_empty() && !sources.contains(&chosen);
    let base = format!("/ui/apps/{app}/logs");
    html! {
        div.log #log data-keep data-log={ (base) "/stream" } {
            noscript { p.notice { "The live log needs scripts. " a href={ (base) "/download" } { "Its lines as a text file" } " need none." } }
            form.log-bar #log-ask {
                div {
                    label for="log-source" { "Process" }
                    select #log-source {
                        option value="" { "all" }
                        @if unknown { option value=(chosen) selected { (chosen) } }
                        @for source in sources { option value=(source) selected[*source == chosen] { (source) } }
                    }
                }
                div {
                    label for="log-back" { "Lines back" }
                    select #log-back { @for (lines, words) in BACK { option value=(lines) selected[lines == asked.back()] { (words) } } }
                }
                div.log-grep {
                    label for="log-grep" { "Only lines that match (regular expression)" }
                    div.joined {
                        input #log-grep type="text" value=(asked.grep) maxlength=(LONGEST_PATTERN) autocomplete="off" autocapitalize="off" spellcheck="false"
                            placeholder="timeout|refused" aria-describedby="log-wrong";
                        button { "Apply" }
                    }
                }
                div.actions {
                    button type="button" #log-pause aria-pressed="false" { "Pause" }
                    button type="button" #log-clear { "Clear" }
                    a.button #log-download href={ (base) "/download" } download { "Download" }
                }
            }
            p.wrong.reason #log-wrong role="alert" hidden {}
            (screen("Lines of the log", "No lines yet. What the app writes to stdout and stderr shows here.", &html! {
                span.state #log-state data-tone="busy" role="status" { "connecting" }
                span.dim #log-said {}
            }))
        }
    }
}

/// Where lines are shown, with what belongs to it: search, wrapping, the way to the end. The script fills it.
pub(crate) fn screen(words: &str, none: &str, state: &Markup) -> Markup {
    html! {
        div.log-bar {
            div.log-search {
                label for="log-search" { "Search in these lines" }
                div.joined {
                    input #log-search type="search" data-search maxlength="200" autocomplete="off" autocapitalize="off" spellcheck="false" placeholder="Search ( / )";
                    button type="button" #log-before aria-label="Line before that has it" { "↑" }
                    button type="button" #log-next aria-label="Next line that has it" { "↓" }
                }
            }
            output.dim #log-found for="log-search" {}
            (state)
            div.actions {
                label.check { input type="checkbox" #log-wrap checked; "Wrap" }
                label.check { input type="checkbox" #log-times checked; "Times" }
            }
        }
        div.screen-frame {
        div.screen #log-lines tabindex="0" role="region" aria-label=(words) { p.none #log-none hidden data-words=(none) { (none) } }
        button type="button" #log-end hidden { "To the end" }
        }
    }
}

async fn stream(visitor: Visitor, Path(app): Path<AppName>, Query(asked): Query<Asked>) -> Response {
    let lines = if asked.lines.is_empty() { DEFAULT_BACK.to_string() } else { asked.lines.clone() };
    pass_on(visitor, &asked.path(&app, &lines, true)).await
}

async fn download(visitor: Visitor, Path(app): Path<AppName>, Query(asked): Query<Asked>) -> Response {
    let path = asked.path(&app, &DOWNLOADED.to_string(), false);
    let lines = match visitor.api.lines(Method::GET, &path, None::<&()>).await {
        Ok(lines) => lines,
        Err(error) => return Trouble::from(error).into_response(),
    };
    as_file(&format!("{app}-log.txt"), lines, shown)
}

/// Lines of the API as a text file to keep.
pub(crate) fn as_file<T>(name: &str, lines: Lines, text: fn(&T) -> String) -> Response
where
    T: DeserializeOwned + Send + 'static,
{
    // What breaks off in between breaks the download off as well: half a file must not look like a whole one.
    let pieces = unfold(Some(lines), move |lines| async move {
        let mut lines = lines?;
        let mut piece = String::new();
        while piece.len() < PIECE {
            match lines.next::<T>().await {
                Ok(Some(line)) => piece.push_str(&text(&line)),
                Ok(None) if piece.is_empty() => return None,
                Ok(None) => return Some((Ok(Bytes::from(piece)), None)),
                Err(error) => return Some((Err(error), None)),
            }
        }
        Some((Ok(Bytes::from(piece)), Some(lines)))
    });
    attachment(name, "text/plain; charset=utf-8", Body::from_stream(pieces))
}

/// `2026-03-04T05:06:07.000000Z app[web.1]: text`, as the CLI has it.
fn shown(line: &LogLine) -> String {
    let time = jiff::Timestamp::from_microsecond(line.at_us);
    let time =
        time.map_or_else(|_| "-".to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
    let source = if line.stream == LogStream::Berth { "berth" } else { "app" };
    format!("{time} {source}[{}.{}]: {}\n", line.process, line.ordinal, plain(&line.text))
}

/// The log page of an app, or of one of its containers.
pub(crate) fn address(app: &AppName, process: &str) -> String {
    format!("/ui/apps/{app}/logs?process={}", show::part(process))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_passed_on() {
        let app = AppName::parse("hello").expect("a name");
        let none = Asked::default();
        assert_eq!(none.path(&app, "100", true), "/v1/apps/hello/logs?lines=100&follow=true");
        let asked = Asked {
            process: "web".to_owned(),
            ordinal: "1&x=2".to_owned(),
            grep: "a b&c".to_owned(),
            lines: "7".to_owned(),
            ..Asked::default()
        };
        assert_eq!(
            asked.path(&app, "9", false),
            "/v1/apps/hello/logs?lines=9&follow=false&process=web&ordinal=1%26x%3D2&grep=a+b%26c"
        );
        assert_eq!((asked.source().as_str(), asked.back()), ("web.1&x=2", DEFAULT_BACK));
        assert_eq!(Asked { lines: "5000".to_owned(), ..none }.back(), 5000);
    }

    #[test]
    fn a_line_of_a_file_has_no_orders_to_a_terminal() {
        let line = serde_json::json!({ "at_us": 1, "app": "a", "process": "web", "ordinal": 1, "container": "a.web.1.x",
            "stream": "berth", "text": "\u{1b}[31mred\u{1b}[0m\u{7}" });
        let line: LogLine = serde_json::from_value(line).expect("a line");
        assert_eq!(shown(&line), "1970-01-01T00:00:00.000001Z berth[web.1]: red\\x07\n");
    }
}
