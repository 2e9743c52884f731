//! Images of Berth's own registry: what they are for, how large they are, and what nobody needs any more.

use crate::Ui;
use crate::page::{empty, heading, opener};
use crate::session::Visitor;
use crate::show::{self, bytes, moment};
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::extract::Query;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_model::AppName;
use berth_model::api::{Cleaned, ImageDetail, ImageInfo, ImageLayer};
use maud::{Markup, html};
use serde::Deserialize;

/// Releases that are named of one image; of the others their number.
const NAMED: usize = 6;

/// How many a list has unless all are asked for.
const SHOWN: usize = 200;

pub(crate) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/images", get(list))
        .route("/ui/images/cleanup", post(clean))
        .route("/ui/images/{digest}", get(page))
}

/// What a cleanup just did, for the page it leads to, and how much is shown.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    images: Option<u64>,
    blobs: u64,
    bytes: u64,
    /// Every image; any value.
    all: String,
}

async fn list(visitor: Visitor, Query(asked): Query<Asked>) -> Response {
    visitor.show_of("Images", asked, view).await
}

async fn view(visitor: &Visitor, asked: &Asked) -> Result<Markup, Trouble> {
    Ok(table(&visitor.api.get::<Vec<ImageInfo>>("/v1/images").await?, asked))
}

fn table(images: &[ImageInfo], asked: &Asked) -> Markup {
    let shown = if asked.all.is_empty() { SHOWN } else { images.len() };
    html! {
        (heading("Images", &html! {
            @if images.len() > 8 { input type="search" data-filters="#images tbody tr" data-search placeholder="Search ( / )" aria-label="Search images"; }
            (opener("cleanup", "Clean up", ""))
        }))
        @if let Some(count) = asked.images { p.notice.good role="status" { (said(count, asked)) } }
        @if images.is_empty() {
            (empty("The registry holds nothing yet. A push builds the first image; base images come with:", &crate::page::command("berth stack:import NAME FILE.tar")))
        } @else {
            p.summary { (show::count(images.len(), "image", "images")) ". Images share layers: together they take less than the sum of their sizes." }
            div.wide { table #images .cards {
                thead { tr {
                    th scope="col" { "Repository" } th scope="col" { "Tags" } th scope="col" { "Used by" } th.n scope="col" { "Size" }
                    th scope="col" { "Made" } th scope="col" { "Digest" }
                } }
                tbody { @for image in images.iter().take(shown) { (row(image)) } }
            } }
            p.none hidden data-none-for="#images" { @if images.len() > shown { "None of these is called so." } @else { "No image is called so." } }
            @if images.len() > shown { p { a href="?all=1" { "All " (show::count(images.len(), "image", "images")) } } }
            p.hint { "An image as an archive for docker load: " code { "berth images:export APP --release vN > APP.tar" } }
        }
        (cleanup())
    }
}

fn said(count: u64, done: &Asked) -> String {
    match count {
        0 => "There was nothing to remove.".to_owned(),
        _ => format!(
            "Removed {} and {}: {} are free again.",
            show::count(usize::try_from(count).unwrap_or(usize::MAX), "image", "images"),
            show::count(usize::try_from(done.blobs).unwrap_or(usize::MAX), "layer", "layers"),
            bytes(done.bytes)
        ),
    }
}

/// The app whose repository it is.
fn app_of(image: &ImageInfo) -> Option<AppName> {
    AppName::parse(image.repository.strip_prefix("apps/")?).ok()
}

/// The first digits of a digest.
fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// Stays as it is: an image never changes, and to say what it shares all others are read.
async fn page(visitor: Visitor, Path(digest): Path<String>) -> Response {
    match visitor.api.get::<ImageDetail>(&format!("/v1/images/{}", show::part(&digest))).await {
        Ok(image) => visitor.show_once(&format!("Image {}", short(&digest)), &made_of(&image)),
        Err(error) => Trouble::from(error).into_response(),
    }
}

fn made_of(image: &ImageDetail) -> Markup {
    let layers = &image.layers;
    let told = layers.iter().any(|layer| layer.made_by.is_some());
    let sum = |layers: &mut dyn Iterator<Item = &ImageLayer>| bytes(layers.map(|layer| layer.bytes).sum());
    html! {
        p.crumbs { a href="/ui/images" { "Images" } " /" }
        (heading(&format!("Image {}", short(&image.digest)), &html! {}))
        dl.facts {
            div { dt { "Digest" } dd.finding { code { (image.digest) } } }
            div { dt { "Repositories" } dd { (image.repositories.join(", ")) } }
            div { dt { "Made" } dd { @match image.created_ms { Some(at) => (moment(at)), None => "it does not say, so that the same build gives the same image" } } }
            @if !layers.is_empty() {
                div { dt { "Layers" } dd { (layers.len()) ", " (sum(&mut layers.iter())) span.dim { ", " (sum(&mut layers.iter().filter(|layer| layer.shared_with == 0))) " of it in no other image" } } }
            }
        }
        @if !image.images.is_empty() {
            h2 { "One image for each platform" }
            ul { @for digest in &image.images { li { a href={ "/ui/images/" (show::part(digest)) } { code { (digest) } } } } }
        }
        @if layers.is_empty() { @if image.images.is_empty() { (empty("It has no layers.", &html! {})) } }
        @else {
            section aria-labelledby="layers" {
                div.heading { h2 #layers { "Layers" } }
                div.wide { table.cards {
                    thead { tr { th.n scope="col" { "No." } th scope="col" { "Digest" } th.n scope="col" { "Size" } th scope="col" { "Shared" } @if told { th scope="col" { "Made by" } } } }
                    tbody { @for (index, layer) in layers.iter().enumerate() { (layer_row(index + 1, layer, told)) } }
                } }
                p.hint { "The lowest first. Sizes are of the compressed bytes. A layer that several images share is kept once." }
            }
        }
    }
}

fn layer_row(number: usize, layer: &ImageLayer, told: bool) -> Markup {
    html! {
        tr {
            td.n data-label="No." { (number) }
            th scope="row" { code title=(layer.digest) { (short(&layer.digest)) } }
            td.n data-label="Size" { (bytes(layer.bytes)) }
            td data-label="Shared" { @if layer.shared_with == 0 { span.dim { "only here" } } @else { "with " (show::count(layer.shared_with, "other image", "other images")) } }
            @if told { td.finding data-label="Made by" { @match &layer.made_by { Some(step) => code { (step) }, None => span.dim { "–" } } } }
        }
    }
}

fn row(image: &ImageInfo) -> Markup {
    let (digest, short) = (&image.digest, short(&image.digest));
    html! {
        tr id={ "image-" (show::part(&image.repository)) "-" (short) } data-text={ (image.repository) " " (image.tags.join(" ")) " " (image.releases.join(" ")) " " (digest) } {
            th scope="row" { @match app_of(image) {
                Some(app) => a href={ "/ui/apps/" (app) } { (image.repository) },
                None => (image.repository),
            } }
            td data-label="Tags" { @if image.tags.is_empty() { span.dim { "–" } } @for tag in image.tags.iter().take(NAMED) { span.label { (tag) } " " } (more(image.tags.len())) }
            td data-label="Used by" { (users(image)) }
            td.n data-label="Size" { (bytes(image.bytes)) }
            td data-label="Made" { @if image.created_ms > 0 { (moment(image.created_ms)) } @else { "–" } }
            td data-label="Digest" { a href={ "/ui/images/" (show::part(&image.digest)) } title=(image.digest) { code { (short) } } }
        }
    }
}

/// Releases made of it, each with a link; its newest come last in the API's answer.
fn users(image: &ImageInfo) -> Markup {
    html! {
        @if image.releases.is_empty() { span.dim { @if image.repository.starts_with("stacks/") { "builds" } @else { "no release" } } }
        @for (index, release) in image.releases.iter().rev().take(NAMED).enumerate() {
            @if index > 0 { ", " }
            @match release.split_once(' ') {
                Some((app, _)) => a href={ "/ui/apps/" (show::part(app)) "/deploys" } { (release) },
                None => (release),
            }
        }
        (more(image.releases.len()))
    }
}

/// How many there are beside those that are named.
fn more(count: usize) -> Markup {
    html! { @if count > NAMED { span.dim { " and " (count - NAMED) " more" } } }
}

/// A form without the page's script: what was removed is said on the page it leads to.
fn cleanup() -> Markup {
    html! {
        dialog #cleanup aria-labelledby="cleanup-title" {
            form method="post" action="/ui/images/cleanup" {
                h2 #cleanup-title { "Clean up" }
                p { "Removes images that are neither deployed nor kept for a rollback and were not used within the last hour, and packs the repositories of apps. It happens every hour by itself." }
                div.buttons { button type="button" data-closes { "Cancel" } button.primary { "Clean up" } }
            }
        }
    }
}

async fn clean(visitor: Visitor) -> Response {
    match visitor.api.json::<Cleaned>(Method::POST, "/v1/cleanup", Some(&serde_json::json!({}))).await {
        Ok(Cleaned { images, blobs, bytes }) => {
            let page = format!("/ui/images?images={images}&blobs={blobs}&bytes={bytes}");
            (StatusCode::SEE_OTHER, [(header::LOCATION, page)]).into_response()
        }
        Err(error) => Trouble::from(error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_shows_its_layers_and_what_it_shares() {
        let layer = |bytes, shared_with, made_by: Option<&str>| ImageLayer {
            digest: format!("sha256:{}", "ab".repeat(32)),
            bytes,
            shared_with,
            made_by: made_by.map(str::to_owned),
        };
        let mut image = ImageDetail {
            digest: format!("sha256:{}", "0".repeat(64)),
            repositories: vec!["apps/shop".into()],
            created_ms: None,
            layers: vec![layer(20 << 20, 2, None), layer(3 << 20, 0, Some("RUN <x>"))],
            images: Vec::new(),
        };
        let text = made_of(&image).into_string();
        for words in [
            "23 MiB",
            "3.0 MiB of it in no other image",
            "with 2 other images",
            "only here",
            "RUN &lt;x&gt;",
            "abababababab<",
            "does not say",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        image.layers.clear();
        assert!(made_of(&image).into_string().contains("It has no layers"));
        image.images = vec!["sha256:1".into()];
        let text = made_of(&image).into_string();
        assert!(text.contains("/ui/images/sha256%3A1\"") && !text.contains("It has no layers"), "{text}");
    }

    #[test]
    fn an_image_names_its_releases_and_leads_to_its_app() {
        let mut image = ImageInfo {
            repository: "apps/shop".into(),
            digest: "sha256:0123456789abcdef".into(),
            tags: vec!["<b>".into()],
            releases: (1..=8).map(|n| format!("shop v{n}")).collect(),
            bytes: 3 << 20,
            created_ms: 1,
        };
        let text = row(&image).into_string();
        assert!(
            text.contains("shop v8</a>") && text.contains("and 2 more") && !text.contains("shop v2<"),
            "{text}"
        );
        assert!(text.contains("/ui/apps/shop\"") && text.contains("&lt;b&gt;"));
        image.repository = "apps/../x".into();
        assert_eq!(app_of(&image), None);
    }
}
