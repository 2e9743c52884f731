//! What is in an image: packages that its files tell of, and what its buildpacks wrote.
//!
//! In: an image. Out: documents. Reads layers as one tree, without mounting; a stranger's files are bounded and never
//! followed out of it.

use crate::build::view::{Node, View};
use crate::images::{ImageError, Images};
use berth_buildpacks::cnb::descriptor::os_release;
use berth_buildpacks::sbom::{self, Component};
use berth_model::api::{Sbom, SbomDocument};
use berth_model::image::ImageRef;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;

/// Most directories that are looked into.
const MAX_DIRECTORIES: usize = 200_000;
/// Deepest directory.
const MAX_DEPTH: usize = 64;
/// Largest file that is read.
const MAX_FILE: u64 = 16 << 20;
/// Most packages, and most bytes of documents of buildpacks.
const MAX_COMPONENTS: usize = 50_000;
const MAX_DOCUMENTS: usize = 32 << 20;
/// Where nothing of packages is, or nothing that belongs to the image.
const SKIPPED: [&str; 7] = ["proc", "sys", "dev", "run", "tmp", "usr/share/doc", "usr/share/locale"];
/// Where buildpacks' own documents are.
const OF_BUILDPACKS: &str = "layers/sbom/launch";

/// The documents of an image; the first is Berth's own.
pub(crate) async fn of(images: &Images, image: &ImageRef) -> Result<Sbom, ImageError> {
    let ready = images.ensure(image).await?;
    let (name, digest) = (image.repository.clone(), image.digest.to_string());
    tokio::task::spawn_blocking(move || {
        let view = View::new(ready.lowers);
        let read = read(&view, &name, &digest);
        read.map_err(ImageError::disk("read the layers of", name))
    })
    .await?
}

fn read(view: &View, name: &str, digest: &str) -> io::Result<Sbom> {
    let mut documents = of_buildpacks(view)?;
    let others = documents.iter().filter(|document| document.format == "cyclonedx");
    let others =
        others.filter_map(|document| document.document["components"].as_array()).flatten().cloned().collect();
    let components = components(view)?;
    let own = sbom::cyclonedx(name, digest, components, others);
    documents.insert(
        0,
        SbomDocument { format: "cyclonedx".to_owned(), buildpack: None, layer: None, document: own },
    );
    Ok(Sbom { documents })
}

/// `layers/sbom/launch/<buildpack>/[<layer>/]sbom.<format>.json` (Platform specification, “SBOM”).
fn of_buildpacks(view: &View) -> io::Result<Vec<SbomDocument>> {
    let mut documents = Vec::new();
    let mut bytes = 0;
    let Some(root) = view.resolve(Path::new(OF_BUILDPACKS), false)?.node else { return Ok(documents) };
    for (buildpack, of_buildpack) in root.children()? {
        let mut places = vec![(None, of_buildpack.clone())];
        let dirs = of_buildpack.children()?.into_iter().filter(|(_, node)| node.is_directory());
        places.extend(dirs.map(|(layer, node)| (Some(layer.to_string_lossy().into_owned()), node)));
        for (layer, place) in places {
            for (kind, format) in [("cdx", "cyclonedx"), ("spdx", "spdx"), ("syft", "syft")] {
                let Some(file) = place.child(OsStr::new(&format!("sbom.{kind}.json")))? else { continue };
                let Some(text) = text(&file) else { continue };
                bytes += text.len();
                if bytes > MAX_DOCUMENTS {
                    return Ok(documents);
                }
                let Ok(document) = serde_json::from_str::<Value>(&text) else { continue };
                let buildpack = Some(buildpack.to_string_lossy().replace('_', "/"));
                documents.push(SbomDocument {
                    format: format.to_owned(),
                    buildpack,
                    layer: layer.clone(),
                    document,
                });
            }
        }
    }
    Ok(documents)
}

fn text(node: &Node) -> Option<String> {
    let Node::Other(path, found) = node else { return None };
    if !found.is_file() || found.len() > MAX_FILE {
        return None;
    }
    String::from_utf8(fs::read(path).ok()?).ok()
}

/// Packages, wherever their managers left word of them.
fn components(view: &View) -> io::Result<Vec<Component>> {
    let (distro, release) = os_release(&view.text("/etc/os-release"));
    let mut found = sbom::dpkg(&view.text("/var/lib/dpkg/status"), &distro, &release);
    let Some(root) = view.root()? else { return Ok(found) };
    let mut pending = vec![(String::new(), root, 0)];
    let mut directories = 0;
    while let Some((path, node, depth)) = pending.pop() {
        directories += 1;
        if directories > MAX_DIRECTORIES || found.len() > MAX_COMPONENTS {
            break;
        }
        for (name, child) in node.children()? {
            let Some(name) = name.to_str() else { continue };
            let at = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            if child.is_directory() {
                if depth < MAX_DEPTH && !SKIPPED.contains(&at.as_str()) {
                    pending.push((at, child, depth + 1));
                }
                continue;
            }
            let read = || text(&child).unwrap_or_default();
            match name {
                "METADATA" if path.ends_with(".dist-info") => found.extend(sbom::python(&read())),
                "package.json" if is_package(&path) => found.extend(sbom::node(&read())),
                "Cargo.lock" => found.extend(sbom::cargo(&read())),
                "go.mod" => found.extend(sbom::go(&read())),
                "Gemfile.lock" => found.extend(sbom::ruby(&read())),
                "composer.lock" => found.extend(sbom::php(&read())),
                _ if path == "var/lib/dpkg/status.d" => found.extend(sbom::dpkg(&read(), &distro, &release)),
                _ => {}
            }
        }
    }
    found.truncate(MAX_COMPONENTS);
    Ok(found)
}

/// `…/node_modules/name` or `…/node_modules/@scope/name`.
fn is_package(path: &str) -> bool {
    let mut parts = path.rsplit('/').skip(1);
    match parts.next() {
        Some("node_modules") => true,
        Some(scope) if scope.starts_with('@') => parts.next() == Some("node_modules"),
        _ => false,
    }
}
