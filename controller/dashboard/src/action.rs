//! Forms, and files that are sent, become calls of the API.
//!
//! In: a form that was posted, and the call it stands for. Out: for the page's script (`Accept: application/x-ndjson`), lines
//! of [`Progress`] as the API gives them, the last one `done` or `failed`; for a browser without scripts, the page to go on
//! with, or what went wrong.

use crate::page::{self, Upkeep};
use crate::session::Visitor;
use crate::trouble::Trouble;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use berth_model::api::{ApiError, ErrorCode, Progress};
use berth_wire::Lines;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use maud::html;
use serde::Serialize;
use std::convert::Infallible;
use std::io;
use std::sync::{Mutex, PoisonError};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

/// Longest form: all variables of an app, pasted.
const LONGEST: usize = 4 << 20;
const NDJSON: &str = "application/x-ndjson";
/// A file of any kind.
const OCTETS: &str = "application/octet-stream";

/// The fields of a form (`application/x-www-form-urlencoded`), in order, and who reads the answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    pairs: Vec<(String, String)>,
    /// Whether a script does.
    scripted: bool,
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Trouble;

    async fn from_request(request: Request, _: &S) -> Result<Self, Trouble> {
        let scripted = is_scripted(request.headers());
        let bytes = axum::body::to_bytes(request.into_body(), LONGEST).await;
        let bytes = bytes.map_err(|_| Trouble::Refused {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            message: "what was sent is longer than 4 MiB, or broke off".to_owned(),
        })?;
        let pairs = form_urlencoded::parse(&bytes).into_owned().collect();
        Ok(Self { pairs, scripted })
    }
}

fn is_scripted(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes() == NDJSON.as_bytes())
}

impl Fields {
    /// The first field of this name, without blanks around it; empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// The first field of this name as it is.
    pub(crate) fn raw(&self, name: &str) -> &str {
        self.pairs.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }

    /// Every field of this name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Whether a box is ticked.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        !self.raw(name).is_empty()
    }

    /// The field, if it is not empty.
    pub(crate) fn some(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// The field as what it must be; `what` names it in the error.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str, what: &str) -> Result<T, Trouble> {
        let text = self.text(name);
        text.parse().map_err(|_| Trouble::invalid(format!("{text:?} is no {what}")))
    }

    /// What cannot be undone wants the thing's name typed (field `confirm`).
    pub(crate) fn must_name(&self, name: &str) -> Result<(), Trouble> {
        if self.text("confirm") == name {
            return Ok(());
        }
        Err(Trouble::invalid(format!("nothing was done: to go on, type {name}")))
    }

    /// Makes the call, and answers whoever sent the form. `then` is the page to go on with.
    pub(crate) async fn act(
        &self,
        visitor: &Visitor,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
        then: &str,
    ) -> Response {
        let answer = match visitor.api.call(method, path, body).await {
            Ok(answer) => answer,
            Err(error) => return self.refuse(&error.into()),
        };
        self.answer(visitor, answer, then).await
    }

    /// Passes on what came of a call.
    async fn answer(
        &self,
        visitor: &Visitor,
        answer: axum::http::Response<Incoming>,
        then: &str,
    ) -> Response {
        let is_progress = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes() == NDJSON.as_bytes());
        if is_progress && self.scripted {
            // As it comes: whoever leaves in between does not end the operation.
            // Its last line is the API's, which knows no pages: where to go on is said before.
            let head = [(header::CONTENT_TYPE, NDJSON), (HeaderName::from_static("berth-then"), then)];
            return (head, Body::new(answer.into_body().boxed())).into_response();
        }
        if !is_progress {
            return self.done(then);
        }
        let mut lines = visitor.api.lines_of(answer);
        match to_the_end(&mut lines).await {
            Ok(()) => self.done(then),
            Err((said, error)) => failed_page(visitor, &said, &error, then),
        }
    }

    /// Says that it is done.
    pub(crate) fn done(&self, then: &str) -> Response {
        match self.scripted {
            true => lines_of(&[serde_json::json!({ "event": "done", "then": then })]),
            false => (StatusCode::SEE_OTHER, [(header::LOCATION, then)]).into_response(),
        }
    }

    /// Says that it was not.
    pub(crate) fn refuse(&self, trouble: &Trouble) -> Response {
        match (self.scripted, trouble) {
            (true, _) => {
                let code =
                    if *trouble == Trouble::SignedOut { ErrorCode::Unauthorized } else { ErrorCode::Failed };
                let error = ApiError { code, message: trouble.message().to_owned() };
                lines_of(&[Progress::Failed { error }])
            }
            (false, _) => trouble.clone().into_response(),
        }
    }
}

/// Sends a file, the body of `request`, on to the API as it comes. Only scripts of ours send one.
pub(crate) async fn upload(visitor: &Visitor, request: Request, path: &str, then: &str) -> Response {
    let fields = Fields { pairs: Vec::new(), scripted: true };
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind.as_bytes() != OCTETS.as_bytes()) {
        return fields.refuse(&Trouble::invalid(
            "a file is sent by the page's script, which this browser does not run",
        ));
    }
    match visitor.api.upload(Method::POST, path, OCTETS, reader(request.into_body())).await {
        Ok(answer) => fields.answer(visitor, answer, then).await,
        Err(error) => fields.refuse(&error.into()),
    }
}

/// A body that breaks off is an error: half a file must not look like a whole one.
fn reader(body: Body) -> impl AsyncRead + Send + Sync + 'static {
    // It may not be looked at by two at once (`Sync`), and nobody does.
    let mut body = Mutex::new(body.into_data_stream());
    StreamReader::new(poll_fn(move |context| {
        let body = body.get_mut().unwrap_or_else(PoisonError::into_inner);
        body.poll_next_unpin(context).map_err(io::Error::other)
    }))
}

fn lines_of(values: &[impl Serialize]) -> Response {
    let mut text = String::new();
    for value in values {
        text.push_str(&serde_json::to_string(value).unwrap_or_default());
        text.push('\n');
    }
    let body = futures_util::stream::once(async { Ok::<_, Infallible>(Bytes::from(text)) });
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}

/// Reads progress to its end; what was said and why, if it failed.
async fn to_the_end(lines: &mut Lines) -> Result<(), (Vec<String>, String)> {
    let mut said = Vec::new();
    loop {
        match lines.next::<Progress>().await {
            Ok(Some(Progress::Done)) => return Ok(()),
            Ok(Some(Progress::Failed { error })) => return Err((said, error.message)),
            Ok(Some(line)) => said.push(line.to_string()),
            Ok(None) => {
                return Err((
                    said,
                    "the controller broke off; see what came of it on the app's page".to_owned(),
                ));
            }
            Err(error) => return Err((said, error.to_string())),
        }
    }
}

fn failed_page(visitor: &Visitor, said: &[String], error: &str, then: &str) -> Response {
    let body = html! {
        section.plain {
            h1 { "That did not work" }
            p { (error) }
            @if !said.is_empty() { pre.output { @for line in said { (line) "\n" } } }
            p { a href=(then) { "Back" } }
        }
    };
    (StatusCode::UNPROCESSABLE_ENTITY, page::full(visitor, "That did not work", &body, Upkeep::Still))
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    async fn read(pieces: Vec<io::Result<&'static str>>) -> io::Result<String> {
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        let mut text = String::new();
        Box::pin(reader(body)).read_to_string(&mut text).await.map(|_| text)
    }

    #[tokio::test]
    async fn a_file_that_breaks_off_is_no_shorter_file() {
        assert_eq!(read(vec![Ok("one "), Ok("two")]).await.expect("whole"), "one two");
        assert_eq!(read(vec![]).await.expect("whole"), "");
        let broken = read(vec![Ok("one "), Err(io::Error::other("the browser left"))]).await;
        assert!(broken.expect_err("half").to_string().contains("the browser left"));
    }
}
