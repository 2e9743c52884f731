//! Apps that are an image: nothing is built, but it becomes a release like any other.
//!
//! In: a commit whose only file is the Dockerfile that `git:from-image` or `git:load-image` wrote. Out: that image in the
//! app's own repository, with what it says of how it runs.
//!
//! Such a commit says which image somebody asked for and which bytes that meant, so that the branch's history tells what
//! ran, and anything that is added to it makes it a Dockerfile build on the same image.

use super::{Built, Known, known_key, stack, upload, with_healthcheck};
use crate::Platform;
use crate::errors::{failed, from_agent, internal};
use crate::git::tree::Source;
use crate::platform::{ProgressSender, say};
use berth_model::api::{ApiError, Progress};
use berth_model::app_json::Scripts;
use berth_model::build::{BuildPlan, BuildRequest, DEFAULT_TIMEOUT_SECS};
use berth_model::container::Limits;
use berth_model::image::{ImageConfig, ImageRef};
use berth_model::registry::{OWN_REGISTRY, PullRequest};
use berth_model::release::Formation;
use berth_model::{AppName, BuildId, ImageName};
use http::Method;
use std::collections::BTreeMap;

/// The tag in an app's repository that keeps the image it was given last.
pub(crate) const TAG: &str = "from-image";
/// The one file of such a commit.
pub(crate) const FILE: &str = "Dockerfile";

/// Where an app's image came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `git:from-image`.
    Named,
    /// `git:load-image`.
    Loaded,
}

/// What such a commit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) way: Way,
    /// As somebody wrote it; in one line.
    pub(crate) asked: String,
    /// With the digest.
    pub(crate) image: ImageName,
}

const WAYS: [(Way, &str); 2] = [(Way::Named, "# git:from-image "), (Way::Loaded, "# git:load-image ")];

impl Pin {
    /// The Dockerfile.
    pub(crate) fn text(&self) -> String {
        let (_, head) = WAYS[usize::from(self.way == Way::Loaded)];
        format!("{head}{}\nFROM {}\n", self.asked, self.image)
    }

    /// What [`Self::text`] wrote; `None` for any other Dockerfile.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (first, second) = text.strip_suffix('\n')?.split_once('\n')?;
        let (way, asked) = WAYS.iter().find_map(|(way, head)| Some((*way, first.strip_prefix(head)?)))?;
        let image = ImageName::parse(second.strip_prefix("FROM ")?).ok()?;
        let pin = Self { way, asked: asked.to_owned(), image };
        (pin.image.digest.is_some() && pin.text() == text).then_some(pin)
    }
}

/// An app is gone, or is called `to` now: what its repository keeps for rebuilds goes, or goes along. Releases keep their
/// own images.
pub(crate) async fn forget(platform: &Platform, app: &AppName, to: Option<&AppName>) {
    let (registry, from) = (platform.registry().clone(), format!("apps/{app}"));
    let to = to.map(|to| format!("apps/{to}"));
    let work = move || {
        if let Some(to) = to {
            // An app that was never an image has nothing to give.
            let _ = registry.give(&from, TAG, &to, TAG);
        }
        registry.drop_tag(&from, TAG)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, %app, "cannot forget the image of an app"),
        Err(error) => tracing::warn!(%error, %app, "forgetting the image of an app broke off"),
    }
}

/// What a commit says, if it has nothing but a pin.
pub(crate) async fn read(source: Source) -> Result<Option<Pin>, ApiError> {
    let work = move || source.only_file(FILE).map_err(|error| failed(error.to_string()));
    let text = tokio::task::spawn_blocking(work).await;
    let text = text.map_err(|error| internal("reading the commit broke off", &error))??;
    Ok(text.and_then(|text| Pin::parse(&text)))
}

/// Brings an image of another registry into Berth's own; an agent does it.
pub(crate) async fn pull(platform: &Platform, app: &AppName, name: &ImageName) -> Result<ImageRef, ApiError> {
    let registries = platform.registry_logins(app).await?;
    let request = PullRequest { name: name.to_string(), registries };
    let agent = platform.any_agent();
    agent.json(Method::POST, "/v1/images/pull", Some(&request)).await.map_err(from_agent)
}

/// Makes the image of `pin` the app's.
pub(super) async fn build(
    platform: &Platform,
    app: &AppName,
    id: &BuildId,
    source: Source,
    pin: Pin,
    progress: &ProgressSender,
) -> Result<Built, ApiError> {
    let tree = tokio::task::spawn_blocking(move || source.tree()).await;
    let tree = tree.map_err(|error| internal("reading the commit broke off", &error))?;
    let tree = tree.map_err(|error| failed(error.to_string()))?;
    let key = format!("image {}", tree.id);
    let built = |image: berth_model::image::Image| Built {
        checks: with_healthcheck(BTreeMap::new(), &image),
        formation: Formation::default(),
        cron: Vec::new(),
        max_parallel: BTreeMap::new(),
        scripts: Scripts::default(),
        image,
    };
    let known = platform.load::<Known>(&known_key(app)).await?.map(|(known, _)| known);
    if let Some(known) = known.filter(|known| known.key == key)
        && stack::has(platform, &known.image.reference).await?
    {
        let text = format!("The image {} is here already", pin.asked);
        say(progress, Progress::Step { text }).await;
        return Ok(built(known.image));
    }
    let own = format!("apps/{app}");
    let image = match pin.image.digest.clone() {
        Some(digest) if pin.image.registry == OWN_REGISTRY => {
            // Only the app's own: a commit can be pushed by somebody who may not read other apps' images.
            let image = ImageRef { repository: own.clone(), digest };
            if !stack::has(platform, &image).await? {
                return Err(failed(format!(
                    "the image {} is not kept any more: give it to the app again, with git:load-image or git:from-image",
                    pin.asked
                )));
            }
            image
        }
        _ => pull(platform, app, &pin.image).await?,
    };
    let plan = BuildPlan {
        builder: "image".to_owned(),
        run_image: image.clone(),
        build_image: image,
        layers: Vec::new(),
        processes: BTreeMap::new(),
        config: ImageConfig::default(),
        dockerfile: None,
        cnb: None,
        submodules: Vec::new(),
        predeploy: None,
        image: Some(pin.asked.clone()),
    };
    let request = BuildRequest {
        id: id.clone(),
        app: app.clone(),
        plan,
        repository: own,
        config: BTreeMap::new(),
        limits: Limits::default(),
        timeout_secs: DEFAULT_TIMEOUT_SECS.into(),
        registries: Vec::new(),
    };
    let image = upload::run(platform, request, tree, progress).await?;
    platform.save(&known_key(app), &Known { key, image: image.clone() }).await?;
    Ok(built(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_back_and_nothing_else_is_one() {
        let digest = format!("sha256:{}", "1".repeat(64));
        let image = ImageName::parse(&format!("nginx:1.27@{digest}")).expect("valid");
        let pin = Pin { way: Way::Named, asked: "nginx:1.27".to_owned(), image };
        let text = pin.text();
        assert_eq!(
            text,
            format!("# git:from-image nginx:1.27\nFROM docker.io/library/nginx:1.27@{digest}\n")
        );
        assert_eq!(Pin::parse(&text), Some(pin));
        for other in [
            format!("{text}RUN id\n"),
            text.replace("# git:from-image", "# by hand"),
            text.replace(&format!("@{digest}"), ""),
            text.replace("FROM docker.io/library/", "FROM "),
            "FROM nginx\n".to_owned(),
            String::new(),
        ] {
            assert_eq!(Pin::parse(&other), None, "{other}");
        }
    }
}
