//! What went wrong, as a page, a line of progress, or a step back to the sign-in page.

use crate::page;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_wire::WireError;
use maud::html;
use serde::de::DeserializeOwned;

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
    fn into_response(self) -> Response {
        if self == Self::SignedOut {
            return (StatusCode::SEE_OTHER, [(header::LOCATION, "/ui/sign-in")]).into_response();
        }
        let status = self.status();
        let title = match status {
            StatusCode::NOT_FOUND => "There is no such page",
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::BAD_REQUEST => "That did not fit",
            _ => "That did not work",
        };
        let body = html! {
            section.plain {
                h1 { (title) }
                p { (self.message()) }
                p { a href="/ui/apps" { "To the apps" } }
            }
        };
        (status, page::bare(title, &body)).into_response()
    }
}
