//! Config vars of apps and of the platform: values, kinds, history, differences; and the key that seals them.

use super::answer::{Refusal, done, progress};
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use crate::deploy::{self, Change as Deploy};
use crate::errors::invalid;
use crate::platform::{Platform, ProgressSender, kind_in, say};
use crate::release_diff::may_show;
use axum::extract::State;
use axum::response::Response;
use axum::{Extension, Json as Answer};
use berth_model::api::{ApiError, Config, PatchConfig, Progress};
use berth_model::config_api::{Change, ConfigDiff, ConfigEvent, MASK, SecretsInfo, ValueChange, Variable};
use berth_model::secrets::Secrets;
use berth_model::{AppName, EnvName, ReleaseVersion};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(global_config, patch_global_config))
        .routes(routes!(config, patch_config))
        .routes(routes!(global_variables))
        .routes(routes!(variables))
        .routes(routes!(global_history))
        .routes(routes!(history))
        .routes(routes!(diff))
        .routes(routes!(secrets))
        .routes(routes!(rotate))
}

/// How values are shown.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Shown {
    /// Asterisks in place of values.
    masked: bool,
    /// With the platform's variables below the app's own.
    merged: bool,
}

impl Shown {
    fn apply(&self, mut variables: Vec<Variable>) -> Vec<Variable> {
        for variable in variables.iter_mut().filter(|_| self.masked) {
            variable.value = None;
        }
        variables
    }

    /// What is plain, as names and texts.
    fn plain(&self, variables: Vec<Variable>) -> Config {
        let pair = |variable: Variable| {
            let value = variable.value?;
            Some((variable.name, if self.masked { MASK.to_owned() } else { value }))
        };
        Config(variables.into_iter().filter_map(pair).collect())
    }
}

/// Config vars that every app gets, without those that are never shown.
#[utoipa::path(get, path = "/v1/config", tag = "config", params(Shown), responses((status = 200, body = Config)))]
async fn global_config(
    State(platform): State<Platform>,
    Query(shown): Query<Shown>,
) -> Result<Answer<Config>, Refusal> {
    Ok(Answer(shown.plain(platform.variables(None, false).await?)))
}

/// An app's own config vars, without those that are never shown.
#[utoipa::path(get, path = "/v1/apps/{app}/config", tag = "config", params(("app" = AppName, Path), Shown),
    responses((status = 200, body = Config), (status = 404, description = "There is no such app")))]
async fn config(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Query(shown): Query<Shown>,
) -> Result<Answer<Config>, Refusal> {
    platform.existing_app(&name).await?;
    Ok(Answer(shown.plain(platform.variables(Some(&name), shown.merged).await?)))
}

/// Config vars that every app gets, with their kinds.
#[utoipa::path(get, path = "/v1/config/variables", tag = "config", params(Shown),
    responses((status = 200, body = Vec<Variable>)))]
async fn global_variables(
    State(platform): State<Platform>,
    Query(shown): Query<Shown>,
) -> Result<Answer<Vec<Variable>>, Refusal> {
    Ok(Answer(shown.apply(platform.variables(None, false).await?)))
}

/// An app's config vars with their kinds; a value only where it may be shown.
#[utoipa::path(get, path = "/v1/apps/{app}/config/variables", tag = "config", params(("app" = AppName, Path), Shown),
    responses((status = 200, body = Vec<Variable>), (status = 404, description = "There is no such app")))]
async fn variables(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Query(shown): Query<Shown>,
) -> Result<Answer<Vec<Variable>>, Refusal> {
    platform.existing_app(&name).await?;
    Ok(Answer(shown.apply(platform.variables(Some(&name), shown.merged).await?)))
}

/// Who changed the platform's config vars: names, never values; newest first, at most 200.
#[utoipa::path(get, path = "/v1/config/history", tag = "config",
    responses((status = 200, body = Vec<ConfigEvent>)))]
async fn global_history(State(platform): State<Platform>) -> Result<Answer<Vec<ConfigEvent>>, Refusal> {
    Ok(Answer(platform.config_events(None).await?))
}

/// Who changed an app's config vars: names, never values; newest first, at most 200.
#[utoipa::path(get, path = "/v1/apps/{app}/config/history", tag = "config", params(("app" = AppName, Path)),
    responses((status = 200, body = Vec<ConfigEvent>), (status = 404, description = "There is no such app")))]
async fn history(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
) -> Result<Answer<Vec<ConfigEvent>>, Refusal> {
    platform.existing_app(&name).await?;
    Ok(Answer(platform.config_events(Some(&name)).await?))
}

/// Two configs to compare.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Between {
    /// Number of a release; without one, the release that serves.
    from: Option<u64>,
    /// Number of a release; without one, what the next release would get.
    to: Option<u64>,
    /// Show values that may be shown.
    reveal: bool,
}

/// How the config of two releases differs, or of one and the config of now.
#[utoipa::path(get, path = "/v1/apps/{app}/config/diff", tag = "config", params(("app" = AppName, Path), Between),
    responses((status = 200, body = ConfigDiff), (status = 404, description = "There is no such app or release")))]
async fn diff(
    State(platform): State<Platform>,
    Path(name): Path<AppName>,
    Query(between): Query<Between>,
) -> Result<Answer<ConfigDiff>, Refusal> {
    let app = platform.existing_app(&name).await?;
    let from = match between.from {
        Some(number) => ReleaseVersion(number),
        None => app.current.ok_or_else(|| {
            invalid(format!("App {name} has not been deployed: there is no release to compare with"))
        })?,
    };
    let before = platform.existing_release(&name, from).await?;
    let now = platform.config_and_secrets_of(&name).await?;
    let (to, after) = match between.to {
        Some(number) => {
            let release = platform.existing_release(&name, ReleaseVersion(number)).await?;
            (release.version.to_string(), &(release.config, release.secrets))
        }
        None => ("now".to_owned(), &now),
    };
    let reveal = between.reveal.then_some(&now.1);
    let changes = differences(&(before.config, before.secrets), after, reveal);
    Ok(Answer(ConfigDiff { from: from.to_string(), to, changes }))
}

type Whole = (BTreeMap<EnvName, String>, Secrets);

/// With `reveal`, values are shown if they [`may_show`].
fn differences(before: &Whole, after: &Whole, reveal: Option<&Secrets>) -> Vec<ValueChange> {
    let has = |whole: &Whole, name: &EnvName| whole.0.contains_key(name) || whole.1.files.contains_key(name);
    let same = |name: &EnvName| {
        before.0.get(name) == after.0.get(name) && before.1.files.get(name) == after.1.files.get(name)
    };
    let names: BTreeSet<&EnvName> = [before, after]
        .into_iter()
        .flat_map(|whole| whole.0.keys().chain(whole.1.files.keys()))
        .filter(|name| !same(name))
        .collect();
    let change = |name: &EnvName| {
        let change = match (has(before, name), has(after, name)) {
            (false, _) => Change::Added,
            (true, true) => Change::Changed,
            (true, false) => Change::Removed,
        };
        let kind = kind_in(if has(after, name) { &after.1 } else { &before.1 }, name);
        let is_shown = may_show(name, [&before.1, &after.1], reveal);
        let value = |whole: &Whole| whole.0.get(name).filter(|_| is_shown).cloned();
        ValueChange { name: name.clone(), change, kind, before: value(before), after: value(after) }
    };
    names.into_iter().map(change).collect()
}

/// Changes config vars of an app. If that changes what it would run with, it gets a new release, unless `no_restart`.
#[utoipa::path(patch, path = "/v1/apps/{app}/config", tag = "config", params(("app" = AppName, Path)),
    request_body = PatchConfig, responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn patch_config(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Path(name): Path<AppName>,
    Json(patch): Json<PatchConfig>,
) -> Result<Response, Refusal> {
    let change = platform.patch_config(Some(&name), &patch, &by).await?;
    if !change.changed || patch.no_restart {
        return Ok(done());
    }
    let text = description(&patch);
    Ok(progress(move |lines| async move { release(&platform, &name, &text, &by, &lines).await }))
}

/// Changes config vars that every app gets; each running app gets a new release, unless `no_restart`.
#[utoipa::path(patch, path = "/v1/config", tag = "config", request_body = PatchConfig,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn patch_global_config(
    State(platform): State<Platform>,
    Extension(Caller(by)): Extension<Caller>,
    Json(patch): Json<PatchConfig>,
) -> Result<Response, Refusal> {
    let change = platform.patch_config(None, &patch, &by).await?;
    if !change.changed || patch.no_restart {
        return Ok(done());
    }
    let text = format!("{} (global)", description(&patch));
    Ok(progress(move |lines| async move {
        let mut failed = Vec::new();
        for app in platform.apps().await? {
            if let Err(error) = release(&platform, &app.name, &text, &by, &lines).await {
                say(&lines, Progress::Warning { text: format!("{}: {}", app.name, error.message) }).await;
                failed.push(app.name.to_string());
            }
        }
        match failed.as_slice() {
            [] => Ok(()),
            failed => Err(crate::errors::failed(format!(
                "the values are set, but these apps still run with the old ones: {}; see above why, then: berth \
                 ps:restart APP",
                failed.join(", ")
            ))),
        }
    }))
}

/// Gives an app that runs a release with the config of now.
async fn release(
    platform: &Platform,
    name: &AppName,
    description: &str,
    by: &str,
    lines: &ProgressSender,
) -> Result<(), ApiError> {
    // Destroyed meanwhile, or never deployed: the next release takes the config.
    let Some(app) = platform.app(name).await? else { return Ok(()) };
    let Some(current) = platform.current_release(&app).await? else { return Ok(()) };
    let (config, secrets) = platform.config_and_secrets_of(name).await?;
    if config == current.config && secrets.files == current.secrets.files {
        return Ok(());
    }
    let change = Deploy::Config { description: description.to_owned() };
    deploy::deploy(platform, name, change, by, lines, &CancellationToken::new()).await.map(drop)
}

/// `Set A, B config vars; unset C`.
fn description(patch: &PatchConfig) -> String {
    fn list<'a>(verb: &str, names: impl Iterator<Item = &'a EnvName>) -> Option<String> {
        let names: Vec<_> = names.map(EnvName::as_str).collect();
        let plural = if names.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| format!("{verb} {} config var{plural}", names.join(", ")))
    }
    let parts = [
        patch.replace.then(|| "Replace all config vars".to_owned()),
        list("Set", patch.set.keys().chain(patch.files.keys())),
        list("Unset", patch.unset.iter()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Which key seals what is stored.
#[utoipa::path(get, path = "/v1/secrets", tag = "config", responses((status = 200, body = SecretsInfo)))]
async fn secrets(State(platform): State<Platform>) -> Answer<SecretsInfo> {
    Answer(platform.secrets_info())
}

/// Seals everything under a new key and destroys the old one. Goes on to its end whether or not the caller stays, and after a
/// restart of the controller.
#[utoipa::path(post, path = "/v1/secrets/rotate", tag = "config",
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn rotate(State(platform): State<Platform>) -> Response {
    progress(move |lines| async move {
        say(&lines, Progress::Step { text: "Sealing everything under a new key".to_owned() }).await;
        platform.rotate_key(&lines).await.map_err(ApiError::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::config_api::VariableKind;
    use berth_model::secrets::SecretBytes;

    fn name(text: &str) -> EnvName {
        EnvName::parse(text).expect("valid")
    }

    #[test]
    fn a_difference_never_shows_what_is_or_was_secret() {
        let config = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| (name(key), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let before = (config(&[("A", "1"), ("B", "plain once"), ("GONE", "x")]), Secrets::default());
        let secrets = Secrets {
            write_only: BTreeSet::from([name("B")]),
            files: BTreeMap::from([(name("F"), SecretBytes(vec![1]))]),
        };
        let after = (config(&[("A", "2"), ("B", "hidden now")]), secrets);
        let shown = differences(&before, &after, Some(&Secrets::default()));
        let line = |change: &ValueChange| {
            (change.name.to_string(), change.change, change.kind, change.before.clone(), change.after.clone())
        };
        let lines: Vec<_> = shown.iter().map(line).collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            lines,
            [
                ("A".to_owned(), Change::Changed, VariableKind::Plain, text("1"), text("2")),
                ("B".to_owned(), Change::Changed, VariableKind::Secret, None, None),
                ("F".to_owned(), Change::Added, VariableKind::File, None, None),
                ("GONE".to_owned(), Change::Removed, VariableKind::Plain, text("x"), None),
            ]
        );
        assert!(
            differences(&before, &after, None).iter().all(|one| one.before.is_none() && one.after.is_none())
        );
        assert!(differences(&after, &after, Some(&after.1)).is_empty());
        let older = (config(&[("B", "plain too")]), Secrets::default());
        let shown = differences(&older, &before, Some(&after.1));
        assert!(
            shown.iter().all(|one| one.name != name("B") || one.after.is_none()),
            "secret by now: {shown:?}"
        );
    }
}
