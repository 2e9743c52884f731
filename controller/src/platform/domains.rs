//! Names under which apps are reached. No two apps ever have the same one.
//!
//! Whatever gives an app a name (making and renaming apps, its domains, the global domains) checks against all others and
//! compares `domains/guard`, which each of them advances: two at once cannot both have checked the same past.

use super::{Platform, PlatformError, apps, json};
use crate::routing::hosts;
use crate::store::{Compare, Revision, Write};
use berth_model::api::PatchDomains;
use berth_model::release::App;
use berth_model::{AppName, HostPattern};

const GLOBAL: &str = "domains/global";
const GUARD: &str = "domains/guard";
/// Most domains of one app, or of the platform.
const MAX_DOMAINS: usize = 500;

/// Everything names are checked against, as of one moment.
pub(super) struct Naming {
    pub(super) apps: Vec<App>,
    pub(super) global: Vec<HostPattern>,
    guard: Option<Revision>,
}

impl Naming {
    pub(super) fn unchanged(&self) -> Compare {
        Compare::unchanged(GUARD, self.guard)
    }

    pub(super) fn advance(&self) -> Write {
        Write::Put(GUARD.to_owned(), Vec::new())
    }

    pub(super) fn without(&self, app: &AppName) -> Self {
        let apps = self.apps.iter().filter(|other| other.name != *app).cloned().collect();
        Self { apps, global: self.global.clone(), guard: self.guard }
    }

    /// Refuses if a name that `app` would have under `global` belongs to another app.
    pub(super) fn check(&self, app: &App, global: &[HostPattern]) -> Result<(), PlatformError> {
        let names = hosts(app, global);
        for other in self.apps.iter().filter(|other| other.name != app.name) {
            let theirs = hosts(other, global);
            if let Some(domain) = names.iter().find(|name| theirs.contains(name)) {
                return Err(PlatformError::DomainTaken { domain: domain.clone(), app: other.name.clone() });
            }
        }
        Ok(())
    }
}

impl Platform {
    /// The domains under which every app has a name: as set, or else the one the controller was started with.
    pub async fn global_domains(&self) -> Result<Vec<HostPattern>, PlatformError> {
        let stored = self.load(GLOBAL).await?;
        Ok(stored.map_or_else(|| vec![self.options().domain.clone()], |(domains, _)| domains))
    }

    /// Every name that leads to the app.
    pub async fn effective_domains(&self, app: &App) -> Result<Vec<HostPattern>, PlatformError> {
        Ok(hosts(app, &self.global_domains().await?))
    }

    /// Every address the app answers at, for people: `https://…` where there is a certificate that a client is presented,
    /// else `http://…`, with the proxy's port unless it is the usual one. Wildcards have no address.
    pub async fn urls(&self, app: &App) -> Result<Vec<String>, PlatformError> {
        let address = |scheme: &str, host: &HostPattern, port: u16, usual: u16| match port {
            port if port == usual => format!("{scheme}://{host}"),
            port => format!("{scheme}://{host}:{port}"),
        };
        let names = self.effective_domains(app).await?;
        let hosts = names.iter().filter(|name| !name.is_wildcard());
        let urls = hosts.map(|host| match self.options().https {
            Some(https) if crate::certs::is_covered(self, host) => address("https", host, https.port(), 443),
            _ => address("http", host, self.options().http.port(), 80),
        });
        Ok(urls.collect())
    }

    /// Changes an app's domains; none may lead to another app.
    pub async fn patch_domains(&self, name: &AppName, patch: &PatchDomains) -> Result<App, PlatformError> {
        loop {
            let naming = self.naming().await?;
            let found = self.load::<App>(&apps::key(name)).await?;
            let (before, revision) = found.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))?;
            let mut app = before.clone();
            app.domains = patched(&before.domains, patch, &format!("app {name}"))?;
            if let Some(enabled) = patch.default_enabled {
                app.default_domain = enabled;
            }
            if app == before {
                return Ok(app);
            }
            naming.check(&app, &naming.global)?;
            let compare = vec![naming.unchanged(), Compare::Revision(apps::key(name), revision)];
            let then = vec![Write::Put(apps::key(name), json(&app)), naming.advance()];
            if self.txn(compare, then).await?.is_some() {
                return Ok(app);
            }
        }
    }

    /// Changes the global domains; every app's names change with them and must not collide.
    pub async fn patch_global_domains(
        &self,
        patch: &PatchDomains,
    ) -> Result<Vec<HostPattern>, PlatformError> {
        if patch.default_enabled.is_some() {
            let text = "default_enabled belongs to an app; it cannot be set for the platform".to_owned();
            return Err(PlatformError::Invalid(text));
        }
        loop {
            let naming = self.naming().await?;
            let domains = patched(&naming.global, patch, "the platform")?;
            if let Some(wildcard) = domains.iter().find(|domain| domain.is_wildcard()) {
                let text = format!(
                    "{wildcard} cannot be a global domain: apps get names under it; leave out the `*.`"
                );
                return Err(PlatformError::Invalid(text));
            }
            for app in &naming.apps {
                naming.check(app, &domains)?;
            }
            let then = vec![Write::Put(GLOBAL.to_owned(), json(&domains)), naming.advance()];
            if self.txn(vec![naming.unchanged()], then).await?.is_some() {
                return Ok(domains);
            }
        }
    }

    /// Reads what names are checked against; the guard first, so that a later change of the rest is noticed.
    pub(super) async fn naming(&self) -> Result<Naming, PlatformError> {
        let guard = self.store().get(GUARD).await?.map(|entry| entry.revision);
        Ok(Naming { guard, apps: self.apps().await?, global: self.global_domains().await? })
    }
}

/// In order: `set` replaces all, `remove` takes away, `add` adds what is not there yet.
fn patched(
    before: &[HostPattern],
    patch: &PatchDomains,
    whose: &str,
) -> Result<Vec<HostPattern>, PlatformError> {
    let mut domains = patch.set.clone().unwrap_or_else(|| before.to_vec());
    let mut seen = std::collections::HashSet::new();
    domains.retain(|domain| seen.insert(domain.clone()));
    for gone in &patch.remove {
        let Some(at) = domains.iter().position(|domain| domain == gone) else {
            return Err(PlatformError::NotFound(format!("{gone} is not a domain of {whose}")));
        };
        domains.remove(at);
    }
    for new in &patch.add {
        if !domains.contains(new) {
            domains.push(new.clone());
        }
    }
    if domains.len() > MAX_DOMAINS {
        return Err(PlatformError::Invalid(format!("{whose} would have more than {MAX_DOMAINS} domains")));
    }
    Ok(domains)
}
