//! One push: from git's question to its answer.
//!
//! In: the refs that git wants to change, and where the new objects are. Out: the commit built and deployed, or the reason
//! why git changes nothing.

use super::refs::{self, Update, is_zero};
use super::repository;
use super::tree::Source;
use crate::Platform;
use crate::build;
use crate::build::history::{self, Order, Recording};
use crate::deploy::task::after_deploy;
use crate::deploy::{self, Change, NewImage};
use crate::errors::{failed, internal, invalid, not_found};
use crate::events::Event;
use crate::platform::{ProgressSender, lives, now_ms, say};
use crate::secrets;
use berth_model::AppName;
use berth_model::api::{ApiError, Progress};
use berth_model::release::App;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio_util::sync::CancellationToken;

/// The pushes that are under way. One for the whole controller; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pushes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    under_way: Mutex<HashMap<String, Push>>,
    turns: Mutex<HashMap<AppName, Weak<tokio::sync::Mutex<()>>>>,
    /// How many git processes work on each repository.
    users: Mutex<HashMap<PathBuf, usize>>,
}

/// Who pushes to what.
#[derive(Clone, Debug)]
struct Push {
    app: AppName,
    by: String,
    from: String,
    cancel: CancellationToken,
    /// Its turn, once it has deployed: kept until git has changed the ref, so that the next push sees that.
    turn: Option<Arc<tokio::sync::OwnedMutexGuard<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A push that is under way: while this lives, its hook is listened to. Dropping it cancels its build.
#[derive(Debug)]
pub struct Ticket {
    pushes: Pushes,
    id: String,
    cancel: CancellationToken,
}

impl Ticket {
    /// What the hook shows to say which push it speaks for.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.pushes.0.under_way).remove(&self.id);
        self.cancel.cancel();
    }
}

/// A git process works on a repository. When the last one is gone, what killed ones left is swept: git removes its
/// quarantine at every end but a signal's.
#[derive(Debug)]
pub(super) struct Stay {
    pushes: Pushes,
    repository: PathBuf,
}

impl Drop for Stay {
    fn drop(&mut self) {
        // The lock is held while sweeping: no new push may begin meanwhile.
        let mut users = lock(&self.pushes.0.users);
        let left = users.get(&self.repository).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            users.insert(self.repository.clone(), left);
        } else {
            users.remove(&self.repository);
            repository::sweep(&self.repository);
        }
    }
}

impl Pushes {
    /// To be kept until the git process that is about to be started on `repository` has ended.
    pub(super) fn enter(&self, repository: PathBuf) -> Stay {
        *lock(&self.0.users).entry(repository.clone()).or_default() += 1;
        Stay { pushes: self.clone(), repository }
    }

    /// Begins a push of `by`, who calls from `from`, to `app`.
    pub fn begin(&self, app: &AppName, by: &str, from: &str) -> Result<Ticket, ApiError> {
        let id = secrets::random::<16>().map_err(|error| internal("cannot name a push", &error))?;
        let (id, cancel) = (hex::encode(id), CancellationToken::new());
        let (by, from) = (by.to_owned(), from.to_owned());
        let push = Push { app: app.clone(), by, from, cancel: cancel.clone(), turn: None };
        lock(&self.0.under_way).insert(id.clone(), push);
        Ok(Ticket { pushes: self.clone(), id, cancel })
    }

    /// Waits until no other deploy of code of `app` is under way.
    pub(super) async fn wait_for_turn(
        &self,
        app: &AppName,
        progress: &ProgressSender,
    ) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = self.turn(app);
        match turn.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let text = format!("Waiting for the deploy of {app} to finish");
                say(progress, Progress::Step { text }).await;
                turn.lock_owned().await
            }
        }
    }

    fn turn(&self, app: &AppName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.0.turns);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(app).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(app.clone(), Arc::downgrade(&turn));
        turn
    }
}

/// Makes sure that `app` and its repository are there; a first push makes them.
pub(super) async fn open(platform: &Platform, app: &AppName) -> Result<(), ApiError> {
    if platform.app(app).await?.is_none() {
        if !platform.autocreation().await? {
            return Err(not_found(format!(
                "App {app} does not exist, and pushes make no apps here; make it with: berth apps:create {app}"
            )));
        }
        match platform.create_app(app).await {
            // Another push was faster.
            Ok(_) | Err(crate::platform::PlatformError::AppExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (platform, app) = (platform.clone(), app.clone());
    let made = tokio::task::spawn_blocking(move || repository::ensure(&platform, &app).map(drop)).await;
    made.map_err(|error| internal("cannot make the repository", &error))?
}

/// What git's hook says.
#[derive(Debug, Deserialize)]
pub(super) struct Question {
    pub(super) push: String,
    updates: Vec<Update>,
    #[serde(default)]
    object_dir: PathBuf,
    #[serde(default)]
    alternates: String,
}

/// Answers git's hook: `Ok` lets git change the refs. `cancel` fires when the hook is gone.
pub(super) async fn receive(
    platform: &Platform,
    pushes: &Pushes,
    question: Question,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), ApiError> {
    let push = lock(&pushes.0.under_way).get(&question.push).cloned();
    let push = push.ok_or_else(|| invalid("no such push is under way"))?;
    let id = question.push.clone();
    let text = refs::said(&question.updates);
    let event = Event {
        at_ms: now_ms(),
        app: Some(push.app.clone()),
        by: push.by.clone(),
        from: push.from.clone(),
        kind: "git.push".to_owned(),
        text,
    };
    let begun = platform.events().begin(event).await;
    let work = decide(platform, pushes, &push, question, progress, cancel);
    let work = async {
        let turn = work.await?;
        if let Some(push) = lock(&pushes.0.under_way).get_mut(&id) {
            push.turn = turn.map(Arc::new);
        }
        Ok(())
    };
    let result = tokio::select! {
        result = work => result,
        () = push.cancel.cancelled() => {
            cancel.cancel();
            Err(failed("the pusher went away"))
        }
    };
    begun.end(result.as_ref().map(drop).map_err(|error| error.message.clone()));
    result
}

async fn decide(
    platform: &Platform,
    pushes: &Pushes,
    push: &Push,
    question: Question,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<Option<tokio::sync::OwnedMutexGuard<()>>, ApiError> {
    let app = platform.existing_app(&push.app).await?;
    let mut verdict = refs::judge(app.deploy_branch.as_deref(), &question.updates).map_err(invalid)?;
    let turn = match verdict.deploy {
        None => None,
        Some(_) => {
            let turn = pushes.wait_for_turn(&push.app, progress).await;
            // The one that was waited for may have chosen the branch.
            let app = platform.existing_app(&push.app).await?;
            verdict = refs::judge(app.deploy_branch.as_deref(), &question.updates).map_err(invalid)?;
            Some(turn)
        }
    };
    for text in verdict.remarks {
        say(progress, Progress::Step { text }).await;
    }
    let Some(update) = verdict.deploy else { return Ok(None) };
    let repository = platform.options().repository_dir(&push.app);
    check_unmoved(&repository, &update)?;
    let source = source(repository.clone(), &question.object_dir, &question.alternates, &update)?;
    let (source, checked) = tokio::task::spawn_blocking(move || {
        let checked = source.check_commit();
        (source, checked)
    })
    .await
    .map_err(|error| internal("cannot look at the pushed commit", &error))?;
    checked.map_err(|error| failed(error.to_string()))?;
    deploy_commit(platform, &push.app, &push.by, source, progress, cancel).await?;
    if let Some(branch) = verdict.adopt {
        let adopted = branch.clone();
        platform.update_app(&push.app, |app| app.deploy_branch = Some(adopted.clone())).await?;
        repository::set_head(&repository, &branch)?;
    }
    Ok(turn)
}

/// A push that waited may have been overtaken: git would refuse its ref after all the work.
fn check_unmoved(repository: &std::path::Path, update: &Update) -> Result<(), ApiError> {
    let now = repository::current(repository, &update.name)?;
    let before = (!is_zero(&update.old)).then(|| update.old.clone());
    if now == before {
        return Ok(());
    }
    let branch = update.name.trim_start_matches("refs/heads/");
    Err(failed(format!(
        "another push changed {branch} meanwhile; get it with `git fetch`, put your work on top of it, and push again"
    )))
}

/// Only directories below the repository's own objects are read: the quarantine git has made there.
fn source(
    repository: PathBuf,
    object_dir: &std::path::Path,
    alternates: &str,
    update: &Update,
) -> Result<Source, ApiError> {
    let own = repository.join("objects");
    let others = alternates.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let mut objects: Vec<PathBuf> = std::iter::once(object_dir.to_owned()).chain(others).collect();
    objects.retain(|dir| !dir.as_os_str().is_empty() && *dir != own);
    let canonical =
        std::fs::canonicalize(&own).map_err(|error| internal("the repository has no objects", &error))?;
    for dir in &objects {
        let real = std::fs::canonicalize(dir).map_err(|error| internal("the push has no objects", &error))?;
        if !real.starts_with(&canonical) {
            return Err(invalid(format!("{} is not in the app's repository", dir.display())));
        }
    }
    Ok(Source { repository, objects, commit: update.new.clone(), directory: None })
}

/// Builds a commit and deploys what came of it. If the caller goes away or `cancel` fires, both are taken back.
pub(super) async fn deploy_commit(
    platform: &Platform,
    app: &AppName,
    by: &str,
    source: Source,
    progress: &ProgressSender,
    cancel: &CancellationToken,
) -> Result<(), ApiError> {
    lives::check_unlocked(&platform.existing_app(app).await?)?;
    let commit = source.commit.clone();
    let short = commit.get(..7).unwrap_or(&commit).to_owned();
    say(progress, Progress::Step { text: format!("Building {app} from {short}") }).await;
    let order =
        Order { app: app.clone(), by: by.to_owned(), source: short.clone(), git_rev: Some(commit.clone()) };
    let (platform, app, by) = (platform.clone(), app.clone(), by.to_owned());
    let work = {
        let platform = platform.clone();
        move |recording: Recording| async move {
            let (progress, cancel) = (&recording.progress, &recording.cancel);
            // Dropping the build ends it on the node.
            let built = tokio::select! {
                built = build::build(&platform, &app, &recording.id, source, progress) => built?,
                () = cancel.cancelled() => return Err(failed("it was broken off; the build is cancelled")),
            };
            let skip = berth_model::EnvName::parse("DOKKU_SKIP_DEPLOY").ok();
            let config = platform.config_of(&app).await?;
            if skip.and_then(|name| config.get(&name)).is_some_and(|value| value == "true" || value == "1") {
                let text =
                    "DOKKU_SKIP_DEPLOY is set: the code is built and kept, but not deployed".to_owned();
                say(progress, Progress::Warning { text }).await;
                return Ok(None);
            }
            recording.built(&built.image).await?;
            let exposed = built.image.exposed_ports.clone();
            let new = NewImage {
                image: built.image,
                git_rev: Some(commit),
                checks: built.checks,
                formation: built.formation,
                cron: built.cron,
                max_parallel: built.max_parallel,
                description: format!("Deploy {short}"),
            };
            let is_first = platform.existing_app(&app).await?.current.is_none();
            let change = Change::Image(Box::new(new));
            let version = deploy::deploy(&platform, &app, change, &by, progress, cancel).await?;
            after_deploy(&platform, &app, version, &built.scripts, is_first, progress, cancel).await;
            unrouted(&platform, &app, &exposed, progress).await;
            Ok(Some(version))
        }
    };
    history::record(&platform, order, progress, cancel, work).await.map(drop)
}

/// Says which ports of an image nothing leads to: requests go to the first, others are opened by their owner's word only, for
/// a port of the machine can belong to one app.
async fn unrouted(platform: &Platform, app: &AppName, exposed: &[u16], progress: &ProgressSender) {
    // A remark: what cannot be looked up now is no reason to refuse a push whose release serves.
    let Ok(App { ports: led, .. }) = platform.existing_app(app).await else { return };
    let open = |port: &&u16| led.iter().any(|mapping| mapping.container_port == **port);
    for port in exposed.iter().skip(1).filter(|port| !open(port)) {
        let text = format!(
            "the image listens on port {port} too; to lead there: berth ports:add {app} tcp:{port}:{port}"
        );
        say(progress, Progress::Detail { text }).await;
    }
}
