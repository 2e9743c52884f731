//! Who is here: sign-in, the session cookie, and which requests may change something.
//!
//! A session is the API's (`POST /v1/sessions`): the cookie holds its secret, which this module passes on as a bearer token and
//! keeps nowhere. The API itself takes no cookies, so a page of somebody else can do nothing with it; here a request that is
//! not `GET` must say that it comes from a page of ours (`Sec-Fetch-Site`, Fetch Metadata; `Origin` where a browser has not that).
//! Wrong tokens and codes are counted by the API, for each address.

use crate::action::Fields;
use crate::page::{self, Upkeep};
use crate::trouble::{Asker, Trouble};
use crate::{Peer, Ui, live};
use axum::Router;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use berth_model::api::{CreatedSession, SessionInfo};
use berth_wire::{Client, WireError};
use maud::{Markup, html};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

/// Longest address that is gone back to after signing in.
const LONGEST_NEXT: usize = 1000;

/// Whoever is signed in, and a client of the API in their name.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    /// Calls in their name.
    pub(crate) api: Client,
    /// Their session.
    pub(crate) session: SessionInfo,
    /// The page's address, without its query.
    pub(crate) path: String,
    theme: Theme,
    /// The page asks for itself, again and again.
    live: bool,
    gzip: bool,
    stop: CancellationToken,
}

/// The contents of a page, for a visitor, about a thing: any `async fn(&Visitor, &T) -> Result<Markup, Trouble>`.
pub(crate) trait View<'a, T: 'a>: Fn(&'a Visitor, &'a T) -> Self::Coming {
    /// What it is waited for with.
    type Coming: Future<Output = Result<Markup, Trouble>> + Send;
}

impl<'a, T: 'a, F, C> View<'a, T> for F
where
    F: Fn(&'a Visitor, &'a T) -> C,
    C: Future<Output = Result<Markup, Trouble>> + Send,
{
    type Coming = C;
}

/// What was chosen; the system decides else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    /// As the cookie and `data-theme` have it.
    pub(crate) fn word(self) -> Option<&'static str> {
        match self {
            Self::System => None,
            Self::Light => Some("light"),
            Self::Dark => Some("dark"),
        }
    }

    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match cookie(headers, "berth_theme") {
            Some("light") => Self::Light,
            Some("dark") => Self::Dark,
            _ => Self::System,
        }
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).find_map(|pair| {
        let (own, value) = pair.trim().split_once('=')?;
        (own == name).then_some(value)
    })
}

/// Over TLS the prefix makes browsers refuse it from anywhere else (RFC 6265bis §4.1.3.2).
fn cookie_name(peer: Peer) -> &'static str {
    if peer.encrypted { "__Host-berth" } else { "berth" }
}

fn set_cookie(peer: Peer, value: &str, seconds: i64) -> HeaderValue {
    let secure = if peer.encrypted { "; Secure" } else { "" };
    let name = cookie_name(peer);
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&text).expect("sessions are letters, digits, - and _")
}

/// Whether a session is shown, good or not.
pub(crate) fn is_shown(headers: &HeaderMap, peer: Peer) -> bool {
    cookie(headers, cookie_name(peer)).is_some()
}

/// A session's secret, as far as its form goes.
fn is_secret(text: &str) -> bool {
    text.len() <= 200
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// A client that shows this token, session or code.
fn client_of(ui: &Ui, peer: Peer, secret: &str) -> Option<Client> {
    let client = ui.api.client(peer);
    is_secret(secret).then(|| client.with_header(header::AUTHORIZATION, &format!("Bearer {secret}")).ok())?
}

impl FromRequestParts<Ui> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, ui: &Ui) -> Result<Self, Response> {
        let peer = parts.extensions.get::<Peer>().copied();
        let peer =
            peer.ok_or_else(|| Trouble::invalid("the connection's origin is unknown").into_response())?;
        let path = parts.uri.path().to_owned();
        let Some(api) =
            cookie(&parts.headers, cookie_name(peer)).and_then(|secret| client_of(ui, peer, secret))
        else {
            return Err(to_sign_in(parts));
        };
        let session = match api.get::<SessionInfo>("/v1/sessions/current").await {
            Ok(session) => session,
            // A session that is over is no guess, but the API counts it as one.
            Err(WireError::Refused {
                status: StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS,
                ..
            }) => {
                return Err(to_sign_in(parts));
            }
            Err(error) => return Err(Trouble::from(error).into_response()),
        };
        if let Some(asker) = parts.extensions.get::<Asker>() {
            asker.is(&session.by);
        }
        let live = parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "live=1"));
        Ok(Self {
            api,
            session,
            path,
            theme: Theme::of(&parts.headers),
            live,
            gzip: crate::assets::takes_gzip(&parts.headers),
            stop: ui.stop.clone(),
        })
    }
}

/// Pages lead to the sign-in page and back; a script is told.
fn to_sign_in(parts: &Parts) -> Response {
    let is_page = parts.method == Method::GET
        && parts
            .headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("text/html"));
    if !is_page {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let back = parts.uri.path_and_query().map_or("/ui/apps", |path| path.as_str());
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", back).finish();
    Redirect::to(&format!("/ui/sign-in?{query}")).into_response()
}

impl Visitor {
    /// Answers with a page, or with a stream that keeps it as `view` would be now.
    pub(crate) async fn show<F, Fut>(self, title: &str, view: F) -> Response
    where
        F: Fn(Visitor) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Markup, Trouble>> + Send,
    {
        if self.live {
            let stop = self.stop.clone();
            return live::stream(move || view(self.clone()), stop);
        }
        match view(self.clone()).await {
            Ok(main) => page::full(&self, title, &main, Upkeep::Live),
            Err(trouble) => trouble.into_response(),
        }
    }

    /// The same of a page about something.
    pub(crate) async fn show_of<T, V>(self, title: &str, of: T, view: V) -> Response
    where
        T: Clone + Send + Sync + 'static,
        V: for<'a> View<'a, T> + Copy + Send + Sync + 'static,
    {
        self.show(title, move |visitor| {
            let of = of.clone();
            async move { view(&visitor, &of).await }
        })
        .await
    }

    /// Answers with a page that stays as it is.
    pub(crate) fn show_once(&self, title: &str, main: &Markup) -> Response {
        page::full(self, title, main, Upkeep::Still)
    }

    /// Which theme was chosen.
    pub(crate) fn theme(&self) -> Theme {
        self.theme
    }

    /// Whether answers may be compressed.
    pub(crate) fn gzip(&self) -> bool {
        self.gzip
    }

    /// Fires when the server ends.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

/// Before anything else: TLS unless from this machine, and no change on behalf of other sites.
pub(crate) async fn guard(State(_): State<Ui>, request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Trouble::invalid("the connection's origin is unknown").into_response();
    };
    if !peer.encrypted && !peer.address.ip().to_canonical().is_loopback() {
        return in_the_clear(request.headers(), request.uri()).into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) && !is_ours(request.headers(), false) {
        let message = "this request did not come from a page of this dashboard; open it anew and try again";
        return Trouble::Refused { status: StatusCode::FORBIDDEN, message: message.to_owned() }
            .into_response();
    }
    next.run(request).await
}

/// Whether a page of ours sent this. `needs_origin`: a WebSocket has no `Sec-Fetch-Site` in some browsers, but always an `Origin`.
pub(crate) fn is_ours(headers: &HeaderMap, needs_origin: bool) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let same_origin = || match (text("origin"), text("host")) {
        (Some(origin), Some(host)) => {
            origin.split_once("://").is_some_and(|(_, own)| own.eq_ignore_ascii_case(host))
        }
        _ => false,
    };
    match text("sec-fetch-site") {
        Some(site) if !needs_origin => site == "same-origin",
        Some(site) => site == "same-origin" && same_origin(),
        None => same_origin(),
    }
}

/// The same port speaks TLS: a browser that came in the clear is sent there.
fn in_the_clear(headers: &HeaderMap, uri: &axum::http::Uri) -> Response {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let is_host = |host: &&str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    match host.filter(is_host) {
        Some(host) => Redirect::to(&format!("https://{host}{}", uri.path())).into_response(),
        None => Trouble::invalid("use https:// (the same port speaks TLS)").into_response(),
    }
}

pub(crate) fn router() -> Router<Ui> {
    Router::new().route("/ui/sign-in", get(ask).post(sign_in)).route("/ui/sign-out", post(sign_out))
}

#[derive(Debug, Default, Deserialize)]
struct Asked {
    #[serde(default)]
    next: String,
    #[serde(default)]
    code: String,
}

/// Where to go after signing in: a page of ours, whatever the query says.
fn next_page(wanted: &str) -> &str {
    let own = wanted.starts_with("/ui/")
        && wanted.len() <= LONGEST_NEXT
        && wanted.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if own && !wanted.starts_with("/ui/sign-") { wanted } else { "/ui/apps" }
}

async fn ask(headers: HeaderMap, Query(asked): Query<Asked>) -> Response {
    let code = Some(asked.code.as_str()).filter(|code| is_secret(code));
    page::bare("Sign in", Theme::of(&headers), &form(next_page(&asked.next), code, None)).into_response()
}

fn form(next: &str, code: Option<&str>, wrong: Option<&str>) -> Markup {
    html! {
        section.sign-in {
            h1 { span.mark aria-hidden="true" { "⚓" } " Berth" }
            @if let Some(wrong) = wrong { p.wrong role="alert" { (wrong) } }
            form method="post" action="/ui/sign-in" {
                input type="hidden" name="next" value=(next);
                @if let Some(code) = code {
                    input type="hidden" name="code" value=(code);
                    p { "This link signs you in, once." }
                    button.primary autofocus { "Sign in" }
                } @else {
                    label for="token" { "Token" }
                    input #token name="token" type="password" autocomplete="current-password" required autofocus spellcheck="false";
                    button.primary { "Sign in" }
                    p.hint {
                        "On the machine, " code { "berth dashboard" } " prints a link that signs you in. Or make a token with "
                        code { "berth tokens:create NAME" } "."
                    }
                }
            }
        }
    }
}

async fn sign_in(
    State(ui): State<Ui>,
    headers: HeaderMap,
    peer: axum::Extension<Peer>,
    fields: Fields,
) -> Response {
    let next = next_page(fields.text("next")).to_owned();
    let refused = |status: StatusCode, text: &str| {
        (status, page::bare("Sign in", Theme::of(&headers), &form(&next, None, Some(text)))).into_response()
    };
    let secret = if fields.text("code").is_empty() { fields.text("token") } else { fields.text("code") };
    // What cannot be a token is counted like a wrong one: the API has to see it.
    let Some(api) = client_of(&ui, *peer, if is_secret(secret) { secret } else { "-" }) else {
        return refused(StatusCode::BAD_REQUEST, "that is no token");
    };
    match api.json::<CreatedSession>(Method::POST, "/v1/sessions", None::<&()>).await {
        Ok(created) => {
            let seconds = (created.expires_ms - jiff::Timestamp::now().as_millisecond()) / 1000;
            let cookie = set_cookie(*peer, &created.session, seconds.max(0));
            ([(header::SET_COOKIE, cookie)], Redirect::to(&next)).into_response()
        }
        Err(WireError::Refused { status: status @ StatusCode::UNAUTHORIZED, .. })
            if !fields.text("code").is_empty() =>
        {
            refused(
                status,
                "this link was used already, or is older than ten minutes; make another with: berth dashboard",
            )
        }
        Err(WireError::Refused { status, body }) => refused(status, &body.message),
        Err(error) => refused(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

async fn sign_out(State(ui): State<Ui>, headers: HeaderMap, peer: axum::Extension<Peer>) -> Response {
    if let Some(api) = cookie(&headers, cookie_name(*peer)).and_then(|secret| client_of(&ui, *peer, secret))
        && let Err(error) = api.call(Method::DELETE, "/v1/sessions/current", None::<&()>).await
    {
        tracing::info!(%error, "a session was not ended: it may have been over");
    }
    ([(header::SET_COOKIE, set_cookie(*peer, "", 0))], Redirect::to("/ui/sign-in")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_our_own_pages_change_something() {
        let ours = |pairs: &[(&'static str, &'static str)]| is_ours(&headers(pairs), false);
        assert!(ours(&[("sec-fetch-site", "same-origin")]));
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(
                !is_ours(
                    &HeaderMap::from_iter([(
                        header::HeaderName::from_static("sec-fetch-site"),
                        HeaderValue::from_str(site).expect("text")
                    )]),
                    false
                ),
                "{site:?}"
            );
        }
        assert!(ours(&[("origin", "https://paas.test:8080"), ("host", "paas.test:8080")]));
        assert!(!ours(&[("origin", "https://evil.test"), ("host", "paas.test:8080")]));
        assert!(!ours(&[("origin", "null"), ("host", "paas.test")]));
        assert!(!ours(&[("host", "paas.test")]), "a browser sends one of them");
        assert!(!is_ours(&headers(&[("sec-fetch-site", "same-origin"), ("host", "a.test")]), true));
        assert!(!is_ours(
            &headers(&[("sec-fetch-site", "same-origin"), ("host", "a.test"), ("origin", "http://b.test")]),
            true
        ));
    }

    #[test]
    fn nobody_is_led_elsewhere_after_signing_in() {
        assert_eq!(next_page("/ui/apps/hello?range=24h"), "/ui/apps/hello?range=24h");
        for bad in [
            "",
            "//evil.test",
            "https://evil.test",
            "/ui/../x\\",
            "/other",
            "/ui/sign-out",
            "/ui/a b",
            "/ui/\r\nx",
        ] {
            assert_eq!(next_page(bad), "/ui/apps", "{bad:?}");
        }
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let some = headers(&[("cookie", "a=1; berth=x_y-1;xberth=2")]);
        assert_eq!(cookie(&some, "berth"), Some("x_y-1"));
        assert_eq!(cookie(&some, "bert"), None);
        let peer = Peer { address: "127.0.0.1:1".parse().expect("an address"), encrypted: true };
        assert_eq!(
            set_cookie(peer, "s", 5),
            "__Host-berth=s; Path=/; Max-Age=5; HttpOnly; SameSite=Strict; Secure"
        );
    }
}
