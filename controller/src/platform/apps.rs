//! Apps: made, changed, renamed, destroyed.

use super::{Platform, PlatformError, json, now_ms, settings};
use crate::build::history;
use crate::store::{Compare, Write};
use berth_model::AppName;
use berth_model::api::{BuildInfo, PatchApp};
use berth_model::container::{RestartPolicy, Stop};
use berth_model::deploy::DeploySettings;
use berth_model::processes::AppProcesses;
use berth_model::proxy_settings::AppProxy;
use berth_model::release::{App, Formation, Release};
use std::collections::BTreeMap;

/// Names that would look like part of the API or the platform itself.
const RESERVED: &[&str] = &["admin", "api", "berth", "healthz", "openapi", "v1", "v2"];

pub(crate) fn key(app: &AppName) -> String {
    format!("apps/{app}")
}

/// A new app as `apps:create` makes it.
fn fresh(name: &AppName) -> App {
    App {
        name: name.clone(),
        created_ms: now_ms(),
        deploy_branch: None,
        buildpacks: Vec::new(),
        stack: None,
        dockerfile_path: None,
        dockerfile_target: None,
        builder: None,
        build_dir: None,
        procfile_path: None,
        app_json_path: None,
        build_timeout_secs: None,
        domains: Vec::new(),
        default_domain: true,
        formation: Formation::default(),
        stopped: false,
        limits: BTreeMap::new(),
        restart: RestartPolicy::default(),
        stop: Stop::default(),
        mounts: Vec::new(),
        ports: Vec::new(),
        published: Vec::new(),
        cron: berth_model::cron::CronSettings::default(),
        proxy: AppProxy::default(),
        processes: AppProcesses::default(),
        placing: berth_model::placing::AppPlacing::default(),
        logs: berth_model::logs::AppLogs::default(),
        deploy: DeploySettings::default(),
        networks: berth_model::network::AppNetworks::default(),
        current: None,
        next_version: 1,
    }
}

/// What goes with an app.
fn forgotten(name: &AppName) -> Vec<Write> {
    let mut writes = vec![
        Write::Delete(key(name)),
        Write::DeletePrefix(super::releases::prefix(name)),
        Write::DeletePrefix(super::config::app_prefix(name)),
        Write::DeletePrefix(super::config::events_prefix(Some(name))),
        Write::DeletePrefix(super::registries::app_prefix(name)),
        Write::Delete(format!("deploys/{name}")),
        Write::Delete(super::proxy::pages_key(name)),
        Write::Delete(crate::build::known_key(name)),
        Write::DeletePrefix(history::prefix(name)),
        Write::DeletePrefix(crate::runs::prefix(name)),
        Write::DeletePrefix(super::volumes::of_app(name)),
    ];
    writes.extend(crate::certs::forgotten(name));
    writes.extend(super::scoped::forgotten(name));
    writes
}

pub(super) fn check_name(name: &AppName) -> Result<(), PlatformError> {
    if RESERVED.contains(&name.as_str()) || name.as_str().ends_with(".git") {
        return Err(PlatformError::Invalid(format!("App name {name} is reserved; choose another one")));
    }
    Ok(())
}

impl Platform {
    /// One app, or `None` if there is no such.
    pub async fn app(&self, name: &AppName) -> Result<Option<App>, PlatformError> {
        Ok(self.load(&key(name)).await?.map(|(app, _)| app))
    }

    /// One app, or [`PlatformError::NoSuchApp`].
    pub async fn existing_app(&self, name: &AppName) -> Result<App, PlatformError> {
        self.app(name).await?.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))
    }

    /// Every app, by name.
    pub async fn apps(&self) -> Result<Vec<App>, PlatformError> {
        Ok(self.load_all("apps/").await?.into_iter().map(|(_, app)| app).collect())
    }

    /// Makes an app. Its name must not be reserved nor taken, nor its default domain lead to another app.
    pub async fn create_app(&self, name: &AppName) -> Result<App, PlatformError> {
        check_name(name)?;
        let app = fresh(name);
        loop {
            let naming = self.naming().await?;
            if naming.apps.iter().any(|other| other.name == *name) {
                return Err(PlatformError::AppExists(name.clone()));
            }
            naming.check(&app, &naming.global)?;
            let put = Write::Put(key(name), json(&app));
            let compare = vec![naming.unchanged(), Compare::Absent(key(name))];
            if self.txn(compare, vec![put, naming.advance()]).await?.is_some() {
                tracing::info!(app = %name, "created");
                return Ok(app);
            }
        }
    }

    /// Changes an app: reads it, applies `change`, writes it back, and does all that again if somebody else was faster.
    /// For domains use [`Platform::patch_domains`]: it guards against two apps with one name.
    pub async fn update_app(
        &self,
        name: &AppName,
        mut change: impl FnMut(&mut App) + Send,
    ) -> Result<App, PlatformError> {
        let infallible = |app: &mut App| {
            change(app);
            Ok::<(), PlatformError>(())
        };
        self.try_update_app(name, infallible).await
    }

    /// The same with a change that may refuse.
    pub async fn try_update_app<E: From<PlatformError>>(
        &self,
        name: &AppName,
        mut change: impl FnMut(&mut App) -> Result<(), E> + Send,
    ) -> Result<App, E> {
        loop {
            let found = self.load::<App>(&key(name)).await?;
            let (before, revision) = found.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))?;
            let mut after = before.clone();
            change(&mut after)?;
            if after == before {
                return Ok(after);
            }
            let put = Write::Put(key(name), json(&after));
            let written = self.txn(vec![Compare::Revision(key(name), revision)], vec![put]).await?;
            if written.is_some() {
                return Ok(after);
            }
        }
    }

    /// Changes settings of an app; gives it as it was and as it is. Ports of the proxy belong to one app each.
    pub async fn patch_app(&self, name: &AppName, patch: &PatchApp) -> Result<(App, App), PlatformError> {
        settings::check(patch)?;
        loop {
            let naming = self.naming().await?;
            let found = self.load::<App>(&key(name)).await?;
            let (before, revision) = found.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))?;
            let after = settings::patched(&before, patch);
            if after == before {
                return Ok((before, after));
            }
            settings::check_ports(&after, &naming.apps, self.options())?;
            let compare = vec![naming.unchanged(), Compare::Revision(key(name), revision)];
            let then = vec![Write::Put(key(name), json(&after)), naming.advance()];
            if self.txn(compare, then).await?.is_some() {
                return Ok((before, after));
            }
        }
    }

    /// Destroys an app: its settings, releases, config and repository. Its containers and routes go because nothing wants
    /// them any more. Deploy state under `deploys/<app>` goes too.
    pub async fn destroy_app(&self, name: &AppName) -> Result<(), PlatformError> {
        let _removing = self.removing().await;
        loop {
            let apart = self.known_aparts().await?;
            let compare = vec![Compare::Present(key(name)), apart.unchanged()];
            let mut writes = forgotten(name);
            writes.extend(apart.renamed(name, None));
            if self.txn(compare, writes).await?.is_some() {
                break;
            }
            self.existing_app(name).await?;
        }
        crate::build::from_image::forget(self, name, None).await;
        let path = self.options().repository_dir(name);
        let gone = tokio::fs::remove_dir_all(&path).await;
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(PlatformError::Io { path, source: error });
            }
            _ => tracing::info!(app = %name, "destroyed"),
        }
        Ok(())
    }

    /// Renames an app with everything that is its own. Its containers are made anew under the new name by the caller
    /// (they carry it); until then the old ones, no longer wanted, are stopped.
    pub async fn rename_app(&self, from: &AppName, to: &AppName) -> Result<App, PlatformError> {
        check_name(to)?;
        let _removing = self.removing().await;
        let app = loop {
            let naming = self.naming().await?;
            let found = self.load::<App>(&key(from)).await?;
            let (app, revision) = found.ok_or_else(|| PlatformError::NoSuchApp(from.clone()))?;
            if naming.apps.iter().any(|other| other.name == *to) {
                return Err(PlatformError::AppExists(to.clone()));
            }
            let renamed = App { name: to.clone(), ..app };
            let others = naming.without(from);
            others.check(&renamed, &others.global)?;
            let apart = self.known_aparts().await?;
            let compare = vec![
                naming.unchanged(),
                apart.unchanged(),
                Compare::Revision(key(from), revision),
                Compare::Absent(key(to)),
            ];
            let mut then = vec![
                Write::Delete(key(from)),
                Write::DeletePrefix(super::releases::prefix(from)),
                Write::DeletePrefix(super::config::app_prefix(from)),
                Write::Delete(format!("deploys/{from}")),
                Write::Delete(crate::build::known_key(from)),
                Write::DeletePrefix(history::prefix(from)),
                Write::DeletePrefix(crate::runs::prefix(from)),
                Write::Put(key(to), json(&renamed)),
                naming.advance(),
            ];
            for release in self.releases(from).await? {
                let moved = Release { app: to.clone(), ..release };
                then.push(self.release_write(&moved)?);
            }
            for (_, build) in self.load_all::<BuildInfo>(&history::prefix(from)).await? {
                then.push(Write::Put(history::key(to, &build.id), json(&build)));
            }
            then.extend(self.copied_config(from, to).await?);
            then.extend(self.moved_events(from, to).await?);
            then.extend(self.moved_logins(from, to).await?);
            then.extend(self.moved_pages(from, to).await?);
            then.extend(self.moved_scoped(from, to).await?);
            then.extend(self.moved_paths(from, to).await?);
            then.extend(apart.renamed(from, Some(to)));
            then.extend(crate::certs::moved(self, from, to).await?);
            if self.txn(compare, then).await?.is_some() {
                break renamed;
            }
        };
        crate::build::from_image::forget(self, from, Some(to)).await;
        let (old, new) = (self.options().repository_dir(from), self.options().repository_dir(to));
        match tokio::fs::rename(&old, &new).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(PlatformError::Io { path: new, source: error });
            }
            _ => tracing::info!(app = %from, to = %to, "renamed"),
        }
        Ok(app)
    }
}
