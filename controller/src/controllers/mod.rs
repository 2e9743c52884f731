//! Several controllers over one etcd: one leads, the others pass connections on to it and wait to take its place.
//!
//! In: [`Options`] with [`Several`]. Out: a controller that follows, then perhaps leads, and ends at once when it may lead no
//! more: whoever starts it again (systemd, `berth up`) starts one that follows. Nothing of a leader's memory outlives its lead.

mod copy;
mod follow;
mod local;
mod shared;

pub use copy::{copy_in, copy_out};
pub(crate) use local::infos;

use crate::options::{Options, Several};
use crate::platform::Platform;
use crate::run::{self, Listeners};
use crate::store::{Controller, Etcd, Leadership, Member, Store, StoreError};
use anyhow::{Context, anyhow, bail};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between tries, while etcd does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// What a controller that follows knows.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Who leads. Ourselves at the very end only, for connections that waited.
    leader: Option<Controller>,
    /// Why nobody is known to.
    problem: Option<String>,
}

type Knows = Arc<watch::Sender<Known>>;

/// Follows, then leads, until `stop`.
pub(crate) async fn run(options: Options, several: Several, stop: CancellationToken) -> anyhow::Result<()> {
    check(&options, &several)?;
    let prepared = options.clone();
    let _lock = tokio::task::spawn_blocking(move || run::prepare(&prepared)).await??;
    let etcd = Etcd::new(&several.store)?;
    let listeners = Listeners::bind(&options).await?;
    let Some((listeners, member, leadership)) = follow(&options, &several, &etcd, listeners, &stop).await?
    else {
        return Ok(());
    };
    let lost = leadership.lost();
    tracing::info!(name = several.advertise, "this controller leads now");
    let leading = lead(options, &several, &etcd, &leadership, listeners, stop);
    let ended = tokio::select! {
        ended = leading => ended,
        () = lost.cancelled() => bail!(
            "this controller could not renew its lead within {} s, so another may lead: ending at once; started again, it \
             follows", several.store.lease.as_secs()
        ),
    };
    member.leave().await;
    ended
}

async fn lead(
    options: Options,
    several: &Several,
    etcd: &Etcd,
    leadership: &Leadership,
    listeners: Listeners,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let store = Store::leading(leadership);
    let keyring = shared::take_over(&store, &options, several).await?;
    let opened = (options, etcd.clone());
    let platform = tokio::task::spawn_blocking(move || {
        let (options, etcd) = opened;
        Platform::over(options, store, keyring, Some(etcd))
    });
    let platform = platform.await??;
    // Made now if this is the first one to lead; the next is to have the same.
    crate::tls::server_config(platform.options())?;
    crate::git::ssh::host_key(&platform.options().ssh_host_key_file())?;
    shared::publish(platform.store(), platform.keyring(), platform.options()).await?;
    let announcing = announce(&platform, etcd);
    tokio::select! {
        ended = run::lead(platform.clone(), listeners, stop) => ended,
        never = announcing => match never {},
    }
}

/// Tells nodes of every controller, so that they find one whichever is gone.
async fn announce(platform: &Platform, etcd: &Etcd) -> std::convert::Infallible {
    const EVERY: Duration = Duration::from_secs(10);
    loop {
        let announced = match etcd.controllers().await {
            Ok(list) => crate::cluster::announce_all(platform, &list).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = announced {
            tracing::debug!(%error, "nodes could not be told of the controllers");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Follows until we lead. `None`: `stop` fired first.
async fn follow(
    options: &Options,
    several: &Several,
    etcd: &Etcd,
    listeners: Listeners,
    stop: &CancellationToken,
) -> anyhow::Result<Option<(Listeners, Member, Leadership)>> {
    let me = Controller {
        host: several.advertise.clone(),
        api: options.api.port(),
        ssh: options.ssh.port(),
        cluster: Some(options.cluster.port()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since_ms: crate::platform::now_ms(),
    };
    // What will not do is said at once; later it is said in the log, and the others go on.
    if let Err(unfit) = shared::fit(etcd, options, several).await
        && !matches!(unfit, shared::Unfit::Store(_))
    {
        return Err(unfit.into());
    }
    let knows: Knows = Arc::new(watch::Sender::new(Known::default()));
    let ended = CancellationToken::new();
    let Listeners { api, ssh } = listeners;
    let api = tokio::spawn(follow::pass(api, follow::Door::Api, knows.clone(), ended.clone()));
    let ssh = tokio::spawn(follow::pass(ssh, follow::Door::Ssh, knows.clone(), ended.clone()));
    let nodes = run::listen(options.cluster, "nodes").await?;
    let nodes = tokio::spawn(follow::pass(nodes, follow::Door::Cluster, knows.clone(), ended.clone()));
    let local = local::serve(options, etcd, &me, &knows, &ended)?;
    let led = stop.run_until_cancelled(until_leading(options, several, etcd, &me, &knows)).await;
    ended.cancel();
    if led.is_some() {
        knows.send_replace(Known { leader: Some(me.clone()), problem: None });
    }
    let listeners = Listeners { api: api.await?, ssh: ssh.await? };
    local.await?;
    // Who leads opens this port when there is a cluster.
    drop(nodes.await?);
    Ok(led.map(|(member, leadership)| (listeners, member, leadership)))
}

async fn until_leading(
    options: &Options,
    several: &Several,
    etcd: &Etcd,
    me: &Controller,
    knows: &Knows,
) -> (Member, Leadership) {
    loop {
        let member = match etcd.join(me.clone()).await {
            Ok(member) => member,
            Err(error) => {
                trouble(knows, error.to_string());
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let gone = member.lost();
        while !gone.is_cancelled() {
            match turn(options, several, etcd, me, &member, knows).await {
                Ok(Some(leadership)) => return (member, leadership),
                Ok(None) => tokio::time::sleep(member.pause()).await,
                Err(error) => {
                    trouble(knows, error.to_string());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Looks who leads; tries to if nobody does.
async fn turn(
    options: &Options,
    several: &Several,
    etcd: &Etcd,
    me: &Controller,
    member: &Member,
    knows: &Knows,
) -> Result<Option<Leadership>, StoreError> {
    match etcd.leader().await? {
        // Ourselves, in an earlier life: until that lease has run out.
        Some(leader) if leader.name() == me.name() => {
            trouble(knows, "its last leader has gone".to_owned());
            return Ok(None);
        }
        Some(leader) => {
            found(knows, leader);
            return Ok(None);
        }
        None => {}
    }
    match shared::fit(etcd, options, several).await {
        Ok(()) => {}
        Err(shared::Unfit::Store(error)) => return Err(error),
        Err(unfit) => {
            trouble(knows, format!("nobody leads, and this controller cannot: {unfit}"));
            tokio::time::sleep(PAUSE).await;
            return Ok(None);
        }
    }
    match member.try_lead().await? {
        Ok(leadership) => Ok(Some(leadership)),
        Err(Some(leader)) if leader.name() != me.name() => {
            found(knows, leader);
            Ok(None)
        }
        Err(_) => Ok(None),
    }
}

fn found(knows: &Knows, leader: Controller) {
    knows.send_if_modified(|known| {
        let new = known.leader.as_ref() != Some(&leader);
        if new {
            tracing::info!(leader = leader.name(), "this controller follows");
            *known = Known { leader: Some(leader), problem: None };
        }
        new
    });
}

fn trouble(knows: &Knows, problem: String) {
    knows.send_if_modified(|known| {
        let new = known.leader.is_some() || known.problem.as_ref() != Some(&problem);
        if new {
            tracing::warn!(problem, "no controller is known to lead");
            *known = Known { leader: None, problem: Some(problem) };
        }
        new
    });
}

/// What can be said before anything is opened.
fn check(options: &Options, several: &Several) -> anyhow::Result<()> {
    let elsewhere = !berth_wire::is_loopback(&several.advertise);
    let doors = [
        ("the API", "--api", options.api),
        ("SSH", "--ssh", options.ssh),
        ("the port of nodes", "--cluster", options.cluster),
    ];
    for (what, option, address) in doors {
        if elsewhere && address.ip().is_loopback() {
            let port = address.port();
            bail!(
                "the other controllers are told to come to {}, but {what} listens on {address} only: add {option} \
                 0.0.0.0:{port}",
                several.advertise
            );
        }
        if address.port() == 0 {
            return Err(anyhow!("{option} needs a port of its own, for the others to know"));
        }
    }
    std::fs::metadata(&several.files)
        .with_context(|| format!("cannot use --files {}", several.files.display()))
        .and_then(|found| {
            found.is_dir().then_some(()).ok_or_else(|| anyhow!("{} is no directory", several.files.display()))
        })
}
