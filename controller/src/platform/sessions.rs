//! Sessions of people in a browser, and codes that begin one.
//!
//! Both are 256 random bits behind a word (`berths_`, `berthc_`); the store holds their SHA-256 as a key, so looking one up tells
//! nothing of others. A session acts in the name of the token or SSH key that began it, and is over when that is removed, after
//! [`IDLE_MS`] without use, [`LONGEST_MS`] after its begin, or when [`MOST_SESSIONS`] others of its name were used since. A code
//! begins one session within [`CODE_MS`].

use super::{Platform, PlatformError, now_ms};
use crate::options::Options;
use crate::secrets;
use crate::store::{Compare, Write};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_model::api::{CreatedSession, SessionInfo, SignInCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A session that nobody uses ends after a week.
const IDLE_MS: i64 = 7 * 24 * 3_600_000;
/// And in any case after 30 days.
const LONGEST_MS: i64 = 30 * 24 * 3_600_000;
/// How long a code is good.
const CODE_MS: i64 = 10 * 60_000;
/// How often the time of the last use is written.
const USE_RESOLUTION_MS: i64 = 5 * 60_000;
/// Codes there may be at once.
const MOST_CODES: usize = 100;
/// Sessions that one name may have at once: one more ends the one that was not used for longest.
const MOST_SESSIONS: usize = 20;

const SESSIONS: &str = "sessions/";
const CODES: &str = "sign-in-codes/";
/// What a session's secret begins with.
const SESSION: &str = "berths_";
/// What a code begins with.
const CODE: &str = "berthc_";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Session {
    by: String,
    /// What has to be there as long as it is to be good; `None` is the machine's admin.
    rests_on: Option<String>,
    from: String,
    created_ms: i64,
    used_ms: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Code {
    by: String,
    rests_on: Option<String>,
    expires_ms: i64,
}

impl Session {
    fn ends_ms(&self) -> i64 {
        (self.created_ms + LONGEST_MS).min(self.used_ms + IDLE_MS)
    }
}

impl Code {
    fn is_good(&self, now_ms: i64) -> bool {
        now_ms < self.expires_ms
    }
}

/// The keys of sessions that go when another of `by` begins: those that are over, and what would be too many.
fn surplus(sessions: Vec<(String, Session)>, by: &str, now_ms: i64) -> Vec<String> {
    let (live, over): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|(_, session)| session.ends_ms() > now_ms);
    let mut own: Vec<_> = live.into_iter().filter(|(_, session)| session.by == by).collect();
    own.sort_by_key(|(_, session)| std::cmp::Reverse((session.used_ms, session.created_ms)));
    let too_many = own.into_iter().skip(MOST_SESSIONS - 1);
    over.into_iter().chain(too_many).map(|(key, _)| key).collect()
}

/// How somebody showed who they are, over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A token.
    Token,
    /// A session: its id.
    Session(String),
    /// A code, which is good for beginning a session and nothing else: its id.
    Code(String),
}

/// Where the dashboard is: on the API's port, by TLS where others can reach that.
fn dashboard(options: &Options) -> String {
    let port = options.api.port();
    let ip = options.api.ip();
    match &options.several {
        Some(several) => format!("https://{}", berth_wire::host_port(&several.advertise, port)),
        None if ip.is_loopback() => format!("http://localhost:{port}"),
        None if ip.is_unspecified() => format!("https://{}:{port}", options.domain),
        None => format!("https://{}", std::net::SocketAddr::new(ip, port)),
    }
}

fn id_of(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

fn fresh(word: &str) -> Result<String, PlatformError> {
    Ok(format!("{word}{}", URL_SAFE_NO_PAD.encode(secrets::random::<32>()?)))
}

impl Platform {
    /// Whose this is, if it is a token, a session or a code.
    pub(crate) async fn recognize(&self, shown: &str) -> Result<Option<(String, Credential)>, PlatformError> {
        if shown.starts_with(SESSION) {
            let id = id_of(shown);
            return Ok(self.live_session(&id).await?.map(|session| (session.by, Credential::Session(id))));
        }
        if shown.starts_with(CODE) {
            let id = id_of(shown);
            let code = self.load::<Code>(&format!("{CODES}{id}")).await?.map(|(code, _)| code);
            let good = code.filter(|code| code.is_good(now_ms()));
            return Ok(good.map(|code| (code.by, Credential::Code(id))));
        }
        Ok(self.token_owner(shown).await?.map(|owner| (owner.0, Credential::Token)))
    }

    /// A session that is not over. Notes its use.
    async fn live_session(&self, id: &str) -> Result<Option<Session>, PlatformError> {
        let key = format!("{SESSIONS}{id}");
        let Some((session, _)) = self.load::<Session>(&key).await? else { return Ok(None) };
        let now = now_ms();
        if session.ends_ms() <= now || !self.stands(session.rests_on.as_deref()).await? {
            return Ok(None);
        }
        if now - session.used_ms >= USE_RESOLUTION_MS {
            let used = Session { used_ms: now, ..session.clone() };
            let put = vec![Write::Put(key.clone(), super::json(&used))];
            // Only a note: a full disk must not lock people out. Not for a session that was ended meanwhile.
            if let Err(error) = self.txn(vec![Compare::Present(key)], put).await {
                tracing::warn!(%error, "cannot note a session's use");
            }
        }
        Ok(Some(session))
    }

    async fn stands(&self, rests_on: Option<&str>) -> Result<bool, PlatformError> {
        match rests_on {
            None => Ok(true),
            Some(key) => Ok(self.load::<serde_json::Value>(key).await?.is_some()),
        }
    }

    /// What a caller's sessions rest on: the token or key of that name.
    async fn ground_of(&self, by: &str) -> Result<Option<String>, PlatformError> {
        for key in [super::access::ssh_key(by), super::access::token_key(by)] {
            if self.load::<serde_json::Value>(&key).await?.is_some() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Makes a code that signs in as `by`, once.
    pub(crate) async fn create_sign_in_code(&self, by: &str) -> Result<SignInCode, PlatformError> {
        let now = now_ms();
        let all = self.load_all::<Code>(CODES).await?;
        let over: Vec<_> = all
            .iter()
            .filter(|(_, code)| !code.is_good(now))
            .map(|(key, _)| Write::Delete(key.clone()))
            .collect();
        if all.len() - over.len() >= MOST_CODES {
            return Err(PlatformError::Conflict(format!(
                "{MOST_CODES} links wait to be used; wait some minutes"
            )));
        }
        let (code, expires_ms) = (fresh(CODE)?, now + CODE_MS);
        let stored = Code { by: by.to_owned(), rests_on: self.ground_of(by).await?, expires_ms };
        let mut writes = over;
        writes.push(Write::Put(format!("{CODES}{}", id_of(&code)), super::json(&stored)));
        self.txn(Vec::new(), writes).await?;
        let url = format!("{}/ui/sign-in?code={code}", dashboard(self.options()));
        Ok(SignInCode { code, url, expires_ms })
    }

    /// Begins a session for whoever showed a token or a code; the code is used up with it.
    pub(crate) async fn create_session(
        &self,
        by: &str,
        shown: &Credential,
        from: &str,
    ) -> Result<CreatedSession, PlatformError> {
        let now = now_ms();
        let mut compare = Vec::new();
        let mut writes = Vec::new();
        let rests_on = match shown {
            Credential::Session(_) => {
                return Err(PlatformError::Invalid(
                    "a session begins with a token or a code, not with another session".to_owned(),
                ));
            }
            Credential::Token => Some(super::access::token_key(by)),
            Credential::Code(id) => {
                let key = format!("{CODES}{id}");
                let code = self.load::<Code>(&key).await?.map(|(code, _)| code);
                compare.push(Compare::Present(key.clone()));
                writes.push(Write::Delete(key));
                code.and_then(|code| code.rests_on)
            }
        };
        let stored =
            Session { by: by.to_owned(), rests_on, from: from.to_owned(), created_ms: now, used_ms: now };
        let secret = fresh(SESSION)?;
        writes.push(Write::Put(format!("{SESSIONS}{}", id_of(&secret)), super::json(&stored)));
        let sessions = self.load_all::<Session>(SESSIONS).await?;
        writes.extend(surplus(sessions, by, now).into_iter().map(Write::Delete));
        if self.txn(compare, writes).await?.is_none() {
            return Err(PlatformError::Conflict(
                "this link was used already; make another with: berth dashboard".to_owned(),
            ));
        }
        tracing::info!(by, from, "session begun");
        Ok(CreatedSession { session: secret, by: by.to_owned(), expires_ms: now + LONGEST_MS })
    }

    /// Every session that is not over, the newest first.
    pub(crate) async fn sessions(&self, current: Option<&str>) -> Result<Vec<SessionInfo>, PlatformError> {
        let now = now_ms();
        let mut found = Vec::new();
        for (key, session) in self.load_all::<Session>(SESSIONS).await? {
            if session.ends_ms() > now && self.stands(session.rests_on.as_deref()).await? {
                found.push(info(id_in(&key), session, current));
            }
        }
        found.sort_by_key(|session| std::cmp::Reverse(session.created_ms));
        Ok(found)
    }

    /// One session that is not over.
    pub(crate) async fn session(&self, id: &str) -> Result<Option<SessionInfo>, PlatformError> {
        Ok(self.live_session(id).await?.map(|session| info(id, session, Some(id))))
    }

    /// Ends a session at once; `id` as it is shown, or whole.
    pub(crate) async fn remove_session(&self, id: &str) -> Result<(), PlatformError> {
        let all = self.load_all::<Session>(SESSIONS).await?;
        let mut keys = all.into_iter().map(|(key, _)| key);
        let found = keys.find(|key| shown(id_in(key)) == id || id_in(key) == id);
        let key = found
            .ok_or_else(|| PlatformError::NotFound("there is no such session; it may be over".to_owned()))?;
        self.txn(Vec::new(), vec![Write::Delete(key)]).await?;
        Ok(())
    }

    /// Ends every session but `current` at once.
    pub(crate) async fn remove_sessions(&self, current: Option<&str>) -> Result<(), PlatformError> {
        let all = self.load_all::<Session>(SESSIONS).await?;
        let others = all.into_iter().filter(|(key, _)| current != Some(id_in(key)));
        self.txn(Vec::new(), others.map(|(key, _)| Write::Delete(key)).collect()).await?;
        Ok(())
    }
}

/// The id in a session's key.
fn id_in(key: &str) -> &str {
    key.strip_prefix(SESSIONS).unwrap_or(key)
}

/// Digits of the hash that are shown as the id.
const SHOWN: usize = 16;

fn shown(id: &str) -> &str {
    id.get(..SHOWN).unwrap_or(id)
}

fn info(id: &str, session: Session, current: Option<&str>) -> SessionInfo {
    SessionInfo {
        id: shown(id).to_owned(),
        expires_ms: session.created_ms + LONGEST_MS,
        current: current == Some(id),
        by: session.by,
        from: session.from,
        created_ms: session.created_ms,
        last_used_ms: session.used_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 24 * 3_600_000;

    fn session(by: &str, created_ms: i64, used_ms: i64) -> Session {
        Session { by: by.to_owned(), rests_on: None, from: "http 127.0.0.1".to_owned(), created_ms, used_ms }
    }

    #[test]
    fn a_session_ends_after_a_week_without_use_and_after_thirty_days_at_the_latest() {
        let ends_after = |used_day: i64| session("ada", 0, used_day * DAY_MS).ends_ms() / DAY_MS;
        assert_eq!([0, 1, 22, 23, 24, 29].map(ends_after), [7, 8, 29, 30, 30, 30]);
    }

    #[test]
    fn a_code_is_good_until_it_expires() {
        let code = Code { by: "ada".to_owned(), rests_on: None, expires_ms: CODE_MS };
        assert_eq!(
            [0, CODE_MS - 1, CODE_MS, CODE_MS + 1].map(|now| code.is_good(now)),
            [true, true, false, false]
        );
    }

    #[test]
    fn one_session_more_ends_what_is_over_and_the_one_unused_for_longest() {
        let now = 8 * DAY_MS;
        let many = i64::try_from(MOST_SESSIONS).expect("few");
        // The first is used again, the second is not.
        let mut all: Vec<_> =
            (0..many).map(|n| (format!("ada-{n}"), session("ada", 2 * DAY_MS + n, 2 * DAY_MS + n))).collect();
        all[0].1.used_ms = 3 * DAY_MS;
        all.push(("bob".to_owned(), session("bob", 2 * DAY_MS, 2 * DAY_MS)));
        all.push(("over".to_owned(), session("bob", 0, DAY_MS)));
        assert_eq!(surplus(all.clone(), "ada", now), ["over", "ada-1"]);
        assert_eq!(surplus(all.clone(), "bob", now), ["over"]);
        all.remove(2);
        assert_eq!(surplus(all, "ada", now), ["over"]);
    }
}
