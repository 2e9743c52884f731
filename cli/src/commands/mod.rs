//! The user's commands, one file a family. Each turns arguments into calls and answers into text, and decides nothing.
//!
//! In: clap's matches. Out: text, and an exit code.

mod alerts;
mod apps;
mod builder;
mod builder_dockerfile;
mod buildpacks;
mod builds;
mod certs;
mod checks;
mod completion;
mod config;
mod config_show;
mod contexts;
mod cron;
mod dashboard;
mod deploy;
mod domains;
mod drains;
mod elsewhere;
mod envfile;
mod events;
mod git;
mod help;
mod images;
mod inspect;
mod keys;
mod letsencrypt;
mod logs;
mod machines;
mod maintenance;
mod man;
mod metrics;
mod networks;
mod nodes;
mod ports;
mod proxy;
mod ps;
mod registry;
mod releases;
mod resource;
mod run;
mod runs;
mod sbom;
mod secrets;
mod storage;
mod terminal;
mod tokens;
mod traffic;
mod urls;
mod when;

pub(crate) use apps::invented_name;
pub(crate) use help::{nearest, overview, see_also, topic, unknown};

use crate::context::Context;
use crate::error::{CliError, Result};
use clap::{ArgMatches, Command};

/// Commands that belong together.
pub(crate) struct Family {
    /// The word before the colon.
    pub(crate) name: &'static str,
    /// One line.
    pub(crate) about: &'static str,
    /// Its commands.
    pub(crate) commands: Vec<Command>,
}

/// All of them, in the order of `help`.
pub(crate) fn families() -> Vec<Family> {
    let family = |name, about, commands| Family { name, about, commands };
    vec![
        family("apps", "Create, list and destroy apps", apps::commands()),
        family("config", "Environment variables of an app, or of all", config::commands()),
        family("secrets", "The key that seals what is stored", secrets::commands()),
        family("ps", "Processes: how many run, and how they are", ps::commands()),
        family("logs", "What an app writes", logs::commands()),
        family("drains", "Logs sent somewhere else", drains::commands()),
        family("metrics", "What apps use, now and lately", metrics::commands()),
        family("alerts", "Webhooks that are told when something goes wrong", alerts::commands()),
        family("events", "Who changed what", events::commands()),
        family("run", "Commands in an app's surroundings", run::commands()),
        family("cron", "Commands run by the clock", cron::commands()),
        family("releases", "What was deployed when, and the way back", releases::commands()),
        family("deploy", "How new releases take the place of old ones, and canaries", deploy::commands()),
        family("checks", "How containers show that they may get traffic", checks::commands()),
        family("domains", "Host names that lead to an app", domains::commands()),
        family("certs", "Certificates that users bring", certs::commands()),
        family("letsencrypt", "Certificates that are got and renewed by themselves", letsencrypt::commands()),
        family("urls", "Where an app answers", urls::commands()),
        family("proxy", "How an app's requests are treated, and who asks what", proxy::commands()),
        family("http-auth", "Names and passwords before an app", proxy::auth_commands()),
        family("redirect", "Hosts of an app that lead elsewhere", proxy::redirect_commands()),
        family("maintenance", "A page in place of an app", maintenance::commands()),
        family("errors", "Pages in place of the proxy's own", maintenance::error_commands()),
        family("ports", "Ports of the proxy that lead to an app", ports::commands()),
        family("git", "Which branch deploys", git::commands()),
        family("builds", "What was built when, and what it said", builds::commands()),
        family("builder", "Which builder is used, and where in the repository", builder::commands()),
        family("images", "What Berth's own registry holds", images::commands()),
        family("registry", "Logins of other registries", registry::commands()),
        family("builder-dockerfile", "Which Dockerfile is built", builder_dockerfile::commands()),
        family("buildpacks", "Which buildpacks build an app, and what they run on", buildpacks::commands()),
        family("sbom", "What is in an app's image", sbom::commands()),
        family("network", "Which apps reach each other", networks::commands()),
        family("storage", "Directories that outlive containers", storage::commands()),
        family("resource", "What containers may use, and what is kept for them", resource::commands()),
        family("ssh-keys", "Who may push and command over SSH", keys::commands()),
        family("tokens", "Who may use the API over the network", tokens::commands()),
        family("dashboard", "The web dashboard", dashboard::commands()),
        family("node", "Machines", [machines::commands(), nodes::commands()].concat()),
        family("context", "Clusters that commands go to", contexts::commands()),
        family("help", "About berth itself", help::commands()),
    ]
}

/// Runs the command called `name`.
pub(crate) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    let families = families();
    let family =
        families.iter().find(|family| family.commands.iter().any(|command| command.get_name() == name));
    match family.map_or("", |family| family.name) {
        "apps" => apps::run(context, name, matches).await,
        "config" => config::run(context, name, matches).await,
        "secrets" => secrets::run(context, name, matches).await,
        "ps" => ps::run(context, name, matches).await,
        "logs" => logs::run(context, name, matches).await,
        "drains" => drains::run(context, name, matches).await,
        "metrics" => metrics::run(context, name, matches).await,
        "alerts" => alerts::run(context, name, matches).await,
        "events" => events::run(context, matches).await,
        "run" => run::run(context, name, matches).await,
        "cron" => cron::run(context, name, matches).await,
        "releases" => releases::run(context, name, matches).await,
        "deploy" => deploy::run(context, name, matches).await,
        "checks" => checks::run(context, name, matches).await,
        "domains" => domains::run(context, name, matches).await,
        "certs" => certs::run(context, name, matches).await,
        "letsencrypt" => letsencrypt::run(context, name, matches).await,
        "urls" => urls::run(context, name, matches).await,
        "proxy" => proxy::run(context, name, matches).await,
        "http-auth" => proxy::run_auth(context, name, matches).await,
        "redirect" => proxy::run_redirects(context, name, matches).await,
        "maintenance" => maintenance::run(context, name, matches).await,
        "errors" => maintenance::run_errors(context, name, matches).await,
        "ports" => ports::run(context, name, matches).await,
        "git" => git::run(context, name, matches).await,
        "builds" => builds::run(context, name, matches).await,
        "builder" => builder::run(context, name, matches).await,
        "images" => images::run(context, name, matches).await,
        "registry" => registry::run(context, name, matches).await,
        "builder-dockerfile" => builder_dockerfile::run(context, name, matches).await,
        "buildpacks" => buildpacks::run(context, name, matches).await,
        "sbom" => sbom::run(context, matches).await,
        "network" => networks::run(context, name, matches).await,
        "storage" => storage::run(context, name, matches).await,
        "resource" => resource::run(context, name, matches).await,
        "ssh-keys" => keys::run(context, name, matches).await,
        "tokens" => tokens::run(context, name, matches).await,
        "dashboard" => dashboard::run(context, name, matches).await,
        "node" if machines::is_one(name) => machines::run(context, name, matches).await,
        "node" => nodes::run(context, name, matches).await,
        "context" => contexts::run(context, name, matches).await,
        "help" => help::run(context, name, matches),
        _ => Err(not_here(name)),
    }
}

/// A command that its family lists but does not run: a mistake of ours, which a test looks for.
fn not_here(name: &str) -> CliError {
    CliError::Failed(format!(
        "{name} is listed but not carried out: this is a mistake in berth, please report it"
    ))
}
