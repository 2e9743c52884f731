//! Where an app answers: its domains, paths, redirects and ports, and the certificates for them.

mod acme;
mod addresses;
mod certificate;

use super::app;
use crate::Ui;
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use berth_model::AppName;
use berth_model::api::Domains;
use berth_model::certs::{AcmeSettingsInfo, CertificateReport};
use berth_model::proxy_api::ProxyInfo;
use maud::{Markup, html};

pub(super) use acme::{fields as acme_fields, patch as acme_patch, settings as acme_settings};
pub(super) use certificate::{names, pem_fields, put as put_certificate, until};

pub(crate) fn router() -> Router<Ui> {
    let base = "/ui/apps/{app}/domains";
    Router::new()
        .route(base, get(page).post(addresses::change))
        .route(&format!("{base}/paths"), post(addresses::paths))
        .route(&format!("{base}/redirects"), post(addresses::redirects))
        .route(&format!("{base}/ports"), post(addresses::ports))
        .route(&format!("{base}/certificate"), post(certificate::add))
        .route(&format!("{base}/certificate/generate"), post(certificate::generate))
        .route(&format!("{base}/certificate/remove"), post(certificate::remove))
        .route(&format!("{base}/acme"), post(acme::set))
        .route(&format!("{base}/acme/{{verb}}"), post(acme::act))
}

/// The page's address.
fn back(app: &AppName) -> String {
    format!("/ui/apps/{app}/domains")
}

async fn page(visitor: Visitor, Path(app): Path<AppName>) -> Response {
    let title = format!("{app}: domains");
    visitor.show_of(&title, app, view).await
}

async fn view(visitor: &Visitor, app: &AppName) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let of = |what: &str| format!("/v1/apps/{app}/{what}");
    let ((info, head), domains, report, acme, proxy) = tokio::try_join!(
        app::header(visitor, app),
        async { Ok(api.get::<Domains>(&of("domains")).await?) },
        async { Ok(api.get::<CertificateReport>(&of("certificate")).await?) },
        async { Ok(api.get::<AcmeSettingsInfo>(&of("acme")).await?) },
        async { Ok(api.get::<ProxyInfo>(&of("proxy")).await?) },
    )?;
    Ok(html! {
        (head)
        (addresses::domains(&info, &domains, &report))
        (certificate::section(app, &report))
        (acme::section(app, &report.acme, &acme))
        (addresses::more(&info, &domains, &proxy))
    })
}
