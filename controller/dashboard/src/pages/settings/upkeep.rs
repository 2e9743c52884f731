//! Upkeep: backups, what is cleaned away, the key that seals secrets.

use super::super::forms::{fact, fragment};
use super::BACK;
use crate::action::Fields;
use crate::page::{command, dialog, opener};
use crate::session::Visitor;
use crate::show::{bytes, count, moment, state};
use crate::trouble::Trouble;
use axum::http::Method;
use axum::response::Response;
use berth_model::api::Cleaned;
use berth_model::config_api::SecretsInfo;
use maud::{Markup, html};

/// The section of the page.
pub(super) fn section(secrets: &SecretsInfo) -> Markup {
    html! {
        section aria-labelledby="upkeep" {
            div.heading { h2 #upkeep { "Upkeep" } }
            div.cards-of-settings {
                article.card {
                    h3 { "Backup" }
                    p { "The whole platform in one file, with every key and secret: so it is made on the machine alone." }
                    (command("berth backup /mnt/berth.backup --volumes"))
                    p { "A new machine begins from it with " code { "berth restore" } "." }
                }
                article.card {
                    h3 { "Images" }
                    p { "What is neither deployed nor kept for a rollback is removed every hour by itself." }
                    form.buttons-left { button type="button" data-asks="/ui/settings/cleanup" data-into="cleaned" data-sends { "Clean up now" } }
                    div #cleaned data-keep role="status" {}
                }
                article.card {
                    div.heading { h3 { "Key of secrets" } @if secrets.rotating { (state("pending")) } }
                    dl.facts {
                        (fact("Key", &html! { code { (secrets.key) } }))
                        (fact("Since", &moment(secrets.since_ms)))
                        (fact("File", &html! { code { (secrets.file) } }))
                    }
                    div.buttons-left { (opener("rotate", "New key", "")) }
                }
            }
            (dialog("rotate", "New key of secrets", "/ui/settings/rotate", "Make it", &html! {
                p { "Everything that is kept encrypted is sealed anew under a new key, and the old key is destroyed. Backups made before hold the old one." }
            }))
        }
    }
}

/// Removes images now, and says what that was, for the page's script.
pub(super) async fn clean(visitor: Visitor) -> Response {
    let cleaned = visitor.api.json::<Cleaned>(Method::POST, "/v1/cleanup", None::<&()>).await;
    fragment(match cleaned {
        Ok(cleaned) => html! { p { (said(cleaned)) } },
        Err(error) => html! { p.wrong { (Trouble::from(error).message()) } },
    })
}

fn said(cleaned: Cleaned) -> String {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    match cleaned {
        Cleaned { images: 0, blobs: 0, .. } => "There was nothing to remove.".to_owned(),
        Cleaned { images, blobs, bytes: freed } => format!(
            "Removed {} and {}: {}.",
            count(number(images), "image", "images"),
            count(number(blobs), "blob", "blobs"),
            bytes(freed)
        ),
    }
}

/// Makes a new key.
pub(super) async fn rotate(visitor: Visitor, fields: Fields) -> Response {
    fields.act(&visitor, Method::POST, "/v1/secrets/rotate", None::<&()>, BACK).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_said() {
        assert_eq!(said(Cleaned { images: 0, blobs: 0, bytes: 0 }), "There was nothing to remove.");
        assert_eq!(
            said(Cleaned { images: 1, blobs: 3, bytes: 2048 }),
            "Removed 1 image and 3 blobs: 2.0 KiB."
        );
    }
}
