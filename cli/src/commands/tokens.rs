//! `tokens:*`: who may use the API over the network.
//!
//! In: names. Out: a token, shown once; the list.

use super::not_here;
use crate::args::command;
use crate::context::{Context, arguments, exactly_one, holder_name, none_left};
use crate::error::Result;
use crate::output::{say, table, time};
use berth_model::api::{CreateToken, CreatedToken, TokenInfo};
use clap::{ArgMatches, Command};
use http::Method;

pub(super) fn commands() -> Vec<Command> {
    vec![
        command("tokens:list", "List the tokens", "", &["tokens:list"]).visible_alias("tokens"),
        command("tokens:create", "Make a token and print it, this once", "NAME", &["tokens:create ci"]),
        command("tokens:revoke", "Make a token worthless", "NAME", &["tokens:revoke ci"]),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let words = arguments(matches);
    match name {
        "tokens:list" => {
            none_left(&words)?;
            list(context).await
        }
        "tokens:create" => {
            let holder = exactly_one(words, "the token's name")?;
            let body = CreateToken { name: holder_name(&holder)?.to_owned() };
            let created: CreatedToken = context.json(Method::POST, "/v1/tokens", &body).await?;
            if context.out.json {
                return context.out.json(&created);
            }
            if !context.out.quiet {
                say(
                    "       Keep it: it is not shown again. Use it as BERTH_TOKEN, or as the password of a git remote.",
                );
            }
            context.out.line(&created.token)
        }
        "tokens:revoke" => {
            let holder = exactly_one(words, "the token's name")?;
            let path = format!("/v1/tokens/{}", holder_name(&holder)?);
            context.act(Method::DELETE, &path, None::<&()>).await
        }
        _ => Err(not_here(name)),
    }
}

async fn list(context: &Context) -> Result<()> {
    let tokens: Vec<TokenInfo> = context.get("/v1/tokens").await?;
    if context.out.json {
        return context.out.json(&tokens);
    }
    context.out.header("Tokens")?;
    let row = |token: &TokenInfo| {
        let used = token.last_used_ms.map_or("never used".to_owned(), |at| format!("last used {}", time(at)));
        vec![token.name.clone(), format!("created {}", time(token.created_ms)), used]
    };
    table(&tokens.iter().map(row).collect::<Vec<_>>()).iter().try_for_each(|line| context.out.line(line))
}
