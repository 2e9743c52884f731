//! Static sites, whose files belong to someone hostile.

use crate::proxy::{Reply, Running, site, write};

struct SiteDir {
    dir: tempfile::TempDir,
    proxy: Running,
}

fn start(spa: bool, fill: impl FnOnce(&std::path::Path)) -> SiteDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("site");
    std::fs::create_dir(&root).unwrap();
    write(dir.path().join("secret.txt"), "secret");
    fill(&root);
    let proxy = Running::start(&site(&root.canonicalize().unwrap(), spa));
    SiteDir { dir, proxy }
}

fn usual(root: &std::path::Path) {
    write(root.join("index.html"), "<p>home");
    write(root.join("about.html"), "<p>about");
    write(root.join("docs/index.html"), "<p>docs");
    write(root.join("empty/x.txt"), "x");
    write(root.join("app.js"), "let a = 1;");
    write(root.join("app.js.gz"), "gzipped");
    write(root.join("app.js.br"), "brotlied");
    write(root.join("digits.txt"), "0123456789");
    write(root.join("zero.txt"), "");
    write(root.join("sp ace.txt"), "space");
    write(root.join(".env"), "TOKEN=secret");
    write(root.join(".git/config"), "secret");
    write(root.join(".well-known/acme"), "token");
    write(root.join("404.html"), "<p>nothing");
}

impl SiteDir {
    fn get(&self, path: &str) -> Reply {
        self.proxy.get("site.test", path)
    }

    fn with(&self, path: &str, fields: &str) -> Reply {
        self.proxy.once(format!("GET {path} HTTP/1.1\r\nHost: site.test\r\n{fields}\r\n"))
    }
}

#[test]
fn paths_lead_to_files() {
    let site = start(false, usual);
    for (path, status, body, kind) in [
        ("/", 200, "<p>home", "text/html; charset=utf-8"),
        ("/index.html", 200, "<p>home", "text/html; charset=utf-8"),
        ("/about", 200, "<p>about", "text/html; charset=utf-8"),
        ("/docs/?a=b", 200, "<p>docs", "text/html; charset=utf-8"),
        ("/app.js", 200, "let a = 1;", "text/javascript; charset=utf-8"),
        ("/sp%20ace.txt", 200, "space", "text/plain; charset=utf-8"),
        ("/zero.txt", 200, "", "text/plain; charset=utf-8"),
        ("/.well-known/acme", 200, "token", "application/octet-stream"),
        ("/nowhere", 404, "<p>nothing", "text/html; charset=utf-8"),
        ("/empty/", 404, "<p>nothing", "text/html; charset=utf-8"),
        ("/digits.txt/", 404, "<p>nothing", "text/html; charset=utf-8"),
        ("/digits.txt/x", 404, "<p>nothing", "text/html; charset=utf-8"),
        ("/.env", 404, "<p>nothing", "text/html; charset=utf-8"),
        ("/%2eenv", 404, "<p>nothing", "text/html; charset=utf-8"),
        ("/.git/config", 404, "<p>nothing", "text/html; charset=utf-8"),
    ] {
        let reply = site.get(path);
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{path}");
        assert_eq!(reply.field("content-type").as_deref(), Some(kind), "{path}");
    }
    let redirect = site.get("/docs?a=b");
    assert_eq!((redirect.status, redirect.field("location").as_deref()), (301, Some("/docs/?a=b")));
    assert_eq!(site.get("//evil.example/docs").field("location"), None);
}

#[test]
fn nothing_leaves_the_root() {
    let site = start(false, |root| {
        usual(root);
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        link("../secret.txt", "relative");
        link("/etc/passwd", "absolute");
        link("..", "up");
        link("/", "slash");
        link("/proc/self/root", "magic");
        link("docs/../../secret.txt", "sneaky");
        link("loop", "loop");
        link("digits.txt", "inside");
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    });
    for path in [
        "/relative",
        "/absolute",
        "/up/secret.txt",
        "/slash/etc/passwd",
        "/magic/etc/passwd",
        "/sneaky",
        "/loop",
        "/fifo",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/docs/../../secret.txt",
        "/docs/%2e%2e/%2e%2e/secret.txt",
        "//../secret.txt",
        "/digits.txt%00.html",
        "/..\\secret.txt",
        "/%c0%ae%c0%ae/secret.txt",
    ] {
        let reply = site.get(path);
        assert!(matches!(reply.status, 400 | 404), "{path} answered {}", reply.status);
        assert!(!reply.text().contains("secret") && !reply.text().contains("root:"), "{path}");
    }
    assert_eq!(site.get("/inside").text(), "0123456789", "links within the site work");
    assert!(site.dir.path().join("secret.txt").exists());
}

#[test]
fn a_root_that_is_a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    write(base.join("other/index.html"), "secret");
    std::os::unix::fs::symlink("other", base.join("public")).unwrap();
    let proxy = Running::start(&site(&base.join("public"), false));
    assert_eq!(proxy.get("site.test", "/").status, 404);
}

#[test]
fn validators_and_ranges() {
    let site = start(false, usual);
    let whole = site.get("/digits.txt");
    let (tag, date) = (whole.field("etag").unwrap(), whole.field("last-modified").unwrap());
    assert_eq!(whole.field("accept-ranges").as_deref(), Some("bytes"));
    for fields in [
        format!("If-None-Match: {tag}\r\n"),
        format!("If-None-Match: \"other\", W/{tag}\r\n"),
        "If-None-Match: *\r\n".to_owned(),
        format!("If-Modified-Since: {date}\r\n"),
    ] {
        let reply = site.with("/digits.txt", &fields);
        assert_eq!((reply.status, reply.field("etag")), (304, Some(tag.clone())), "{fields}");
    }
    let stale = site.with("/digits.txt", &format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n"));
    assert_eq!(stale.status, 200);
    for (range, status, body, content_range) in [
        ("bytes=0-0", 206, "0", Some("bytes 0-0/10")),
        ("bytes=-2", 206, "89", Some("bytes 8-9/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=0-1,4-5", 200, "0123456789", None),
    ] {
        let reply = site.with("/digits.txt", &format!("Range: {range}\r\n"));
        assert_eq!((reply.status, reply.text().as_str()), (status, body), "{range}");
        assert_eq!(reply.field("content-range").as_deref(), content_range, "{range}");
    }
    let same = site.with("/digits.txt", &format!("Range: bytes=0-1\r\nIf-Range: {tag}\r\n"));
    assert_eq!(same.status, 206);
    let changed = site.with("/digits.txt", "Range: bytes=0-1\r\nIf-Range: \"old\"\r\n");
    assert_eq!((changed.status, changed.text().as_str()), (200, "0123456789"));
    // Same size, same modification time, other bytes: what two releases look like on disk.
    let file = site.dir.path().join("site/digits.txt");
    let times = std::fs::metadata(&file).unwrap().modified().unwrap();
    std::fs::write(&file, "9876543210").unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(times).unwrap();
    let changed = site.with("/digits.txt", &format!("If-None-Match: {tag}\r\n"));
    assert_eq!((changed.status, changed.text().as_str()), (200, "9876543210"));
}

#[test]
fn compressed_siblings_go_to_those_who_take_them() {
    let site = start(false, usual);
    for (accept, body, encoding) in [
        ("gzip, br", "brotlied", Some("br")),
        ("gzip", "gzipped", Some("gzip")),
        ("br;q=0, gzip", "gzipped", Some("gzip")),
        ("identity", "let a = 1;", None),
    ] {
        let reply = site.with("/app.js", &format!("Accept-Encoding: {accept}\r\n"));
        assert_eq!(
            (reply.text().as_str(), reply.field("content-encoding").as_deref()),
            (body, encoding),
            "{accept}"
        );
        assert_eq!(reply.field("vary").as_deref(), Some("Accept-Encoding"));
        assert_eq!(reply.field("content-type").as_deref(), Some("text/javascript; charset=utf-8"));
    }
    let part = site.with("/app.js", "Accept-Encoding: br\r\nRange: bytes=0-2\r\n");
    assert_eq!((part.text().as_str(), part.field("content-encoding")), ("let", None));
}

#[test]
fn a_single_page_application_gets_its_index() {
    let site = start(true, usual);
    for path in ["/users/1", "/nowhere/"] {
        let reply = site.get(path);
        assert_eq!((reply.status, reply.text().as_str()), (200, "<p>home"), "{path}");
    }
    assert_eq!(site.get("/missing.js").status, 404);
    assert_eq!(site.get("/.env").status, 404);
}

#[test]
fn only_reading_is_allowed_and_head_has_no_body() {
    let site = start(false, usual);
    let post = site.proxy.once("POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((post.status, post.field("allow").as_deref()), (405, Some("GET, HEAD")));
    let mut client = site.proxy.client();
    for _ in 0..3 {
        client.send("HEAD /digits.txt HTTP/1.1\r\nHost: site.test\r\n\r\n");
        let head = client.reply("HEAD");
        assert_eq!((head.status, head.field("content-length").as_deref()), (200, Some("10")));
        client.send("GET /nowhere HTTP/1.1\r\nHost: site.test\r\n\r\n");
        assert_eq!(client.reply("GET").status, 404);
    }
}

#[test]
fn a_large_file_arrives_whole() {
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
    let large = bytes.clone();
    let site = start(false, move |root| write(root.join("large.bin"), large));
    let reply = site.get("/large.bin");
    assert!(reply.complete && reply.body == bytes);
    let part = site.with("/large.bin", "Range: bytes=4000000-4999999\r\n");
    assert!(part.body == bytes[4_000_000..]);
}

#[test]
fn a_missing_root_is_a_404_that_does_not_name_it() {
    let proxy = Running::start(&site(std::path::Path::new("/nonexistent/layers/site"), true));
    let reply = proxy.get("site.test", "/");
    assert_eq!(reply.status, 404);
    assert!(!reply.text().contains("layers"));
}
