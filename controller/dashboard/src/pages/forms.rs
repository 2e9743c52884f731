//! Fields with their labels and hints: what the pages of settings are made of.
//!
//! In: an id that is the page's only one, the field's name, words, the value there is. Out: markup. Nothing a browser would
//! fill in or correct by itself: names, addresses and secrets of a platform are no words.

use axum::response::{Html, IntoResponse, Response};
use maud::{Markup, html};

fn hint_of(id: &str, hint: &str) -> Markup {
    html! { @if !hint.is_empty() { p.hint id={ (id) "-hint" } { (hint) } } }
}

fn described(id: &str, hint: &str) -> Option<String> {
    (!hint.is_empty()).then(|| format!("{id}-hint"))
}

fn one(kind: &str, id: &str, name: &str, words: &str, value: &str, hint: &str, required: bool) -> Markup {
    // A browser that minds `off` nowhere else minds this: it offers no password that was kept for another site.
    let complete = if kind == "password" { "new-password" } else { "off" };
    html! {
        label for=(id) { (words) }
        input id=(id) name=(name) type=(kind) value=(value) required[required] autocomplete=(complete) spellcheck="false"
            autocapitalize="off" aria-describedby=[described(id, hint)];
        (hint_of(id, hint))
    }
}

/// One line, which may stay empty.
pub(super) fn line(id: &str, name: &str, words: &str, value: &str, hint: &str) -> Markup {
    one("text", id, name, words, value, hint, false)
}

/// One line that has to be there.
pub(super) fn needed(id: &str, name: &str, words: &str, value: &str, hint: &str) -> Markup {
    one("text", id, name, words, value, hint, true)
}

/// A password or token: never with a value.
pub(super) fn secret(id: &str, name: &str, words: &str, hint: &str) -> Markup {
    one("password", id, name, words, "", hint, false)
}

/// Several lines.
pub(super) fn lines(id: &str, name: &str, words: &str, value: &str, rows: u8, hint: &str) -> Markup {
    html! {
        label for=(id) { (words) }
        // The first line break behind the tag is no part of the value (HTML standard §13.1.2.5).
        textarea id=(id) name=(name) rows=(rows) autocomplete="off" spellcheck="false" autocapitalize="off" wrap="off"
            aria-describedby=[described(id, hint)] { "\n" (value) }
        (hint_of(id, hint))
    }
}

/// A file of the visitor's machine whose text goes into the field `into`.
pub(super) fn file(id: &str, into: &str, words: &str) -> Markup {
    html! {
        label.from-file for=(id) { (words) }
        input id=(id) type="file" data-reads=(into);
    }
}

/// One of a few: values and words.
pub(super) fn choice(id: &str, name: &str, words: &str, options: &[(&str, &str)], current: &str) -> Markup {
    html! {
        label for=(id) { (words) }
        select id=(id) name=(name) {
            @for (value, words) in options { option value=(value) selected[*value == current] { (words) } }
        }
    }
}

/// A box.
pub(super) fn tick(id: &str, name: &str, words: &str, on: bool) -> Markup {
    html! { label.check for=(id) { input id=(id) name=(name) type="checkbox" value="on" checked[on]; span { (words) } } }
}

/// What a form sends beside what is typed.
pub(super) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// One line of a `dl.facts`.
pub(super) fn fact(words: &str, value: &Markup) -> Markup {
    html! { div { dt { (words) } dd { (value) } } }
}

/// What was set, or in pale what holds since nothing was.
pub(super) fn set_or(value: Option<&str>, else_holds: &str) -> Markup {
    html! { @match value { Some(value) => (value), None => span.dim { (else_holds) } } }
}

/// `on` or `off`; `tone` is that of `on`.
pub(super) fn switched(on: bool, tone: &str) -> Markup {
    html! { span.state data-tone=(if on { tone } else { "idle" }) { @if on { "on" } @else { "off" } } }
}

/// Browsers send line breaks as CRLF (HTML standard, "form submission"); files have LF.
pub(super) fn unix(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// A part of a page, for the script that asked for it.
pub(super) fn fragment(markup: Markup) -> Response {
    Html(markup.into_string()).into_response()
}
