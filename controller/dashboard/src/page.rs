//! What all pages share: head, navigation, the header of an app with its tabs, and headers of the answer.

use crate::assets::{gzip, href, takes_gzip};
use crate::session::{Theme, Visitor};
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use flate2::Compression;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Everything from here, no inline script, no frame around it. The terminal page says more: see [`Page::styled`].
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The same where a vendored script (xterm.js) makes style elements.
pub(crate) const POLICY_STYLED: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// What is shorter is not worth compressing.
const WORTH_IT: usize = 1400;

/// Navigation: address, what it begins with, words, key after `g`.
const PLACES: [(&str, &str, char); 7] = [
    ("/ui/apps", "Apps", 'a'),
    ("/ui/nodes", "Nodes", 'n'),
    ("/ui/images", "Images", 'i'),
    ("/ui/networks", "Networks", 'w'),
    ("/ui/activity", "Activity", 'e'),
    ("/ui/access", "Access", 'k'),
    ("/ui/settings", "Settings", 's'),
];

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " · Berth" }
            link rel="icon" href=(href("icon.svg")) type="image/svg+xml";
            link rel="stylesheet" href=(href("app.css"));
            script src=(href("vendor/idiomorph.min.js")) defer {}
            script src=(href("app.js")) defer {}
        }
    }
}

/// Who a page is for, and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// Whose session, if that could be asked.
    pub(crate) by: Option<&'a str>,
    /// The page's address, without its query.
    pub(crate) path: &'a str,
    pub(crate) theme: Theme,
    /// Whether the answer may be compressed.
    pub(crate) gzip: bool,
}

/// What the page's script does about changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upkeep {
    /// It keeps the page as it is now.
    Live,
    /// Nothing.
    Still,
    /// It asks for the page until there is one.
    Again,
}

/// A whole page.
pub(crate) fn full(visitor: &Visitor, title: &str, main: &Markup, upkeep: Upkeep) -> Response {
    let frame = Frame {
        by: Some(&visitor.session.by),
        path: &visitor.path,
        theme: visitor.theme(),
        gzip: visitor.gzip(),
    };
    framed(&frame, title, main, upkeep)
}

/// The same where the visitor may be unknown.
pub(crate) fn framed(frame: &Frame<'_>, title: &str, main: &Markup, upkeep: Upkeep) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" data-theme=[frame.theme.word()] {
            (head(title))
            body {
                a.skip href="#main" { "Skip to the page" }
                header.side {
                    a.brand href="/ui/apps" { span.mark aria-hidden="true" { "⚓" } " Berth" }
                    button.menu type="button" data-menu aria-expanded="false" aria-controls="places" { "Menu" }
                    nav #places aria-label="Berth" {
                        ul {
                            @for (address, words, key) in PLACES {
                                @let here = frame.path == address || frame.path.starts_with(&format!("{address}/"));
                                li { a href=(address) data-key=(key) aria-current=[here.then_some("page")] { (words) } }
                            }
                        }
                        div.me {
                            @if let Some(by) = frame.by { p { "Signed in as " b { (by) } } }
                            form method="post" action="/ui/sign-out" { button.link { "Sign out" } }
                            div.themes role="group" aria-label="Theme" {
                                @for theme in ["system", "light", "dark"] {
                                    button.link type="button" data-set-theme=(theme)
                                        aria-pressed=(if frame.theme.word().unwrap_or("system") == theme { "true" } else { "false" }) { (theme) }
                                }
                            }
                            button.link type="button" data-opens="keys" { "Keys" }
                        }
                    }
                }
                div.stale #stale role="status" hidden {}
                main #main tabindex="-1" data-live[upkeep == Upkeep::Live] data-again[upkeep == Upkeep::Again] { (main) }
                (keys())
                dialog #progress aria-labelledby="progress-title" {
                    h2 #progress-title { "Working" }
                    pre.output #progress-lines tabindex="0" {}
                    p #progress-end role="status" {}
                    form method="dialog" { button { "Close" } }
                }
                div #toasts role="status" aria-live="polite" {}
            }
        }
    };
    answer(&page, frame.gzip)
}

fn keys() -> Markup {
    html! {
        dialog #keys aria-labelledby="keys-title" {
            h2 #keys-title { "Keys" }
            dl {
                dt { kbd { "/" } } dd { "search on this page" }
                @for (_, words, key) in PLACES { dt { kbd { "g" } " " kbd { (key) } } dd { (words) } }
                dt { kbd { "1" } " … " kbd { "9" } } dd { "the tabs of an app" }
                dt { kbd { "?" } } dd { "this help" }
                dt { kbd { "Esc" } } dd { "close" }
            }
            form method="dialog" { button autofocus { "Close" } }
        }
    }
}

/// A page for who is not signed in.
pub(crate) fn bare(title: &str, theme: Theme, main: &Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" data-theme=[theme.word()] {
            (head(title))
            body.bare { main #main { (main) } }
        }
    };
    Html(page.into_string())
}

fn answer(page: &Markup, compress: bool) -> Response {
    let PreEscaped(text) = page;
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    if compress && text.len() > WORTH_IT {
        let body = Bytes::from(gzip(text.as_bytes(), Compression::fast()));
        return (kind, [(header::CONTENT_ENCODING, "gzip"), (header::VARY, "accept-encoding")], body)
            .into_response();
    }
    (kind, text.clone()).into_response()
}

/// A file to keep. Its name has no quotes: names of apps, numbers of releases and ids of builds do not.
pub(crate) fn attachment(name: &str, kind: &'static str, body: Body) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    ([(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, disposition)], body)
        .into_response()
}

/// JSON for a script of ours, compressed.
pub(crate) fn json(headers: &HeaderMap, value: &impl serde::Serialize) -> Response {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let kind = [(header::CONTENT_TYPE, "application/json")];
    if takes_gzip(headers) && text.len() > WORTH_IT {
        return (kind, [(header::CONTENT_ENCODING, "gzip")], Bytes::from(gzip(&text, Compression::fast())))
            .into_response();
    }
    (kind, text).into_response()
}

/// Headers of every answer.
pub(crate) async fn finish(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=()",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    // What is signed in for belongs in no cache; files of the binary say otherwise themselves.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The heading of a page: its name, and what can be done there.
pub(crate) fn heading(title: &str, actions: &Markup) -> Markup {
    html! { div.heading { h1 { (title) } div.actions { (actions) } } }
}

/// What stands where there is nothing yet.
pub(crate) fn empty(words: &str, next: &Markup) -> Markup {
    html! { div.empty { p { (words) } (next) } }
}

/// A command to copy.
pub(crate) fn command(line: &str) -> Markup {
    html! {
        div.command {
            code { (line) }
            button.copy type="button" data-copy=(line) aria-label={ "Copy " (line) } { "Copy" }
        }
    }
}

/// A button that opens a dialog of this id.
pub(crate) fn opener(id: &str, words: &str, class: &str) -> Markup {
    html! { button type="button" class=(class) data-opens=(id) { (words) } }
}

/// A dialog with a form that is acted on by the page's script.
pub(crate) fn dialog(id: &str, title: &str, action: &str, submit: &str, fields: &Markup) -> Markup {
    html! {
        dialog id=(id) aria-labelledby={ (id) "-title" } {
            form method="post" action=(action) data-action {
                h2 id={ (id) "-title" } { (title) }
                (fields)
                div.buttons {
                    button type="button" data-closes { "Cancel" }
                    button.primary { (submit) }
                }
            }
        }
    }
}

/// The same for what cannot be undone: the name has to be typed.
pub(crate) fn danger(id: &str, title: &str, action: &str, submit: &str, name: &str, words: &str) -> Markup {
    html! {
        dialog.danger id=(id) aria-labelledby={ (id) "-title" } {
            form method="post" action=(action) data-action {
                h2 id={ (id) "-title" } { (title) }
                p { (words) }
                label for={ (id) "-confirm" } { "To go on, type " b { (name) } }
                input id={ (id) "-confirm" } name="confirm" required pattern=(pattern(name)) autocomplete="off" spellcheck="false";
                div.buttons {
                    button type="button" data-closes { "Cancel" }
                    button.bad { (submit) }
                }
            }
        }
    }
}

/// A regular expression (HTML standard, `pattern`) that only this text matches.
fn pattern(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // Escaping anything else is an error, for browsers read it with the flag `v`, and then it matches everything.
        if r"^$\.*+?()[]{}|/".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A small form that is one button.
pub(crate) fn button(action: &str, words: &str, class: &str, hidden: &[(&str, &str)]) -> Markup {
    html! {
        form.inline method="post" action=(action) data-action {
            @for (name, value) in hidden { input type="hidden" name=(name) value=(value); }
            button class=(class) { (words) }
        }
    }
}

/// Tabs of an app: address below the app's, words.
pub(crate) const TABS: [(&str, &str); 9] = [
    ("", "Overview"),
    ("/deploys", "Deploys"),
    ("/logs", "Logs"),
    ("/config", "Config"),
    ("/domains", "Domains"),
    ("/storage", "Storage"),
    ("/jobs", "Jobs"),
    ("/terminal", "Terminal"),
    ("/settings", "Settings"),
];
