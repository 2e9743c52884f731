//! Beginning a run.
//!
//! In: an order. Out: a detached one in the store and in its node's assignment; an attached one known while it runs.

use super::spec::{Wanted, spec};
use super::stored::{self, ended};
use super::{BEGIN_WITHIN, Live, MOST};
use crate::Platform;
use crate::errors::{conflict, internal, invalid, unavailable};
use crate::placing;
use crate::platform::now_ms;
use crate::secrets;
use berth_model::api::ApiError;
use berth_model::container::{ContainerSpec, Once};
use berth_model::release::{App, Release};
use berth_model::run::{CronCause, DEFAULT_TTL_SECS, MAX_TTL_SECS, RunInfo, RunKind, RunStatus};
use berth_model::{AppName, EnvName, NodeName, ProcessType, ReleaseVersion};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What is to run.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) kind: RunKind,
    pub(crate) argv: Vec<String>,
    /// The command for people.
    pub(crate) command: String,
    pub(crate) env: BTreeMap<EnvName, String>,
    pub(crate) limits_of: Option<ProcessType>,
    pub(crate) ttl_secs: Option<u32>,
    pub(crate) by: String,
    pub(crate) cron: Option<CronCause>,
    /// How long a node may take to begin it.
    pub(crate) begin_within: Duration,
}

impl Order {
    /// A command that somebody typed.
    pub(crate) fn typed(argv: Vec<String>, by: &str) -> Self {
        let quote = |word: &String| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&b);
            let is_plain = !word.is_empty() && word.bytes().all(plain);
            if is_plain { word.clone() } else { berth_buildpacks::quoted(word) }
        };
        let command = argv.iter().map(quote).collect::<Vec<_>>().join(" ");
        Self {
            kind: RunKind::Run,
            argv,
            command,
            env: BTreeMap::new(),
            limits_of: None,
            ttl_secs: None,
            by: by.to_owned(),
            cron: None,
            begin_within: BEGIN_WITHIN,
        }
    }

    fn ttl(&self) -> Result<u32, ApiError> {
        match self.ttl_secs.unwrap_or(DEFAULT_TTL_SECS) {
            0 => Err(invalid("the time to live is 0 s; give 1 or more")),
            secs if secs > MAX_TTL_SECS => Err(invalid(format!(
                "a time to live of {secs} s is too long: {MAX_TTL_SECS} s (30 days) is the most"
            ))),
            secs => Ok(secs),
        }
    }

    fn info(&self, name: String, release: ReleaseVersion, now_ms: i64, ttl: u32) -> RunInfo {
        RunInfo {
            name,
            container: None,
            kind: self.kind,
            detached: true,
            command: self.command.clone(),
            release,
            node: None,
            by: self.by.clone(),
            cron: self.cron.clone(),
            created_ms: now_ms,
            started_ms: None,
            ended_ms: None,
            until_ms: Some(now_ms.saturating_add(i64::from(ttl) * 1000)),
            status: RunStatus::Waiting,
            exit_code: None,
            reason: None,
        }
    }
}

fn unique() -> Result<String, ApiError> {
    let bytes = secrets::random::<8>().map_err(|error| internal("cannot name a container", &error))?;
    Ok(hex::encode(bytes))
}

/// A number that no run of this kind has which is known.
async fn number(platform: &Platform, app: &AppName, kind: RunKind) -> Result<u32, ApiError> {
    let live = platform.runs().of(app).into_iter().map(|run| run.name);
    let taken: BTreeSet<String> =
        ended(platform, app).await?.into_iter().map(|(_, run)| run.name).chain(live).collect();
    loop {
        let bytes = secrets::random::<2>().map_err(|error| internal("cannot name a container", &error))?;
        let number = 1 + u32::from(u16::from_le_bytes(bytes));
        if !taken.contains(&format!("{app}.{}.{number}", kind.as_str())) {
            return Ok(number);
        }
    }
}

/// Leaves the table unless it is told to stay.
struct Entered<'a> {
    platform: &'a Platform,
    key: String,
    stays: bool,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.platform.runs().leave(&self.key);
        }
    }
}

/// Begins a detached run of the release that serves: when this returns it will run, whoever dies.
pub(crate) async fn begin(platform: &Platform, app: &AppName, order: &Order) -> Result<RunInfo, ApiError> {
    let app = platform.existing_app(app).await?;
    let release = platform.current_release(&app).await?.ok_or_else(|| not_deployed(&app.name))?;
    let (ttl, now, unique) = (order.ttl()?, now_ms(), unique()?);
    let number = number(platform, &app.name, order.kind).await?;
    let name = format!("{}.{}.{number}", app.name, order.kind.as_str());
    let info = order.info(name, release.version, now, ttl);
    let key = stored::key(&app.name, now, &unique);
    let mut live = Live { app: app.name.clone(), info, spec: None, stopped: None, cancel: None };
    platform.runs().enter(&key, live.clone())?;
    let mut entered = Entered { platform, key: key.clone(), stays: false };
    hand_out(platform, &app, &release, order, number, &unique, &mut live).await?;
    stored::save(platform, &key, &live, Vec::new()).await?;
    entered.stays = true;
    give(platform, &key, &live);
    Ok(live.info)
}

/// A run of a cron task that is going to be: stored first, handed out by [`launch`].
pub(crate) async fn scheduled(
    platform: &Platform,
    app: &AppName,
    release: ReleaseVersion,
    order: &Order,
) -> Result<(String, Live), ApiError> {
    let (ttl, now, unique) = (order.ttl()?, now_ms(), unique()?);
    let name = format!("{app}.{}.{}", order.kind.as_str(), number(platform, app, order.kind).await?);
    let info = order.info(name, release, now, ttl);
    let live = Live { app: app.clone(), info, spec: None, stopped: None, cancel: None };
    Ok((stored::key(app, now, &unique), live))
}

/// Hands out a run that is stored already. What it cannot be started for becomes its end.
pub(crate) async fn launch(platform: &Platform, key: &str, order: &Order) {
    let Some(live) = platform.runs().get(key) else { return };
    let mut handed = live.clone();
    let work = async {
        let app = platform.existing_app(&live.app).await?;
        let release = platform.existing_release(&live.app, live.info.release).await?;
        let same = platform.runs().of(&live.app).len();
        if same > MOST {
            return Err(conflict(format!("the app has {MOST} one-off containers already")));
        }
        let number = live.info.name.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or(1);
        let unique = key.rsplit('-').next().unwrap_or_default();
        hand_out(platform, &app, &release, order, number, unique, &mut handed).await?;
        let _writing = platform.runs().writing.lock().await;
        // It may have been stopped meanwhile.
        if platform.runs().get(key).is_some() {
            stored::save(platform, key, &handed, Vec::new()).await?;
            give(platform, key, &handed);
        }
        Ok(())
    };
    let result: Result<(), ApiError> = work.await;
    if let Err(error) = result {
        give_up(platform, key, error.message).await;
    }
}

/// A run that is stored does not begin.
pub(crate) async fn give_up(platform: &Platform, key: &str, reason: String) {
    let Some(live) = platform.runs().get(key) else { return };
    let ended = super::keep::could_not(live.info.clone(), live.stopped.clone(), reason);
    if let Err(error) = super::keep::conclude(platform, key, live, ended).await {
        tracing::error!(error = error.message, "cannot record that a cron task did not start");
    }
}

/// Makes its spec and finds it a node.
async fn hand_out(
    platform: &Platform,
    app: &App,
    release: &Release,
    order: &Order,
    number: u32,
    unique: &str,
    live: &mut Live,
) -> Result<(), ApiError> {
    let within = i64::try_from(order.begin_within.as_millis()).unwrap_or(i64::MAX);
    let once = Once { begin_by_ms: Some(now_ms().saturating_add(within)), until_ms: live.info.until_ms };
    let wanted = Wanted {
        kind: order.kind,
        argv: order.argv.clone(),
        env: order.env.clone(),
        limits_of: order.limits_of.clone(),
        once,
    };
    let spec = spec(app, release, &wanted, number, unique)?;
    live.info.node = Some(place(platform, &spec).await?);
    live.info.container = Some(spec.id.clone());
    live.spec = Some(Arc::new(spec));
    Ok(())
}

/// From here on its node is to have it.
fn give(platform: &Platform, key: &str, live: &Live) {
    platform.runs().update(key, |entry| *entry = live.clone());
    platform.deploys().fleet().reassign(live.info.node.iter());
    let (app, run) = (&live.app, &live.info.name);
    tracing::info!(%app, run, by = live.info.by, "one-off container");
}

fn not_deployed(app: &AppName) -> ApiError {
    conflict(format!("App {app} has not been deployed yet; push it first: git push paas main"))
}

async fn place(platform: &Platform, spec: &ContainerSpec) -> Result<NodeName, ApiError> {
    let placement = placing::place(platform, std::slice::from_ref(spec), &BTreeMap::new()).await?;
    if let Some(refusal) = placement.refused.values().next() {
        return Err(unavailable(refusal.to_string()));
    }
    placement.placed.into_values().next().ok_or_else(|| unavailable("no node takes it"))
}

/// An attached run: known while this lives.
#[derive(Debug)]
pub(crate) struct Attached {
    platform: Platform,
    key: String,
    name: String,
    node: NodeName,
    ttl: Duration,
    /// Fires when somebody ends it.
    pub(crate) cancel: CancellationToken,
}

impl Attached {
    /// `hello.run.1234`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it runs.
    pub(crate) fn node(&self) -> &NodeName {
        &self.node
    }

    /// Waits until its time to live is over.
    pub(crate) async fn over(&self) -> String {
        tokio::time::sleep(self.ttl).await;
        format!("its time to live of {} s is over", self.ttl.as_secs())
    }

    /// Why it was ended by command, if it was.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.platform.runs().lock().get(&self.key).and_then(|live| live.stopped.clone())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.platform.runs().leave(&self.key);
    }
}

/// Makes an attached run known. `cancel`: what else ends it.
pub(crate) async fn attach(
    platform: &Platform,
    spec: &ContainerSpec,
    order: &Order,
    cancel: &CancellationToken,
) -> Result<Attached, ApiError> {
    let (now, ttl) = (now_ms(), order.ttl()?);
    let name = format!("{}.{}.{}", spec.app, spec.process, spec.ordinal);
    let named = name.clone();
    let mut info = order.info(name, spec.release, now, ttl);
    info.detached = false;
    let node = place(platform, spec).await?;
    info.node = Some(node.clone());
    info.container = Some(spec.id.clone());
    info.status = RunStatus::Running;
    info.started_ms = Some(now);
    let (key, cancel) = (format!("attached/{}", spec.id), cancel.child_token());
    let live = Live { app: spec.app.clone(), info, spec: None, stopped: None, cancel: Some(cancel.clone()) };
    platform.runs().enter(&key, live)?;
    let ttl = Duration::from_secs(ttl.into());
    Ok(Attached { platform: platform.clone(), key, name: named, node, ttl, cancel })
}

/// The spec of a run that is going to be attached.
pub(crate) async fn attached_spec(
    platform: &Platform,
    app: &AppName,
    order: &Order,
) -> Result<ContainerSpec, ApiError> {
    let app = platform.existing_app(app).await?;
    let release = platform.current_release(&app).await?.ok_or_else(|| not_deployed(&app.name))?;
    let number = number(platform, &app.name, order.kind).await?;
    let wanted = Wanted {
        kind: order.kind,
        argv: order.argv.clone(),
        env: order.env.clone(),
        limits_of: order.limits_of.clone(),
        once: Once::default(),
    };
    order.ttl()?;
    spec(&app, &release, &wanted, number, &unique()?)
}
