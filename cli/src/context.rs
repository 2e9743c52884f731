//! What every command has: the API, its output, and the app it is about.
//!
//! In: global flags. Out: calls to the API whose refusals are [`CliError`]s, and the app that was meant.

use crate::endpoint::Target;
use crate::error::{CliError, Result};
use crate::output::{Output, broke_off, say};
use crate::spinner::Spinner;
use berth_model::AppName;
use berth_model::api::{AppInfo, Progress};
use berth_wire::{Client, Lines, Upgraded, WireError};
use clap::ArgMatches;
use http::Method;
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::IsTerminal;
use tokio::io::AsyncRead;
use tokio::signal::unix::SignalKind;

/// One command's surroundings.
pub(crate) struct Context {
    /// Where words go.
    pub(crate) out: Output,
    /// `--force`.
    pub(crate) force: bool,
    /// The command came over SSH: files the user names are not ours to touch.
    pub(crate) session: bool,
    trace: bool,
    target: Target,
    app: Option<String>,
    /// Over SSH: what the working tree on the other side belongs to.
    inferred: Option<AppName>,
    host: Option<String>,
    confirmed: Option<String>,
}

impl Context {
    /// From the command's global flags.
    pub(crate) fn new(matches: &ArgMatches, target: Target, session: bool) -> Self {
        let json =
            matches.try_get_one::<String>("format").ok().flatten().is_some_and(|format| format == "json");
        let said = |id: &str| matches.try_get_one::<String>(id).ok().flatten().cloned();
        Self {
            inferred: said("inferred-app").and_then(|app| AppName::parse(&app).ok()),
            host: said("host"),
            confirmed: said("confirm"),
            out: Output::new(matches.get_flag("quiet"), json),
            force: matches.get_flag("force"),
            session,
            trace: matches.get_flag("trace"),
            target,
            app: matches.get_one::<String>("app").cloned(),
        }
    }

    fn client(&self, method: &Method, path: &str) -> Result<Client> {
        let client = self.target.client()?;
        if self.trace {
            say(&format!("+ {method} {path} at {}", client.endpoint()));
        }
        Ok(client)
    }

    fn finish<T>(&self, client: &Client, answer: std::result::Result<T, WireError>) -> Result<T> {
        answer.map_err(|error| {
            if self.trace {
                say(&format!("+ {error:?}"));
            }
            CliError::wire(error, client.endpoint())
        })
    }

    /// `GET` one JSON value.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let client = self.client(&Method::GET, path)?;
        let answer = client.get(path).await;
        self.finish(&client, answer)
    }

    /// A call that answers one JSON value.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T> {
        let client = self.client(&method, path)?;
        let answer = client.json(method, path, Some(body)).await;
        self.finish(&client, answer)
    }

    /// Bytes as they come.
    pub(crate) async fn download(&self, path: &str) -> Result<Download> {
        let client = self.client(&Method::GET, path)?;
        let answer = client.call(Method::GET, path, None::<&()>).await;
        Ok(Download { body: self.finish(&client, answer)?.into_body() })
    }

    /// JSON lines.
    pub(crate) async fn lines(&self, path: &str) -> Result<LineReader> {
        let client = self.client(&Method::GET, path)?;
        let answer = client.lines(Method::GET, path, None::<&()>).await;
        Ok(LineReader { lines: self.finish(&client, answer)?, client })
    }

    /// A terminal stream.
    pub(crate) async fn stream(&self, path: &str) -> Result<Upgraded> {
        let client = self.client(&Method::GET, path)?;
        let answer = client.upgrade(path).await;
        self.finish(&client, answer)
    }

    /// An operation: shows its progress until it is done. Operations that are done at once answer anything else.
    pub(crate) async fn act(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<()> {
        self.begin(method, path, body).await?.follow(None).await
    }

    /// An operation that was accepted; [`Operation::follow`] shows how it goes on.
    pub(crate) async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Operation> {
        let client = self.client(&method, path)?;
        let answer = client.call(method, path, body).await;
        let response = self.finish(&client, answer)?;
        let kind = response.headers().get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
        if kind.is_some_and(|kind| kind.starts_with(b"application/x-ndjson")) {
            let lines = LineReader { lines: client.lines_of(response), client };
            return Ok(Operation { lines: Some(lines), out: self.out });
        }
        let rest = response.into_body().collect().await;
        rest.map_err(|error| CliError::Failed(format!("the connection to Berth broke: {error}")))?;
        Ok(Operation { lines: None, out: self.out })
    }

    /// An operation on what is sent first: shows its progress until it is done.
    pub(crate) async fn act_on(
        &self,
        path: &str,
        body: impl AsyncRead + Send + Sync + 'static,
    ) -> Result<()> {
        let client = self.client(&Method::POST, path)?;
        let answer = client.upload(Method::POST, path, "application/octet-stream", body).await;
        let lines = client.lines_of(self.finish(&client, answer)?);
        let lines = LineReader { lines, client };
        Operation { lines: Some(lines), out: self.out }.follow(None).await
    }

    /// Sends `body` until its end and gives the JSON answer.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        body: impl AsyncRead + Send + Sync + 'static,
    ) -> Result<T> {
        let client = self.client(&Method::POST, path)?;
        let answer = client.upload(Method::POST, path, "application/x-tar", body).await;
        let response = self.finish(&client, answer)?;
        let broken = |text: String| CliError::Failed(format!("Berth's answer cannot be read: {text}"));
        let bytes =
            response.into_body().collect().await.map_err(|error| broken(error.to_string()))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))
    }

    /// What `--host` says.
    pub(crate) fn said_host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Makes the working tree here one of `app`'s, if the platform is elsewhere; whether it did.
    pub(crate) fn remember(&self, app: &AppName, ssh_port: u16) -> Result<bool> {
        let Some(host) = self.target.machine() else { return Ok(false) };
        let address = crate::ssh::Address { user: "paas".into(), host, port: ssh_port };
        crate::remote::remember(&address, app, self.out)
    }

    /// What `--app` says.
    pub(crate) fn named_app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// The app, and the arguments beside it: `--app`, else the first argument, else what a git remote names.
    ///
    /// In a working tree with a remote, `ps:restart web` means its app and `ps:restart other` the other one: an
    /// argument that is no existing app is left to the command, if the command takes any (`takes_more`).
    pub(crate) async fn app(&self, matches: &ArgMatches, takes_more: bool) -> Result<(AppName, Vec<String>)> {
        let (app, rest) = self.some_app(matches, takes_more).await?;
        app.map(|app| (app, rest)).ok_or_else(|| {
            let advice =
                if self.session { "" } else { ", or work in a repository with a git remote called paas" };
            CliError::Misuse(format!("which app? Name it first, or with --app{advice}"))
        })
    }

    /// Like [`Self::app`], for commands that can do without.
    pub(crate) async fn some_app(
        &self,
        matches: &ArgMatches,
        takes_more: bool,
    ) -> Result<(Option<AppName>, Vec<String>)> {
        let mut rest = arguments(matches);
        if let Some(app) = &self.app {
            return Ok((Some(AppName::parse(app)?), rest));
        }
        let inferred =
            if self.session { self.inferred.clone() } else { crate::remote::app_of_working_tree() };
        let (Some(first), Some(inferred)) = (rest.first(), inferred.as_ref()) else {
            let named = if rest.is_empty() { None } else { Some(AppName::parse(&rest.remove(0))?) };
            return Ok((named.or(inferred), rest));
        };
        if takes_more {
            match AppName::parse(first) {
                Ok(name) if name == *inferred || self.exists(&name).await? => {}
                _ => return Ok((Some(inferred.clone()), rest)),
            }
        }
        let named = AppName::parse(&rest.remove(0))?;
        Ok((Some(named), rest))
    }

    /// The app, for commands that take nothing else.
    pub(crate) async fn only_app(&self, matches: &ArgMatches) -> Result<AppName> {
        let (app, rest) = self.app(matches, false).await?;
        none_left(&rest)?;
        Ok(app)
    }

    /// Whether there is such an app.
    pub(crate) async fn exists(&self, app: &AppName) -> Result<bool> {
        match self.get::<AppInfo>(&format!("/v1/apps/{app}")).await {
            Ok(_) => Ok(true),
            Err(CliError::NoApp(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks to type `name` before something is destroyed, unless `--force` or `--confirm` says it already. Where nobody can be
    /// asked it is refused: what comes down a pipe was not meant as an answer.
    pub(crate) fn confirm(&self, name: &str, what: &str) -> Result<()> {
        let mismatch = || CliError::Failed("Confirmation did not match. Aborted.".into());
        match &self.confirmed {
            Some(said) if said == name => return Ok(()),
            Some(_) => return Err(mismatch()),
            None if self.force => return Ok(()),
            None => {}
        }
        if !std::io::stdin().is_terminal() {
            return Err(CliError::Failed(format!(
                "{what} There is no terminal to ask on: say --confirm {name}, or --force"
            )));
        }
        crate::output::warning("WARNING: Potentially Destructive Action");
        crate::output::warning(what);
        crate::output::warning(&format!("To proceed, type \"{name}\""));
        let answer = crate::prompt::line("> ");
        let answer = answer.map_err(|error| CliError::Failed(format!("not confirmed: {error}")))?;
        if answer.trim() == name { Ok(()) } else { Err(mismatch()) }
    }

    /// Says which app may have been meant, when there is none of the name that was said.
    pub(crate) async fn suggest_app(&self, matches: &ArgMatches) {
        let Ok(apps) = self.get::<Vec<AppInfo>>("/v1/apps").await else { return };
        let said = self.app.clone().or_else(|| arguments(matches).first().cloned());
        let names = || apps.iter().map(|app| app.name.to_string());
        let Some(said) = said.filter(|said| !names().any(|name| name == *said)) else { return };
        if let Some(near) = crate::commands::nearest(&said, names()) {
            say(&format!("       Did you mean {near}?"));
        }
    }

    /// What a report is about: the app that was named, else all of them.
    pub(crate) async fn infos(&self, matches: &ArgMatches) -> Result<Vec<AppInfo>> {
        let (app, rest) = self.some_app(matches, false).await?;
        none_left(&rest)?;
        match app {
            Some(app) => Ok(vec![self.get(&format!("/v1/apps/{app}")).await?]),
            None => self.get("/v1/apps").await,
        }
    }

    /// Like [`Self::infos`], only the names: nothing is asked about an app that was named.
    pub(crate) async fn app_names(&self, matches: &ArgMatches) -> Result<Vec<AppName>> {
        let (app, rest) = self.some_app(matches, false).await?;
        none_left(&rest)?;
        match app {
            Some(app) => Ok(vec![app]),
            None => Ok(self.get::<Vec<AppInfo>>("/v1/apps").await?.into_iter().map(|app| app.name).collect()),
        }
    }

    /// A file the user named, or standard input for `-`.
    pub(crate) async fn input(&self, path: &str) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>> {
        if path == "-" {
            return Ok(Box::new(tokio::io::stdin()));
        }
        self.may_read(path)?;
        let opened = tokio::fs::File::open(path).await;
        Ok(Box::new(opened.map_err(|error| CliError::Failed(format!("cannot read {path}: {error}")))?))
    }

    /// Refuses to touch a file the user named when the command came over SSH.
    pub(crate) fn may_read(&self, path: &str) -> Result<()> {
        if !self.session {
            return Ok(());
        }
        Err(CliError::Misuse(format!(
            "{path:?} would be a file of the server, which a command over SSH may not read: send it on standard input"
        )))
    }
}

/// An operation under way.
pub(crate) struct Operation {
    lines: Option<LineReader>,
    out: Output,
}

impl Operation {
    /// Shows its progress until it is done. `if_more` is said first if there is any: it is not done at once.
    pub(crate) async fn follow(self, if_more: Option<&str>) -> Result<()> {
        let Some(mut lines) = self.lines else { return Ok(()) };
        let mut said = false;
        let mut spinner = Spinner::new(self.out.quiet || self.out.json);
        let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())
            .map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")))?;
        loop {
            // Waiting for the next line can be given up and begun again: nothing of one is lost.
            let event = {
                let mut next = std::pin::pin!(lines.next::<Progress>());
                loop {
                    let tick = spinner.next();
                    tokio::select! {
                        event = next.as_mut() => break event?,
                        () = tokio::time::sleep(tick.unwrap_or_default()), if tick.is_some() => spinner.tick(),
                        _ = interrupt.recv() => {
                            spinner.clear();
                            crate::output::warning(
                                "left: what was begun goes on without you; ps:report, releases and builds show how it went",
                            );
                            return Err(CliError::Exit(130));
                        }
                    }
                }
            };
            spinner.clear();
            let Some(event) = event else { break };
            let more = !matches!(event, Progress::Done | Progress::Failed { .. });
            if let Some(text) = if_more.filter(|_| more && !said) {
                self.out.step(text)?;
                said = true;
            }
            if let Some(end) = self.out.progress(&event)? {
                return end;
            }
        }
        Err(broke_off().into())
    }
}

/// The bytes of an answer.
pub(crate) struct Download {
    body: hyper::body::Incoming,
}

impl Download {
    /// The next piece.
    pub(crate) async fn next(&mut self) -> Result<Option<hyper::body::Bytes>> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| CliError::Failed(format!("the answer broke off: {error}")))?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// Lines of a call, refusals made [`CliError`]s.
pub(crate) struct LineReader {
    lines: Lines,
    client: Client,
}

impl LineReader {
    /// The next value.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.lines.next().await.map_err(|error| CliError::wire(error, self.client.endpoint()))
    }
}

/// The command's positional arguments.
pub(crate) fn arguments(matches: &ArgMatches) -> Vec<String> {
    let arguments = matches.try_get_many::<String>("args").ok().flatten();
    arguments.map(|values| values.cloned().collect()).unwrap_or_default()
}

/// Refuses what a command does not take.
pub(crate) fn none_left(rest: &[String]) -> Result<()> {
    match rest.first() {
        None => Ok(()),
        Some(word) => Err(CliError::Misuse(format!("{word:?} is one argument too many"))),
    }
}

/// Exactly one argument, called `what` in the refusal.
pub(crate) fn exactly_one(rest: Vec<String>, what: &str) -> Result<String> {
    match <[String; 1]>::try_from(rest) {
        Ok([one]) => Ok(one),
        Err(rest) if rest.is_empty() => Err(CliError::Misuse(format!("{what} is missing"))),
        Err(rest) => Err(CliError::Misuse(format!("{:?} is one argument too many", rest[1]))),
    }
}

/// A name of a key or token, as the API takes it: `[A-Za-z0-9._@-]{1,64}`, so that it is safe in a path too.
pub(crate) fn holder_name(text: &str) -> Result<&str> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
    let fits = !text.is_empty() && text.len() <= 64 && text.as_bytes().iter().all(allowed);
    if fits && !text.starts_with(['.', '-']) {
        return Ok(text);
    }
    let shown: String = text.chars().take(80).collect();
    Err(CliError::Misuse(format!(
        "name {shown:?} is not valid: use 1 to 64 letters, digits, '.', '_', '@' and '-'"
    )))
}
