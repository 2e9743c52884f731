//! The dialogs of the page: one variable added, changed, removed; a file of them pasted.

use super::super::forms::{choice, file, hidden, lines, needed, tick};
use super::Scope;
use crate::page::dialog;
use maud::{Markup, html};

/// All of them. One serves every row: what it is about comes with the button that opens it.
pub(super) fn all(scope: &Scope) -> Markup {
    html! { (add_dialog(scope)) (edit_dialog(scope)) (remove_dialog(scope)) (paste_dialog(scope)) }
}

fn no_restart(id: &str, scope: &Scope) -> Markup {
    let words = if scope.app.is_some() {
        "Only store it: the next deploy or restart takes it up"
    } else {
        "Only store it: each app takes it up at its next deploy or restart"
    };
    tick(id, "no_restart", words, false)
}

fn add_dialog(scope: &Scope) -> Markup {
    let kinds = [
        ("plain", "In the environment"),
        ("secret", "In the environment, never shown again"),
        ("file", "A file below /run/secrets, never shown again"),
    ];
    let fields = html! {
        (needed("add-name", "name", "Name", "", "Letters, digits and _. One that is there gets the new value."))
        (choice("add-kind", "kind", "Kind", &kinds, "plain"))
        (lines("add-value", "value", "Value", "", 3, ""))
        (file("add-file", "add-value", "or the text of a file"))
        (no_restart("add-later", scope))
    };
    dialog("add", "Add variable", &scope.page(), "Set", &fields)
}

fn edit_dialog(scope: &Scope) -> Markup {
    let fields = html! {
        (hidden("name", "")) (hidden("kind", "plain"))
        p { code data-shows="name" {} }
        (lines("edit-value", "value", "New value", "", 5, "What is never shown is typed anew, and stays so until it is removed."))
        (file("edit-file", "edit-value", "or the text of a file"))
        div.if-plain { (tick("edit-secret", "secret", "Never show it again", false)) }
        (no_restart("edit-later", scope))
    };
    dialog("edit", "Change variable", &scope.page(), "Set", &fields)
}

fn remove_dialog(scope: &Scope) -> Markup {
    let fields = html! {
        (hidden("name", ""))
        p { code data-shows="name" {} " will be gone, with its value. Releases that had it keep it." }
        (no_restart("remove-later", scope))
    };
    dialog("remove", "Remove variable", &format!("{}/remove", scope.page()), "Remove", &fields)
}

fn paste_dialog(scope: &Scope) -> Markup {
    let fields = html! {
        (lines("paste-text", "text", "KEY=VALUE lines", "", 10, "As a .env file has them: comments, export, quotes, also over several lines. Nothing is expanded."))
        (file("paste-file", "paste-text", "or a file"))
        (tick("paste-secret", "secret", "Never show these values again", false))
        (tick("paste-replace", "replace", "Remove all others", false))
        (no_restart("paste-later", scope))
        p { button type="button" data-asks={ (scope.page()) "/check" } data-into="paste-plan" data-sends { "What would change?" } }
        div #paste-plan role="status" {}
    };
    dialog("paste", "Paste .env", &format!("{}/import", scope.page()), "Set", &fields)
}
