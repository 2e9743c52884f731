//! What a client is told when a request cannot be served: the error codes of the distribution specification.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use std::io;

/// Kinds of refusals; each has one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    UploadInvalid,
    UploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    ManifestTooLarge,
    BlobTooLarge,
    NameInvalid,
    NameUnknown,
    TagInvalid,
    RangeInvalid,
    NotFound,
    PageInvalid,
    Method,
    Internal,
    StorageFull,
}

impl Code {
    fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            Self::UploadInvalid => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
            Self::DigestInvalid => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Self::ManifestBlobUnknown => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            Self::ManifestInvalid => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Self::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            Self::ManifestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID"),
            Self::BlobTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Self::NameInvalid => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Self::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::TagInvalid => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
            Self::RangeInvalid => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Self::NotFound => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            Self::PageInvalid => (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
            Self::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN"),
        }
    }
}

/// A refused request.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    pub(super) code: Code,
    message: String,
    headers: Vec<(HeaderName, String)>,
    #[source]
    source: Option<io::Error>,
}

impl RegistryError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), headers: Vec::new(), source: None }
    }

    /// The disk did not do what was asked; `what` names the act and its object.
    pub(super) fn disk(what: impl Into<String>, source: io::Error) -> Self {
        let code = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::StorageFull,
            _ => Code::Internal,
        };
        Self { code, message: what.into(), headers: Vec::new(), source: Some(source) }
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl IntoResponse for RegistryError {
    fn into_response(self) -> Response {
        let (status, code) = self.code.parts();
        let message = match self.code {
            // Paths and errno belong in our log; a client is told what it can act on.
            Code::Internal => {
                tracing::error!(error = %self.message, cause = ?self.source, "registry request failed");
                "the registry could not do this; its log has more".to_owned()
            }
            Code::StorageFull => {
                tracing::error!(error = %self.message, cause = ?self.source, "registry disk is full");
                "the registry's disk is full: free space there and try again".to_owned()
            }
            _ => self.message,
        };
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] }).to_string();
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}
