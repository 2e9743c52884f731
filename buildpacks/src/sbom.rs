//! Bills of materials: what is in an image, as far as package managers left word of it.
//!
//! In: files of package managers. Out: components, and a CycloneDX 1.6 document of them. Pure; whoever calls bounds sizes.

use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A package that is in the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// Package URL (purl-spec), which names it once.
    pub purl: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

fn component(kind: &str, namespace: &str, name: &str, version: &str, rest: &str) -> Option<Component> {
    if name.is_empty() || version.is_empty() || name.len() > 300 || version.len() > 200 {
        return None;
    }
    let namespace =
        namespace.split('/').filter(|part| !part.is_empty()).map(|part| format!("{}/", quoted(part)));
    let namespace: String = namespace.collect();
    let purl = format!("pkg:{kind}/{namespace}{}@{}{rest}", quoted(name), quoted(version));
    Some(Component { purl, name: name.to_owned(), version: version.to_owned() })
}

fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_~:".contains(&b);
    let byte = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(byte).collect()
}

/// Fields of paragraphs like those of `/var/lib/dpkg/status` and a wheel's `METADATA`.
fn field<'t>(paragraph: &'t str, name: &str) -> Option<&'t str> {
    paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Installed packages of `/var/lib/dpkg/status`; `distro` is such as `debian`, `release` such as `12`.
#[must_use]
pub fn dpkg(text: &str, distro: &str, release: &str) -> Vec<Component> {
    let of = |paragraph: &str| {
        let installed = field(paragraph, "Status").is_none_or(|status| status.ends_with(" installed"));
        let arch = field(paragraph, "Architecture").unwrap_or_default();
        let distro = if distro.is_empty() { "debian" } else { distro };
        let rest = format!("?arch={}&distro={}-{}", quoted(arch), quoted(distro), quoted(release));
        let found = (field(paragraph, "Package")?, field(paragraph, "Version")?);
        installed.then(|| component("deb", distro, found.0, found.1, &rest)).flatten()
    };
    text.split("\n\n").filter_map(of).collect()
}

/// The package of a `*.dist-info/METADATA`.
#[must_use]
pub fn python(text: &str) -> Option<Component> {
    let head = text.split("\n\n").next()?;
    let name = field(head, "Name")?.to_ascii_lowercase().replace(['_', '.'], "-");
    component("pypi", "", &name, field(head, "Version")?, "")
}

/// The package of a `package.json` below `node_modules`.
#[must_use]
pub fn node(text: &str) -> Option<Component> {
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let Package { name, version } = serde_json::from_str(text).ok()?;
    match name.strip_prefix('@').and_then(|rest| rest.split_once('/')) {
        Some((scope, rest)) => {
            let found = component("npm", &format!("@{scope}"), rest, &version, "")?;
            Some(Component { name, ..found })
        }
        None => component("npm", "", &name, &version, ""),
    }
}

/// The packages of a `Cargo.lock` that come from a registry.
#[must_use]
pub fn cargo(text: &str) -> Vec<Component> {
    #[derive(Deserialize)]
    struct Lock {
        #[serde(default)]
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        source: Option<String>,
    }
    let Ok(lock) = toml::from_str::<Lock>(text) else { return Vec::new() };
    let outside = lock.package.iter().filter(|package| package.source.is_some());
    outside.filter_map(|package| component("cargo", "", &package.name, &package.version, "")).collect()
}

/// The modules of a `go.mod`.
#[must_use]
pub fn go(text: &str) -> Vec<Component> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let module = match words.as_slice() {
            ["require", "("] => {
                inside = true;
                continue;
            }
            [")"] => {
                inside = false;
                continue;
            }
            ["require", path, version] => Some((*path, *version)),
            [path, version] if inside => Some((*path, *version)),
            _ => None,
        };
        if let Some((path, version)) = module {
            let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
            let one = component("golang", namespace, name, version, "");
            found.extend(one.map(|one| Component { name: path.to_owned(), ..one }));
        }
    }
    found
}

/// The gems of a `Gemfile.lock`.
#[must_use]
pub fn ruby(text: &str) -> Vec<Component> {
    let mut found = Vec::new();
    let mut in_gems = false;
    for line in text.lines() {
        if !line.starts_with(' ') {
            in_gems = line == "GEM";
        } else if in_gems
            && let Some(gem) = line.strip_prefix("    ").filter(|gem| !gem.starts_with(' '))
            && let Some((name, version)) = gem.split_once(" (")
        {
            found.extend(component("gem", "", name, version.trim_end_matches(')'), ""));
        }
    }
    found
}

/// The packages of a `composer.lock`.
#[must_use]
pub fn php(text: &str) -> Vec<Component> {
    #[derive(Deserialize)]
    struct Lock {
        #[serde(default)]
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let Ok(lock) = serde_json::from_str::<Lock>(text) else { return Vec::new() };
    let one = |Package { name, version }: Package| {
        let (vendor, short) = name.split_once('/')?;
        let found = component("composer", vendor, short, &version, "")?;
        Some(Component { name, ..found })
    };
    lock.packages.into_iter().filter_map(one).collect()
}

/// A CycloneDX 1.6 document (ECMA-424) of an image. `others` are components of documents that buildpacks wrote.
#[must_use]
pub fn cyclonedx(name: &str, image: &str, components: Vec<Component>, others: Vec<Value>) -> Value {
    let own: BTreeMap<String, Value> = components
        .into_iter()
        .map(|Component { purl, name, version }| {
            let value = json!({
                "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            });
            (purl, value)
        })
        .collect();
    let known = |other: &Value| other["purl"].as_str().is_some_and(|purl| own.contains_key(purl));
    let others: Vec<Value> = others.into_iter().filter(|other| !known(other)).collect();
    let components: Vec<Value> = own.into_values().chain(others).collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": { "components": [{ "type": "application", "name": "berth", "version": env!("CARGO_PKG_VERSION") }] },
            "component": { "type": "container", "bom-ref": image, "name": name, "version": image },
        },
        "components": components,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purls(found: Vec<Component>) -> Vec<String> {
        found.into_iter().map(|one| one.purl).collect()
    }

    #[test]
    fn packages_are_named_by_their_urls() {
        let status = "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1+b1\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        assert_eq!(
            purls(dpkg(status, "debian", "12")),
            ["pkg:deb/debian/bash@5.2-1%2Bb1?arch=amd64&distro=debian-12"]
        );
        let wheel = "Metadata-Version: 2.1\nName: Flask_Login\nVersion: 0.6\n\nName: not this\n";
        assert_eq!(python(wheel).map(|one| one.purl).as_deref(), Some("pkg:pypi/flask-login@0.6"));
        let scoped = node(r#"{"name": "@a/b", "version": "1.0.0"}"#).expect("a package");
        assert_eq!((scoped.purl.as_str(), scoped.name.as_str()), ("pkg:npm/%40a/b@1.0.0", "@a/b"));
        let lock = "[[package]]\nname = \"own\"\nversion = \"1\"\n[[package]]\nname = \"serde\"\nversion = \"1.0\"\nsource = \"r\"\n";
        assert_eq!(purls(cargo(lock)), ["pkg:cargo/serde@1.0"]);
        let modules = "module x\nrequire example.com/a v1 // indirect\nrequire (\n\texample.com/b/c v2.0.0\n)\nexclude x v1\n";
        assert_eq!(purls(go(modules)), ["pkg:golang/example.com/a@v1", "pkg:golang/example.com/b/c@v2.0.0"]);
        let gems = "PATH\n  specs:\n    own (1)\nGEM\n  remote: x\n  specs:\n    rack (3.0)\n      dep (>= 1)\n\nDEPENDENCIES\n  rack\n";
        assert_eq!(purls(ruby(gems)), ["pkg:gem/rack@3.0"]);
        let composer = r#"{"packages": [{"name": "a/b", "version": "v1"}]}"#;
        assert_eq!(purls(php(composer)), ["pkg:composer/a/b@v1"]);
    }

    #[test]
    fn a_document_has_each_package_once() {
        let one = component("pypi", "", "flask", "3", "").expect("valid");
        let others = vec![json!({ "purl": "pkg:pypi/flask@3" }), json!({ "name": "jre" })];
        let document = cyclonedx("hello", "sha256:x", vec![one.clone(), one], others);
        assert_eq!(document["components"].as_array().map(Vec::len), Some(2));
        assert_eq!(document["specVersion"], "1.6");
    }
}
