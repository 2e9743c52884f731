//! Work of ADD that other programs do: git, xz, bzip2. They read what strangers wrote, so they run in a build container.
//!
//! In: a git repository's address, a compressed file. Out: files in a directory of the build.

use super::super::error::BuildError;
use super::super::sandbox::Step;
use super::super::view::View;
use super::super::{CONTAINER_PREFIX, source, upper};
use super::Building;
use super::find::Found;
use base64::Engine as _;
use berth_buildpacks::dockerfile::GitSource;
use berth_model::ContainerId;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

/// The number that a tool's container has in the place of a step's: above all of them.
const FIRST_TOOL: usize = 100_000;

/// Fetches one commit; all branches and tags from a server that cannot give one.
const GIT: &str = r#"
git init -q /app/repo
cd /app/repo
git remote add origin "$BERTH_GIT_URL"
ref=$BERTH_GIT_REF
if git fetch -q --no-tags --depth 1 origin "${ref:-HEAD}" 2>/tmp/why; then
    git checkout -q --detach FETCH_HEAD
elif git fetch -q origin '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*' 2>/tmp/why; then
    if [ -z "$ref" ]; then
        ref=$(git ls-remote --symref origin HEAD | sed -n 's,^ref: refs/heads/\(.*\)\tHEAD$,\1,p')
    fi
    found=
    for name in "refs/remotes/origin/$ref" "refs/tags/$ref" "$ref"; do
        found=$(git rev-parse -q --verify "$name^{commit}") && break
    done
    if [ -z "$found" ]; then
        exit 4
    fi
    git checkout -q --detach "$found"
else
    cat /tmp/why
    exit 1
fi
git submodule update -q --init --recursive --depth 1
git rev-parse HEAD >/app/commit
if [ "$BERTH_GIT_KEEP" = no ]; then
    find /app/repo -name .git -prune -exec rm -rf {} +
fi
"#;

/// A commit that was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Its id.
    pub(super) commit: String,
    /// A layer with its files at `app/repo`.
    dir: PathBuf,
}

impl Fetched {
    /// The files of `git` in it.
    pub(super) fn found(&self, git: &GitSource) -> Result<Found, BuildError> {
        let view = View::new(vec![self.dir.clone()]);
        let path = Path::new("app/repo").join(&git.directory);
        let node = view.resolve(&path, true).map_err(BuildError::disk("find", &path))?.node;
        let node = node.filter(super::super::view::Node::is_directory).ok_or_else(|| {
            BuildError::Plan(format!(
                "the commit {} of {} has no directory {:?}",
                self.commit, git.url, git.directory
            ))
        })?;
        Ok(Found { path: PathBuf::new(), kept: PathBuf::new(), node })
    }
}

impl Building<'_> {
    /// Fetches the commit that `git` names.
    pub(super) async fn git(&mut self, git: &GitSource) -> Result<Fetched, BuildError> {
        let mut env = vec![
            ("BERTH_GIT_URL".to_owned(), git.url.clone()),
            ("BERTH_GIT_REF".to_owned(), git.reference.clone()),
            ("BERTH_GIT_KEEP".to_owned(), if git.keep_git_dir { "yes" } else { "no" }.to_owned()),
            ("GIT_TERMINAL_PROMPT".to_owned(), "0".to_owned()),
        ];
        env.extend(self.git_login(&git.url));
        let title = format!("fetching {}", git.url);
        let upper = self.tool(&title, GIT, env, None).await.map_err(|error| match error {
            BuildError::StepFailed { code: 4, .. } => {
                BuildError::Plan(format!("{} has no branch, tag or commit {:?}", git.url, git.reference))
            }
            BuildError::StepFailed { .. } => BuildError::Plan(format!(
                "{} cannot be fetched; what git says is above. A private repository needs a token: \
                 berth config:set {} GIT_AUTH_TOKEN=…",
                git.url, self.job.request.app
            )),
            error => error,
        })?;
        let commit = fs::read_to_string(upper.join("app/commit"));
        let commit = commit.map_err(BuildError::disk("read", "the fetched commit"))?.trim().to_owned();
        if let Some(wanted) = &git.commit
            && !commit.starts_with(wanted.as_str())
        {
            return Err(BuildError::Plan(format!(
                "{} is at commit {commit}, but --checksum says {wanted}",
                git.url
            )));
        }
        let (dir, base) = (source::fresh(&self.job.dir, "repository"), self.turn.base);
        let to = dir.clone();
        let outputs = [PathBuf::from("app")];
        tokio::task::spawn_blocking(move || upper::capture(&upper, &to, &outputs, &[], base)).await??;
        Ok(Fetched { commit, dir })
    }

    /// The config var `GIT_AUTH_TOKEN`, as BuildKit's secret of this name: for the repository's own server alone.
    fn git_login(&self, url: &str) -> Vec<(String, String)> {
        let config = &self.job.request.config;
        let token =
            config.iter().find(|(name, _)| name.as_str() == "GIT_AUTH_TOKEN").map(|(_, token)| token.trim());
        let server = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
        let (Some(token), Some(server)) = (token.filter(|token| !token.is_empty()), server) else {
            return Vec::new();
        };
        let login = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
        let key = format!("http.https://{server}/");
        [
            ("GIT_CONFIG_COUNT", "2".to_owned()),
            ("GIT_CONFIG_KEY_0", format!("{key}.extraHeader")),
            ("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {login}")),
            ("GIT_CONFIG_KEY_1", format!("{key}.followRedirects")),
            ("GIT_CONFIG_VALUE_1", "false".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// `file` without its compression by `program` (`xz`, `bzip2`).
    pub(super) async fn decompressed(&mut self, program: &str, file: &Path) -> Result<PathBuf, BuildError> {
        let script = format!("{program} -dc /app/packed >/app/plain");
        let upper = self.tool(&format!("unpacking with {program}"), &script, Vec::new(), Some(file)).await?;
        let plain = upper.join("app/plain");
        let found = fs::symlink_metadata(&plain).map_err(BuildError::disk("read", &plain))?;
        if found.is_file() { Ok(plain) } else { Err(BuildError::Plan(format!("{program} made no file"))) }
    }

    /// Runs a script of ours in a container of the build image, in an empty `/app` with `input` as `packed`. Gives what
    /// it wrote.
    async fn tool(
        &mut self,
        title: &str,
        script: &str,
        env: Vec<(String, String)>,
        input: Option<&Path>,
    ) -> Result<PathBuf, BuildError> {
        let base = self.turn.base;
        let id = format!("{CONTAINER_PREFIX}{}.{}", self.job.request.id, FIRST_TOOL + self.tools);
        self.tools += 1;
        let id = ContainerId::parse(&id).map_err(|error| BuildError::Plan(error.to_string()))?;
        let image = &self.job.request.plan.build_image;
        let lowers = self.job.images().ensure(image).await?.lowers;
        let dir = source::fresh(&self.job.dir, "upper");
        let prepare = {
            let (dir, lowers, input) = (dir.clone(), lowers.clone(), input.map(Path::to_owned));
            move || {
                source::make_dir(&dir, base).map_err(BuildError::disk("make", &dir))?;
                for path in ["app", "home/build"] {
                    upper::prepare_output(&dir, &lowers, Path::new(path), base, source::BUILD)?;
                }
                if let Some(input) = input {
                    let to = dir.join("app/packed");
                    let failed = BuildError::disk("copy", &input);
                    let owner = Some(base + source::BUILD);
                    fs::copy(&input, &to).and_then(|_| chown(&to, owner, owner)).map_err(failed)?;
                }
                Ok::<(), BuildError>(())
            }
        };
        tokio::task::spawn_blocking(prepare).await??;
        let step = Step {
            dir: self.job.dir.join(id.as_str()),
            id,
            app: self.job.request.app.clone(),
            upper: dir.clone(),
            lowers,
            script: script.to_owned(),
            env,
            caches: Vec::new(),
            as_root: false,
            limits: self.job.request.limits.clone(),
            base,
            program: None,
        };
        self.job.run_step(title, &step).await?;
        Ok(dir)
    }
}
