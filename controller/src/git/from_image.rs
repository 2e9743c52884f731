//! Deploys of images: what somebody named, or gave.
//!
//! In: an image's name, of another registry or of Berth's own. Out: a commit that pins its bytes, deployed like a pushed one;
//! the same bytes again are no change, and no error.

use super::commit::{self, Authorship, CommitError};
use super::import::{self, Branch, Order};
use super::push::Pushes;
use super::tree::Source;
use crate::Platform;
use crate::build::from_image::{self, FILE, Pin, TAG, Way};
use crate::errors::{failed, internal, invalid, not_found};
use crate::platform::{ProgressSender, say};
use crate::registry::archive;
use berth_model::api::{ApiError, Progress};
use berth_model::image::ImageRef;
use berth_model::registry::OWN_REGISTRY;
use berth_model::{AppName, Digest, ImageName, ReleaseVersion};
use std::fs::File;

/// What an app's Dockerfile calls an image of its own repository.
fn own_name(app: &AppName, digest: Digest) -> ImageName {
    ImageName {
        registry: OWN_REGISTRY.to_owned(),
        repository: format!("apps/{app}"),
        tag: TAG.to_owned(),
        digest: Some(digest),
    }
}

/// Where in Berth's own registry the image `asked` is, if it is there: `apps/other`, `apps/other:v3`,
/// `berth.internal/any/repository:tag`.
async fn in_own_registry(
    platform: &Platform,
    asked: &str,
    name: &ImageName,
) -> Result<Option<(String, String)>, ApiError> {
    let is_short = asked.starts_with("apps/") && name.registry == "docker.io";
    if !is_short && name.registry != OWN_REGISTRY {
        return Ok(None);
    }
    let repository = name.repository.clone();
    if let Some(digest) = &name.digest {
        return Ok(Some((repository, digest.to_string())));
    }
    let app = repository.strip_prefix("apps/").and_then(|app| AppName::parse(app).ok());
    if let Some(app) = app
        && let Some(found) = release_of(platform, &app, &name.tag, is_short).await?
    {
        return Ok(Some((found.repository, found.digest.to_string())));
    }
    Ok(Some((repository, name.tag.clone())))
}

/// The image of an app's release: `latest` is the current one, `v3` the third. `None` if the tag is none of these.
async fn release_of(
    platform: &Platform,
    app: &AppName,
    tag: &str,
    must_exist: bool,
) -> Result<Option<ImageRef>, ApiError> {
    let Some(found) = platform.app(app).await? else {
        let text = format!(
            "App {app} does not exist; an image of Docker Hub with this name is docker.io/apps/{app}"
        );
        return if must_exist { Err(not_found(text)) } else { Ok(None) };
    };
    let version = match tag {
        "latest" => found.current,
        tag => tag.strip_prefix('v').and_then(|number| number.parse().ok()).map(ReleaseVersion),
    };
    let Some(version) = version else {
        let nothing = format!("App {app} has nothing deployed");
        return if tag == "latest" && must_exist { Err(failed(nothing)) } else { Ok(None) };
    };
    Ok(platform.release(app, version).await?.map(|release| release.image.reference))
}

/// Gets the image that `asked` means now, and pins it.
async fn pin(
    platform: &Platform,
    app: &AppName,
    asked: &str,
    progress: &ProgressSender,
) -> Result<Pin, ApiError> {
    let mut image = ImageName::parse(asked).map_err(invalid)?;
    say(progress, Progress::Step { text: format!("Pulling {asked}") }).await;
    if let Some((from, reference)) = in_own_registry(platform, asked, &image).await? {
        let (registry, to) = (platform.registry().clone(), format!("apps/{app}"));
        let given = tokio::task::spawn_blocking(move || registry.give(&from, &reference, &to, TAG)).await;
        let given = given.map_err(|error| internal("copying an image broke off", &error))?;
        let digest = given.map_err(|error| {
            failed(format!("{asked} cannot be had from Berth's own registry: {error}; see: berth images"))
        })?;
        image = own_name(app, digest);
    } else {
        let pulled = from_image::pull(platform, app, &image).await?;
        image.digest = Some(pulled.digest);
    }
    Ok(Pin { way: Way::Named, asked: asked.to_owned(), image })
}

/// Deploys an image by its name.
pub(crate) async fn from_image(
    platform: &Platform,
    pushes: &Pushes,
    order: &Order,
    asked: &str,
    author: Option<(String, String)>,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let _turn = pushes.wait_for_turn(&order.app, progress).await;
    let branch = import::branch(platform, &order.app).await?;
    let pin = pin(platform, &order.app, asked, progress).await?;
    deploy(platform, order, &branch, &pin, author, progress).await
}

/// Deploys an image of an archive. Without a name the archive must have one image.
pub(crate) async fn load(
    platform: &Platform,
    pushes: &Pushes,
    order: &Order,
    archive: File,
    wanted: Option<String>,
    author: Option<(String, String)>,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    let _turn = pushes.wait_for_turn(&order.app, progress).await;
    let branch = import::branch(platform, &order.app).await?;
    say(progress, Progress::Step { text: "Taking the image over".to_owned() }).await;
    let (registry, into, asked) =
        (platform.registry().clone(), format!("apps/{}", order.app), wanted.clone());
    let scratch = platform.options().controller_dir();
    let work = move || archive::load(&registry, archive, &scratch, asked.as_deref(), &into, TAG);
    let loaded = tokio::task::spawn_blocking(work).await;
    let loaded = loaded.map_err(|error| internal("reading the archive broke off", &error))?;
    let (digest, called) = loaded.map_err(|error| failed(error.to_string()))?;
    let line = |text: String| text.chars().filter(|c| !c.is_control()).take(200).collect::<String>();
    let asked = line(wanted.or(called).unwrap_or_else(|| "an image without a name".to_owned()));
    let pin = Pin { way: Way::Loaded, asked, image: own_name(&order.app, digest) };
    deploy(platform, order, &branch, &pin, author, progress).await
}

async fn deploy(
    platform: &Platform,
    order: &Order,
    branch: &Branch,
    pin: &Pin,
    author: Option<(String, String)>,
    progress: &ProgressSender,
) -> Result<(), ApiError> {
    if let Some(digest) = &pin.image.digest {
        say(progress, Progress::Detail { text: digest.to_string() }).await;
    }
    let made = commit(order, branch, pin, author).await?;
    let commit = match (made, &branch.before) {
        (Some(commit), _) => commit,
        (None, Some(before)) if !is_current(platform, &order.app, before).await? => before.clone(),
        (None, _) => {
            let text = format!("{} is this very image already: nothing to deploy", order.app);
            say(progress, Progress::Step { text }).await;
            return Ok(());
        }
    };
    import::deploy(platform, order, branch, commit, progress).await
}

/// Whether what serves was made of `commit`.
async fn is_current(platform: &Platform, app: &AppName, commit: &str) -> Result<bool, ApiError> {
    let Some(version) = platform.existing_app(app).await?.current else { return Ok(false) };
    let release = platform.release(app, version).await?;
    Ok(release.is_some_and(|release| release.git_rev.as_deref() == Some(commit)))
}

/// The commit of `pin` after the branch's; `None` if the branch has it.
async fn commit(
    order: &Order,
    branch: &Branch,
    pin: &Pin,
    author: Option<(String, String)>,
) -> Result<Option<String>, ApiError> {
    let (name, email) = author.unwrap_or_else(|| (order.by.clone(), format!("{}@berth", order.by)));
    let message = format!("Deploy the image {}", pin.asked);
    let by = Authorship { name, email, message, parent: branch.before.clone() };
    let (repository, text) = (branch.repository.clone(), pin.text());
    let made = tokio::task::spawn_blocking(move || commit::commit_file(&repository, FILE, &text, &by)).await;
    let made: Result<_, CommitError> =
        made.map_err(|error| internal("writing a commit broke off", &error))?;
    made.map_err(|error| internal("cannot write down which image runs", &error))
}

/// For `ps:rebuild` of an app that is an image: what its name means now. The commit to deploy; `None` if the branch has
/// code. A registry that does not answer is no reason not to start the image there is.
pub(super) async fn refreshed(
    platform: &Platform,
    order: &Order,
    branch: &Branch,
    commit_now: &str,
    progress: &ProgressSender,
) -> Result<Option<String>, ApiError> {
    let source = Source {
        repository: branch.repository.clone(),
        objects: Vec::new(),
        commit: commit_now.to_owned(),
        directory: None,
    };
    let found = from_image::read(source).await?;
    let Some(old) = found.filter(|pin| pin.way == Way::Named) else { return Ok(None) };
    let new = match pin(platform, &order.app, &old.asked, progress).await {
        Ok(new) => new,
        Err(error) => {
            let text = format!("{}; the image that was pulled last is used", error.message);
            say(progress, Progress::Warning { text }).await;
            return Ok(None);
        }
    };
    commit(order, branch, &new, None).await
}
