//! `dashboard*`: the way into the web dashboard, and who is in there.
//!
//! In: nothing, or whose session is to end. Out: a link that signs in once; the sessions.

use super::not_here;
use crate::args::{command, switch};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::{say, table, time};
use berth_model::api::{SessionInfo, SignInCode};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("dashboard", "Print a link that signs in to the web dashboard, once", "", &["dashboard"]),
        command("dashboard:sessions", "List who is signed in, from where", "", &["dashboard:sessions"]),
        command(
            "dashboard:sign-out",
            "End a session at once, or all of them",
            "ID|--all",
            &["dashboard:sign-out 3f0c5b7d9a2e4c61", "dashboard:sign-out --all"],
        )
        .arg(switch("all", "Every session: whoever uses the dashboard has to sign in again")),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let words = arguments(matches);
    match name {
        "dashboard" => {
            none_left(&words)?;
            link(context).await
        }
        "dashboard:sessions" => {
            none_left(&words)?;
            list(context).await
        }
        "dashboard:sign-out" if matches.get_flag("all") => {
            none_left(&words)?;
            context.act(Method::DELETE, "/v1/sessions", None::<&()>).await
        }
        "dashboard:sign-out" => {
            let id = exactly_one(words, "the session's id, as dashboard:sessions shows it")?;
            if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(CliError::Misuse(format!(
                    "{id:?} is no session's id; see them with: berth dashboard:sessions"
                )));
            }
            context.act(Method::DELETE, &format!("/v1/sessions/{id}"), None::<&()>).await
        }
        _ => Err(not_here(name)),
    }
}

async fn link(context: &Context) -> Result<()> {
    let made: SignInCode = context.json(Method::POST, "/v1/sign-in-codes", &serde_json::json!({})).await?;
    if context.out.json {
        return context.out.json(&made);
    }
    context.out.line(&made.url)?;
    if !context.out.quiet {
        say("       It signs in once, within ten minutes, as whoever asked for it.");
        if let Some(tunnel) = tunnel(&made.url) {
            say(&format!("       Only this machine is listened to. From elsewhere, first: {tunnel}"));
        }
    }
    Ok(())
}

/// What makes an address of the machine itself reachable from elsewhere.
fn tunnel(url: &str) -> Option<String> {
    let port = url.strip_prefix("http://localhost:")?.split('/').next()?;
    Some(format!("ssh -L {port}:localhost:{port} YOU@THIS-MACHINE"))
}

async fn list(context: &Context) -> Result<()> {
    let sessions: Vec<SessionInfo> = context.get("/v1/sessions").await?;
    if context.out.json {
        return context.out.json(&sessions);
    }
    context.out.header("Sessions")?;
    let row = |session: &SessionInfo| {
        let SessionInfo { id, by, from, created_ms, last_used_ms, .. } = session;
        vec![
            id.clone(),
            by.clone(),
            from.clone(),
            format!("since {}", time(*created_ms)),
            format!("last used {}", time(*last_used_ms)),
        ]
    };
    table(&sessions.iter().map(row).collect::<Vec<_>>()).iter().try_for_each(|line| context.out.line(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_offered_where_one_is_needed() {
        let local = tunnel("http://localhost:8080/ui/sign-in?code=x");
        assert_eq!(local.as_deref(), Some("ssh -L 8080:localhost:8080 YOU@THIS-MACHINE"));
        assert_eq!(tunnel("https://paas.example.com:8080/ui/sign-in?code=x"), None);
    }
}
