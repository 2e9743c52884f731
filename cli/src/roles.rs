//! The roles a machine runs, each its own process: `controller`, `agent`, `proxy`, and `up`, which runs all three.
//!
//! In: options. Out: a role that drains and ends on SIGTERM or SIGINT.

use crate::endpoint::DEFAULT_DATA;
use crate::error::{CliError, Result};
use crate::up;
use anyhow::Context;
use berth_model::route::AccessLogFormat;
use berth_model::{HostPattern, NodeName};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Set by `berth up` for the roles it starts: its process id. They end when it does.
pub(crate) const SUPERVISOR: &str = "BERTH_SUPERVISOR";

/// The option by which a proxy takes over from the one that runs.
pub(crate) const TAKE_OVER: &str = "--take-over";

/// Where each part listens unless told otherwise.
pub(crate) const DEFAULT_HTTP: &str = "0.0.0.0:80";
const DEFAULT_SSH: &str = "0.0.0.0:2222";
const DEFAULT_API: &str = "127.0.0.1:8080";
const DEFAULT_CLUSTER: &str = "0.0.0.0:7443";

/// The commands of this file.
pub(crate) fn commands() -> Vec<Command> {
    let role = |name: &'static str, about: &'static str| {
        Command::new(name).about(about).arg(
            Arg::new("log-format")
                .long("log-format")
                .value_name("FORMAT")
                .value_parser(["text", "json"])
                .default_value("text")
                .help("How the log on stderr is written; BERTH_LOG says what is in it [default: text]")
                .hide_default_value(true),
        )
    };
    let roles = vec![
        role("up", "Run everything in the foreground, under --data DIR")
            .args([domain(), address("ssh", DEFAULT_SSH, "Where git and commands over SSH are taken")])
            .args([
                address("api", DEFAULT_API, "Where the API and git over HTTP listen"),
                address(
                    "http",
                    DEFAULT_HTTP,
                    "Where apps are served [default: 0.0.0.0:80, else 0.0.0.0:8000]",
                )
                .default_value(None)
                .hide_default_value(true),
                https("Where apps are served by TLS [default: port 443 beside port 80]"),
                cluster(),
            ])
            .args([subnet(), overlay(), keep_free(), node(), proxy_protocol_from()])
            .args(watching())
            .arg(
                Arg::new("stack-dir")
                    .long("stack-dir")
                    .value_name("DIR")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("Take over every stack (NAME.tar) there that is new or changed"),
            )
            .arg(
                Arg::new("stop-apps")
                    .long("stop-apps")
                    .action(ArgAction::SetTrue)
                    .help("Stop the apps too when Berth is stopped; else they keep running"),
            )
            .after_help(
                "Examples:\n  berth up\n  berth up --data /srv/berth --domain apps.example.com\n  \
                 berth up --http 127.0.0.1:8000 --ssh 127.0.0.1:2222",
            ),
        role("controller", "Run the controller alone: API, git, builds, decisions")
            .args([domain(), address("ssh", DEFAULT_SSH, "Where git and commands over SSH are taken")])
            .args([
                address("api", DEFAULT_API, "Where the API and git over HTTP listen"),
                address("http", DEFAULT_HTTP, "Where the proxy listens, for printing addresses"),
                https("Where the proxy listens for TLS, for printing addresses [default: nowhere]"),
                cluster(),
            ])
            .args(several())
            .after_help(
                "Examples:\n  berth controller\n  berth controller --api 0.0.0.0:8080 --advertise 10.0.0.1 \\\n    \
                 --store etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 --store-ca /etc/berth/etcd-ca.pem \\\n    \
                 --files /mnt/berth",
            ),
        role("store:copy", "Move the platform's state between its own database and etcd, with all controllers stopped")
            .args(store_options("to", "Copy the database under --data DIR into this etcd: etcd://HOST:PORT,..."))
            .arg(
                Arg::new("from")
                    .long("from")
                    .value_name("URL")
                    .value_parser(berth_controller::store::Address::parse)
                    .conflicts_with("to")
                    .help("Copy this etcd's platform into a database under --data DIR"),
            )
            .after_help(
                "Examples:\n  berth store:copy --to etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379\n  \
                 berth store:copy --data /var/lib/berth --from etcd://10.0.0.1:2379",
            ),
        role("agent", "Run the agent alone: containers, images, networks")
            .args([subnet(), overlay(), keep_free(), node()])
            .arg(
                Arg::new("stop-apps")
                    .long("stop-apps")
                    .action(ArgAction::SetTrue)
                    .help("Do not run: stop every container and remove the network, then end"),
            )
            .subcommand(join()),
        role("proxy", "Run the proxy alone: requests to containers")
            .args([address("http", DEFAULT_HTTP, "Where apps are served"), node()])
            .args([https("Where apps are served by TLS [default: nowhere]"), proxy_protocol_from()])
            .args(watching())
            .arg(
                Arg::new("take-over")
                    .long("take-over")
                    .action(ArgAction::SetTrue)
                    .help("Replace the proxy that runs on --data without refusing a connection"),
            )
            .arg(
                Arg::new("threads")
                    .long("threads")
                    .value_name("COUNT")
                    .value_parser(clap::value_parser!(u16).range(1..=1024))
                    .help("How many threads [default: one a CPU]"),
            ),
    ];
    roles.into_iter().chain(crate::backup::commands()).collect()
}

fn cluster() -> Arg {
    address(
        "cluster",
        DEFAULT_CLUSTER,
        "Where other machines reach the controller, from the first node:token on",
    )
}

fn join() -> Command {
    let word = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id).value_name(name).required(true).help(help)
    };
    Command::new("join")
        .about("Make this machine a node: run what `berth node:token` printed, then start Berth")
        .args([
            word("controller", "ADDRESS", "Where a controller is, such as 192.0.2.1:7443"),
            word("token", "TOKEN", "What node:token printed; good for one machine, for 15 minutes"),
            subnet(),
            node(),
        ])
        .arg(
            Arg::new("address")
                .long("address")
                .value_name("IP")
                .value_parser(clap::value_parser!(std::net::IpAddr))
                .help("Where other nodes reach this machine [default: the address it comes from]"),
        )
        .after_help("Examples:\n  berth agent join 192.0.2.1:7443 berthjoin-... && berth up")
}

/// What one of several controllers is told besides.
fn several() -> Vec<Arg> {
    let text = |id: &'static str, value: &'static str, help: &'static str| {
        Arg::new(id).long(id).value_name(value).help(help)
    };
    let store =
        store_options("store", "Keep the state in this etcd, beside other controllers: etcd://HOST:PORT,...")
            .into_iter()
            .map(
                |arg| if arg.get_id() == "store" { arg.requires("advertise").requires("files") } else { arg },
            );
    let mut args: Vec<_> = store.collect();
    args.push(
        text("advertise", "HOST", "Host name or address at which the other controllers reach this one")
            .requires("store"),
    );
    args.push(
        text("files", "DIR", "The directory of repositories and images, which every controller sees")
            .value_parser(clap::value_parser!(PathBuf))
            .requires("store"),
    );
    args
}

/// An etcd, under an option of this name, and how to speak to it.
pub(crate) fn store_options(id: &'static str, help: &'static str) -> Vec<Arg> {
    let file = |id: &'static str, help: &'static str| {
        let parser = clap::value_parser!(PathBuf);
        Arg::new(id).long(id).value_name("FILE").value_parser(parser).help(help)
    };
    vec![
        Arg::new(id)
            .long(id)
            .value_name("URL")
            .value_parser(berth_controller::store::Address::parse)
            .help(help),
        file("store-ca", "The CA of etcd's certificates (PEM); without it etcd is spoken to in the clear"),
        file("store-cert", "The certificate to show to etcd (PEM)").requires("store-key"),
        file("store-key", "Its key (PEM)").requires("store-cert"),
        file("store-user-file", "A file with USER:PASSWORD for etcd"),
        Arg::new("store-lease")
            .long("store-lease")
            .value_name("SECONDS")
            .value_parser(clap::value_parser!(u64).range(2..=600))
            .default_value("5")
            .help("How long a leader that is not heard of still leads"),
    ]
}

/// What [`store_options`] were given, if any.
pub(crate) fn given_store(
    matches: &ArgMatches,
    id: &str,
) -> anyhow::Result<Option<berth_controller::store::EtcdOptions>> {
    let Some(address) = matches.get_one::<berth_controller::store::Address>(id).cloned() else {
        return Ok(None);
    };
    let file = |id: &str| matches.get_one::<PathBuf>(id).cloned();
    Ok(Some(berth_controller::store::EtcdOptions {
        address,
        ca: file("store-ca"),
        certificate: file("store-cert").zip(file("store-key")),
        user_file: file("store-user-file"),
        lease: std::time::Duration::from_secs(given(matches, "store-lease")?),
    }))
}

fn domain() -> Arg {
    Arg::new("domain")
        .long("domain")
        .value_name("DOMAIN")
        .default_value("localhost")
        .value_parser(|text: &str| HostPattern::parse(text).map_err(|error| error.to_string()))
        .help("Apps answer at APP.DOMAIN until domains:set-global says otherwise")
}

fn address(id: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).value_name("ADDRESS").default_value(default).value_parser(parse_address).help(help)
}

fn proxy_protocol_from() -> Arg {
    Arg::new("proxy-protocol-from")
        .long("proxy-protocol-from")
        .value_name("NETWORK,...")
        .value_delimiter(',')
        .value_parser(clap::value_parser!(berth_proxy::Network))
        .help("Load balancers whose connections begin with a PROXY header, such as 10.0.0.0/8")
}

fn https(help: &'static str) -> Arg {
    Arg::new("https").long("https").value_name("ADDRESS").value_parser(parse_address).help(help)
}

/// `0.0.0.0:80`, `[::]:80`, or `:80` for every IPv4 address.
fn parse_address(text: &str) -> std::result::Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|_| format!("{text:?} is no address and port such as 127.0.0.1:8080"))
}

/// How the proxy is watched.
fn watching() -> [Arg; 2] {
    let metrics = Arg::new("metrics").long("metrics").value_name("ADDRESS").value_parser(parse_address).help(
        "Where the proxy answers Prometheus, without a password, such as 127.0.0.1:9145 [default: nowhere]",
    );
    let format = Arg::new("access-log-format")
        .long("access-log-format")
        .value_name("FORMAT")
        .value_parser(AccessLogFormat::NAMES)
        .default_value("json")
        .hide_default_value(true)
        .help("How the access log is written: json, combined, or off [default: json]")
        .hide_possible_values(true);
    [metrics, format]
}

fn subnet() -> Arg {
    Arg::new("subnet")
        .long("subnet")
        .value_name("CIDR")
        .help("Addresses for containers, such as 10.88.0.0/16")
}

fn overlay() -> Arg {
    Arg::new("overlay")
        .long("overlay")
        .value_name("HOW")
        .value_parser(berth_agent::network::Mode::NAMES)
        .hide_possible_values(true)
        .help("How containers' packets go to other nodes: auto, wireguard (never in the clear), vxlan [default: auto]")
}

/// How this node speaks with others.
pub(crate) fn overlay_mode(matches: &ArgMatches) -> anyhow::Result<berth_agent::network::Mode> {
    let said = matches.get_one::<String>("overlay").map(|text| text.parse()).transpose();
    Ok(said.map_err(anyhow::Error::msg)?.unwrap_or_default())
}

fn keep_free() -> Arg {
    Arg::new("keep-free")
        .long("keep-free")
        .value_name("MIB")
        .value_parser(clap::value_parser!(u64))
        .help("Take no new containers with fewer MiB of the data directory's disk free [default: a twentieth of it, 1024 to 4096]")
}

fn node() -> Arg {
    Arg::new("node")
        .long("node")
        .value_name("NAME")
        .value_parser(|text: &str| NodeName::parse(text).map_err(|error| error.to_string()))
        .help("This machine's name [default: its host name when Berth was first started]")
}

/// Runs `name` if it is a role.
pub(crate) fn run(name: &str, matches: &ArgMatches) -> Option<Result<()>> {
    let role: fn(&ArgMatches) -> anyhow::Result<()> = match name {
        "up" => up::run,
        "controller" => controller,
        "store:copy" => store_copy,
        "agent" => agent,
        "proxy" => proxy,
        _ => return None,
    };
    log_to_stderr(matches);
    Some(role(matches).map_err(|error| CliError::Failed(format!("{name}: {error:#}"))))
}

fn log_to_stderr(matches: &ArgMatches) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("BERTH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if matches.get_one::<String>("log-format").is_some_and(|format| format == "json") {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    if let Err(error) = installed {
        crate::output::warning(&format!("there will be no log: {error}"));
    }
}

/// The data directory that was named, or the default.
pub(crate) fn data(matches: &ArgMatches) -> PathBuf {
    matches.get_one::<PathBuf>("data").cloned().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA))
}

/// The value of an option that has a default.
pub(crate) fn given<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> anyhow::Result<T> {
    matches.get_one::<T>(id).cloned().ok_or_else(|| anyhow::anyhow!("--{id} is missing"))
}

/// This machine's name: as said, or as remembered.
pub(crate) fn node_name(matches: &ArgMatches, data: &Path) -> anyhow::Result<NodeName> {
    let joined = berth_agent::cluster::membership(data)?.map(|joined| joined.node);
    match (matches.get_one::<NodeName>("node"), joined) {
        (Some(name), Some(joined)) if *name != joined => {
            anyhow::bail!("this machine joined as {joined}: it cannot be called {name}; leave --node out")
        }
        (_, Some(joined)) => Ok(joined),
        (Some(name), None) => Ok(name.clone()),
        (None, None) => up::data_dir::node_name(data),
    }
}

fn controller(matches: &ArgMatches) -> anyhow::Result<()> {
    let options = controller_options(matches)?;
    let stop = stop_token()?;
    let runtime = runtime()?;
    let ended = runtime.block_on(berth_controller::run(options, stop));
    // One that may not lead any more must not wait for what it is still doing.
    runtime.shutdown_background();
    ended
}

fn store_copy(matches: &ArgMatches) -> anyhow::Result<()> {
    let (to, from) = (given_store(matches, "to")?, given_store(matches, "from")?);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = berth_controller::Options {
        domain: HostPattern::parse("localhost").map_err(|error| anyhow::anyhow!("{error}"))?,
        api: any,
        ssh: any,
        http: any,
        https: None,
        cluster: any,
        berth_exe: std::env::current_exe()?,
        data: up::data_dir::prepare(&data(matches))?,
        several: None,
    };
    let count = match (&to, &from) {
        (Some(to), None) => runtime()?.block_on(berth_controller::copy_in(&options, to))?,
        (None, Some(from)) => runtime()?.block_on(berth_controller::copy_out(&options, from))?,
        _ => anyhow::bail!("write --to URL or --from URL"),
    };
    tracing::info!(values = count, "copied; the old store is as it was");
    Ok(())
}

/// How a controller on this data directory is started.
fn controller_options(matches: &ArgMatches) -> anyhow::Result<berth_controller::Options> {
    let data = up::data_dir::prepare(&data(matches))?;
    if let Some(joined) = berth_agent::cluster::membership(&data)? {
        anyhow::bail!(
            "{} belongs to the node {}, which joined a cluster; give the controller another directory with --data",
            data.display(),
            joined.node
        );
    }
    let several = match given_store(matches, "store")? {
        None => None,
        Some(store) => Some(berth_controller::options::Several {
            store,
            advertise: given(matches, "advertise")?,
            files: given(matches, "files")?,
        }),
    };
    Ok(berth_controller::Options {
        domain: given(matches, "domain")?,
        api: given(matches, "api")?,
        ssh: given(matches, "ssh")?,
        http: given(matches, "http")?,
        https: matches.get_one::<SocketAddr>("https").copied(),
        cluster: given(matches, "cluster")?,
        berth_exe: std::env::current_exe()?,
        data,
        several,
    })
}

fn agent(matches: &ArgMatches) -> anyhow::Result<()> {
    let data = up::data_dir::prepare(&data(matches))?;
    if let Some(("join", join)) = matches.subcommand() {
        return join_cluster(join, &data);
    }
    if matches.get_flag("stop-apps") {
        let stopped = runtime()?.block_on(berth_agent::stop_all(&data))?;
        tracing::info!(containers = stopped, "stopped every container");
        return Ok(());
    }
    let options = berth_agent::Options {
        node: node_name(matches, &data)?,
        subnet: subnet_of(matches, &data)?,
        overlay: overlay_mode(matches)?,
        keep_free_mib: matches.get_one("keep-free").copied(),
        data,
    };
    let stop = stop_token()?;
    runtime()?.block_on(berth_agent::run(options, stop))
}

/// The containers' subnet: as said, or as the cluster gave it.
fn subnet_of(matches: &ArgMatches, data: &Path) -> anyhow::Result<Option<String>> {
    let joined = berth_agent::cluster::membership(data)?.map(|joined| joined.subnet);
    match (matches.get_one::<String>("subnet").cloned(), joined) {
        (Some(said), Some(joined)) if said != joined => anyhow::bail!(
            "this machine's containers have {joined} in the cluster: they cannot have {said}; leave --subnet out"
        ),
        (said, joined) => Ok(joined.or(said)),
    }
}

fn join_cluster(matches: &ArgMatches, data: &Path) -> anyhow::Result<()> {
    let token = berth_model::cluster::JoinToken::parse(&given::<String>(matches, "token")?);
    let join = berth_agent::cluster::Join {
        controller: given(matches, "controller")?,
        token: token.map_err(anyhow::Error::msg)?,
        node: node_name(matches, data)?,
        subnet: matches.get_one::<String>("subnet").cloned(),
        address: matches.get_one::<std::net::IpAddr>("address").copied(),
        data: data.to_owned(),
    };
    let joined = runtime()?.block_on(berth_agent::cluster::join(join))?;
    let up = match data.to_str() {
        Some(DEFAULT_DATA) => "berth up".to_owned(),
        _ => format!("berth up --data {}", data.display()),
    };
    let text = format!(
        "=====> This machine is the node {} now\n       Containers:   {}\n       Controllers:  {}\n\
         -----> What to do next\n       Start it:     {up}\n       See it:       berth node:list, on the controller\n",
        joined.node,
        joined.subnet,
        joined.controllers.join(", ")
    );
    crate::output::Output::new(false, false).raw(text.as_bytes()).map_err(|error| anyhow::anyhow!("{error}"))
}

fn proxy(matches: &ArgMatches) -> anyhow::Result<()> {
    let data = up::data_dir::prepare(&data(matches))?;
    let options = berth_proxy::Options {
        node: node_name(matches, &data)?,
        http: given(matches, "http")?,
        https: matches.get_one::<SocketAddr>("https").copied(),
        take_over: matches.get_flag("take-over"),
        threads: matches.get_one::<u16>("threads").map(|count| usize::from(*count)),
        metrics: matches.get_one::<SocketAddr>("metrics").copied(),
        access_log: AccessLogFormat::parse(&given::<String>(matches, "access-log-format")?)
            .unwrap_or_default(),
        data,
    };
    let stop = stop_token()?;
    if std::env::var_os(SUPERVISOR).is_none() {
        succeed_on_hangup()?; // else `berth up` starts the successor
    }
    let proxy_protocol_from =
        matches.get_many::<berth_proxy::Network>("proxy-protocol-from").into_iter().flatten().copied();
    let settings = berth_proxy::Settings {
        proxy_protocol_from: proxy_protocol_from.collect(),
        ..berth_proxy::Settings::default()
    };
    berth_proxy::Proxy::open(options, settings)?.serve(&stop)
}

/// On SIGHUP starts this program's file again, a newer one perhaps, as a proxy that takes over from this one.
fn succeed_on_hangup() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut arguments: Vec<_> = std::env::args_os().skip(1).filter(|one| one != TAKE_OVER).collect();
    arguments.push(TAKE_OVER.into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut hangup = {
        let _inside = runtime.enter();
        signal(SignalKind::hangup())?
    };
    let wait = move || {
        while runtime.block_on(hangup.recv()).is_some() {
            tracing::info!("starting a successor");
            let mut successor = std::process::Command::new(&program);
            // It inherits nothing: the sockets come from this process when it asks.
            let variables =
                ["BERTH_LISTEN_FDS", "BERTH_LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];
            variables.iter().for_each(|name| {
                successor.env_remove(name);
            });
            match successor.args(&arguments).spawn().and_then(|mut child| child.wait()) {
                Ok(status) => tracing::error!(%status, "the successor ended; serving on"),
                Err(error) => {
                    tracing::error!(%error, program = %program.display(), "cannot start a successor");
                }
            }
        }
    };
    std::thread::Builder::new().name("successor".to_owned()).spawn(wait)?;
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread().worker_threads(cpus.clamp(2, 8)).enable_all().build()
}

/// A token that SIGTERM, SIGINT, or the end of the supervisor cancels. A second signal ends the process at once.
fn stop_token() -> anyhow::Result<CancellationToken> {
    if let Some(supervisor) = std::env::var(SUPERVISOR).ok().and_then(|pid| pid.parse::<i32>().ok()) {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
        // It may have died before we asked to be told.
        anyhow::ensure!(
            nix::unistd::getppid().as_raw() == supervisor,
            "`berth up`, which started this, is gone"
        );
    }
    let token = CancellationToken::new();
    let stop = token.clone();
    // A thread of its own, so that a busy or single-threaded role hears it too.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let wait = move || {
        runtime.block_on(async {
            for time in 0..2 {
                tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
                if time == 0 {
                    tracing::info!("stopping");
                    stop.cancel();
                }
            }
            std::process::exit(1);
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(token)
}
