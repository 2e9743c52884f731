//! Dokku's old `CHECKS` file: paths that must answer before a container gets traffic.
//!
//! In: the text of `CHECKS`. Out: startup checks, or what is wrong and in which line. `app.json` healthchecks replace it
//! and win over it.

use crate::check::{Check, CheckKind, Probe};
use crate::procfile::{ParseError, excerpt};

/// Parses `path [expected text]`, `//host/path [expected text]` and `WAIT=5 TIMEOUT=30 ATTEMPTS=5` lines, `#` comments.
/// Settings apply to all checks of the file, wherever they stand. No path gives no check.
pub fn parse(text: &str) -> Result<Vec<Check>, ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Dokku's defaults.
    let (mut wait, mut timeout, mut attempts) = (5, 30, 5);
    let mut probes = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let refuse = |reason: String| Err(ParseError { file: "CHECKS", line: index + 1, reason });
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(|c: char| c.is_ascii_uppercase()) && line.contains('=') {
            for setting in line.split_whitespace() {
                let Some((name, value)) = setting.split_once('=') else {
                    return refuse(format!("{} is not of the form NAME=number", excerpt(setting)));
                };
                let Some(value) =
                    value.trim_matches(['"', '\'']).parse::<u32>().ok().filter(|n| *n <= 86_400)
                else {
                    return refuse(format!("{name} is {}; use a number from 0 to 86400", excerpt(value)));
                };
                match name {
                    "WAIT" => wait = value,
                    "TIMEOUT" if value > 0 => timeout = value,
                    "ATTEMPTS" if value > 0 => attempts = value,
                    "TIMEOUT" | "ATTEMPTS" => return refuse(format!("{name} must be at least 1")),
                    _ => {
                        return refuse(format!(
                            "{} is unknown; use WAIT, TIMEOUT or ATTEMPTS",
                            excerpt(name)
                        ));
                    }
                }
            }
            continue;
        }
        let (target, content) = match line.split_once(char::is_whitespace) {
            Some((target, content)) => {
                (target, Some(content.trim().to_owned()).filter(|text| !text.is_empty()))
            }
            None => (line, None),
        };
        // A scheme may stand before `//host`; containers are asked by plain HTTP in any case.
        let target = target.strip_prefix("http:").or_else(|| target.strip_prefix("https:")).unwrap_or(target);
        let (host, path) = match target.strip_prefix("//") {
            Some(rest) => match rest.find('/') {
                Some(at) => (Some(&rest[..at]), &rest[at..]),
                None => (Some(rest), "/"),
            },
            None => (None, target),
        };
        if !path.starts_with('/') || host == Some("") {
            return refuse(format!(
                "{} is neither a path such as /health, nor //host/path, nor a setting such as WAIT=5",
                excerpt(line)
            ));
        }
        let is_printable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if !is_printable(path) || host.is_some_and(|host| !is_printable(host)) {
            return refuse(format!(
                "{} has characters that a URL must not have; percent-encode them",
                excerpt(target)
            ));
        }
        let headers = host.map(|host| ("Host".to_owned(), host.to_owned())).into_iter().collect();
        probes.push((line, Probe::Http { path: path.to_owned(), port: None, content, headers }));
    }
    Ok(probes
        .into_iter()
        .map(|(line, probe)| Check {
            name: line.split_whitespace().next().unwrap_or(line).to_owned(),
            kind: CheckKind::Startup,
            probe,
            attempts,
            timeout_secs: timeout,
            wait_secs: wait,
            initial_delay_secs: wait,
            warn_only: false,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(text: &str) -> String {
        parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn dokkus_own_example_is_read() {
        let checks =
            parse("WAIT=2   # no: this is a setting line\n").expect_err("a comment after a setting is none");
        assert_eq!(checks.line, 1);
        let text = "WAIT=10\r\nATTEMPTS=6\nTIMEOUT=60\n# home\n/ My Amazing App\n/stylesheets/index.css .body\n//admin.example.com/login log in\n";
        let checks = parse(text).expect("valid");
        insta::assert_json_snapshot!(checks[2], @r#"
        {
          "name": "//admin.example.com/login",
          "kind": "startup",
          "probe": {
            "type": "http",
            "path": "/login",
            "port": null,
            "content": "log in",
            "headers": [
              [
                "Host",
                "admin.example.com"
              ]
            ]
          },
          "attempts": 6,
          "timeout_secs": 60,
          "wait_secs": 10,
          "initial_delay_secs": 10,
          "warn_only": false
        }
        "#);
        assert_eq!(checks.len(), 3);
        assert!(parse("# nothing\n").expect("valid").is_empty());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        insta::assert_snapshot!(refusal("\nWAIT=soon"), @r#"CHECKS, line 2: WAIT is "soon"; use a number from 0 to 86400"#);
        insta::assert_snapshot!(refusal("ATTEMPTS=0"), @"CHECKS, line 1: ATTEMPTS must be at least 1");
        insta::assert_snapshot!(refusal("RETRIES=3"), @r#"CHECKS, line 1: "RETRIES" is unknown; use WAIT, TIMEOUT or ATTEMPTS"#);
        insta::assert_snapshot!(refusal("health"), @r#"CHECKS, line 1: "health" is neither a path such as /health, nor //host/path, nor a setting such as WAIT=5"#);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), line in "(//|/|WAIT=|http:)?[ -~é]{0,12}") {
            let _ = parse(&text);
            let _ = parse(&line);
        }
    }
}
