//! Getting buildpacks: from the tree, by git or HTTP in a build container, or from an image.
//!
//! In: where they are. Out: layers with them at their places, and what their descriptors say.

use super::super::error::BuildError;
use super::super::view::View;
use super::super::{say, source, upper};
use super::space::{self, Space};
use super::{Building, stack};
use berth_buildpacks::cnb::{self, Descriptor};
use berth_model::Digest;
use berth_model::build::{Buildpack, BuildpackSource};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Most buildpacks of one image.
const MAX_IN_IMAGE: usize = 500;
/// Where a fetching script leaves what it got, and where it keeps what the next one needs.
const FETCHED: &str = "fetched";
const KEEP: &str = "/cache";

/// A Cloud Native Buildpack.
pub(super) struct Module {
    pub(super) descriptor: Descriptor,
    /// Where it is in build containers, absolute.
    pub(super) dir: String,
}

/// A classic buildpack.
pub(super) struct Classic {
    /// As the user wrote it.
    pub(super) text: String,
    pub(super) dir: String,
}

/// What was asked for, by name.
pub(super) struct Wanted {
    pub(super) id: String,
    pub(super) version: Option<String>,
    pub(super) optional: bool,
}

/// All buildpacks of a build.
#[derive(Default)]
pub(super) struct Fetched {
    /// Layers with them, topmost first.
    pub(super) lowers: Vec<PathBuf>,
    pub(super) modules: Vec<Module>,
    pub(super) classic: Vec<Classic>,
    /// What the list names, and what goes around a builder's own.
    pub(super) list: Vec<Wanted>,
    pub(super) pre: Vec<Wanted>,
    pub(super) post: Vec<Wanted>,
}

pub(super) enum Kind {
    Classic,
    Cloud,
}

impl Fetched {
    /// One kind or the other.
    pub(super) fn kind(&self) -> Result<Kind, BuildError> {
        match (self.classic.first(), self.modules.first()) {
            (Some(_), None) => Ok(Kind::Classic),
            (Some(classic), Some(module)) => Err(BuildError::Plan(format!(
                "{} is a classic Heroku buildpack and {} a Cloud Native Buildpack; they cannot build one app together. Use \
                 buildpacks of one kind",
                classic.text, module.descriptor.id
            ))),
            (None, _) => Ok(Kind::Cloud),
        }
    }
}

/// What one source came to.
enum Found {
    /// A directory with plain ids: a buildpack, or `cnb/buildpacks` with several.
    Directory(PathBuf),
    /// Layers of an image, topmost first, and its labels.
    Image(Vec<PathBuf>, std::collections::BTreeMap<String, String>),
    /// It is known by its name.
    Id(String, Option<String>),
}

impl Building<'_> {
    /// Gets all of them.
    pub(super) async fn fetch(&self, tree: &Path) -> Result<Fetched, BuildError> {
        let mut fetched = Fetched::default();
        let cnb = self.cnb;
        for (list, which) in [(&cnb.pre, 0), (&cnb.buildpacks, 1), (&cnb.post, 2)] {
            for (index, buildpack) in list.iter().enumerate() {
                let place = format!("{which}{index}");
                let wanted = self.one(buildpack, &place, tree, &mut fetched).await?;
                let of = [&mut fetched.pre, &mut fetched.list, &mut fetched.post];
                of.into_iter().nth(which).expect("there are three lists").extend(wanted);
            }
        }
        Ok(fetched)
    }

    async fn one(
        &self,
        buildpack: &Buildpack,
        place: &str,
        tree: &Path,
        fetched: &mut Fetched,
    ) -> Result<Option<Wanted>, BuildError> {
        let (text, optional) = (&buildpack.text, buildpack.optional);
        match self.found(buildpack, place, tree).await? {
            Found::Id(id, version) => Ok(Some(Wanted { id, version, optional })),
            Found::Directory(dir) => {
                if !fs::symlink_metadata(&dir).is_ok_and(|found| found.is_dir()) {
                    return Err(BuildError::Plan(format!("{text} is no directory")));
                }
                let view = View::new(vec![dir.clone()]);
                if let Some(descriptor) = space::text(&view, "buildpack.toml")? {
                    let descriptor = Descriptor::parse(&descriptor)
                        .map_err(|error| BuildError::Plan(format!("{text}: {error}")))?;
                    let id = (descriptor.id.clone(), descriptor.version.clone());
                    self.place(&dir, descriptor, fetched)?;
                    return Ok(Some(Wanted { id: id.0, version: Some(id.1), optional }));
                }
                if view.resolve(Path::new("bin/compile"), true).is_ok_and(|found| found.node.is_some()) {
                    let lower = source::fresh(&self.job.dir, "classic");
                    let at = format!("cnb/classic/{place}");
                    move_to(&dir, &lower.join(&at)).map_err(BuildError::disk("move", &dir))?;
                    fetched.lowers.push(lower);
                    fetched.classic.push(Classic { text: text.clone(), dir: format!("/{at}") });
                    return Ok(None);
                }
                let label = space::text(&view, "package.json")?;
                let modules = modules(&View::new(vec![dir.clone()]))?;
                self.several(text, optional, modules, vec![dir], label.as_deref(), fetched).map(Some)
            }
            Found::Image(lowers, labels) => {
                let modules = modules(&View::new(lowers.clone()))?;
                let label = labels.get("io.buildpacks.buildpackage.metadata").map(String::as_str);
                self.several(text, optional, modules, lowers, label, fetched).map(Some)
            }
        }
    }

    /// Buildpacks of a package: the one it is for is asked for, the others are there.
    fn several(
        &self,
        text: &str,
        optional: bool,
        modules: Vec<Module>,
        lowers: Vec<PathBuf>,
        label: Option<&str>,
        fetched: &mut Fetched,
    ) -> Result<Wanted, BuildError> {
        let json: serde_json::Value =
            label.and_then(|label| serde_json::from_str(label).ok()).unwrap_or_default();
        let named =
            json["id"].as_str().map(|id| (id.to_owned(), json["version"].as_str().map(str::to_owned)));
        let one = |module: &Module| (module.descriptor.id.clone(), Some(module.descriptor.version.clone()));
        let mut composite = modules.iter().filter(|module| module.descriptor.is_composite());
        let only = match (modules.as_slice(), composite.next(), composite.next()) {
            ([only], ..) => Some(one(only)),
            (_, Some(only), None) => Some(one(only)),
            _ => None,
        };
        let Some((id, version)) = named.or(only) else {
            return Err(BuildError::Plan(match modules.is_empty() {
                true => format!(
                    "{text} has neither a buildpack.toml, nor a bin/compile, nor buildpacks in /cnb/buildpacks: it is no \
                     buildpack. Check the address and what follows #"
                ),
                false => {
                    format!("{text} has {} buildpacks and does not say which one is meant", modules.len())
                }
            }));
        };
        fetched.lowers.extend(lowers);
        for module in modules {
            add(fetched, module);
        }
        Ok(Wanted { id, version, optional })
    }

    /// Gives a directory the place of its id and version.
    fn place(&self, dir: &Path, descriptor: Descriptor, fetched: &mut Fetched) -> Result<(), BuildError> {
        let at = format!("cnb/buildpacks/{}/{}", cnb::escaped(&descriptor.id), descriptor.version);
        let lower = source::fresh(&self.job.dir, "buildpack");
        move_to(dir, &lower.join(&at)).map_err(BuildError::disk("move", dir))?;
        fetched.lowers.push(lower);
        add(fetched, Module { descriptor, dir: format!("/{at}") });
        Ok(())
    }

    async fn found(&self, buildpack: &Buildpack, place: &str, tree: &Path) -> Result<Found, BuildError> {
        let text = &buildpack.text;
        match &buildpack.source {
            BuildpackSource::Id { id, version } => Ok(Found::Id(id.clone(), version.clone())),
            BuildpackSource::Directory { path } => {
                let (tree, to) = (tree.join("app"), source::fresh(&self.job.dir, "from-tree"));
                let (path, into) = (path.clone(), to.clone());
                tokio::task::spawn_blocking(move || {
                    source::make_dir(&into, 0).map_err(BuildError::disk("make", &into))?;
                    let wanted = if path.is_empty() { ".".to_owned() } else { path };
                    source::copy(&tree, &[wanted], &into, source::BUILD)
                })
                .await??;
                Ok(Found::Directory(match &buildpack.source {
                    BuildpackSource::Directory { path } if !path.is_empty() => to.join(path),
                    _ => to,
                }))
            }
            BuildpackSource::Script { api, id, script, shell } => {
                let dir = source::fresh(&self.job.dir, "script");
                write_script(&dir, api, id, script, shell).map_err(BuildError::disk("make", &dir))?;
                Ok(Found::Directory(dir))
            }
            BuildpackSource::Image { name } => {
                say(&self.job.events, format!("Fetching buildpack {text}")).await;
                let image = self.job.base(name).await?;
                Ok(Found::Image(self.lowers(&image).await?, image.config.labels))
            }
            BuildpackSource::Git { url, reference } => {
                let env = [("URL", url.as_str()), ("REF", reference.as_deref().unwrap_or_default())];
                self.remote(text, place, url, GIT, &env).await
            }
            BuildpackSource::Archive { url } => self.remote(text, place, url, ARCHIVE, &[("URL", url)]).await,
        }
    }

    /// Fetches in a container of the platform's own build image, which has the programs for it.
    async fn remote(
        &self,
        text: &str,
        place: &str,
        url: &str,
        script: &str,
        env: &[(&str, &str)],
    ) -> Result<Found, BuildError> {
        let job = self.job;
        say(&job.events, format!("Fetching buildpack {text}")).await;
        let image = job.images().ensure(&job.request.plan.build_image).await?;
        let vars = image.config.env.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone()));
        let space = Space::new(job, image.lowers, self.turn.base, vars.collect())?;
        space.make(FETCHED)?;
        let cache = job.cache(&format!("buildpack-{}", &Digest::of(url.as_bytes()).hex()[..32]))?;
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (name, title) = (format!("fetch{place}"), format!("Fetching buildpack {text}"));
        let ran = space.script(job, &name, &title, script.to_owned(), env, vec![(cache, KEEP.into())]);
        ran.await.map_err(|error| match error {
            BuildError::StepFailed { .. } => BuildError::Plan(format!(
                "the buildpack {text} cannot be fetched from {url}; why is above. Check the address and what follows #; \
                 repositories that need a login cannot be fetched: commit the buildpack to a directory of the app instead"
            )),
            other => other,
        })?;
        let (dir, base) = (source::fresh(&job.dir, "fetched"), self.turn.base);
        let (from, to) = (space.upper, dir.clone());
        tokio::task::spawn_blocking(move || upper::capture(&from, &to, &[FETCHED.into()], &[], base))
            .await??;
        Ok(Found::Directory(dir.join(FETCHED)))
    }

    /// What a builder image has besides what was fetched, and in which order it tries it.
    pub(super) fn of_builder(
        &self,
        stack: &stack::Stack,
        fetched: &mut Fetched,
    ) -> Result<Vec<cnb::order::Group>, BuildError> {
        if self.cnb.builder.is_none() {
            return Ok(Vec::new());
        }
        let view = View::new(stack.lowers.clone());
        for module in modules(&view)? {
            add(fetched, module);
        }
        match space::text(&view, "/cnb/order.toml")? {
            Some(text) => cnb::order::parse(&text).map_err(BuildError::Plan),
            None => Ok(Vec::new()),
        }
    }
}

/// A buildpack that is there already stays: what a user brings comes first.
fn add(fetched: &mut Fetched, module: Module) {
    let same = |other: &Module| {
        other.descriptor.id == module.descriptor.id && other.descriptor.version == module.descriptor.version
    };
    if !fetched.modules.iter().any(same) {
        fetched.modules.push(module);
    }
}

/// The buildpacks below `/cnb/buildpacks` of an image.
fn modules(view: &View) -> Result<Vec<Module>, BuildError> {
    let wrong = |error: std::io::Error| BuildError::Plan(format!("/cnb/buildpacks cannot be read: {error}"));
    let mut found = Vec::new();
    let Some(root) = view.resolve(Path::new("/cnb/buildpacks"), true).map_err(wrong)?.node else {
        return Ok(found);
    };
    for (id, versions) in root.children().map_err(wrong)? {
        for (version, _) in versions.children().map_err(wrong)? {
            let (Some(id), Some(version)) = (id.to_str(), version.to_str()) else { continue };
            let dir = format!("/cnb/buildpacks/{id}/{version}");
            let Some(text) = space::text(view, &format!("{dir}/buildpack.toml"))? else { continue };
            if found.len() >= MAX_IN_IMAGE {
                return Err(BuildError::Plan(format!("the image has more than {MAX_IN_IMAGE} buildpacks")));
            }
            match Descriptor::parse(&text) {
                Ok(descriptor) => found.push(Module { descriptor, dir }),
                // One that nobody asks for may be of another time.
                Err(error) => tracing::debug!(%error, dir, "a buildpack of an image is left out"),
            }
        }
    }
    Ok(found)
}

fn move_to(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(above) = to.parent() {
        fs::create_dir_all(above)?;
    }
    fs::rename(from, to)
}

fn write_script(dir: &Path, api: &str, id: &str, script: &str, shell: &str) -> std::io::Result<()> {
    fs::create_dir_all(dir.join("bin"))?;
    let descriptor = format!("api = {api:?}\n[buildpack]\nid = {id:?}\nversion = \"0.0.0\"\n");
    fs::write(dir.join("buildpack.toml"), descriptor)?;
    for (name, text) in
        [("detect", "#!/bin/sh\nexit 0\n".to_owned()), ("build", format!("#!{shell}\n{script}\n"))]
    {
        let path = dir.join("bin").join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Fetches `$URL` at `$REF`; what was fetched before helps, and is used if the other side does not answer.
const GIT: &str = r#"
export GIT_TERMINAL_PROMPT=0
dir=/cache/git
[ -d $dir/.git ] || git init -q $dir
cd $dir
if git fetch -q --no-tags --depth 1 --force "$URL" "${REF:-HEAD}" 2>/tmp/error; then
  git update-ref refs/berth/fetched FETCH_HEAD
elif [ -n "$REF" ] && git fetch -q --force --tags "$URL" '+refs/heads/*:refs/heads/*' 2>/tmp/error2 &&
  git rev-parse -q --verify "$REF^{commit}" >/tmp/commit; then
  git update-ref refs/berth/fetched "$(cat /tmp/commit)"
elif [ "$(cat /cache/ref 2>/dev/null)" = "at $REF" ] && git rev-parse -q --verify refs/berth/fetched >/dev/null; then
  tail -n 3 /tmp/error
  echo "it cannot be fetched now; its last copy is used"
else
  tail -n 20 /tmp/error
  exit 1
fi
printf 'at %s' "$REF" >/cache/ref
git checkout -q -f --detach refs/berth/fetched
git clean -q -ffdx
if [ -f .gitmodules ]; then git submodule -q update --init --recursive --depth 1; fi
echo "commit $(git rev-parse --short=12 HEAD)"
cp -a . /fetched/
rm -rf /fetched/.git
"#;

/// Fetches `$URL`, an archive; what was fetched before is used if it is still the same, or the other side does not answer.
const ARCHIVE: &str = r#"
cd /cache
args=()
if [ -f file ] && [ -f etag ]; then args=(--etag-compare etag); fi
rm -f new etag.new
if curl -fsSL --retry 2 --connect-timeout 20 --max-time 600 --max-filesize 1073741824 --proto '=https,http' \
  "${args[@]}" --etag-save etag.new -o new "$URL"; then
  if [ -s new ]; then mv new file; mv -f etag.new etag 2>/dev/null || rm -f etag; fi
elif [ -f file ]; then
  echo "it cannot be fetched now; its last copy is used"
else
  exit 1
fi
cd /fetched
case "${URL%%\?*}" in
*.zip) unzip -q /cache/file ;;
*) tar -xf /cache/file --no-same-owner --no-same-permissions ;;
esac
if [ -f oci-layout ] && [ -f index.json ]; then
  blob() { echo "oci/blobs/${1/://}"; }
  mkdir oci && mv oci-layout index.json blobs oci/
  digest=$(jq -r '.manifests[0].digest' oci/index.json)
  while jq -e '.manifests' "$(blob "$digest")" >/dev/null; do
    digest=$(jq -r '.manifests[0].digest' "$(blob "$digest")")
  done
  config=$(jq -r '.config.digest' "$(blob "$digest")")
  jq -r '.layers[].digest' "$(blob "$digest")" | while read -r layer; do
    tar -xf "$(blob "$layer")" --no-same-owner --no-same-permissions
  done
  jq -r '.config.Labels["io.buildpacks.buildpackage.metadata"] // empty' "$(blob "$config")" >package.json
  rm -rf oci
elif [ ! -e buildpack.toml ] && [ ! -e bin ] && [ "$(ls -A | wc -l)" = 1 ]; then
  top=$(ls -A)
  mv "$top" .top && mv .top/* . && rm -rf .top
fi
sha256sum /cache/file | cut -c1-64 | sed 's/^/sha256:/'
"#;
