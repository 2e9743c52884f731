//! Settings of other servers for static sites: `Staticfile` (Cloud Foundry, Railpack) and `static.json` (Heroku).
//!
//! In: their text. Out: root, rules and remarks; what cannot be done is refused where leaving it out would show what was
//! meant to be hidden or send requests elsewhere, and remarked where not.

use super::Site;
use crate::PlanError;
use crate::error::invalid;
use crate::tree::SourceTree;
use berth_model::site::{HeaderRule, PathPattern, Redirect, SiteRules, check_field};
use serde_json::{Map, Value};

/// `name: value` lines.
pub(super) fn staticfile(tree: &dyn SourceTree, text: &str, exists: bool) -> Result<Site, PlanError> {
    const FILE: &str = "Staticfile";
    if tree.has("Staticfile.auth") {
        return invalid(
            "Staticfile.auth",
            "passwords in front of a static site are not known here, and the site would be open to everybody. Remove the file \
             if that is right, or serve the site from an app of your own",
        );
    }
    let mut site = Site::new(String::new(), "Staticfile exists");
    let (mut root, mut hsts, mut subdomains, mut preload) = (None, false, false, false);
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim().trim_matches(['"', '\'']);
        let on = matches!(value, "true" | "enabled" | "yes" | "on" | "visible");
        match name.trim() {
            "root" => root = Some(super::checked_root(tree, FILE, value, exists)?),
            "index_fallback" | "pushstate" | "spa" => site.spa_fallback = on,
            "http_strict_transport_security" => hsts = on,
            "http_strict_transport_security_include_subdomains" => subdomains = on,
            "http_strict_transport_security_preload" => preload = on,
            // Below `status_codes:`.
            code @ ("404" | "status_codes") if !value.is_empty() && code == "404" => {
                site.rules.error_page = Some(page(FILE, value)?);
            }
            "force_https" if on => site.notes.push(super::NO_HTTPS.to_owned()),
            name @ ("directory" | "ssi" | "host_dot_files") if on => {
                site.notes.push(format!("Staticfile: {name} is not known here, and left out"));
            }
            name @ "location_include" => {
                site.notes.push(format!(
                    "Staticfile: {name} (settings of nginx) is not read; write headers into a file _headers"
                ));
            }
            _ => {}
        }
    }
    if hsts {
        let subdomains = if subdomains { "; includeSubDomains" } else { "" };
        let preload = if preload { "; preload" } else { "" };
        let value = format!("max-age=31536000{subdomains}{preload}");
        let fields = vec![("Strict-Transport-Security".to_owned(), Some(value))];
        site.rules.headers.push(HeaderRule { path: pattern(FILE, "/**")?, fields });
    }
    let ready = if exists { super::ready_dir(tree) } else { None };
    site.root = root.unwrap_or_else(|| ready.unwrap_or_default().to_owned());
    Ok(site)
}

/// `static.json` as Heroku's static buildpack reads it.
pub(super) fn static_json(tree: &dyn SourceTree, text: &str, exists: bool) -> Result<Site, PlanError> {
    const FILE: &str = "static.json";
    let json: Map<String, Value> = match serde_json::from_str(text) {
        Ok(json) => json,
        Err(error) => return invalid(FILE, format!("it is not a JSON object ({error})")),
    };
    let mut site = Site::new(String::new(), "static.json exists");
    let mut root = "public_html";
    for (name, value) in &json {
        match (name.as_str(), value) {
            ("root", Value::String(text)) => root = text,
            ("error_page", Value::String(text)) => site.rules.error_page = Some(page(FILE, text)?),
            ("routes", Value::Object(routes)) => {
                for (path, to) in routes {
                    let Some(to) = to.as_str() else {
                        return invalid(
                            FILE,
                            format!("routes: {path:?} must name a file, such as \"index.html\""),
                        );
                    };
                    let to = format!("/{}", to.trim_start_matches('/'));
                    site.rules.redirects.push(redirect(path, &to, 200, false)?);
                }
            }
            ("redirects", Value::Object(redirects)) => {
                for (path, to) in redirects {
                    let url = to.get("url").and_then(Value::as_str);
                    let status = to.get("status").and_then(Value::as_u64).unwrap_or(301);
                    let (Some(url), Ok(status)) = (url, u16::try_from(status)) else {
                        return invalid(
                            FILE,
                            format!("redirects: {path:?} must be {{\"url\": …, \"status\": 301}}"),
                        );
                    };
                    if url.contains("${") {
                        return invalid(
                            FILE,
                            format!("redirects: {path:?} names a variable, which is not filled in here"),
                        );
                    }
                    site.rules.redirects.push(redirect(path, url, status, true)?);
                }
            }
            ("headers", Value::Object(headers)) => {
                for (path, fields) in headers {
                    site.rules
                        .headers
                        .push(HeaderRule { path: pattern(FILE, path)?, fields: self::fields(path, fields)? });
                }
            }
            ("proxies", Value::Object(proxies)) if !proxies.is_empty() => {
                return invalid(
                    FILE,
                    "proxies are not known here: requests would be sent to another server. Run an app for them, or call that server from the page",
                );
            }
            ("basic_auth", value) if *value != Value::Bool(false) => {
                return invalid(
                    FILE,
                    "basic_auth is not known here, and the site would be open to everybody. Remove it if that is right",
                );
            }
            ("https_only", Value::Bool(true)) => site.notes.push(super::NO_HTTPS.to_owned()),
            // Pages are found without .html whatever this says.
            (
                "clean_urls" | "https_only" | "basic_auth" | "proxies" | "encoding" | "logging" | "debug",
                _,
            ) => {}
            (name, _) => site.notes.push(format!("static.json: {name} is not known here, and left out")),
        }
    }
    // A JSON object has no order: the nearer pattern counts, so it is the first of routes and the last of headers.
    site.rules.redirects.sort_by_key(|rule| std::cmp::Reverse(nearness(&rule.from)));
    site.rules.headers.sort_by_key(|rule| nearness(&rule.path));
    site.root = super::checked_root(tree, FILE, root, exists)?;
    Ok(site)
}

/// How much of a path a pattern says before its first wildcard.
fn nearness(pattern: &PathPattern) -> usize {
    let text = pattern.to_string();
    text.find(['*', ':']).unwrap_or(usize::MAX)
}

fn redirect(path: &str, to: &str, status: u16, force: bool) -> Result<Redirect, PlanError> {
    let from = pattern("static.json", path)?.to_string();
    Redirect::new(&from, to, status, force).or_else(|reason| invalid("static.json", reason))
}

fn fields(path: &str, fields: &Value) -> Result<Vec<(String, Option<String>)>, PlanError> {
    let wrong = |reason: String| invalid("static.json", format!("headers: {path:?}: {reason}"));
    let Some(fields) = fields.as_object() else {
        return wrong("it must be {\"Name\": \"value\"}".to_owned());
    };
    let mut found = Vec::new();
    for (name, value) in fields {
        let Some(value) = value.as_str() else { return wrong(format!("{name} must be text")) };
        if let Err(reason) = check_field(name, value) {
            return wrong(reason);
        }
        found.push((name.clone(), Some(value.to_owned())));
    }
    Ok(found)
}

/// `**` is anything, `*` one part of a path, or part of its name.
fn pattern(file: &str, path: &str) -> Result<PathPattern, PlanError> {
    let path = path.replace("**", "*\u{0}");
    let mut names = 0..;
    let parts = path.split('/').map(|part| match part {
        "*" => format!(":part{}", names.next().unwrap_or(0)),
        part => part.replace("*\u{0}", "*"),
    });
    let text = parts.collect::<Vec<_>>().join("/");
    PathPattern::parse(&text).or_else(|reason| invalid(file, reason))
}

/// A file of the site.
fn page(file: &str, path: &str) -> Result<String, PlanError> {
    let path = path.trim_start_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    if path.len() > 500 || parts.iter().any(|part| part.is_empty() || part.starts_with('.')) {
        return invalid(file, format!("{path:?} is no file of the site; write one such as 404.html"));
    }
    Ok(path.to_owned())
}

/// `_headers` and `_redirects` in the directory `root` of the tree are looked at now: what is wrong with them is said
/// before anything is built. They are read again from the finished site.
pub(super) fn check_files(tree: &dyn SourceTree, root: &str) -> Result<Vec<String>, PlanError> {
    let path = |name: &str| if root.is_empty() { name.to_owned() } else { format!("{root}/{name}") };
    let (mut notes, mut rules) = (Vec::new(), SiteRules::default());
    let wrong = |file: String, error: berth_model::site::SiteError| PlanError::Invalid {
        file,
        reason: error.to_string(),
    };
    if let Some(text) = tree.text(&path("_headers"))? {
        rules.headers =
            berth_model::site::parse_headers(&text).map_err(|error| wrong(path("_headers"), error))?;
        notes.push(format!("headers for {} paths come from {}", rules.headers.len(), path("_headers")));
    }
    if let Some(text) = tree.text(&path("_redirects"))? {
        rules.redirects =
            berth_model::site::parse_redirects(&text).map_err(|error| wrong(path("_redirects"), error))?;
        notes.push(format!("{} redirects come from {}", rules.redirects.len(), path("_redirects")));
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::MemoryTree;

    fn tree(files: &[(&str, &str)]) -> MemoryTree {
        files.iter().fold(MemoryTree::new(), |tree, (path, text)| tree.with(path, text))
    }

    #[test]
    fn herokus_own_example_is_read() {
        let text = r#"{"root": "dist/", "clean_urls": true, "https_only": true, "error_page": "errors/404.html",
            "routes": {"/assets/*": "assets/index.html", "/**": "index.html"},
            "redirects": {"/old/gone/": {"url": "/", "status": 302}, "/ext": {"url": "https://example.com/x"}},
            "headers": {"/": {"Cache-Control": "no-store"}, "/assets/**": {"Cache-Control": "public, max-age=512000"},
                        "/*.json": {"Access-Control-Allow-Origin": "*"}}}"#;
        let tree = tree(&[("dist/index.html", ""), ("static.json", text)]);
        let site = static_json(&tree, text, true).expect("well-formed");
        assert_eq!((site.root.as_str(), site.rules.error_page.as_deref()), ("dist", Some("errors/404.html")));
        let lead = |path: &str| {
            let mut found =
                site.rules.redirects.iter().filter_map(|rule| Some((rule.status, rule.target(path)?)));
            found.next()
        };
        assert_eq!(lead("/assets/x"), Some((200, "/assets/index.html".to_owned())));
        assert_eq!(lead("/assets/x/y"), Some((200, "/index.html".to_owned())));
        let rules = site.rules.redirects.iter().filter(|rule| rule.force);
        assert_eq!(rules.map(|rule| rule.status).collect::<Vec<_>>(), [301, 302]);
        assert_eq!(site.rules.fields("/assets/a/b.js")["cache-control"].1, Some("public, max-age=512000"));
        assert_eq!(site.rules.fields("/data.json")["access-control-allow-origin"].1, Some("*"));
        assert!(site.rules.fields("/other").is_empty());
        assert!(site.notes.iter().any(|note| note.contains("HTTPS")), "{:?}", site.notes);
    }

    #[test]
    fn what_would_show_or_send_what_it_should_not_is_refused() {
        for (text, part) in [
            (r#"{"basic_auth": true}"#, "open to everybody"),
            (r#"{"proxies": {"/api/": {"origin": "https://x"}}}"#, "another server"),
            (r#"{"headers": {"/": {"X": "a\r\nb"}}}"#, "control"),
            (r#"{"headers": {"/": {"Content-Length": "1"}}}"#, "the server's own"),
            (r#"{"redirects": {"/a": {"url": "${HOST}"}}}"#, "variable"),
            (r#"{"redirects": {"/a": "b"}}"#, "\"url\""),
            (r#"{"error_page": "../../etc/passwd"}"#, "no file of the site"),
            (r#"{"root": "../x"}"#, "does not begin with a dot"),
            ("[]", "JSON object"),
        ] {
            let tree = tree(&[("public_html/index.html", ""), ("static.json", text)]);
            let Err(error) = static_json(&tree, text, true) else { panic!("{text} was taken") };
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
        let tree = tree(&[("index.html", ""), ("Staticfile", "root: .\n"), ("Staticfile.auth", "x")]);
        assert!(staticfile(&tree, "root: .\n", true).is_err());
    }

    #[test]
    fn a_staticfile_with_transport_security() {
        let text = "root: site\npushstate: enabled\nhttp_strict_transport_security: true\nstatus_codes:\n  404: /oops.html\ndirectory: visible\n";
        let tree = tree(&[("site/index.html", ""), ("Staticfile", text)]);
        let site = staticfile(&tree, text, true).expect("well-formed");
        assert_eq!((site.root.as_str(), site.spa_fallback), ("site", true));
        assert_eq!(site.rules.error_page.as_deref(), Some("oops.html"));
        assert_eq!(site.rules.fields("/any/path")["strict-transport-security"].1, Some("max-age=31536000"));
        assert!(site.notes[0].contains("directory"));
    }
}
