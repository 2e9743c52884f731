//! What went wrong, as a page, a line of progress, or a step back to the sign-in page.

use crate::Peer;
use crate::assets::takes_gzip;
use crate::page::{self, Frame, Upkeep};
use crate::session::{self, Theme};
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use berth_wire::WireError;
use maud::{Markup, html};
use serde::de::DeserializeOwned;
use std::sync::{Arc, OnceLock};

/// Why a page cannot be shown or an action was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The session is over, or there never was one.
    SignedOut,
    /// The API, or the form, said no.
    Refused {
        /// Status of the page.
        status: StatusCode,
        /// What happened, to what, and what to do next.
        message: String,
    },
}

impl Trouble {
    /// A form that cannot be meant so.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Refused { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::Refused { status: StatusCode::NOT_FOUND, message: message.into() }
    }

    /// What it says.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::SignedOut => "you are signed out; sign in again and repeat this",
            Self::Refused { message, .. } => message,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::SignedOut => StatusCode::UNAUTHORIZED,
            Self::Refused { status, .. } => *status,
        }
    }
}

/// Parts of an address; what is no name of anything is answered with the page for what is not there.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Trouble> {
        let parsed = axum::extract::Path::from_request_parts(parts, state).await;
        let parsed = parsed.map(|axum::extract::Path(value)| Self(value));
        parsed.map_err(|_| Trouble::not_found("The address may be old, or mistyped."))
    }
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Refused { status: StatusCode::UNAUTHORIZED, .. } => Self::SignedOut,
            WireError::Refused { status, body } => Self::Refused { status, message: body.message },
            other => Self::Refused { status: StatusCode::BAD_GATEWAY, message: other.to_string() },
        }
    }
}

impl IntoResponse for Trouble {
    /// Words for a script; [`as_page`] makes a page of them for a person.
    fn into_response(self) -> Response {
        if self == Self::SignedOut {
            return (StatusCode::SEE_OTHER, [(header::LOCATION, "/ui/sign-in")]).into_response();
        }
        let mut response = (self.status(), self.message().to_owned()).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Whose request it is, once that was asked: known outside of the handler that asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asker(Arc<OnceLock<String>>);

impl Asker {
    /// Says who.
    pub(crate) fn is(&self, by: &str) {
        // It is the same one each time.
        let _ = self.0.set(by.to_owned());
    }
}

/// Shows trouble as a page with the navigation of all others, to a browser that asked for one.
pub(crate) async fn as_page(mut request: Request, next: Next) -> Response {
    let asker = Asker::default();
    request.extensions_mut().insert(asker.clone());
    let headers = request.headers();
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let wants_page = accepts.is_some_and(|accept| accept.contains("text/html"));
    let peer = request.extensions().get::<Peer>();
    let is_visitor = peer.is_some_and(|peer| session::is_shown(headers, *peer));
    let (theme, gzip) = (Theme::of(headers), takes_gzip(headers));
    let can_repeat = request.method() == Method::GET;
    let uri = request.uri().clone();
    let response = next.run(request).await;
    let Some(trouble) = response.extensions().get::<Trouble>().filter(|_| wants_page) else {
        return response;
    };
    let status = trouble.status();
    let is_passing = can_repeat && is_passing(status);
    let title = title(status);
    let again = uri.path_and_query().filter(|_| can_repeat).map(http::uri::PathAndQuery::as_str);
    let main = words(title, trouble.message(), is_passing, again);
    if !is_visitor {
        return (status, page::bare(title, theme, &main)).into_response();
    }
    let frame = Frame { by: asker.0.get().map(String::as_str), path: uri.path(), theme, gzip };
    let upkeep = if is_passing { Upkeep::Again } else { Upkeep::Still };
    (status, page::framed(&frame, title, &main, upkeep)).into_response()
}

/// Whether the same may be answered soon.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "There is no such page",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::BAD_REQUEST => "That did not fit",
        passing if is_passing(passing) => "This cannot be shown now",
        _ => "That did not work",
    }
}

fn words(title: &str, message: &str, is_passing: bool, again: Option<&str>) -> Markup {
    html! {
        section.plain.first {
            h1 { (title) }
            p { (message) }
            @if is_passing { p.dim { "It is tried again every few seconds." } }
            p.buttons-left {
                @if let Some(place) = again { a.button href=(place) { "Try again" } }
                a.button href="/ui/apps" { "To the apps" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use axum::{Extension, Router};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn asked(status: StatusCode, headers: &[(&str, &str)]) -> String {
        let trouble = Trouble::Refused { status, message: "why <b>".to_owned() };
        let answer = async move |Extension(asker): Extension<Asker>| {
            asker.is("tester");
            trouble.clone()
        };
        let peer = Peer { address: "127.0.0.1:1".parse().expect("an address"), encrypted: false };
        let router: Router =
            Router::new().route("/ui/apps/x", get(answer)).layer(from_fn(as_page)).layer(Extension(peer));
        let request = headers
            .iter()
            .fold(Request::get("/ui/apps/x?a=1"), |all, (name, value)| all.header(*name, *value));
        let request = request.body(Body::empty()).expect("a request");
        let answer = router.oneshot(request).await.expect("an answer");
        assert_eq!(answer.status(), status);
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        String::from_utf8_lossy(&body).into_owned()
    }

    #[tokio::test]
    async fn trouble_keeps_the_navigation_for_visitors_and_is_words_for_scripts() {
        const PAGE: (&str, &str) = ("accept", "text/html");
        const VISITOR: (&str, &str) = ("cookie", "berth=x");
        let gone = asked(StatusCode::NOT_FOUND, &[PAGE, VISITOR]).await;
        for part in ["<nav", "tester", "why &lt;b&gt;", "href=\"/ui/apps/x?a=1\""] {
            assert!(gone.contains(part), "{part} {gone}");
        }
        assert!(!gone.contains("data-again"), "it stays away");
        let down = asked(StatusCode::BAD_GATEWAY, &[PAGE, VISITOR]).await;
        assert!(down.contains("<nav") && down.contains("data-again"), "{down}");
        let stranger = asked(StatusCode::NOT_FOUND, &[PAGE]).await;
        assert!(!stranger.contains("<nav") && stranger.contains("why"), "{stranger}");
        assert_eq!(asked(StatusCode::NOT_FOUND, &[VISITOR]).await, "why <b>");
    }
}
