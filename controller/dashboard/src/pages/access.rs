//! Who gets in: SSH keys, tokens, browsers. What is secret is shown once, on the page that answers the form.

use crate::action::Fields;
use crate::page::{button, command, danger, dialog, empty, heading, opener};
use crate::session::Visitor;
use crate::show::{moment, part};
use crate::trouble::{Path, Trouble};
use crate::{Peer, Ui};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use berth_model::api::{
    AddSshKey, CreateToken, CreatedToken, SessionInfo, SignInCode, SshKeyInfo, TokenInfo, VersionInfo,
};
use maud::{Markup, html};

const PAGE: &str = "/ui/access";

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route(PAGE, get(page))
        .route("/ui/access/ssh-keys", post(add_key))
        .route("/ui/access/ssh-keys/remove", post(remove_key))
        .route("/ui/access/tokens", post(create_token))
        .route("/ui/access/tokens/{name}/remove", post(remove_token))
        .route("/ui/access/sessions/{id}/end", post(end_session))
        .route("/ui/access/sessions/end-others", post(end_others))
        .route("/ui/access/link", post(link))
}

async fn page(visitor: Visitor) -> Response {
    visitor
        .show("Access", async |visitor| {
            let api = &visitor.api;
            let (keys, tokens, sessions, version) = tokio::try_join!(
                api.get::<Vec<SshKeyInfo>>("/v1/ssh-keys"),
                api.get::<Vec<TokenInfo>>("/v1/tokens"),
                api.get::<Vec<SessionInfo>>("/v1/sessions"),
                api.get::<VersionInfo>("/v1/version"),
            )
            .map_err(Trouble::from)?;
            Ok(view(&keys, &tokens, &sessions, version.ssh_port))
        })
        .await
}

fn view(keys: &[SshKeyInfo], tokens: &[TokenInfo], sessions: &[SessionInfo], ssh_port: u16) -> Markup {
    html! {
        (heading("Access", &html! {}))
        p.summary { "There are no users, roles or teams yet: whoever has one of these keys or tokens, or a browser that is signed in, may do everything. Names say who did what, at " a href="/ui/activity" { "Activity" } "." }
        section aria-labelledby="keys-of" {
            div.heading { h2 #keys-of { "SSH keys" } div.actions { (opener("add-key", "Add a key", "")) } }
            p.hint { "For git push, and for all commands over SSH:" }
            div data-fill-host { (command(&format!("ssh -p {ssh_port} paas@HOST apps"))) }
            @if keys.is_empty() { (empty("No key may push yet. Paste a public key here, or on the machine:", &command("berth ssh-keys:add NAME FILE.pub"))) }
            @else { (keys_table(keys)) }
        }
        section aria-labelledby="tokens" {
            div.heading { h2 #tokens { "Tokens" } div.actions { (opener("create-token", "New token", "")) } }
            p.hint { "For the API, for " code { "berth" } " on other machines (BERTH_TOKEN), and as the password of a git remote over HTTPS." }
            @if tokens.is_empty() { (empty("There are no tokens.", &html! {})) } @else { (tokens_table(tokens)) }
        }
        section aria-labelledby="sessions" {
            div.heading {
                h2 #sessions { "Browsers" }
                div.actions {
                    @if sessions.iter().any(|session| !session.current) { (opener("end-others", "End all others", "")) }
                    form.inline method="post" action="/ui/access/link" { button { "Sign in another device" } }
                }
            }
            p.hint { "A session ends when it is not used for a week, and after 30 days. A name has 20 at most: one more ends the one that was not used for longest." }
            (sessions_table(sessions))
        }
        (dialogs(tokens))
    }
}

fn keys_table(keys: &[SshKeyInfo]) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Name" } th scope="col" { "Kind" } th scope="col" { "Fingerprint" } th scope="col" { "Added" } th scope="col" { span.hidden { "Actions" } } } }
            tbody { @for key in keys {
                tr id={ "key-" (key.name) } {
                    th scope="row" { (key.name) }
                    td.whole { (key.algorithm) }
                    td.finding.whole { code { (key.fingerprint) } }
                    td data-label="Added" { (moment(key.created_ms)) }
                    td.row-actions { button.link.bad type="button" data-opens="remove-key" data-with-name=(key.name) aria-label={ "Remove the key " (key.name) } { "Remove" } }
                }
            } }
        } }
    }
}

fn tokens_table(tokens: &[TokenInfo]) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Name" } th scope="col" { "Made" } th scope="col" { "Last used" } th scope="col" { span.hidden { "Actions" } } } }
            tbody { @for token in tokens {
                tr id={ "token-" (token.name) } {
                    th scope="row" { (token.name) }
                    td data-label="Made" { (moment(token.created_ms)) }
                    td data-label="Last used" { @match token.last_used_ms { Some(at) => (moment(at)), None => span.dim { "never" } } }
                    td.row-actions { button.link.bad type="button" data-opens={ "remove-token-" (token.name) } aria-label={ "Remove the token " (token.name) } { "Remove" } }
                }
            } }
        } }
    }
}

fn sessions_table(sessions: &[SessionInfo]) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr { th scope="col" { "Signed in as" } th scope="col" { "From" } th scope="col" { "Since" } th scope="col" { "Last used" } th scope="col" { "Ends" } th scope="col" { span.hidden { "Actions" } } } }
            tbody { @for session in sessions {
                tr id={ "session-" (part(&session.id)) } {
                    th scope="row" { (session.by) @if session.current { " " span.state data-tone="good" { "this one" } } }
                    td data-label="From" { (session.from) }
                    td data-label="Since" { (moment(session.created_ms)) }
                    td data-label="Last used" { (moment(session.last_used_ms)) }
                    td data-label="Ends" { (moment(session.expires_ms)) }
                    td.row-actions {
                        @if session.current { form.inline method="post" action="/ui/sign-out" { button.link { "Sign out" } } }
                        @else { (button(&format!("/ui/access/sessions/{}/end", part(&session.id)), "End", "link bad", &[])) }
                    }
                }
            } }
        } }
    }
}

fn dialogs(tokens: &[TokenInfo]) -> Markup {
    html! {
        (dialog("add-key", "Add an SSH key", "/ui/access/ssh-keys", "Add", &html! {
            label for="key-name" { "Name" }
            input #key-name name="name" required maxlength="64" pattern="[A-Za-z0-9._@\\-]+" title="letters, digits and . _ @ -" autocomplete="off" spellcheck="false";
            p.hint { "Who it is: it stands beside what is done with the key." }
            label for="key-text" { "Public key" }
            textarea #key-text name="key" rows="4" required maxlength="20000" spellcheck="false" placeholder="ssh-ed25519 AAAA…" {}
            p.hint { "One line, as in ~/.ssh/id_ed25519.pub." }
        }))
        (dialog("remove-key", "Remove an SSH key", "/ui/access/ssh-keys/remove", "Remove", &html! {
            input type="hidden" name="name" value="";
            p { "Whoever has " b data-shows="name" {} " can push no more, and give no commands over SSH. Sessions of browsers that were begun with it stay: end them below." }
        }))
        // A form without the page's script: its answer is a page that is shown once.
        dialog #create-token aria-labelledby="create-token-title" {
            form method="post" action="/ui/access/tokens" {
                h2 #create-token-title { "New token" }
                label for="token-name" { "Name" }
                input #token-name name="name" required maxlength="64" pattern="[A-Za-z0-9._@\\-]+" title="letters, digits and . _ @ -" autocomplete="off" spellcheck="false";
                p.hint { "What uses it, such as ci. The token is shown once, on the next page." }
                div.buttons { button type="button" data-closes { "Cancel" } button.primary { "Make it" } }
            }
        }
        (dialog("end-others", "End all other sessions", "/ui/access/sessions/end-others", "End them", &html! {
            p { "Every browser but this one is signed out, whoever uses it. Signing in again takes a token, or a link of " code { "berth dashboard" } "." }
        }))
        @for token in tokens {
            (danger(&format!("remove-token-{}", token.name), "Remove a token", &format!("/ui/access/tokens/{}/remove", part(&token.name)), "Remove", &token.name,
                "What uses it is refused from then on, and browsers that signed in with it are signed out. It cannot be brought back."))
        }
    }
}

async fn add_key(visitor: Visitor, fields: Fields) -> Response {
    match one_key(fields.text("key")) {
        Ok(line) => {
            let body = AddSshKey { name: fields.text("name").to_owned(), public_key: line.to_owned() };
            fields.act(&visitor, Method::POST, "/v1/ssh-keys", Some(&body), PAGE).await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// The one key that was pasted.
fn one_key(text: &str) -> Result<&str, Trouble> {
    if text.contains("PRIVATE KEY") {
        return Err(Trouble::invalid(
            "this is a private key, which must stay where it is: paste the one that ends in .pub. It was not kept",
        ));
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(line),
        (None, _) => {
            Err(Trouble::invalid("there is no key in this: paste one line such as ssh-ed25519 AAAA…"))
        }
        (Some(_), Some(_)) => {
            Err(Trouble::invalid("these are several keys: add one at a time, each with its name"))
        }
    }
}

async fn remove_key(visitor: Visitor, fields: Fields) -> Response {
    let path = format!("/v1/ssh-keys/{}", part(fields.text("name")));
    fields.act(&visitor, Method::DELETE, &path, None::<&()>, PAGE).await
}

async fn remove_token(visitor: Visitor, Path(name): Path<String>, fields: Fields) -> Response {
    if let Err(trouble) = fields.must_name(&name) {
        return fields.refuse(&trouble);
    }
    fields.act(&visitor, Method::DELETE, &format!("/v1/tokens/{}", part(&name)), None::<&()>, PAGE).await
}

async fn end_session(visitor: Visitor, Path(id): Path<String>, fields: Fields) -> Response {
    fields.act(&visitor, Method::DELETE, &format!("/v1/sessions/{}", part(&id)), None::<&()>, PAGE).await
}

async fn end_others(visitor: Visitor, fields: Fields) -> Response {
    fields.act(&visitor, Method::DELETE, "/v1/sessions", None::<&()>, PAGE).await
}

async fn create_token(visitor: Visitor, fields: Fields) -> Response {
    let body = CreateToken { name: fields.text("name").to_owned() };
    let made = visitor.api.json::<CreatedToken>(Method::POST, "/v1/tokens", Some(&body)).await;
    once(&visitor, "New token", made.map_err(Trouble::from), |made| {
        html! {
            p { "The token " b { (made.name) } ". Keep it now: it is not shown again." }
            div.secret { (command(&made.token)) }
            p.hint { "For " code { "berth" } ", set BERTH_TOKEN to it; for the API, send it as Authorization: Bearer TOKEN." }
        }
    })
}

async fn link(visitor: Visitor, headers: HeaderMap, Extension(peer): Extension<Peer>) -> Response {
    let made = visitor.api.json::<SignInCode>(Method::POST, "/v1/sign-in-codes", None::<&()>).await;
    once(&visitor, "Sign in another device", made.map_err(Trouble::from), |made| {
        let address = format!("{}/ui/sign-in?code={}", origin(&headers, peer), part(&made.code));
        html! {
            p { "Open this on the other device. It signs in once as " b { (visitor.session.by) } ", until " (moment(made.expires_ms)) "; whoever has it may do everything." }
            div.secret { (command(&address)) }
        }
    })
}

/// A page that shows a secret once, or why there is none.
fn once<T>(
    visitor: &Visitor,
    title: &str,
    made: Result<T, Trouble>,
    view: impl Fn(&T) -> Markup,
) -> Response {
    let around = |inner: &Markup| {
        html! {
            p.crumbs { a href=(PAGE) { "Access" } " /" }
            (heading(title, &html! {}))
            (inner)
            p { a href=(PAGE) { "Back to Access" } }
        }
    };
    match made {
        Ok(made) => visitor.show_once(title, &around(&view(&made))),
        Err(Trouble::SignedOut) => Trouble::SignedOut.into_response(),
        Err(trouble) => {
            let mut response =
                visitor.show_once(title, &around(&html! { p.wrong role="alert" { (trouble.message()) } }));
            *response.status_mut() = trouble.status();
            response
        }
    }
}

/// Where the browser found this page: what it says itself (RFC 6454 §7), for a proxy in front may speak TLS where we do not;
/// else the host it asked for.
fn origin(headers: &HeaderMap, peer: Peer) -> String {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_host = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    let said = text(header::ORIGIN).filter(|origin| {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        host.is_some_and(is_host)
    });
    let scheme = if peer.encrypted { "https" } else { "http" };
    let asked = text(header::HOST).filter(|host| is_host(host)).unwrap_or("localhost");
    said.map_or_else(|| format!("{scheme}://{asked}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_pasted_key_is_one_public_key() {
        assert_eq!(one_key("\n# mine\n ssh-ed25519 AAAA me \n"), Ok("ssh-ed25519 AAAA me"));
        for bad in ["", "# x", "ssh-ed25519 A\nssh-ed25519 B", "-----BEGIN OPENSSH PRIVATE KEY-----\nx"] {
            one_key(bad).expect_err(bad);
        }
    }

    #[test]
    fn a_link_leads_to_where_the_browser_is() {
        let peer = Peer { address: "127.0.0.1:1".parse().expect("an address"), encrypted: true };
        let from = |said: &'static str, host: &'static str| {
            let pairs = [(header::ORIGIN, said), (header::HOST, host)];
            let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
            origin(
                &HeaderMap::from_iter(pairs.map(|(name, value)| (name, HeaderValue::from_static(value)))),
                peer,
            )
        };
        assert_eq!(from("https://paas.test:8443", "10.0.0.1"), "https://paas.test:8443");
        for odd in ["", "null", "javascript:x", "https://a b", "https://a/\"<"] {
            assert_eq!(from(odd, "paas.test:8080"), "https://paas.test:8080", "{odd}");
        }
        assert_eq!(from("", "a<b"), "https://localhost");
    }
}
