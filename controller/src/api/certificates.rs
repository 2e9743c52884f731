//! Certificates: given, made, shown, taken away; and ACME, which gets them.

use super::answer::{Refusal, progress};
use super::caller::{Caller, Peer};
use super::extract::{Json, OptionalJson, Path};
use crate::certs;
use crate::platform::Platform;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use berth_model::AppName;
use berth_model::api::Progress;
use berth_model::certs::{
    AcmeApp, AcmeSettingsInfo, CertificateInfo, CertificatePem, CertificateReport, GenerateCertificate,
    KeptCertificate, PatchAcme, PutCertificate, RenewCertificates,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn router() -> OpenApiRouter<Platform> {
    OpenApiRouter::new()
        .routes(routes!(report, add, remove))
        .routes(routes!(generate))
        .routes(routes!(show))
        .routes(routes!(global, add_global))
        .routes(routes!(remove_global))
        .routes(routes!(settings, patch_settings))
        .routes(routes!(app_settings, patch_app_settings))
        .routes(routes!(list))
        .routes(routes!(enable))
        .routes(routes!(disable))
        .routes(routes!(renew))
        .routes(routes!(revoke))
}

/// An app's certificates, which of its domains have one, and how ACME goes.
#[utoipa::path(get, path = "/v1/apps/{app}/certificate", tag = "certificates", params(("app" = AppName, Path)),
    responses((status = 200, body = CertificateReport)))]
async fn report(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
) -> Result<Answer<CertificateReport>, Refusal> {
    Ok(Answer(certs::report(&platform, &app).await?))
}

/// Keeps an app's own certificate in place of the one there is. It is presented from then on.
#[utoipa::path(post, path = "/v1/apps/{app}/certificate", tag = "certificates", params(("app" = AppName, Path)),
    request_body = PutCertificate, responses((status = 201, body = KeptCertificate)))]
async fn add(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
    Json(given): Json<PutCertificate>,
) -> Result<Response, Refusal> {
    Ok((StatusCode::CREATED, Answer(certs::add(&platform, &app, &given).await?)).into_response())
}

/// Takes an app's own certificate away.
#[utoipa::path(delete, path = "/v1/apps/{app}/certificate", tag = "certificates", params(("app" = AppName, Path)),
    responses((status = 204, description = "It is gone")))]
async fn remove(State(platform): State<Platform>, Path(app): Path<AppName>) -> Result<StatusCode, Refusal> {
    certs::remove(&platform, &app).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a certificate that signs itself, and keeps it as the app's own.
#[utoipa::path(post, path = "/v1/apps/{app}/certificate/generate", tag = "certificates",
    params(("app" = AppName, Path)), request_body = GenerateCertificate,
    responses((status = 201, body = KeptCertificate)))]
async fn generate(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
    Json(wanted): Json<GenerateCertificate>,
) -> Result<Response, Refusal> {
    Ok((StatusCode::CREATED, Answer(certs::generate(&platform, &app, &wanted).await?)).into_response())
}

/// The certificate that is presented first for an app, with its key.
#[utoipa::path(get, path = "/v1/apps/{app}/certificate/pem", tag = "certificates", params(("app" = AppName, Path)),
    responses((status = 200, body = CertificatePem)))]
async fn show(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
) -> Result<Answer<CertificatePem>, Refusal> {
    Ok(Answer(certs::show(&platform, &app).await?))
}

/// The platform's certificates, for every app whose names they cover.
#[utoipa::path(get, path = "/v1/certificates", tag = "certificates",
    responses((status = 200, body = Vec<CertificateInfo>)))]
async fn global(State(platform): State<Platform>) -> Result<Answer<Vec<CertificateInfo>>, Refusal> {
    Ok(Answer(certs::listed(&platform, None).await?))
}

/// Keeps a certificate of the platform's.
#[utoipa::path(post, path = "/v1/certificates", tag = "certificates", request_body = PutCertificate,
    responses((status = 201, body = KeptCertificate)))]
async fn add_global(
    State(platform): State<Platform>,
    Json(given): Json<PutCertificate>,
) -> Result<Response, Refusal> {
    Ok((StatusCode::CREATED, Answer(certs::add_global(&platform, &given).await?)).into_response())
}

/// Takes a certificate of the platform's away.
#[utoipa::path(delete, path = "/v1/certificates/{id}", tag = "certificates", params(("id" = String, Path)),
    responses((status = 204, description = "It is gone")))]
async fn remove_global(
    State(platform): State<Platform>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    certs::remove_global(&platform, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The platform's settings of ACME.
#[utoipa::path(get, path = "/v1/acme", tag = "certificates", responses((status = 200, body = AcmeSettingsInfo)))]
async fn settings(State(platform): State<Platform>) -> Result<Answer<AcmeSettingsInfo>, Refusal> {
    Ok(Answer(certs::global_settings(&platform).await?))
}

/// Changes them. A program as the DNS provider can only be named on the machine itself, by its administrator.
#[utoipa::path(patch, path = "/v1/acme", tag = "certificates", request_body = PatchAcme,
    responses((status = 200, body = AcmeSettingsInfo)))]
async fn patch_settings(
    State(platform): State<Platform>,
    who: Who,
    Json(patch): Json<PatchAcme>,
) -> Result<Answer<AcmeSettingsInfo>, Refusal> {
    Ok(Answer(certs::patch_global_settings(&platform, &patch, who.is_root()).await?))
}

/// An app's settings of ACME.
#[utoipa::path(get, path = "/v1/apps/{app}/acme", tag = "certificates", params(("app" = AppName, Path)),
    responses((status = 200, body = AcmeSettingsInfo)))]
async fn app_settings(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
) -> Result<Answer<AcmeSettingsInfo>, Refusal> {
    Ok(Answer(certs::app_settings(&platform, &app).await?))
}

/// Changes them.
#[utoipa::path(patch, path = "/v1/apps/{app}/acme", tag = "certificates", params(("app" = AppName, Path)),
    request_body = PatchAcme, responses((status = 200, body = AcmeSettingsInfo)))]
async fn patch_app_settings(
    State(platform): State<Platform>,
    who: Who,
    Path(app): Path<AppName>,
    Json(patch): Json<PatchAcme>,
) -> Result<Answer<AcmeSettingsInfo>, Refusal> {
    Ok(Answer(certs::patch_app_settings(&platform, &app, &patch, who.is_root()).await?))
}

/// Every app that gets certificates, and how it goes.
#[utoipa::path(get, path = "/v1/acme/apps", tag = "certificates", responses((status = 200, body = Vec<AcmeApp>)))]
async fn list(State(platform): State<Platform>) -> Result<Answer<Vec<AcmeApp>>, Refusal> {
    Ok(Answer(certs::list(&platform).await?))
}

/// Has certificates got for an app's domains, from now on; shows how the first ones come.
#[utoipa::path(post, path = "/v1/apps/{app}/acme/enable", tag = "certificates", params(("app" = AppName, Path)),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn enable(State(platform): State<Platform>, Path(app): Path<AppName>) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    Ok(progress(move |lines| async move { certs::enable(&platform, &app, &lines).await }))
}

/// Ends that and takes the certificates away.
#[utoipa::path(post, path = "/v1/apps/{app}/acme/disable", tag = "certificates", params(("app" = AppName, Path)),
    responses((status = 204, description = "It is off")))]
async fn disable(State(platform): State<Platform>, Path(app): Path<AppName>) -> Result<StatusCode, Refusal> {
    platform.existing_app(&app).await?;
    certs::disable(&platform, &app).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tries again what failed and renews what is due, now.
#[utoipa::path(post, path = "/v1/apps/{app}/acme/renew", tag = "certificates", params(("app" = AppName, Path)),
    request_body = RenewCertificates,
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn renew(
    State(platform): State<Platform>,
    Path(app): Path<AppName>,
    OptionalJson(RenewCertificates { force }): OptionalJson<RenewCertificates>,
) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    Ok(progress(move |lines| async move { certs::renew(&platform, &app, force, &lines).await }))
}

/// Has the CA declare an app's certificates void, and gets no new ones.
#[utoipa::path(post, path = "/v1/apps/{app}/acme/revoke", tag = "certificates", params(("app" = AppName, Path)),
    responses((status = 200, body = Progress, content_type = "application/x-ndjson")))]
async fn revoke(State(platform): State<Platform>, Path(app): Path<AppName>) -> Result<Response, Refusal> {
    platform.existing_app(&app).await?;
    Ok(progress(move |lines| async move { certs::revoke(&platform, &app, &lines).await }))
}

/// Enough of a request to tell the machine's own administrator from others, whatever their keys are called.
struct Who {
    caller: String,
    remote: bool,
    acts_for_another: bool,
}

impl Who {
    fn is_root(&self) -> bool {
        self.caller == "local" && !self.remote && !self.acts_for_another
    }
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Who {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Refusal> {
        let caller = Extension::<Caller>::from_request_parts(parts, state).await;
        let headers: &HeaderMap = &parts.headers;
        Ok(Self {
            caller: caller.map_or_else(|_| String::new(), |Extension(Caller(name))| name),
            remote: parts.extensions.get::<Peer>().is_some(),
            acts_for_another: headers.contains_key("berth-as"),
        })
    }
}
