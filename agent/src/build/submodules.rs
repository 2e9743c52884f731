//! Submodules: commits of other repositories that a pushed tree names, fetched where all of a build happens.
//!
//! In: addresses and commits of the plan, the unpacked tree. Out: their files in their places. They are fetched by git in a
//! build container, which reaches what any build reaches and no more, and kept for the app's next build.

use super::error::BuildError;
use super::job::Job;
use super::{Turn, say, source};
use crate::images::layers::Scope;
use berth_buildpacks::quoted;
use berth_model::Digest;
use berth_model::build::{LayerPlan, Make, Submodule};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use tokio::task::JoinSet;

/// Where the step writes; each in a directory named by its number.
const OUTPUT: &str = "/layers/submodules";
/// Gets one commit, with the submodules of its own, and keeps nothing of git's.
const FETCH: &str = include_str!("submodules.sh");

impl Job {
    /// Puts the files of every submodule of the plan into `tree`, for `owner`.
    pub(super) async fn submodules(&self, tree: &Path, owner: u32, turn: &Turn) -> Result<(), BuildError> {
        let submodules = &self.request.plan.submodules;
        if submodules.is_empty() {
            return Ok(());
        }
        let plan = plan(submodules)?;
        let scope = Scope::App(self.request.app.clone());
        let layers = self.images().layers();
        let known = match layers.known(&scope, &plan.key).filter(|known| layers.has(&known.layer.diff_id)) {
            Some(known) => {
                say(&self.events, "Using cached submodules").await;
                known
            }
            None => {
                say(&self.events, &plan.title).await;
                for note in &plan.notes {
                    self.detail(note).await;
                }
                let lowers = self.images().ensure(&self.request.plan.build_image).await?.lowers;
                let dir = self
                    .script_layer(self.request.plan.layers.len(), &plan, tree, &lowers, turn.base)
                    .await?;
                self.keep(&scope, &plan.key, false, dir, &mut JoinSet::new()).await?
            }
        };
        let from = layers.path(&known.layer.diff_id).join(OUTPUT.trim_start_matches('/'));
        let (tree, submodules) = (tree.to_owned(), submodules.clone());
        tokio::task::spawn_blocking(move || {
            for (number, submodule) in submodules.iter().enumerate() {
                let to = place(&tree, &submodule.path, owner)?;
                source::copy_tree(&from.join(number.to_string()), &to, owner, &[])
                    .map_err(BuildError::disk("copy a submodule to", &to))?;
            }
            Ok(())
        })
        .await?
    }
}

/// The directory for a submodule; no link of the tree is followed on the way.
fn place(tree: &Path, path: &str, owner: u32) -> Result<std::path::PathBuf, BuildError> {
    let mut at = tree.to_owned();
    for part in source::relative(path)? {
        at.push(part);
        source::make_dir(&at, owner).map_err(BuildError::disk("make", &at))?;
        if !std::fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()) {
            return Err(BuildError::Plan(format!(
                "{path} is a submodule, but something else is in its place"
            )));
        }
    }
    Ok(at)
}

fn plan(submodules: &[Submodule]) -> Result<LayerPlan, BuildError> {
    let mut script = FETCH.to_owned();
    for (number, submodule) in submodules.iter().enumerate() {
        let words = [&submodule.path, &submodule.url, &submodule.commit].map(|word| quoted(word));
        let _ = writeln!(script, "fetch {OUTPUT}/{number} {}", words.join(" "));
    }
    let count = match submodules.len() {
        1 => "a submodule".to_owned(),
        count => format!("{count} submodules"),
    };
    Ok(LayerPlan {
        name: "submodules".to_owned(),
        key: Digest::of(script.as_bytes()).hex().to_owned(),
        title: format!("Fetching {count}"),
        notes: submodules.iter().map(|one| format!("{} from {}", one.path, one.url)).collect(),
        make: Make::Script {
            script,
            env: BTreeMap::new(),
            sources: Vec::new(),
            keep_app: false,
            outputs: vec![OUTPUT.to_owned()],
            caches: Vec::new(),
            as_root: false,
        },
        launch: false,
    })
}
