//! An app's name, its lock, its clones and its end.

use super::super::forms::{hidden, line, needed, tick};
use super::{act, back};
use crate::action::Fields;
use crate::page::{button, danger, dialog, opener};
use crate::session::Visitor;
use crate::show::{moment, part};
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::AppName;
use berth_model::api::{AppInfo, RenameApp};
use berth_model::processes::{AppLife, CloneApp, LockApp, SetTtl};
use maud::{Markup, html};

/// The section of the page.
pub(super) fn section(info: &AppInfo) -> Markup {
    let (app, life) = (&info.name, info.life.clone().unwrap_or_default());
    let at = |what: &str| format!("{}/{what}", back(app));
    html! {
        section.dangerous aria-labelledby="life" {
            div.heading { h2 #life { "Name, lock, end" } }
            div.cards-of-settings {
                (lock_card(app, &life))
                (end_card(app, &life))
                article.card {
                    h3 { "Name" }
                    p { "A new name is a new address and a new place to push to. What runs is started anew, with a short gap." }
                    div.buttons-left { (opener("rename", "Rename", "")) }
                }
                article.card {
                    h3 { "Clone" }
                    p { "A new app with this one's config, limits and settings, and the same image; without its domains, ports and data." }
                    @if let Some(from) = &life.cloned_from { p.dim { "This is a clone of " a href={ "/ui/apps/" (from) } { (from) } "." } }
                    div.buttons-left { (opener("clone", "Clone", "")) }
                }
                article.card {
                    h3 { "Destroy" }
                    p { "Its containers, releases, config, domains and repository will be gone. Its volumes stay." }
                    div.buttons-left { (opener("destroy-app", "Destroy", "bad")) }
                }
            }
            (dialog("lock", "Lock deploys", &at("lock"), "Lock", &line("lock-reason", "reason", "What for", "", "Whoever pushes is told. At most 200 bytes; may stay empty.")))
            (dialog("ttl", "End by itself", &at("ttl"), "Set", &needed("ttl-time", "time", "Destroy it in", "", "90s, 15m, 2h or 7d, up to 365 days. Its volumes stay.")))
            (dialog("clone", "Clone", &at("clone"), "Clone", &html! {
                (needed("clone-to", "to", "Name of the new app", "", ""))
                (tick("clone-later", "skip_deploy", "Start nothing yet", false))
                (line("clone-ttl", "ttl", "Destroy it in", "", "90s, 15m, 2h or 7d; empty: it stays."))
            }))
            (rename_dialog(app, &at("rename")))
            (danger("destroy-app", "Destroy the app", &format!("/ui/apps/{app}/destroy"), "Destroy", app.as_str(),
                "Its containers, releases, config, domains and repository will be gone, for good. Its volumes stay."))
        }
    }
}

fn lock_card(app: &AppName, life: &AppLife) -> Markup {
    html! {
        article.card {
            h3 { "Deploys" }
            @match &life.lock {
                Some(lock) => {
                    p { "Locked by " b { (lock.by) } " " (moment(lock.at_ms)) @if let Some(why) = &lock.reason { ": " (why) } }
                    div.buttons-left { (button(&format!("{}/unlock", back(app)), "Unlock", "", &[])) }
                }
                None => {
                    p { "Not locked: a push deploys." }
                    div.buttons-left { (opener("lock", "Lock", "")) }
                }
            }
        }
    }
}

fn end_card(app: &AppName, life: &AppLife) -> Markup {
    html! {
        article.card {
            h3 { "Time to live" }
            @match life.destroy_at_ms {
                Some(end) => {
                    p { "Destroyed by itself: " (moment(end)) }
                    div.buttons-left { (opener("ttl", "Another time", "")) (button(&format!("{}/ttl", back(app)), "Keep it", "", &[("keep", "1")])) }
                }
                None => {
                    p { "It stays until it is destroyed." }
                    div.buttons-left { (opener("ttl", "End by itself", "")) }
                }
            }
        }
    }
}

fn rename_dialog(app: &AppName, action: &str) -> Markup {
    dialog(
        "rename",
        "Rename",
        action,
        "Rename",
        &html! {
            (hidden("from", app.as_str()))
            (needed("rename-to", "to", "New name", app.as_str(), "Letters a to z, digits, and - or . between them."))
            p.hint { "Remotes of git have to be set anew: git remote set-url." }
        },
    )
}

/// Seconds of `90s`, `15m`, `2h`, `7d`; a plain number is seconds.
fn seconds(text: &str) -> Result<u64, Trouble> {
    let wrong = || {
        let shown: String = text.chars().take(40).collect();
        Trouble::invalid(format!("{shown:?} is no time: write 90s, 15m, 2h or 7d"))
    };
    // The proxy's times are written the same way, but may be milliseconds.
    let ms = berth_model::proxy_settings::time(text).filter(|ms| *ms > 0 && !text.ends_with("ms"));
    ms.map(|ms| ms / 1000).ok_or_else(wrong)
}

fn name(fields: &Fields) -> Result<AppName, Trouble> {
    AppName::parse(fields.text("to")).map_err(|error| Trouble::invalid(error.to_string()))
}

/// Refuses deploys.
pub(super) async fn lock(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let body = LockApp { reason: fields.some("reason") };
    fields.act(&visitor, Method::PUT, &format!("/v1/apps/{app}/lock"), Some(&body), &back(&app)).await
}

/// Takes them again.
pub(super) async fn unlock(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    fields.act(&visitor, Method::DELETE, &format!("/v1/apps/{app}/lock"), None::<&()>, &back(&app)).await
}

/// Sets when the app ends, or that it does not.
pub(super) async fn ttl(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = match fields.is_on("keep") {
        true => Ok(SetTtl { seconds: None }),
        false => seconds(fields.text("time")).map(|seconds| SetTtl { seconds: Some(seconds) }),
    };
    act(&visitor, &fields, (Method::PUT, &format!("/v1/apps/{app}/ttl")), wanted, &back(&app)).await
}

/// Gives it another name.
pub(super) async fn rename(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let then = format!("/ui/apps/{}", part(fields.text("to")));
    let wanted = name(&fields).map(|to| RenameApp { to });
    act(&visitor, &fields, (Method::POST, &format!("/v1/apps/{app}/rename")), wanted, &then).await
}

/// Makes another one like it.
pub(super) async fn clone(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = || -> Result<CloneApp, Trouble> {
        let ttl_secs = fields.some("ttl").map(|text| seconds(&text)).transpose()?;
        Ok(CloneApp {
            to: name(&fields)?,
            skip_deploy: fields.is_on("skip_deploy"),
            ignore_existing: false,
            ttl_secs,
        })
    };
    let then = format!("/ui/apps/{}", part(fields.text("to")));
    act(&visitor, &fields, (Method::POST, &format!("/v1/apps/{app}/clone")), wanted(), &then).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_their_unit() {
        for (text, wanted) in [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(seconds(text).ok(), Some(wanted), "{text}");
        }
        for bad in ["", "0", "500ms", "x", "-1", "1y"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
