//! A terminal in the browser: in a container of an app that runs, or in a new one that ends with the page.

mod socket;

use super::app::{header, state_of};
use crate::Ui;
use crate::assets::href;
use crate::page::{POLICY_STYLED, command, empty};
use crate::session::{Visitor, is_ours};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::extract::Query;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use berth_model::AppName;
use berth_model::api::{AppInfo, PsReport};
use berth_model::run::RunInfo;
use maud::{Markup, html};
use serde::Deserialize;

/// How long a throw-away container may run: seconds, words.
const LIMITS: [(u32, &str); 3] = [(600, "10 minutes"), (3600, "1 hour"), (8 * 3600, "8 hours")];
/// Longest message of a browser: the script sends pieces of 16 KiB.
const LONGEST: usize = 256 << 10;

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/apps/{app}/terminal", get(page))
        .route("/ui/apps/{app}/terminal/socket", get(connect))
}

#[derive(Debug, Deserialize)]
struct Chosen {
    /// As in `web.1`, or an id.
    #[serde(default)]
    container: String,
}

/// A container that can be entered.
#[derive(Debug, PartialEq)]
struct Place {
    id: String,
    /// As in `web.1`.
    name: String,
    /// State, release, node.
    more: String,
}

async fn page(visitor: Visitor, Path(app): Path<AppName>, Query(chosen): Query<Chosen>) -> Response {
    let api = &visitor.api;
    let (head, ps, runs) = match tokio::try_join!(
        header(&visitor, &app),
        async { Ok(api.get::<PsReport>(&format!("/v1/apps/{app}/ps")).await?) },
        async { Ok(api.get::<Vec<RunInfo>>(&format!("/v1/apps/{app}/runs")).await?) },
    ) {
        Ok(found) => found,
        Err(trouble) => return trouble.into_response(),
    };
    let (info, head) = head;
    let main = view(&app, &info, &places(&app, &ps, &runs), &chosen.container);
    let mut response = visitor.show_once(&format!("{app}: terminal"), &html! { (head) (main) });
    // xterm.js makes style elements.
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY_STYLED));
    response
}

/// Containers with a process, the app's own first.
fn places(app: &AppName, ps: &PsReport, runs: &[RunInfo]) -> Vec<Place> {
    let own = ps.containers.iter().filter_map(|one| {
        let status = one.status.as_ref().filter(|status| status.pid.is_some())?;
        // A static site has no process, whatever its node says of it.
        if status.static_root.is_some() || one.command == "static" {
            return None;
        }
        let node = one.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
        let more = format!("{}, {}{node}", state_of(one).0, one.release);
        Some(Place { id: one.id.to_string(), name: format!("{}.{}", one.process, one.ordinal), more })
    });
    let detached = runs.iter().filter(|run| run.detached && run.started_ms.is_some()).filter_map(|run| {
        let name = run.name.strip_prefix(app.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let name = name.unwrap_or(&run.name).to_owned();
        Some(Place { id: run.container.as_ref()?.to_string(), name, more: run.command.clone() })
    });
    own.chain(detached).collect()
}

fn view(app: &AppName, info: &AppInfo, places: &[Place], chosen: &str) -> Markup {
    if info.release.is_none() {
        let next = html! { p { a href={ "/ui/apps/" (app) } { "How to deploy it" } } };
        return empty("Nothing was deployed yet, so there is nothing to run a command in.", &next);
    }
    let is_there = places.iter().any(|place| place.id == chosen || place.name == chosen);
    html! {
        @if !chosen.is_empty() && !is_there { p.notice { "There is no running " (chosen) " of " (app) " any more. Choose another one." } }
        form #terminal-form data-socket={ "/ui/apps/" (app) "/terminal/socket" } {
            fieldset.choice {
                legend { "Where" }
                label.check {
                    input type="radio" name="where" value="enter" checked[!places.is_empty()] disabled[places.is_empty()];
                    "In a container that runs"
                }
                label.hidden for="terminal-container" { "Container" }
                select #terminal-container name="container" disabled[places.is_empty()] {
                    @if places.is_empty() { option { "None runs a process now" } }
                    @for place in places {
                        option value=(place.id) data-name=(place.name) selected[place.id == chosen || place.name == chosen] { (place.name) " (" (place.more) ")" }
                    }
                }
                label.check {
                    input type="radio" name="where" value="run" checked[places.is_empty()];
                    "In a new one, which ends when you leave this page"
                }
                label.hidden for="terminal-limit" { "At the latest after" }
                select #terminal-limit name="seconds" {
                    @for (seconds, words) in LIMITS { option value=(seconds) { "at the latest after " (words) } }
                }
            }
            div.terminal-command {
                div {
                    label for="terminal-command" { "Command" }
                    input #terminal-command name="command" autocomplete="off" spellcheck="false" autocapitalize="off" maxlength="4096" placeholder="the best shell it has";
                }
                button.primary { "Connect" }
            }
        }
        noscript { p.notice { "The terminal needs scripts. In another one, type:" } (command(&format!("berth enter {app}"))) }
        section #terminal-box aria-labelledby="terminal-title" hidden {
            div.heading {
                h2 #terminal-title { "Terminal" }
                p #terminal-state role="status" {}
                div.actions {
                    label.check { input #terminal-reader type="checkbox"; "For screen readers" }
                    button #terminal-copy type="button" { "Copy" }
                    button #terminal-end type="button" { "Disconnect" }
                    button #terminal-again type="button" hidden { "Begin again" }
                }
            }
            p.hint #terminal-keys {
                "Copy with " kbd { "Ctrl" } " " kbd { "Shift" } " " kbd { "C" } ", paste with " kbd { "Ctrl" } " " kbd { "Shift" } " " kbd { "V" }
                ". All keys go to the program; " kbd { "Ctrl" } " " kbd { "Shift" } " " kbd { "Esc" } " or " kbd { "Ctrl" } " " kbd { "F6" } " leaves the terminal. "
                a href="#after-terminal" { "Skip the terminal" }
            }
            div #terminal-screen data-keep {}
        }
        p #after-terminal tabindex="-1" .hint {
            "The same from a shell: " code { "berth enter " (app) } ", " code { "berth run " (app) " COMMAND" } ". What runs once and is not watched belongs to "
            a href={ "/ui/apps/" (app) "/jobs" } { "Jobs" } "."
        }
        link rel="stylesheet" href=(href("vendor/xterm.css"));
        script src=(href("vendor/xterm.js")) defer {}
        script src=(href("vendor/addon-fit.js")) defer {}
        script src=(href("terminal.js")) defer {}
    }
}

async fn connect(
    visitor: Visitor,
    Path(app): Path<AppName>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    // A browser lets any page open a WebSocket anywhere (RFC 6455 §10.2), so it has to be asked whose this is.
    if !is_ours(&headers, true) {
        let message = "a terminal is only for pages of this dashboard".to_owned();
        return Trouble::Refused { status: StatusCode::FORBIDDEN, message }.into_response();
    }
    upgrade
        .max_message_size(LONGEST)
        .max_frame_size(LONGEST)
        .on_upgrade(move |websocket| socket::converse(websocket, visitor, app))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_has_a_process_can_be_entered() {
        let app = AppName::parse("shop").expect("valid");
        let container = |ordinal: u32, command: &str, pid: Option<u32>| {
            json!({ "id": format!("shop.web.{ordinal}.abcdef"), "process": "web", "ordinal": ordinal, "release": 3, "node": "a",
                "command": command, "waiting": null, "status": { "state": { "state": "running", "since_ms": 1, "ready": true },
                "incarnation": 1, "restarts": 0, "address": null, "published": [], "pid": pid, "static_root": null, "advice": null } })
        };
        let ps = json!({ "app": "shop", "status": "running", "formation": {}, "restart_policy": "no",
            "containers": [container(1, "./web", Some(7)), container(2, "static", None), container(3, "./web", None)] });
        let ps: PsReport = serde_json::from_value(ps).expect("a report");
        let run = |name: &str, detached: bool| {
            json!({ "name": name, "container": format!("{name}.xyzxyz"), "kind": "run", "detached": detached, "command": "sleep 9", "release": 3,
                "node": "a", "by": "me", "cron": null, "created_ms": 1, "started_ms": 2, "ended_ms": null, "until_ms": null,
                "status": "running", "exit_code": null, "reason": null })
        };
        let runs: Vec<RunInfo> =
            serde_json::from_value(json!([run("shop.run.1234", true), run("shop.run.4", false)]))
                .expect("runs");
        let found: Vec<_> = places(&app, &ps, &runs).into_iter().map(|place| place.name).collect();
        assert_eq!(found, ["web.1", "run.1234"]);
    }
}
