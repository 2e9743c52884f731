//! Settings of the proxy: of apps, and of the platform for all of them.
//!
//! In: [`PatchProxy`]. Out: what is kept, each value checked. Keys of the store: `proxy/global`, `proxy/pages/app/<app>`,
//! `proxy/pages/global`, `proxy/cookie-key` (sealed); an app's own settings are a part of the app.

use super::{Platform, PlatformError, apps, json};
use crate::routing::hosts;
use crate::secrets::random;
use crate::store::{Compare, Write};
use berth_model::policy::{PasswordHash, Redirect, SecretText};
use berth_model::proxy_api::{PatchProxy, ProxyInfo};
use berth_model::proxy_settings::{
    AppProxy, ERROR_PAGES, MAINTENANCE_PAGE, MAX_PAGE, Scope, Values, check, effective, find, time_text,
};
use berth_model::release::App;
use berth_model::{AppName, HostPattern};
use std::collections::BTreeMap;

/// Pages by name.
pub type Pages = BTreeMap<String, String>;

const GLOBAL: &str = "proxy/global";
const GLOBAL_PAGES: &str = "proxy/pages/global";
const APP_PAGES: &str = "proxy/pages/app/";
const COOKIE_KEY: &str = "proxy/cookie-key";
const MAX_USERS: usize = 100;
const MAX_PATHS: usize = 100;
const MAX_REDIRECTS: usize = 100;
/// Bytes of all pages of an app.
const MAX_PAGES: usize = 256 << 10;
/// How much work a password's hash is: about 50 ms.
const COST: u32 = 10;
/// The most work that a hash from elsewhere may be: the proxy does it for every new password.
const MAX_COST: u32 = 12;
/// bcrypt looks at no more bytes.
const MAX_PASSWORD: usize = 72;

pub(super) fn pages_key(app: &AppName) -> String {
    format!("{APP_PAGES}{app}")
}

fn invalid(text: impl Into<String>) -> PlatformError {
    PlatformError::Invalid(text.into())
}

/// What all apps have in common.
#[derive(Debug, Default)]
pub struct Common {
    /// Settings of the platform.
    pub values: Values,
    /// Pages of apps that have some.
    pub pages: BTreeMap<String, Pages>,
    /// Pages of the platform.
    pub global_pages: Pages,
    /// What cookies are signed with.
    pub cookie_key: SecretText,
}

impl Platform {
    /// The platform's settings.
    pub async fn proxy_values(&self) -> Result<Values, PlatformError> {
        Ok(self.load(GLOBAL).await?.map(|(values, _)| values).unwrap_or_default())
    }

    /// Everything that policies are made of, beside the apps.
    pub async fn proxy_common(&self) -> Result<Common, PlatformError> {
        let pages = self.load_all::<Pages>(APP_PAGES).await?.into_iter();
        Ok(Common {
            values: self.proxy_values().await?,
            pages: pages.map(|(key, pages)| (key[APP_PAGES.len()..].to_owned(), pages)).collect(),
            global_pages: self.load(GLOBAL_PAGES).await?.map(|(pages, _)| pages).unwrap_or_default(),
            cookie_key: self.cookie_key().await?,
        })
    }

    /// The key of sticky sessions' cookies, made at its first use.
    async fn cookie_key(&self) -> Result<SecretText, PlatformError> {
        loop {
            if let Some(entry) = self.store().get(COOKIE_KEY).await? {
                let plain = self.keyring().open_sealed(COOKIE_KEY, &entry.value)?;
                return Ok(SecretText(String::from_utf8_lossy(&plain).into_owned()));
            }
            let key: String = random::<32>()?.iter().map(|byte| format!("{byte:02x}")).collect();
            let sealed = self.keyring().seal(COOKIE_KEY, key.as_bytes())?;
            let put = Write::Put(COOKIE_KEY.to_owned(), sealed);
            self.txn(vec![Compare::Absent(COOKIE_KEY.to_owned())], vec![put]).await?;
        }
    }

    /// An app's settings, as the API shows them.
    pub async fn proxy_info(&self, app: &App) -> Result<ProxyInfo, PlatformError> {
        let set = &app.proxy;
        Ok(ProxyInfo {
            effective: effective(&set.values, &self.proxy_values().await?),
            values: set.values.clone(),
            users: set.users.keys().cloned().collect(),
            paths: set.paths.clone(),
            redirects: set.redirects.clone(),
            maintenance: set.maintenance,
            paused_ms: set.paused_ms,
            asleep: set.asleep,
            pages: set.pages.iter().cloned().collect(),
        })
    }

    /// The platform's settings, as the API shows them.
    pub async fn global_proxy_info(&self) -> Result<ProxyInfo, PlatformError> {
        let values = self.proxy_values().await?;
        let pages: Pages = self.load(GLOBAL_PAGES).await?.map(|(pages, _)| pages).unwrap_or_default();
        let mut all = effective(&values, &Values::new());
        all.extend(values.clone());
        all.remove("canonical-host"); // no platform has one
        Ok(ProxyInfo { values, effective: all, pages: pages.into_keys().collect(), ..ProxyInfo::default() })
    }

    /// Changes an app's settings.
    pub async fn patch_proxy(&self, name: &AppName, patch: &PatchProxy) -> Result<App, PlatformError> {
        let users = hashed(&patch.users).await?;
        loop {
            let naming = self.naming().await?;
            let found = self.load::<App>(&apps::key(name)).await?;
            let (before, revision) = found.ok_or_else(|| PlatformError::NoSuchApp(name.clone()))?;
            let own_hosts = hosts(&before, &naming.global);
            let mut app = before.clone();
            patched(&mut app.proxy, patch, &users, &own_hosts)?;
            for path in &app.proxy.paths {
                let same = |other: &&App| {
                    let paths = &other.proxy.paths;
                    other.name != *name
                        && paths.iter().any(|theirs| theirs.host == path.host && theirs.prefix == path.prefix)
                };
                if let Some(other) = naming.apps.iter().find(same) {
                    return Err(PlatformError::Conflict(format!(
                        "{}{} leads to app {}; take it away there first: berth proxy:route-remove {} {}{}",
                        path.host, path.prefix, other.name, other.name, path.host, path.prefix
                    )));
                }
            }
            let mut compare = vec![naming.unchanged(), Compare::Revision(apps::key(name), revision)];
            let mut then = vec![naming.advance()];
            if !patch.pages.is_empty() {
                let key = pages_key(name);
                let (pages, compared) = self.new_pages(&key, &patch.pages, true).await?;
                compare.push(compared);
                app.proxy.pages = pages.keys().cloned().collect();
                then.push(if pages.is_empty() { Write::Delete(key) } else { Write::Put(key, json(&pages)) });
            }
            then.push(Write::Put(apps::key(name), json(&app)));
            if self.txn(compare, then).await?.is_some() {
                return Ok(app);
            }
        }
    }

    /// Changes the platform's settings.
    pub async fn patch_global_proxy(&self, patch: &PatchProxy) -> Result<(), PlatformError> {
        let only_apps = PatchProxy { set: BTreeMap::new(), pages: BTreeMap::new(), ..patch.clone() };
        if only_apps != PatchProxy::default() {
            return Err(invalid(
                "only keys and error pages can be set for the platform; the rest belongs to an app",
            ));
        }
        loop {
            let found = self.load::<Values>(GLOBAL).await?;
            let (mut values, revision) = found.map_or_else(Default::default, |(v, r)| (v, Some(r)));
            for (name, value) in &patch.set {
                set(&mut values, name, value, Scope::Global)?;
            }
            if let Some(app) = values.get("default-app").filter(|_| patch.set.contains_key("default-app")) {
                let name = AppName::parse(app).map_err(|error| invalid(error.to_string()))?;
                self.existing_app(&name).await?;
            }
            let mut compare = vec![Compare::unchanged(GLOBAL, revision)];
            let mut then = vec![Write::Put(GLOBAL.to_owned(), json(&values))];
            if !patch.pages.is_empty() {
                let (pages, compared) = self.new_pages(GLOBAL_PAGES, &patch.pages, false).await?;
                compare.push(compared);
                then.push(Write::Put(GLOBAL_PAGES.to_owned(), json(&pages)));
            }
            if self.txn(compare, then).await?.is_some() {
                return Ok(());
            }
        }
    }

    async fn new_pages(
        &self,
        key: &str,
        patch: &BTreeMap<String, Option<String>>,
        of_app: bool,
    ) -> Result<(Pages, Compare), PlatformError> {
        let found = self.load::<Pages>(key).await?;
        let (mut pages, revision) = found.map_or_else(Default::default, |(pages, r)| (pages, Some(r)));
        for (name, page) in patch {
            let is_status = ERROR_PAGES.iter().any(|status| status.to_string() == *name);
            if !is_status && (!of_app || name != MAINTENANCE_PAGE) {
                let known = ERROR_PAGES.map(|status| status.to_string()).join(", ");
                let shown: String = name.chars().take(20).collect();
                return Err(invalid(format!("there is no page {shown:?} to set; there are: {known}")));
            }
            match page {
                None => drop(pages.remove(name)),
                Some(page) if page.len() > MAX_PAGE => {
                    let text = format!(
                        "the page {name} has {} bytes; at most {MAX_PAGE}: leave pictures elsewhere",
                        page.len()
                    );
                    return Err(invalid(text));
                }
                Some(page) => drop(pages.insert(name.clone(), page.clone())),
            }
        }
        if pages.values().map(String::len).sum::<usize>() > MAX_PAGES {
            return Err(invalid(format!("all pages together have more than {MAX_PAGES} bytes")));
        }
        Ok((pages, Compare::unchanged(key, revision)))
    }

    /// An app's pages under its new name.
    pub(super) async fn moved_pages(
        &self,
        from: &AppName,
        to: &AppName,
    ) -> Result<Vec<Write>, PlatformError> {
        let Some((pages, _)) = self.load::<Pages>(&pages_key(from)).await? else { return Ok(Vec::new()) };
        Ok(vec![Write::Delete(pages_key(from)), Write::Put(pages_key(to), json(&pages))])
    }
}

/// Sets or resets one key.
fn set(values: &mut Values, name: &str, value: &str, scope: Scope) -> Result<(), PlatformError> {
    let key = find(name).map_err(invalid)?;
    match (key.scope, scope) {
        (Scope::Global, Scope::App) => {
            return Err(invalid(format!(
                "{} is for the platform: berth proxy:set --global {} VALUE",
                key.name, key.name
            )));
        }
        (Scope::App, Scope::Global) => {
            return Err(invalid(format!("{} belongs to an app; it cannot be set for all", key.name)));
        }
        _ => {}
    }
    if value.trim().is_empty() {
        values.remove(key.name);
    } else {
        values.insert(key.name.to_owned(), check(key, value).map_err(invalid)?);
    }
    Ok(())
}

fn patched(
    proxy: &mut AppProxy,
    patch: &PatchProxy,
    users: &BTreeMap<String, Option<PasswordHash>>,
    hosts: &[HostPattern],
) -> Result<(), PlatformError> {
    for (name, value) in &patch.set {
        set(&mut proxy.values, name, value, Scope::App)?;
    }
    let leads_here = |host: &HostPattern| hosts.iter().any(|own| own == host || own.covers(host.as_str()));
    if let Some(host) =
        proxy.values.get("canonical-host").filter(|_| patch.set.contains_key("canonical-host"))
    {
        let host = HostPattern::parse(host).map_err(|error| invalid(error.to_string()))?;
        if !leads_here(&host) {
            let text = format!("{host} is no domain of the app; add it first: berth domains:add APP {host}");
            return Err(invalid(text));
        }
    }
    for (name, hash) in users {
        match hash {
            Some(hash) => drop(proxy.users.insert(name.clone(), hash.clone())),
            None if proxy.users.remove(name).is_none() => {
                return Err(PlatformError::NotFound(format!("there is no user {name}")));
            }
            None => {}
        }
    }
    if proxy.users.len() > MAX_USERS {
        return Err(invalid(format!("an app has at most {MAX_USERS} users")));
    }
    for gone in &patch.remove_paths {
        let at = proxy.paths.iter().position(|path| path.host == gone.host && path.prefix == gone.prefix);
        let Some(at) = at else {
            let text = format!("{}{} does not lead to the app", gone.host, gone.prefix);
            return Err(PlatformError::NotFound(text));
        };
        proxy.paths.remove(at);
    }
    for new in &patch.add_paths {
        proxy.paths.retain(|path| path.host != new.host || path.prefix != new.prefix);
        proxy.paths.push(new.clone());
    }
    if proxy.paths.len() > MAX_PATHS {
        return Err(invalid(format!("an app has at most {MAX_PATHS} routes below paths")));
    }
    if let Some(redirects) = &patch.redirects {
        check_redirects(redirects, leads_here)?;
        proxy.redirects.clone_from(redirects);
    }
    if let Some(maintenance) = patch.maintenance {
        proxy.maintenance = maintenance;
    }
    match patch.pause_ms {
        None => {}
        Some(0) => proxy.paused_ms = None,
        Some(ms) if (100..=600_000).contains(&ms) => proxy.paused_ms = Some(ms),
        Some(ms) => {
            let text = format!("requests cannot be held {}: from 100ms to 10m", time_text(ms));
            return Err(invalid(text));
        }
    }
    Ok(())
}

fn check_redirects(
    redirects: &[Redirect],
    leads_here: impl Fn(&HostPattern) -> bool,
) -> Result<(), PlatformError> {
    if redirects.len() > MAX_REDIRECTS {
        return Err(invalid(format!("an app has at most {MAX_REDIRECTS} redirects")));
    }
    for Redirect { from, to, status } in redirects {
        if ![301, 302, 307, 308].contains(status) {
            return Err(invalid(format!("{status} is no status of a redirect: write 301, 302, 307 or 308")));
        }
        if !leads_here(from) {
            let text = format!("{from} is no domain of the app; add it first: berth domains:add APP {from}");
            return Err(invalid(text));
        }
        if to.is_wildcard() || from == to {
            return Err(invalid(format!("{from} cannot be sent to {to}: name one other host")));
        }
        if redirects.iter().filter(|other| other.from == *from).count() > 1 {
            return Err(invalid(format!("{from} has two redirects")));
        }
    }
    Ok(())
}

/// Passwords made hashes, away from the threads that serve.
async fn hashed(
    users: &BTreeMap<String, Option<String>>,
) -> Result<BTreeMap<String, Option<PasswordHash>>, PlatformError> {
    let mut made = BTreeMap::new();
    for (name, password) in users {
        if name.is_empty() || name.len() > 64 || name.contains(':') || name.chars().any(char::is_control) {
            return Err(invalid("a user's name has 1 to 64 bytes, no ':' and no line break"));
        }
        let hash = match password {
            None => None,
            Some(text) if text.len() == 60 && text.starts_with("$2") => Some(known_hash(text)?),
            Some(text) if text.is_empty() || text.len() > MAX_PASSWORD || text.contains('\0') => {
                return Err(invalid(format!("a password has 1 to {MAX_PASSWORD} bytes, none of them zero")));
            }
            Some(text) => {
                let text = text.clone();
                let hash = tokio::task::spawn_blocking(move || bcrypt::hash(text, COST)).await;
                let hash = hash.ok().and_then(Result::ok);
                Some(PasswordHash(hash.ok_or_else(|| invalid("the password cannot be hashed"))?))
            }
        };
        made.insert(name.clone(), hash);
    }
    Ok(made)
}

fn known_hash(text: &str) -> Result<PasswordHash, PlatformError> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| {
        invalid("that looks like a bcrypt hash and is none; send the password, or what htpasswd -B writes")
    })?;
    if parts.get_cost() > MAX_COST {
        let text = format!("the hash has cost {}; at most {MAX_COST}", parts.get_cost());
        return Err(invalid(text));
    }
    Ok(PasswordHash(text.to_owned()))
}
