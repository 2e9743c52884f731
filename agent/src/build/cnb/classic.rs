//! Classic Heroku buildpacks: `bin/detect`, `bin/compile`, `bin/release`, one after another.
//!
//! In: fetched buildpacks, the tree. Out: an image whose `/app` is what they made of the tree (Heroku, “Buildpack API”).

use super::super::error::BuildError;
use super::super::job::Parts;
use super::super::say;
use super::Building;
use super::export::Finish;
use super::fetch::{Classic, Fetched};
use super::space::{self, OUT, Space};
use super::stack::Stack;
use berth_buildpacks::cnb::classic::{self, Release};
use berth_buildpacks::cnb::labels::Facts;
use berth_buildpacks::cnb::process::{self, Defined};
use berth_launcher::Metadata;
use berth_model::procfile;
use berth_model::{EnvName, ProcessType};
use std::collections::BTreeMap;
use std::path::Path;
use tokio::task::JoinSet;

/// Where the tree is while it is built; at run time it is `/app`.
const BUILD_DIR: &str = "tmp/build";
const APP: &str = "app";
const CACHE: &str = "/cache";

impl Building<'_> {
    /// Builds with classic buildpacks.
    pub(super) async fn classic(
        &self,
        tree: &Path,
        fetched: Fetched,
        publishing: &mut JoinSet<Result<(), BuildError>>,
    ) -> Result<Parts, BuildError> {
        let of_heroku = |buildpack: &&Classic| {
            let text = buildpack.text.trim_start_matches("https://").trim_start_matches("git@");
            text.starts_with("github.com/heroku/")
                || text.starts_with("github.com:heroku/")
                || text.starts_with("heroku/")
        };
        let default = fetched.classic.iter().find(of_heroku).map(|buildpack| buildpack.text.clone());
        let stack = self.stack(default.as_ref().map(|_| "heroku-24")).await?;
        let why = match (&self.cnb.stack, default) {
            (Some(_), _) => "chosen by setting".to_owned(),
            (None, Some(text)) => format!("{text} downloads programs made for it"),
            (None, None) => "Berth's own; another: berth stack:set APP heroku-24".to_owned(),
        };
        self.job.detail(&format!("stack {} ({}): {why}", stack.name, stack.target)).await;
        let common = self.common(&fetched, &stack)?;
        let space = Space::new(self.job, common, self.turn.base, stack.env.clone())?;
        self.leave_out(&tree.join(APP))?;
        space.make(APP)?;
        space.take(&tree.join(APP), BUILD_DIR)?;
        let last = fetched.classic.len().saturating_sub(1);
        for (index, buildpack) in fetched.classic.iter().enumerate() {
            self.compile(index, buildpack, &fetched.classic[..index], index == last, &space, &stack).await?;
        }
        let view = space.view();
        let release = space::text(&view, &format!("/{OUT}/release"))?.unwrap_or_default();
        let name = fetched.classic.last().map_or("", |buildpack| buildpack.text.as_str());
        let release =
            classic::parse(&release).map_err(|error| BuildError::Plan(format!("{name}: {error}")))?;
        let procfile = match space::text(&view, &format!("/{BUILD_DIR}/Procfile"))? {
            Some(text) => procfile::parse(&text).map_err(|error| BuildError::Plan(error.to_string()))?.0,
            None => BTreeMap::new(),
        };
        for addon in &release.addons {
            self.job
                .detail(&format!("{name} asks for the add-on {addon}; add one yourself if the app needs it"))
                .await;
        }
        let layers = self.app(&space.upper, BUILD_DIR, APP, &[], stack.owner, publishing).await?;
        let finish = Finish {
            stack: &stack,
            app: &format!("/{APP}"),
            metadata: Metadata { classic: true, ..Metadata::default() },
            processes: processes(&release, &procfile)?,
            labels: BTreeMap::new(),
            env: environment(&release)?,
            facts: Facts {
                app: layers.iter().map(|known| known.layer.diff_id.to_string()).collect(),
                ..Facts::default()
            },
        };
        self.finish(finish, layers, publishing).await
    }

    async fn compile(
        &self,
        index: usize,
        buildpack: &Classic,
        before: &[Classic],
        is_last: bool,
        space: &Space,
        stack: &Stack,
    ) -> Result<(), BuildError> {
        let job = self.job;
        say(&job.events, format!("Building with {}", buildpack.text)).await;
        let view = space.view();
        if !space::has_program(&view, &format!("{}/bin/compile", buildpack.dir)) {
            return Err(BuildError::Plan(format!(
                "{}: bin/compile is no program (chmod +x)",
                buildpack.text
            )));
        }
        let mut script = String::new();
        // What earlier ones export is for this one.
        for Classic { dir, .. } in before {
            script.push_str(&format!("if [ -f {dir}/export ]; then set +eu; . {dir}/export; set -eu; fi\n"));
        }
        script.push_str(&format!(
            "bp={} build=/{BUILD_DIR}\n\
             code=0; name=$(\"$bp/bin/detect\" $build) || code=$?\n\
             if [ $code != 0 ]; then echo \"bin/detect says that this app is not for it (exit code $code): $name\"; exit 1; fi\n\
             echo \"$name app detected\"\n\
             \"$bp/bin/compile\" $build {CACHE} /platform/env\n",
            buildpack.dir
        ));
        if is_last {
            script.push_str(&format!(
                "if [ -x \"$bp/bin/release\" ]; then \"$bp/bin/release\" $build >/{OUT}/release; fi\n"
            ));
        }
        let commit = self.cnb.commit.clone().unwrap_or_default();
        let env = [
            ("STACK", stack.target.stack_id.as_str()),
            ("HOME", "/app"),
            ("REQUEST_ID", job.request.id.as_str()),
            ("SOURCE_VERSION", &commit),
            ("DYNO", "build.1"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let cache = job.cache("classic")?;
        let title = format!("Building with {}", buildpack.text);
        space.script(job, &format!("compile{index}"), &title, script, env, vec![(cache, CACHE.into())]).await
    }
}

/// The Procfile's lines before what the buildpack proposes.
fn processes(
    release: &Release,
    procfile: &BTreeMap<ProcessType, String>,
) -> Result<Vec<Defined>, BuildError> {
    let defined = release.processes.iter().map(|(name, line)| {
        ProcessType::parse(name).map_err(|error| BuildError::Plan(format!("bin/release: {error}")))?;
        Ok(Defined { name: name.clone(), command: vec![line.clone()], ..Defined::default() })
    });
    Ok(process::merge(defined.collect::<Result<_, BuildError>>()?, procfile))
}

/// Variables that the user's own override.
fn environment(release: &Release) -> Result<BTreeMap<EnvName, String>, BuildError> {
    let mut env = BTreeMap::new();
    let home = ("HOME".to_owned(), "/app".to_owned());
    let own = release.config.iter().map(|(name, value)| (name.clone(), value.clone()));
    for (name, value) in own.chain([home]) {
        let name =
            EnvName::parse(&name).map_err(|error| BuildError::Plan(format!("bin/release: {error}")))?;
        if value.contains('\0') {
            return Err(BuildError::Plan(format!("bin/release: {name} has a NUL byte in it")));
        }
        env.insert(name, value);
    }
    Ok(env)
}
