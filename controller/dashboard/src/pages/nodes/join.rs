//! A machine more: the line that has one join. And what would better run elsewhere.

use crate::Ui;
use crate::action::Fields;
use crate::page::{button, command, empty, heading};
use crate::session::Visitor;
use crate::show::moment;
use crate::trouble::Trouble;
use axum::Router;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_model::NodeName;
use berth_model::api::{CreateNodeToken, NodeToken};
use berth_model::placing::{MoveInfo, Rebalance};
use maud::{Markup, html};

/// How long a line is good: seconds, words.
const TIMES: [(u64, &str); 4] =
    [(900, "15 minutes"), (3600, "1 hour"), (86_400, "1 day"), (7 * 86_400, "7 days")];
/// Moves that are shown and made at once.
const MOVES: usize = 50;

// `-` is no node's name.
pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/nodes/-/join", post(join))
        .route("/ui/nodes/-/rebalance", get(preview).post(rebalance))
}

/// What asks for a line. A form without the page's script: its answer is a page that is shown once.
pub(super) fn ask() -> Markup {
    html! {
        dialog #join-node aria-labelledby="join-node-title" {
            form method="post" action="/ui/nodes/-/join" {
                h2 #join-node-title { "Add a node" }
                p { "This makes a line that has one machine join. Berth has to be installed there, and to reach this one's cluster port." }
                label for="join-seconds" { "The line is good for" }
                select #join-seconds name="seconds" { @for (seconds, words) in TIMES { option value=(seconds) { (words) } } }
                label for="join-name" { "Only for the name (optional)" }
                input #join-name name="node" maxlength="63" autocomplete="off" spellcheck="false";
                p.hint { "The name of a node that is there has the machine take its place." }
                div.buttons { button type="button" data-closes { "Cancel" } button.primary { "Make the line" } }
            }
        }
    }
}

async fn join(visitor: Visitor, fields: Fields) -> Response {
    match token(&visitor, &fields).await {
        Ok((made, node)) => visitor.show_once("Add a node", &line(&made, node.as_ref())),
        Err(Trouble::SignedOut) => Trouble::SignedOut.into_response(),
        Err(trouble) => {
            let main = html! {
                (heading("Add a node", &html! {}))
                p.wrong role="alert" { (trouble.message()) }
                p { a href="/ui/nodes" { "Back to the nodes" } }
            };
            (trouble.status(), visitor.show_once("Add a node", &main)).into_response()
        }
    }
}

async fn token(visitor: &Visitor, fields: &Fields) -> Result<(NodeToken, Option<NodeName>), Trouble> {
    let name = fields.some("node").map(|name| NodeName::parse(&name)).transpose();
    let node = name.map_err(|error| Trouble::invalid(error.to_string()))?;
    let seconds = fields.parsed("seconds", "number of seconds")?;
    let body = CreateNodeToken { node: node.clone(), seconds: Some(seconds) };
    Ok((visitor.api.json::<NodeToken>(Method::POST, "/v1/node-tokens", Some(&body)).await?, node))
}

/// As `berth node:token` prints it.
fn line(made: &NodeToken, node: Option<&NodeName>) -> Markup {
    let name = node.map(|node| format!(" --node {node}")).unwrap_or_default();
    html! {
        p.crumbs { a href="/ui/nodes" { "Nodes" } " /" }
        (heading("Add a node", &html! {}))
        p { "Run this on the new machine, as root. It works once, until " (moment(made.expires_ms)) ", and is not shown again." }
        div.secret { (command(&format!("berth agent join {} {}{name}", made.address, made.token))) }
        p { "Then start " code { "berth agent" } " there. It shows among the " a href="/ui/nodes" { "nodes" } " seconds later. What may be wrong with a machine says " code { "berth node:doctor" } "." }
    }
}

async fn preview(visitor: Visitor) -> Response {
    match visitor.api.get::<Vec<MoveInfo>>(&format!("/v1/rebalance?most={MOVES}")).await {
        Ok(moves) => visitor.show_once("Rebalance", &moves_view(&moves)),
        Err(error) => Trouble::from(error).into_response(),
    }
}

fn moves_view(moves: &[MoveInfo]) -> Markup {
    html! {
        p.crumbs { a href="/ui/nodes" { "Nodes" } " /" }
        (heading("Rebalance", &html! {
            a.button href="/ui/nodes/-/rebalance" { "Look again" }
            @if !moves.is_empty() { (button("/ui/nodes/-/rebalance", "Move them", "primary", &[])) }
        }))
        @if moves.is_empty() { (empty("Everything is where it should be.", &html! {})) }
        @else {
            p.summary { "These would better run elsewhere. Each is started there first, and takes over when it is ready: no request is lost." }
            div.wide { table.cards {
                thead { tr { th scope="col" { "Container" } th scope="col" { "From" } th scope="col" { "To" } th scope="col" { "Why" } } }
                tbody { @for one in moves {
                    tr {
                        th scope="row" { a href={ "/ui/apps/" (one.app) } { (one.app) } " " (one.process) "." (one.ordinal) }
                        td data-label="From" { a href={ "/ui/nodes/" (one.from) } { (one.from) } }
                        td data-label="To" { a href={ "/ui/nodes/" (one.to) } { (one.to) } }
                        td { (one.why) }
                    }
                } }
            } }
            @if moves.len() >= MOVES { p.hint { "At most " (MOVES) " at once; look again afterwards." } }
        }
    }
}

async fn rebalance(visitor: Visitor, fields: Fields) -> Response {
    let body = Rebalance { app: None, most: Some(MOVES) };
    fields.act(&visitor, Method::POST, "/v1/rebalance", Some(&body), "/ui/nodes").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_that_of_the_command() {
        let made =
            NodeToken { token: "berthjoin-a-b".into(), address: "192.0.2.1:7443".into(), expires_ms: 1 };
        let node = NodeName::parse("worker-3").expect("valid");
        let text = line(&made, Some(&node)).into_string();
        assert!(
            text.contains("<code>berth agent join 192.0.2.1:7443 berthjoin-a-b --node worker-3</code>"),
            "{text}"
        );
        assert!(!line(&made, None).into_string().contains("--node"));
    }
    #[test]
    fn moves_are_shown_before_they_are_made() {
        let node = |name: &str| NodeName::parse(name).expect("valid");
        let one = MoveInfo {
            app: berth_model::AppName::parse("shop").expect("valid"),
            process: berth_model::ProcessType::web(),
            ordinal: 2,
            from: node("a"),
            to: node("b"),
            why: "a has two of them".into(),
        };
        let text = moves_view(&[one]).into_string();
        assert!(text.contains("web.2") && text.contains("a has two of them") && text.contains("Move them"));
        let none = moves_view(&[]).into_string();
        assert!(none.contains("Everything is where it should be") && !none.contains("Move them"));
    }
}
