//! Certificates of an app: what there is and until when; one's own, or one that signs itself.

use super::super::forms::{file, lines, unix};
use super::back;
use crate::action::Fields;
use crate::page::{danger, dialog, opener};
use crate::session::Visitor;
use crate::show::{moment, state};
use crate::trouble::{Path, Trouble};
use axum::http::Method;
use axum::response::Response;
use berth_model::certs::{
    CertificateInfo, CertificateReport, CertificateSource, GenerateCertificate, PutCertificate,
};
use berth_model::tls::KeyPem;
use berth_model::{AppName, HostPattern};
use maud::{Markup, html};

/// So long before its end a certificate is worth a look, in milliseconds: 14 days, as alerts have it.
const SOON_MS: i64 = 14 * 24 * 3600 * 1000;

/// In a word how long it is still good.
fn standing(expires_ms: i64, now_ms: i64) -> &'static str {
    match expires_ms - now_ms {
        left if left <= 0 => "expired",
        left if left < SOON_MS => "expiring",
        _ => "ok",
    }
}

/// Until when it is good, with its colour.
pub(in crate::pages) fn until(expires_ms: i64) -> Markup {
    html! { (state(standing(expires_ms, jiff::Timestamp::now().as_millisecond()))) " " (moment(expires_ms)) }
}

/// Names, one behind the other.
pub(in crate::pages) fn names(all: &[HostPattern]) -> Markup {
    html! { @for (index, name) in all.iter().enumerate() { @if index > 0 { ", " } (name) } }
}

fn source(source: CertificateSource) -> &'static str {
    match source {
        CertificateSource::Own => "uploaded",
        CertificateSource::Generated => "made here, signed by itself",
        CertificateSource::Acme => "got by ACME",
        CertificateSource::OnDemand => "got by ACME when it was asked for",
    }
}

/// The section of the page.
pub(super) fn section(app: &AppName, report: &CertificateReport) -> Markup {
    let action = format!("{}/certificate", back(app));
    let own = |one: &CertificateInfo| {
        one.app.is_some() && matches!(one.source, CertificateSource::Own | CertificateSource::Generated)
    };
    html! {
        section aria-labelledby="certificates" {
            div.heading {
                h2 #certificates { "Certificates" }
                div.actions {
                    (opener("generate", "Make a self-signed one", ""))
                    (opener("upload", "Upload", ""))
                }
            }
            @if report.certificates.is_empty() {
                p.dim { "None of its own. " @if report.covered.is_empty() { "Its names answer over HTTP only." } @else { "Those of the platform cover " (names(&report.covered)) "." } }
            } @else {
                div.wide { table.cards {
                    thead { tr {
                        th scope="col" { "Names" } th scope="col" { "Until" } th scope="col" { "From" } th scope="col" { "Issuer" }
                        th scope="col" { "Checked" } th scope="col" { span.hidden { "Actions" } }
                    } }
                    tbody { @for one in &report.certificates {
                        tr id={ "certificate-" (one.id) } {
                            th scope="row" { (names(&one.hostnames)) }
                            td data-label="Until" { (until(one.expires_ms)) }
                            td data-label="From" { (source(one.source)) }
                            td data-label="Issuer" { (one.issuer) }
                            td data-label="Checked" { (one.verified) }
                            td.row-actions { @if own(one) { (opener("remove-certificate", "Remove", "link bad")) } }
                        }
                    } }
                } }
            }
            @if !report.uncovered.is_empty() && !report.certificates.is_empty() { p.dim { "Without a certificate: " (names(&report.uncovered)) "." } }
            (dialog("upload", "Upload a certificate", &action, "Keep it", &pem_fields("upload")))
            (dialog("generate", "Make a self-signed certificate", &format!("{action}/generate"), "Make it", &html! {
                p { "It signs itself: browsers warn of it. It takes the place of an uploaded one." }
                (lines("generate-domains", "domains", "Domains", "", 3, "One a line; none for every domain of the app."))
            }))
            (danger("remove-certificate", "Remove the certificate", &format!("{action}/remove"), "Remove", app.as_str(),
                "The app's own certificate and its key will be gone. Names that have no other answer over HTTP only."))
        }
    }
}

/// What a certificate is uploaded with.
pub(in crate::pages) fn pem_fields(id: &str) -> Markup {
    let (chain, key) = (format!("{id}-chain"), format!("{id}-key"));
    html! {
        (lines(&chain, "chain", "Certificate, and those between it and its root (PEM)", "", 5, ""))
        (file(&format!("{chain}-file"), &chain, "or a file"))
        // Masked by the sheet: a key is several lines, which no password field has.
        div.masked {
            (lines(&key, "key", "Private key, not encrypted (PEM)", "", 5, "It is kept encrypted and never shown."))
            (file(&format!("{key}-file"), &key, "or a file"))
        }
    }
}

/// What was uploaded.
pub(in crate::pages) fn put(fields: &Fields) -> Result<PutCertificate, Trouble> {
    let (chain, key) = (fields.text("chain"), fields.text("key"));
    if chain.is_empty() || key.is_empty() {
        return Err(Trouble::invalid("a certificate and its private key are needed, both as PEM"));
    }
    Ok(PutCertificate {
        chain_pem: format!("{}\n", unix(chain)),
        key_pem: KeyPem(format!("{}\n", unix(key))),
    })
}

/// Keeps an uploaded one.
pub(super) async fn add(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    match put(&fields) {
        Ok(given) => {
            let path = format!("/v1/apps/{app}/certificate");
            fields.act(&visitor, Method::POST, &path, Some(&given), &back(&app)).await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

/// Makes one.
pub(super) async fn generate(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let words = fields.raw("domains").split([',', '\n', '\r', ' ']).filter(|word| !word.is_empty());
    let domains: Result<Vec<HostPattern>, _> =
        words.map(|word| HostPattern::parse(&word.to_ascii_lowercase())).collect();
    match domains {
        Ok(domains) => {
            let path = format!("/v1/apps/{app}/certificate/generate");
            let body = GenerateCertificate { domains };
            fields.act(&visitor, Method::POST, &path, Some(&body), &back(&app)).await
        }
        Err(error) => fields.refuse(&Trouble::invalid(error.to_string())),
    }
}

/// Takes the own one away.
pub(super) async fn remove(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    if let Err(trouble) = fields.must_name(app.as_str()) {
        return fields.refuse(&trouble);
    }
    let path = format!("/v1/apps/{app}/certificate");
    fields.act(&visitor, Method::DELETE, &path, None::<&()>, &back(&app)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_called_by_what_is_left_of_it() {
        let now = 1_700_000_000_000;
        assert_eq!(standing(now, now), "expired");
        assert_eq!(standing(now + 1, now), "expiring");
        assert_eq!(standing(now + SOON_MS, now), "ok");
    }
}
