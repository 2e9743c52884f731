//! `certs:*`: certificates that users bring or have made, and which domains have one.
//!
//! In: PEM files, or a tar of them on standard input. Out: it is kept encrypted and served; a report in Dokku's words.

use super::not_here;
use crate::args::{command, explained, report, switch};
use crate::context::{Context, arguments, exactly_one, none_left};
use crate::error::{CliError, Result};
use crate::output::warning;
use crate::report::Report;
use berth_model::certs::{
    CertificateInfo, CertificatePem, CertificateReport, CertificateSource, GenerateCertificate,
    KeptCertificate, PatchAcme, PutCertificate,
};
use berth_model::tls::KeyPem;
use berth_model::{AppName, HostPattern};
use clap::{ArgMatches, Command};
use http::Method;
use std::io::{IsTerminal, Read};

/// Longest input, and most files in an archive.
const MAX_INPUT: u64 = 1 << 20;
const MAX_ENTRIES: usize = 100;

pub(super) fn commands() -> Vec<Command> {
    let global = || switch("global", "For every app whose domains it is for");
    let add = |name, about| {
        explained(
            command(
                name,
                about,
                "[<app>|--global] CRT KEY",
                &[
                    "certs:add hello server.crt server.key",
                    "certs:add --global wildcard.crt wildcard.key",
                    "certs:add hello < cert-key.tar",
                ],
            )
            .arg(global()),
            "Without files, standard input is read: a tar with server.crt and server.key, or both as PEM.",
        )
    };
    vec![
        report(
            "certs:report",
            "Show the certificate of an app",
            "[<app>|--global] [--KEY]",
            &["certs hello", "certs:report hello --ssl-expires-at"],
        )
        .visible_aliases(["certs", "certs:info"])
        .arg(switch("global", "Those of the platform")),
        add("certs:add", "Serve an app with a certificate of your own"),
        add("certs:update", "Replace it"),
        command(
            "certs:remove",
            "Take it away",
            "[<app>] | --global ID",
            &["certs:remove hello", "certs:remove --global 1f2e3d4c5b6a7980"],
        )
        .arg(global()),
        command(
            "certs:show",
            "Print the certificate or its key",
            "[<app>] crt|key",
            &["certs:show hello crt | openssl x509 -noout -text"],
        ),
        command(
            "certs:generate",
            "Make a certificate that signs itself, to try things out",
            "[<app>] [DOMAIN ...]",
            &["certs:generate hello hello.example.com"],
        ),
        explained(
            command(
                "certs:on-demand",
                "Get certificates for names nobody listed, if a URL allows each",
                "[<app>|--global] ask-url URL",
                &["certs:on-demand shops ask-url https://shops.example.com/may-have-tls"],
            )
            .arg(switch("global", "For every app that has no ask URL of its own")),
            "URL?domain=NAME is asked and must answer 200; anything else is no. Without a URL it is switched off.",
        ),
    ]
}

pub(super) async fn run(context: &Context, name: &str, matches: &ArgMatches) -> Result<()> {
    match name {
        "certs:report" => show_report(context, matches).await,
        "certs:add" | "certs:update" => add(context, matches).await,
        "certs:remove" => remove(context, matches).await,
        "certs:show" => show(context, matches).await,
        "certs:generate" => generate(context, matches).await,
        "certs:on-demand" => on_demand(context, matches).await,
        _ => Err(not_here(name)),
    }
}

/// The app, or nothing with `--global`, and the words after it.
pub(super) async fn scope(
    context: &Context,
    matches: &ArgMatches,
    takes_more: bool,
) -> Result<(Option<AppName>, Vec<String>)> {
    if matches.get_flag("global") {
        return Ok((None, arguments(matches)));
    }
    let (app, rest) = context.app(matches, takes_more).await?;
    Ok((Some(app), rest))
}

async fn add(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, words) = scope(context, matches, true).await?;
    let certificate = match &words[..] {
        [] => from_stdin()?,
        [crt, key] => PutCertificate {
            chain_pem: super::config::read_input(context, crt)?,
            key_pem: KeyPem(super::config::read_input(context, key)?),
        },
        [_] => return Err(CliError::Misuse("the key's file is missing: certs:add <app> CRT KEY".into())),
        [_, _, more, ..] => return Err(CliError::Misuse(format!("{more:?} is one argument too many"))),
    };
    let path = match &app {
        Some(app) => format!("/v1/apps/{app}/certificate"),
        None => "/v1/certificates".to_owned(),
    };
    let kept: KeptCertificate = context.json(Method::POST, &path, &certificate).await?;
    say_kept(context, app.as_ref(), &kept)
}

fn say_kept(context: &Context, app: Option<&AppName>, kept: &KeptCertificate) -> Result<()> {
    if context.out.json {
        return context.out.json(kept);
    }
    let names = joined(&kept.certificate.hostnames);
    let whose = app.map_or("the platform".to_owned(), ToString::to_string);
    context.out.step(&format!("Serving {whose} with the certificate for {names}"))?;
    context.out.detail(&format!("valid until {}", date(kept.certificate.expires_ms)))?;
    kept.warnings.iter().for_each(|text| warning(text));
    Ok(())
}

fn from_stdin() -> Result<PutCertificate> {
    if std::io::stdin().is_terminal() {
        return Err(CliError::Misuse(
            "name the files, certs:add <app> CRT KEY, or send a tar with server.crt and server.key on standard input"
                .into(),
        ));
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::Failed(format!("cannot read standard input: {error}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(CliError::Failed("standard input is longer than 1 MiB: that is no certificate".into()));
    }
    unpack(&bytes)
}

/// A tar with one `.crt` and one `.key` (`server.*` before others), or both as PEM in one text.
fn unpack(bytes: &[u8]) -> Result<PutCertificate> {
    let odd = |why: &str| {
        CliError::Failed(format!(
            "{why}; send a tar with server.crt and server.key (tar cf - server.crt server.key), or both as PEM"
        ))
    };
    if bytes.is_empty() {
        return Err(odd("standard input is empty"));
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains('\0')
    {
        return Ok(PutCertificate { chain_pem: text.to_owned(), key_pem: KeyPem(text.to_owned()) });
    }
    /// A file's text, and whether it has the name that goes before others.
    type Found = Option<(bool, String)>;
    let (mut crt, mut key): (Found, Found) = (None, None);
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().map_err(|error| odd(&format!("this is no tar ({error})")))?;
    for entry in entries.take(MAX_ENTRIES) {
        let mut entry = entry.map_err(|error| odd(&format!("this is no tar ({error})")))?;
        let path = entry.path().map_err(|error| odd(&error.to_string()))?.into_owned();
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default().to_owned();
        let slot = match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("crt" | "pem") => &mut crt,
            Some("key") => &mut key,
            _ => continue,
        };
        // What macOS puts beside every file is none.
        if !entry.header().entry_type().is_file() || name.starts_with("._") {
            continue;
        }
        let best = name.starts_with("server.");
        if slot.as_ref().is_some_and(|(was_best, _)| *was_best || !best) {
            continue;
        }
        let mut text = String::new();
        entry.read_to_string(&mut text).map_err(|error| odd(&format!("{name} cannot be read ({error})")))?;
        *slot = Some((best, text));
    }
    match (crt, key) {
        (Some((_, chain_pem)), Some((_, key))) => Ok(PutCertificate { chain_pem, key_pem: KeyPem(key) }),
        (None, _) => Err(odd("there is no .crt in the archive")),
        (_, None) => Err(odd("there is no .key in the archive")),
    }
}

async fn remove(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = scope(context, matches, false).await?;
    let (path, whose) = match app {
        Some(app) => {
            none_left(&rest)?;
            (format!("/v1/apps/{app}/certificate"), app.to_string())
        }
        None => {
            let id = exactly_one(rest, "the certificate's id (see certs:report --global)")?;
            if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(CliError::Misuse(format!(
                    "{id:?} is no certificate's id; see certs:report --global"
                )));
            }
            (format!("/v1/certificates/{id}"), "the platform".to_owned())
        }
    };
    context.act(Method::DELETE, &path, None::<&()>).await?;
    context.out.step(&format!("Removed the certificate of {whose}"))
}

async fn show(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let what = exactly_one(rest, "crt or key")?;
    let pem: CertificatePem = context.get(&format!("/v1/apps/{app}/certificate/pem")).await?;
    let text = match what.as_str() {
        "crt" => &pem.chain_pem,
        "key" => &pem.key_pem.0,
        other => return Err(CliError::Misuse(format!("{other:?} is neither crt nor key"))),
    };
    if context.out.json { context.out.json(text) } else { context.out.raw(text.as_bytes()) }
}

async fn generate(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, rest) = context.app(matches, true).await?;
    let domains = rest.iter().map(|word| Ok(HostPattern::parse(&word.to_ascii_lowercase())?));
    let body = GenerateCertificate { domains: domains.collect::<Result<_>>()? };
    let path = format!("/v1/apps/{app}/certificate/generate");
    let kept: KeptCertificate = context.json(Method::POST, &path, &body).await?;
    say_kept(context, Some(&app), &kept)
}

async fn on_demand(context: &Context, matches: &ArgMatches) -> Result<()> {
    let (app, words) = scope(context, matches, true).await?;
    let url = match &words[..] {
        [key] if key == "ask-url" => "",
        [key, url] if key == "ask-url" => url,
        _ => {
            return Err(CliError::Misuse(
                "write: certs:on-demand [<app>|--global] ask-url URL (without URL: switch it off)".into(),
            ));
        }
    };
    let patch = PatchAcme { ask_url: Some(url.to_owned()), ..PatchAcme::default() };
    super::letsencrypt::patch(context, app.as_ref(), &patch).await?;
    context.out.step(&match url {
        "" => "No certificates on demand any more".to_owned(),
        url => format!("Certificates on demand for names that {url} allows"),
    })
}

async fn show_report(context: &Context, matches: &ArgMatches) -> Result<()> {
    let field = matches.get_one::<String>("field").map(String::as_str);
    if matches.get_flag("global") {
        none_left(&arguments(matches))?;
        let all: Vec<CertificateInfo> = context.get("/v1/certificates").await?;
        if context.out.json && field.is_none() {
            return context.out.json(&all);
        }
        if all.is_empty() && field.is_none() {
            return context
                .out
                .line("the platform has no certificate of its own: certs:add --global CRT KEY");
        }
        return all.iter().try_for_each(|one| {
            certificate_rows(Report::new("Global", "ssl").row("Ssl id", one.id.as_str()), Some(one))
                .show(context.out, field)
        });
    }
    let apps = context.app_names(matches).await?;
    let out = context.out.of(apps.len());
    for app in apps {
        let report: CertificateReport = context.get(&format!("/v1/apps/{app}/certificate")).await?;
        if out.json && field.is_none() {
            out.json(&report)?;
            continue;
        }
        app_rows(&report).show(out, field)?;
    }
    Ok(())
}

fn app_rows(report: &CertificateReport) -> Report {
    // Dokku's first line is a directory: here the certificate is in Berth's store, encrypted.
    let rows = Report::new(report.app.as_str(), "ssl").row("Ssl dir", "");
    let enabled = (!report.covered.is_empty()).to_string();
    let rows = certificate_rows(rows.row("Ssl enabled", enabled), report.certificates.first());
    let problems: Vec<&str> =
        report.acme.orders.iter().filter_map(|order| order.error.as_deref()?.lines().next()).collect();
    rows.row("Ssl covered domains", joined(&report.covered))
        .row("Ssl uncovered domains", joined(&report.uncovered))
        .row("Ssl letsencrypt enabled", report.acme.enabled.to_string())
        .row("Ssl problem", problems.join("; "))
}

fn certificate_rows(rows: Report, certificate: Option<&CertificateInfo>) -> Report {
    let text = |pick: &dyn Fn(&CertificateInfo) -> String| certificate.map(pick).unwrap_or_default();
    rows.row("Ssl hostnames", text(&|one| joined(&one.hostnames)))
        .row("Ssl expires at", text(&|one| date(one.expires_ms)))
        .row("Ssl issuer", text(&|one| one.issuer.clone()))
        .row("Ssl starts at", text(&|one| date(one.starts_ms)))
        .row("Ssl subject", text(&|one| one.subject.clone()))
        .row("Ssl verified", text(&|one| one.verified.clone()))
        .row("Ssl source", text(&|one| source(one.source).to_owned()))
}

fn source(source: CertificateSource) -> &'static str {
    match source {
        CertificateSource::Own => "certs:add",
        CertificateSource::Generated => "certs:generate",
        CertificateSource::Acme => "letsencrypt",
        CertificateSource::OnDemand => "on demand",
    }
}

/// As openssl and so Dokku write it: `Oct  5 23:59:59 2026 GMT`.
fn date(milliseconds: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(milliseconds);
    time.map_or_else(|_| "unknown".to_owned(), |time| time.strftime("%b %e %H:%M:%S %Y GMT").to_string())
}

fn joined(names: &[HostPattern]) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, name, text.as_bytes()).expect("in memory");
        }
        builder.into_inner().expect("in memory")
    }

    #[test]
    fn dokkus_archives_are_understood() {
        let tar = archive(&[
            ("x/._server.crt", "mac"),
            ("x/other.crt", "O"),
            ("x/server.crt", "C"),
            ("x/server.key", "K"),
        ]);
        let found = unpack(&tar).expect("good");
        assert_eq!((found.chain_pem.as_str(), found.key_pem.0.as_str()), ("C", "K"));
        let both = unpack(b"-----BEGIN CERTIFICATE-----").expect("PEM");
        assert_eq!(both.chain_pem, both.key_pem.0);
        for bad in [Vec::new(), archive(&[("server.crt", "C")]), archive(&[("a.key", "K")]), vec![0; 2048]] {
            let error = unpack(&bad).expect_err("bad").to_string();
            assert!(error.contains("server.key"), "{error}");
        }
    }

    #[test]
    fn dates_are_openssls() {
        assert_eq!(date(1_570_319_999_000), "Oct  5 23:59:59 2019 GMT");
    }
}
