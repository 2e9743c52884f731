//! The public API's types for certificates: an app's own, the platform's, and those that are got by ACME (RFC 8555).

use crate::tls::KeyPem;
use crate::{AppName, HostPattern};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/apps/{app}/certificate` and `POST /v1/certificates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCertificate {
    /// The certificate and those between it and its root: PEM.
    pub chain_pem: String,
    /// Its private key, not encrypted: PEM.
    #[schema(value_type = String)]
    pub key_pem: KeyPem,
}

/// `POST /v1/apps/{app}/certificate/generate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateCertificate {
    /// What it is for; empty for every domain of the app.
    #[serde(default)]
    pub domains: Vec<HostPattern>,
}

/// What was kept, and what is odd about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptCertificate {
    /// It.
    pub certificate: CertificateInfo,
    /// For people, one sentence each.
    pub warnings: Vec<String>,
}

/// Where a certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateSource {
    /// `certs:add`.
    Own,
    /// `certs:generate`: signed by itself.
    Generated,
    /// Got by ACME for an app's domains.
    Acme,
    /// Got by ACME when somebody asked for its name.
    OnDemand,
}

/// One certificate; never its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateInfo {
    /// Names it within the app or platform: the first 16 digits of the SHA-256 of the certificate.
    pub id: String,
    /// Whose; `None` is the platform's.
    pub app: Option<AppName>,
    /// Where it is from.
    pub source: CertificateSource,
    /// Its names (subjectAltName).
    pub hostnames: Vec<HostPattern>,
    /// Who signed it.
    pub issuer: String,
    /// To whom it was given.
    pub subject: String,
    /// Milliseconds since the Unix epoch.
    pub starts_ms: i64,
    /// Milliseconds since the Unix epoch.
    pub expires_ms: i64,
    /// `self signed`, `verified by a certificate authority`, or why it is neither.
    pub verified: String,
}

/// `GET /v1/apps/{app}/certificate`: everything about one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateReport {
    /// Whose.
    pub app: AppName,
    /// Its certificates, the one that is presented first.
    pub certificates: Vec<CertificateInfo>,
    /// Domains of the app that have a certificate, its own or the platform's.
    pub covered: Vec<HostPattern>,
    /// Domains of the app that have none.
    pub uncovered: Vec<HostPattern>,
    /// How ACME goes.
    pub acme: AcmeInfo,
}

/// A certificate as files: `GET /v1/apps/{app}/certificate/pem`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificatePem {
    /// The chain, the own certificate first.
    pub chain_pem: String,
    /// Its private key.
    #[schema(value_type = String)]
    pub key_pem: KeyPem,
}

/// How ACME goes for an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcmeInfo {
    /// Whether certificates are got for it.
    pub enabled: bool,
    /// The directory URL of the server.
    pub server: String,
    /// One entry a certificate.
    pub orders: Vec<AcmeOrder>,
    /// Domains that no certificate can be got for, and why.
    pub skipped: Vec<SkippedDomain>,
}

/// A domain that is left out of orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkippedDomain {
    /// Which.
    pub domain: HostPattern,
    /// Why, and what to do.
    pub reason: String,
}

/// One certificate that ACME keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcmeOrder {
    /// What it is to name.
    pub names: Vec<String>,
    /// Whether somebody asked for it by its name.
    pub on_demand: bool,
    /// When what there is expires; `None` if there is nothing yet. Milliseconds since the Unix epoch.
    pub expires_ms: Option<i64>,
    /// When it is renewed, or tried again. Milliseconds since the Unix epoch.
    pub next_ms: Option<i64>,
    /// Failed tries in a row.
    pub failures: u32,
    /// The last failure, and what to do.
    pub error: Option<String>,
    /// Whether an order is under way now.
    pub under_way: bool,
}

/// `GET /v1/acme` and `GET /v1/apps/{app}/acme`: settings; secrets are only said to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcmeSettingsInfo {
    /// As set for the platform, or for the app alone.
    pub own: AcmeSettingsView,
    /// What holds: the app's own over the platform's over the defaults.
    pub effective: AcmeSettingsView,
}

/// Settings as they are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcmeSettingsView {
    /// Whom the server writes to.
    pub email: Option<String>,
    /// Directory URL.
    pub server: Option<String>,
    /// `auto`, `http-01`, `tls-alpn-01` or `dns-01`.
    pub challenge: Option<String>,
    /// A program's path, or a URL.
    pub dns_provider: Option<String>,
    /// Whether the provider is shown a token.
    pub dns_token: bool,
    /// Seconds from a record's making to the challenge.
    pub dns_wait: Option<u32>,
    /// Who is asked about names that nobody listed.
    pub ask_url: Option<String>,
    /// Subjects of the CAs that servers are trusted by besides the system's.
    pub ca_bundle: Vec<String>,
    /// Key id of the external account (RFC 8555 §7.3.4).
    pub eab_key_id: Option<String>,
}

/// `PATCH /v1/acme` and `PATCH /v1/apps/{app}/acme`: what is absent stays, an empty text resets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchAcme {
    /// Whom the server writes to; setting it agrees to the server's terms of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Directory URL, `staging` or `production` (both of Let's Encrypt).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// `auto`, `http-01`, `tls-alpn-01` or `dns-01`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
    /// A program's absolute path (only from the machine itself), or a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_provider: Option<String>,
    /// What the provider is shown; kept encrypted and never given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_token: Option<String>,
    /// Seconds from a record's making to the challenge, up to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_wait: Option<String>,
    /// Who is asked about names that nobody listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_url: Option<String>,
    /// PEM of CAs that servers are trusted by besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Key id of the external account (RFC 8555 §7.3.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eab_key_id: Option<String>,
    /// Its key, base64url; kept encrypted and never given out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eab_key: Option<String>,
}

/// `POST /v1/apps/{app}/acme/renew`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewCertificates {
    /// Also what is not due yet.
    #[serde(default)]
    pub force: bool,
}

/// One line of `letsencrypt:list`: `GET /v1/acme/apps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcmeApp {
    /// Which.
    pub app: AppName,
    /// How it goes.
    pub acme: AcmeInfo,
}
