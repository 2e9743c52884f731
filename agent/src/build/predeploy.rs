//! `app.json`'s `scripts.dokku.predeploy`: a command that runs in the finished image, and what it changes is the image's.
//!
//! In: the parts of an image, a command. Out: the same parts with one more layer, which is kept under the key of all that
//! it was made from: the layers below by content, the command, and the config it sees.

use super::error::BuildError;
use super::job::{Job, Parts};
use super::sandbox::{Program, Step};
use super::view::View;
use super::{CONTAINER_PREFIX, Turn, say, source, upper};
use crate::images::layers::{Known, Scope};
use berth_launcher::LAUNCHER;
use berth_model::{ContainerId, Digest};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;

/// Tells versions of the key's own make-up apart.
const KEY_FORMAT: &str = "berth-predeploy-1";
const TITLE: &str = "Running the predeploy script";

impl Job {
    /// Layers on this disk, topmost first; those that are not there yet are fetched.
    pub(super) async fn view(&self, layers: &[Known]) -> Result<View, BuildError> {
        let images = self.images();
        for known in layers {
            if !images.layers().has(&known.layer.diff_id) {
                images.ensure_layer(known.repository.clone(), known.layer.clone()).await?;
            }
        }
        let paths = layers.iter().rev().map(|known| images.layers().path(&known.layer.diff_id));
        Ok(View::new(paths.collect()))
    }

    /// Runs the command, if the plan has one, and adds what it changed.
    pub(super) async fn predeploy(
        &self,
        parts: &mut Parts,
        turn: &mut Option<Turn>,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<(), BuildError> {
        let Some(command) = &self.request.plan.predeploy else { return Ok(()) };
        let env = self.predeploy_environment(parts);
        let below: Vec<&str> = parts.layers.iter().map(|known| known.layer.diff_id.as_str()).collect();
        let (user, cwd) = (&parts.config.user, &parts.config.working_dir);
        let text = serde_json::to_vec(&(KEY_FORMAT, below, command, &env, user, cwd));
        let text = text.map_err(|error| BuildError::Plan(error.to_string()))?;
        let key = Digest::of(&text).hex().to_owned();
        let scope = Scope::App(self.request.app.clone());
        let layers = self.images().layers();
        if let Some(known) = layers.known(&scope, &key)
            && (layers.has(&known.layer.diff_id) || self.is_in_registry(&known).await?)
        {
            say(&self.events, "Using cached predeploy").await;
            parts.layers.push(known);
            return Ok(());
        }
        if turn.is_none() {
            *turn = Some(self.shared.turn(&self.request.app, &self.events, &self.stop).await?);
        }
        let base = turn.as_ref().map_or(0, |turn| turn.base);
        say(&self.events, format!("{TITLE}: {command}")).await;
        let view = self.view(&parts.layers).await?;
        let dir = self.run_predeploy(command, env, parts, &view, base).await?;
        let known = self.keep(&scope, &key, true, dir, publishing).await?;
        parts.layers.push(known);
        Ok(())
    }

    /// What the app itself would see: the image's environment and the config.
    fn predeploy_environment(&self, parts: &Parts) -> Vec<(String, String)> {
        let mut env = parts.config.env.clone();
        env.extend(self.request.config.iter().map(|(name, value)| (name.clone(), value.clone())));
        env.into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    async fn run_predeploy(
        &self,
        command: &str,
        env: Vec<(String, String)>,
        parts: &Parts,
        view: &View,
        base: u32,
    ) -> Result<PathBuf, BuildError> {
        let id = ContainerId::parse(&format!("{CONTAINER_PREFIX}{}.predeploy", self.request.id));
        let id = id.map_err(|error| BuildError::Plan(error.to_string()))?;
        let has = |path: &str| view.resolve(Path::new(path), true).is_ok_and(|found| found.node.is_some());
        let shell = match (has("bin/bash"), has("bin/sh")) {
            (true, _) => "/bin/bash",
            (false, true) => "/bin/sh",
            (false, false) => {
                return Err(BuildError::Plan(
                    "app.json has a predeploy script, but the image has no shell to run it; use a RUN of the \
                     Dockerfile instead"
                        .to_owned(),
                ));
            }
        };
        // One pipe for both outputs keeps their lines in order.
        let wrapper = "exec \"$0\" -c \"$1\" 2>&1 </dev/null";
        let mut argv = [shell, "-c", wrapper, shell, command].map(str::to_owned).to_vec();
        if has(&LAUNCHER[1..]) {
            // What buildpacks want of the environment.
            argv.splice(0..0, [LAUNCHER, "--profile", "--"].map(str::to_owned));
        }
        fs::create_dir_all(&self.dir).map_err(BuildError::disk("make", &self.dir))?;
        let step_upper = source::fresh(&self.dir, "upper");
        source::make_dir(&step_upper, base).map_err(BuildError::disk("make", &step_upper))?;
        let cwd = if parts.config.working_dir.is_empty() { "/" } else { &parts.config.working_dir };
        let step = Step {
            dir: self.dir.join(id.as_str()),
            id,
            app: self.request.app.clone(),
            upper: step_upper.clone(),
            lowers: view.layers().to_vec(),
            script: command.to_owned(),
            env,
            caches: Vec::new(),
            as_root: true,
            limits: self.request.limits.clone(),
            base,
            program: Some(Program {
                argv,
                user: parts.config.user.clone(),
                cwd: cwd.into(),
                files: Vec::new(),
                read_only: Vec::new(),
                online: true,
            }),
        };
        self.run_step(TITLE, &step).await?;
        let layer = source::fresh(&self.dir, "layer");
        let to = layer.clone();
        tokio::task::spawn_blocking(move || upper::capture_all(&step_upper, &to, &[], base)).await??;
        Ok(layer)
    }
}
