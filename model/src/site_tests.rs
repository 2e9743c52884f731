//! Rules of static sites from text to answers.

use super::*;
use proptest::prelude::*;

fn leads(rule: &str, path: &str) -> Option<String> {
    parse_redirects(rule).expect("well-formed")[0].target(path)
}

#[test]
fn redirects_lead_where_they_say() {
    for (rule, path, expected) in [
        ("/old /new", "/old", Some("/new")),
        ("/old /new", "/old/", Some("/new")),
        ("/old/ /new", "/old", Some("/new")),
        ("/old /new", "/older", None),
        ("/blog/* /news/:splat 302", "/blog/a/b", Some("/news/a/b")),
        ("/blog/* /news/:splat 302", "/blog", Some("/news/")),
        ("/blog/* /news/:splat 302", "/blogs", None),
        ("/u/:id/p/:n /users/:id?p=:n#:other", "/u/7/p/x%20y", Some("/users/7?p=x%20y#:other")),
        ("/u/:id /users/:id", "/u/7/8", None),
        ("/u/:id /users/:id", "/u/", None),
        ("/* https://example.com/:splat", "/a/b", Some("https://example.com/a/b")),
        ("/* https://example.com:8443/:splat", "/a", Some("https://example.com:8443/a")),
        ("/*.htm /:splat.html", "/a/b.htm", Some("/a/b.html")),
        ("/grün /green", "/gr%C3%BCn", Some("/green")),
        // What was matched names no host.
        ("/go/* /:splat", "/go//evil.example", Some("/evil.example")),
        ("/go/* /:splat", "/go/\\evil.example", Some("/evil.example")),
    ] {
        assert_eq!(leads(rule, path).as_deref(), expected, "{rule} for {path}");
    }
    let rules = parse_redirects("# old\n\n/a /b 200!  # why\n/c /d\r\n").expect("well-formed");
    assert_eq!((rules[0].status, rules[0].force, rules[1].status, rules.len()), (200, true, 301, 2));
}

#[test]
fn headers_are_for_paths_and_the_last_counts() {
    let headers = parse_headers(
        "/*\n  X-Frame-Options: DENY\n  Link: </a>; rel=preload\n  Link: </b>\n/embed/*\n\tx-frame-options: SAMEORIGIN\n  ! link\n/*.js\n  Cache-Control: max-age=1\n",
    )
    .expect("well-formed");
    let rules = SiteRules { headers, ..SiteRules::default() };
    let fields = rules.fields("/x");
    assert_eq!(fields["x-frame-options"], ("X-Frame-Options", Some("DENY")));
    assert_eq!(fields["link"], ("Link", Some("</a>; rel=preload, </b>")));
    let fields = rules.fields("/embed/a.js");
    assert_eq!(fields["x-frame-options"].1, Some("SAMEORIGIN"));
    assert_eq!((fields["link"].1, fields["cache-control"].1), (None, Some("max-age=1")));
}

#[test]
fn what_cannot_be_done_is_named_by_its_line() {
    for (text, line, part) in [
        ("/a\n", 1, "FROM TO STATUS"),
        ("/a /b 302\n/c /d 299\n", 2, "not one of 200"),
        ("a /b\n", 1, "begin with /"),
        ("/a b\n", 1, "neither a path"),
        ("/a //evil.example\n", 1, "neither a path"),
        ("/a javascript:alert(1)\n", 1, "neither a path"),
        ("/a/*/b/* /c\n", 1, "more than one *"),
        ("/a/*/:b /c\n", 1, "placeholder after"),
        ("/:a/:a /c\n", 1, "two placeholders"),
        ("/api/* https://api.example.com/:splat 200\n", 1, "another server"),
        ("/a /b 302 Country=de\n", 1, "conditions (Country=de)"),
        ("/a id=:id /b 301\n", 1, "by query"),
        ("https://a.example/x /b\n", 1, "another host"),
        ("/a https:///x\n", 1, "no host"),
    ] {
        let error = parse_redirects(text).expect_err(text);
        assert!(error.line == line && error.text.contains(part), "{text}: {error}");
    }
    for (text, line, part) in [
        ("X-A: b\n", 1, "begin with a path"),
        ("/*\n  nonsense\n", 2, "Name: value"),
        ("/*\n  Content-Length: 5\n", 2, "the server's own"),
        ("/*\n  Transfer-Encoding: chunked\n", 2, "the server's own"),
        ("/*\n  Bad Name: x\n", 2, "no header's name"),
        ("/*\n  X: a\u{7f}\n", 2, "control"),
        ("https://x/*\n  X: a\n", 1, "host"),
    ] {
        let error = parse_headers(text).expect_err(text);
        assert!(error.line == line && error.text.contains(part), "{text}: {error}");
    }
    let many = "/a/* /b\n".repeat(201);
    assert!(parse_redirects(&many).expect_err("too many").text.contains("200"));
    assert!(parse_headers(&"#".repeat(MAX_HEADERS_TEXT + 1)).is_err());
}

proptest! {
    /// No text of a stranger ends a line or leads to another host that it does not name.
    #[test]
    fn no_rule_splits_an_answer(rule in "[/a-c:*. \\r\\n\\t\\\\éx0-9!=#%-]{0,60}", path in "/[a-c/%0-9A-F.\\\\-]{0,40}") {
        for redirect in parse_redirects(&rule).unwrap_or_default() {
            if let Some(target) = redirect.target(&path) {
                prop_assert!(target.starts_with('/') && !target.starts_with("//") && !target.starts_with("/\\"));
                prop_assert!(!target.contains(['\r', '\n', '\0', ' ']));
            }
        }
        for header in parse_headers(&rule).unwrap_or_default() {
            for (name, value) in header.fields {
                prop_assert!(!name.contains(['\r', '\n', ':', ' ']));
                prop_assert!(!value.unwrap_or_default().contains(['\r', '\n']));
            }
        }
    }
}
