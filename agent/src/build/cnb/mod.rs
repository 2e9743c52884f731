//! Buildpacks of others: every program of theirs runs in a build container, as the build user; what they leave is read
//! only when nothing of it runs any more.
//!
//! In: which buildpacks, the pushed tree. Out: the layers and the config of an image, ready to be published.
//!
//! What the files of buildpacks mean is `berth_buildpacks::cnb`'s. A build has one writable directory, in which one
//! container after another runs; what comes back from earlier builds (cached layers, their metadata), the buildpacks and
//! the image lie below it, so that nothing is copied and what did not change is known to be the same.

mod cache;
mod classic;
mod detect;
mod export;
mod fetch;
mod lifecycle;
mod space;
mod stack;
mod stage;

use super::error::BuildError;
use super::job::{Job, Parts};
use super::{Input, Turn, say, source};
use crate::images::layers::remove_tree;
use berth_buildpacks::cnb::slices::Slices;
use berth_model::build::Cnb;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;
use tokio_util::io::SyncIoBridge;

/// The launcher, which is in every image that buildpacks made.
static LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/berth-launcher"));

/// Where Cloud Native Buildpacks find the app.
const WORKSPACE: &str = "workspace";

/// One build by buildpacks.
pub(super) struct Building<'a> {
    job: &'a Job,
    cnb: &'a Cnb,
    turn: &'a Turn,
}

impl Job {
    /// Builds with buildpacks of others.
    pub(super) async fn buildpacks(
        &self,
        cnb: &Cnb,
        input: Input,
        turn: &Turn,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Parts, BuildError> {
        say(&self.events, "Building with buildpacks").await;
        self.detail(&cnb.reason).await;
        fs::create_dir_all(&self.dir).map_err(BuildError::disk("make", &self.dir))?;
        let building = Building { job: self, cnb, turn };
        let tree = building.tree(input).await?;
        let fetched = building.fetch(&tree).await?;
        match fetched.kind()? {
            fetch::Kind::Classic => building.classic(&tree, fetched, publishing).await,
            fetch::Kind::Cloud => building.lifecycle(&tree, fetched, publishing).await,
        }
    }
}

impl Building<'_> {
    /// Unpacks the tree to the directory `app` of a new one, without what `project.toml` leaves out.
    async fn tree(&self, input: Input) -> Result<PathBuf, BuildError> {
        let tree = source::fresh(&self.job.dir, "tree");
        fs::create_dir(&tree).map_err(BuildError::disk("make", &tree))?;
        let (input, into) = (SyncIoBridge::new(input), tree.clone());
        let received =
            tokio::task::spawn_blocking(move || source::receive_for(input, &into, &[], source::BUILD))
                .await?;
        if self.job.stop.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        received?;
        self.job.submodules(&tree.join("app"), source::BUILD, self.turn).await?;
        Ok(tree)
    }

    /// Takes what `project.toml` and `.slugignore` leave out from a tree.
    fn leave_out(&self, app: &Path) -> Result<(), BuildError> {
        let wrong = |text: String| BuildError::Plan(format!("what is left out of the source: {text}"));
        // As in `.gitignore`: a name alone is meant at any depth.
        let anywhere = |pattern: &String| {
            let name = pattern.trim_end_matches('/');
            match (name.strip_prefix('/'), name.contains('/')) {
                (Some(rooted), _) => rooted.to_owned(),
                (None, true) => name.to_owned(),
                (None, false) => format!("**/{name}"),
            }
        };
        let parse = |patterns: &[String]| Slices::parse(&[patterns.iter().map(anywhere).collect()]);
        let (include, exclude) =
            (parse(&self.cnb.include).map_err(wrong)?, parse(&self.cnb.exclude).map_err(wrong)?);
        let (some_only, some_not) = (!self.cnb.include.is_empty(), !self.cnb.exclude.is_empty());
        if !some_only && !some_not {
            return Ok(());
        }
        let mut pending = vec![PathBuf::new()];
        while let Some(dir) = pending.pop() {
            let at = app.join(&dir);
            for entry in fs::read_dir(&at).map_err(BuildError::disk("list", &at))? {
                let entry = entry.map_err(BuildError::disk("list", &at))?;
                let path = dir.join(entry.file_name());
                let name = path.to_string_lossy();
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                // A directory may hold what is wanted.
                let unwanted = some_only && !is_dir && include.of(&name).is_none();
                let left_out = unwanted || some_not && exclude.of(&name).is_some();
                if left_out {
                    remove_tree(&entry.path()).map_err(BuildError::disk("remove", entry.path()))?;
                } else if is_dir {
                    pending.push(path);
                }
            }
        }
        Ok(())
    }
}
