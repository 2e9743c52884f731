//! Files of the binary: style sheet, scripts, icon, and what was vendored.
//!
//! A file's address holds the begin of its SHA-256, so a browser keeps it for good and never shows an old one with a new page.
//! Text is compressed once, at its first use.

use crate::Ui;
use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::LazyLock;

struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    /// Begin of the SHA-256.
    version: String,
    gzip: LazyLock<Vec<u8>, Box<dyn FnOnce() -> Vec<u8> + Send>>,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! asset {
    ($name:literal, $kind:expr) => {
        Asset::new($name, $kind, include_bytes!(concat!("../assets/", $name)))
    };
}

/// One sheet for all pages.
const SHEET: &str = concat!(
    include_str!("../assets/app.css"),
    include_str!("../assets/deploys.css"),
    include_str!("../assets/forms.css"),
    include_str!("../assets/cluster.css"),
);

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    vec![
        Asset::new("app.css", STYLE, SHEET.as_bytes()),
        asset!("app.js", SCRIPT),
        asset!("charts.js", SCRIPT),
        asset!("logs.js", SCRIPT),
        asset!("terminal.js", SCRIPT),
        asset!("icon.svg", "image/svg+xml"),
        asset!("vendor/idiomorph.min.js", SCRIPT),
        asset!("vendor/uPlot.iife.min.js", SCRIPT),
        asset!("vendor/uPlot.min.css", STYLE),
        asset!("vendor/xterm.js", SCRIPT),
        asset!("vendor/xterm.css", STYLE),
        asset!("vendor/addon-fit.js", SCRIPT),
    ]
});

impl Asset {
    fn new(name: &'static str, kind: &'static str, bytes: &'static [u8]) -> Self {
        let version = hex::encode(&Sha256::digest(bytes)[..6]);
        Self {
            name,
            kind,
            bytes,
            version,
            gzip: LazyLock::new(Box::new(move || gzip(bytes, Compression::best()))),
        }
    }
}

/// Compressed for `Content-Encoding: gzip`.
pub(crate) fn gzip(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("memory takes all that is written to it")
}

/// Whether the caller takes gzip (RFC 9110 §12.5.3), unless it gives it no weight.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let said = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(',')).any(|one| {
        let (name, rest) = one.split_once(';').unwrap_or((one, ""));
        let weight = rest.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// The address of a file that is there.
pub(crate) fn href(name: &str) -> String {
    let asset = ASSETS.iter().find(|asset| asset.name == name).expect("pages name files that are there");
    format!("/ui/assets/{}/{name}", asset.version)
}

pub(crate) fn router() -> Router<Ui> {
    Router::new().route("/ui/assets/{version}/{*name}", get(serve))
}

async fn serve(Path((version, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let found = ASSETS.iter().find(|asset| asset.name == name && asset.version == version);
    let Some(asset) = found else { return StatusCode::NOT_FOUND.into_response() };
    let kept = (header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    let head = [(header::CONTENT_TYPE, asset.kind), kept, (header::VARY, "accept-encoding")];
    if takes_gzip(&headers) {
        return (head, [(header::CONTENT_ENCODING, "gzip")], asset.gzip.as_slice()).into_response();
    }
    (head, asset.bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn gzip_is_used_by_those_who_take_it() {
        let says = |text: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(text))]))
        };
        assert!(says("gzip") && says("br, gzip;q=0.5") && says("GZIP ; q=1"));
        assert!(!says("br") && !says("gzip;q=0") && !says("gzipped") && !takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn scripts_refer_to_nothing_outside() {
        for asset in ASSETS.iter() {
            let text = std::str::from_utf8(asset.bytes).expect("text");
            for word in ["sourceMappingURL", "@import"] {
                assert!(!text.contains(word), "{} has {word}", asset.name);
            }
        }
    }

    #[test]
    fn what_a_first_page_loads_is_small() {
        let first = [
            "app.css",
            "app.js",
            "charts.js",
            "icon.svg",
            "vendor/idiomorph.min.js",
            "vendor/uPlot.iife.min.js",
            "vendor/uPlot.min.css",
        ];
        let sum: usize =
            ASSETS.iter().filter(|asset| first.contains(&asset.name)).map(|asset| asset.gzip.len()).sum();
        assert!(sum < 100_000, "{sum} bytes"); // half of what a page may weigh; the other half is for its HTML
    }
}
