//! Volumes and directories of the nodes inside an app's containers.

use super::app;
use super::forms::{choice, hidden, needed, tick};
use crate::Ui;
use crate::action::Fields;
use crate::page::{command, dialog, empty, opener};
use crate::session::Visitor;
use crate::trouble::{Path, Trouble};
use axum::Router;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{get, post};
use berth_model::AppName;
use berth_model::api::{AppInfo, NodeInfo, PatchApp};
use berth_model::container::Mount;
use berth_model::placing::{SetVolume, VolumeInfo};
use maud::{Markup, html};

/// The same on every node, as the API writes it.
const ANY: &str = "any";

pub(crate) fn router() -> Router<Ui> {
    let base = "/ui/apps/{app}/storage";
    Router::new()
        .route(base, get(page).post(mount))
        .route(&format!("{base}/unmount"), post(unmount))
        .route(&format!("{base}/node"), post(set_node))
}

fn back(app: &AppName) -> String {
    format!("/ui/apps/{app}/storage")
}

async fn page(visitor: Visitor, Path(app): Path<AppName>) -> Response {
    let title = format!("{app}: storage");
    visitor.show_of(&title, app, view).await
}

async fn view(visitor: &Visitor, app: &AppName) -> Result<Markup, Trouble> {
    let api = &visitor.api;
    let ((info, head), volumes, nodes) = tokio::try_join!(
        app::header(visitor, app),
        async { Ok(api.get::<Vec<VolumeInfo>>(&format!("/v1/apps/{app}/volumes")).await?) },
        async { Ok(api.get::<Vec<NodeInfo>>("/v1/nodes").await?) },
    )?;
    let line = format!("berth storage:mount {app} uploads:/app/uploads");
    Ok(html! {
        (head)
        section aria-labelledby="mounts" {
            div.heading { h2 #mounts { "Storage" } div.actions { (opener("mount", "Add storage", "primary")) } }
            p.summary { "What an app writes to its own file system is gone with its container. What it writes here stays, over deploys and restarts." }
            @if info.mounts.is_empty() { (empty("Nothing is mounted. Add a volume here, or on the machine:", &command(&line))) }
            @else { (table(&info, &volumes)) }
        }
        (dialog("mount", "Add storage", &back(app), "Mount", &mount_fields()))
        (dialog("unmount", "Take storage away", &format!("{}/unmount", back(app)), "Take away", &html! {
            (hidden("source", "")) (hidden("target", ""))
            p { code data-shows="source" {} " will not be at " code data-shows="target" {} " any more. What is in it stays on its node. The app is restarted." }
        }))
        (dialog("node", "Say where it is", &format!("{}/node", back(app)), "Set", &node_fields(&nodes)))
    })
}

/// A name is a volume, a path is a directory of the node.
fn kind(source: &str) -> &'static str {
    if source.contains('/') { "directory of the node" } else { "volume" }
}

fn table(info: &AppInfo, volumes: &[VolumeInfo]) -> Markup {
    html! {
        div.wide { table.cards {
            thead { tr {
                th scope="col" { "In the container" } th scope="col" { "What" } th scope="col" { "Access" } th scope="col" { "Node" }
                th scope="col" { span.hidden { "Actions" } }
            } }
            tbody { @for mount in &info.mounts {
                @let node = volumes.iter().find(|one| one.source == mount.source).and_then(|one| one.node.as_deref());
                tr id={ "mount-" (mount.target) } {
                    th scope="row" { code { (mount.target) } }
                    td { code { (mount.source) } " " span.dim { (kind(&mount.source)) } }
                    td.whole data-label="Access" { @if mount.read_only { "read only" } @else { "read and write" } }
                    td data-label="Node" { @match node {
                        None => span.dim { "none yet" },
                        Some(ANY) => "every node, the same",
                        Some(node) => a href={ "/ui/nodes/" (node) } { (node) },
                    } }
                    td.row-actions {
                        button.link type="button" data-opens="node" data-with-source=(mount.source) data-with-node=(node.unwrap_or(ANY)) { "Node" span.hidden { " of " (mount.source) } }
                        button.link.bad type="button" data-opens="unmount" data-with-source=(mount.source) data-with-target=(mount.target) { "Take away" span.hidden { " " (mount.target) } }
                    }
                }
            } }
        } }
    }
}

fn mount_fields() -> Markup {
    html! {
        (needed("mount-source", "source", "Volume or directory", "", "A name such as uploads makes a volume, which Berth keeps. An absolute path such as /srv/media is a directory that is there already."))
        (needed("mount-target", "target", "Where in the container", "", "An absolute path such as /app/uploads."))
        (tick("mount-ro", "read_only", "Read only", false))
        p.hint { "The app is restarted with it." }
    }
}

fn node_fields(nodes: &[NodeInfo]) -> Markup {
    let mut options: Vec<(&str, &str)> =
        nodes.iter().map(|one| (one.name.as_str(), one.name.as_str())).collect();
    options.push((ANY, "every node has the same (a network file system)"));
    html! {
        (hidden("source", ""))
        p { "Containers run where " code data-shows="source" {} " is. Nothing is copied: say this after you moved it yourself." }
        (choice("node-of", "node", "Node", &options, ANY))
        p.hint { "What runs stays where it is until it is restarted." }
    }
}

/// What the form means, by the rules of `storage:mount`.
fn parsed(source: &str, target: &str, read_only: bool) -> Result<Mount, Trouble> {
    if source.is_empty() || (source.contains('/') && !source.starts_with('/')) || source.contains(':') {
        return Err(Trouble::invalid(format!(
            "{source:?} is neither the name of a volume nor an absolute path: write uploads, or /srv/media"
        )));
    }
    if !target.starts_with('/') || target.contains(':') {
        return Err(Trouble::invalid(format!(
            "{target:?} is no absolute path in the container: write /app/uploads"
        )));
    }
    Ok(Mount { source: source.to_owned(), target: target.to_owned(), read_only })
}

async fn mount(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let wanted = async || -> Result<Vec<Mount>, Trouble> {
        let new = parsed(fields.text("source"), fields.text("target"), fields.is_on("read_only"))?;
        let mut mounts = visitor.api.get::<AppInfo>(&format!("/v1/apps/{app}")).await?.mounts;
        if mounts.iter().any(|known| known.target == new.target) {
            return Err(Trouble::invalid(format!(
                "something is mounted at {} already: take it away first",
                new.target
            )));
        }
        mounts.push(new);
        Ok(mounts)
    };
    patch(&visitor, &app, &fields, wanted().await).await
}

async fn unmount(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let (source, target) = (fields.text("source"), fields.text("target"));
    let wanted = async || -> Result<Vec<Mount>, Trouble> {
        let mut mounts = visitor.api.get::<AppInfo>(&format!("/v1/apps/{app}")).await?.mounts;
        let before = mounts.len();
        mounts.retain(|known| known.source != source || known.target != target);
        if mounts.len() == before {
            return Err(Trouble::not_found("that is not mounted any more"));
        }
        Ok(mounts)
    };
    patch(&visitor, &app, &fields, wanted().await).await
}

async fn patch(
    visitor: &Visitor,
    app: &AppName,
    fields: &Fields,
    mounts: Result<Vec<Mount>, Trouble>,
) -> Response {
    match mounts {
        Ok(mounts) => {
            let patch = PatchApp { mounts: Some(mounts), ..PatchApp::default() };
            fields.act(visitor, Method::PATCH, &format!("/v1/apps/{app}"), Some(&patch), &back(app)).await
        }
        Err(trouble) => fields.refuse(&trouble),
    }
}

async fn set_node(visitor: Visitor, Path(app): Path<AppName>, fields: Fields) -> Response {
    let body = SetVolume { source: fields.text("source").to_owned(), node: fields.text("node").to_owned() };
    fields.act(&visitor, Method::PUT, &format!("/v1/apps/{app}/volumes"), Some(&body), &back(&app)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_a_volume_or_a_directory_and_an_absolute_path() {
        for (source, target) in [("uploads", "/app/uploads"), ("/srv/media", "/media")] {
            let mount = parsed(source, target, true).expect("a mount");
            assert_eq!(
                (mount.source.as_str(), mount.target.as_str(), mount.read_only),
                (source, target, true)
            );
        }
        for (source, target) in
            [("", "/a"), ("a/b", "/a"), ("a", "b"), ("a", ""), ("a:b", "/a"), ("a", "/b:ro")]
        {
            assert!(parsed(source, target, false).is_err(), "{source:?} {target:?}");
        }
        assert_eq!((kind("uploads"), kind("/srv")), ("volume", "directory of the node"));
    }
}
