//! Samples: one click makes an app of one, by a real build.

use crate::Ui;
use crate::action::Fields;
use crate::page::button;
use crate::samples::{ALL, Sample};
use crate::session::Visitor;
use crate::show::part;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::post;
use berth_model::AppName;
use berth_model::api::{AppInfo, BuildInfo, CreateApp, Progress};
use maud::{Markup, html};
use std::io::Cursor;

pub(crate) fn router() -> Router<Ui> {
    Router::new().route("/ui/apps/{app}/sample", post(onto))
}

/// A card each; `act` gives what it is begun with.
fn cards(act: impl Fn(&Sample) -> Markup) -> Markup {
    html! {
        div.cards-of-settings.samples { @for sample in &ALL {
            article.card { h3 { (sample.name) } p { (sample.words) } div.buttons-left { (act(sample)) } }
        } }
    }
}

/// For a new app: each opens the dialog of one with a name that is free.
pub(super) fn of_new_app(apps: &[AppInfo]) -> Markup {
    let name = free_name(apps);
    cards(|sample| {
        html! {
            button.primary type="button" data-opens="new-app" data-with-name=(name) data-with-sample=(sample.id) {
                "Deploy it" span.hidden { " " (sample.name) }
            }
        }
    })
}

/// For an app that has nothing yet.
pub(super) fn of_app(app: &AppName) -> Markup {
    let action = format!("/ui/apps/{app}/sample");
    cards(|sample| button(&action, &format!("Deploy {}", sample.name), "", &[("sample", sample.id)]))
}

/// What a new app begins with, as `choice` takes it.
pub(super) fn choices() -> Vec<(&'static str, &'static str)> {
    let samples = ALL.iter().map(|sample| (sample.id, sample.name));
    std::iter::once(("", "Nothing: I push")).chain(samples).collect()
}

/// `hello`, or `hello-2` and so on.
fn free_name(apps: &[AppInfo]) -> String {
    let is_free = |name: &String| apps.iter().all(|app| app.name.as_str() != name);
    let numbered = (2..).map(|number| format!("hello-{number}"));
    std::iter::once("hello".to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

fn wanted(fields: &Fields) -> Result<&'static Sample, Trouble> {
    let id = fields.text("sample");
    Sample::find(id).ok_or_else(|| Trouble::invalid(format!("{id:?} is no sample")))
}

/// Makes an app of a sample.
pub(super) async fn create(visitor: &Visitor, fields: &Fields) -> Response {
    let made = async {
        let sample = wanted(fields)?;
        let name =
            AppName::parse(fields.text("name")).map_err(|error| Trouble::invalid(error.to_string()))?;
        let body = CreateApp { name: name.clone() };
        visitor.api.call(Method::POST, "/v1/apps", Some(&body)).await?;
        let begun = begin(visitor, &name, sample).await;
        begun.map_err(|trouble| match trouble {
            Trouble::Refused { status, message } => Trouble::Refused {
                status,
                message: format!("{name} was made, but the sample was not deployed: {message}"),
            },
            Trouble::SignedOut => trouble,
        })
    };
    answer(fields, made.await)
}

/// Deploys a sample to an app that is there.
async fn onto(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let begun = async { begin(&visitor, &app, wanted(&fields)?).await };
    answer(&fields, begun.await)
}

fn answer(fields: &Fields, begun: Result<String, Trouble>) -> Response {
    match begun {
        Ok(page) => fields.done(&page),
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// Sends the sample, and gives the page of its build. The build goes on by itself.
async fn begin(visitor: &Visitor, app: &AppName, sample: &Sample) -> Result<String, Trouble> {
    let packed = sample.archive().map_err(|error| Trouble::Refused {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        message: format!("the sample cannot be packed: {error}"),
    })?;
    let path = format!("/v1/apps/{app}/archive?kind=tar");
    let sent = visitor.api.upload(Method::POST, &path, "application/x-tar", Cursor::new(packed)).await?;
    let mut lines = visitor.api.lines_of(sent);
    // Each line may be the first of the build.
    while let Some(line) = lines.next::<Progress>().await? {
        if let Progress::Failed { error } = line {
            return Err(Trouble::Refused {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                message: error.message,
            });
        }
        let builds = visitor.api.get::<Vec<BuildInfo>>(&format!("/v1/apps/{app}/builds")).await?;
        if let Some(build) = builds.iter().find(|build| build.status.is_running()) {
            return Ok(format!("/ui/apps/{app}/builds/{}", part(build.id.as_str())));
        }
    }
    Ok(format!("/ui/apps/{app}/deploys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposed_name_is_free() {
        let app = |name: &str| -> AppInfo {
            serde_json::from_value(serde_json::json!({ "name": name, "created_ms": 0, "deploy_branch": null, "release": null,
                "git_rev": null, "builder": null, "urls": [], "status": "running", "formation": {}, "stopped": false,
                "mounts": [], "ports": [], "limits": {} }))
            .expect("an app")
        };
        assert_eq!(free_name(&[]), "hello");
        assert_eq!(free_name(&[app("hello"), app("hello-2"), app("hello-4")]), "hello-3");
    }
}
