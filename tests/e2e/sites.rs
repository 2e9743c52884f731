//! Sites that no process serves: headers and redirects, and what generators and builders make.

use anyhow::{Result, ensure};
use berth_tests::{Berth, Repo, Request};

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("static_headers_and_redirects", rules),
    ("static_json_of_heroku", static_json),
    ("static_site_of_vite_then_a_server_of_the_same_node", vite),
    ("static_sites_of_mkdocs_and_hugo", generators),
    ("node_with_bun_and_typescript", bun),
];

fn rules(berth: &Berth) -> Result<()> {
    let files = [
        ("public/index.html", "home"),
        ("public/kept.html", "a file wins"),
        ("public/app/index.html", "the app"),
        ("public/404.html", "not here"),
        ("public/a.js", "x"),
        (
            "public/_headers",
            "/*\n  X-Frame-Options: DENY\n  Cache-Control: public, max-age=60\n/a.js\n  Cache-Control: immutable\n  ! X-Frame-Options\n",
        ),
        (
            "public/_redirects",
            "/kept /elsewhere 302\n/forced /kept 302!\n/blog/* /news/:splat\n/u/:id https://example.com/:id 308\n/app/* /app/index.html 200\n/go/* /:splat 302\n",
        ),
    ];
    let repo = Repo::new(berth, "siterules", &files)?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("headers for 2 paths come from public/_headers"), "{pushed}");
    for (path, status, header, value) in [
        ("/", 200, "x-frame-options", Some("DENY")),
        ("/", 200, "cache-control", Some("public, max-age=60")),
        ("/a.js", 200, "cache-control", Some("immutable")),
        ("/a.js", 200, "x-frame-options", None),
        ("/kept", 200, "location", None),
        ("/forced", 302, "location", Some("/kept")),
        ("/blog/a/b?q=1", 301, "location", Some("/news/a/b?q=1")),
        ("/u/7", 308, "location", Some("https://example.com/7")),
        ("/go//evil.example", 302, "location", Some("/evil.example")),
        ("/go/%0d%0aSet-Cookie:x", 302, "location", Some("/%0D%0ASet-Cookie:x")),
        ("/app/deep/link.x", 200, "location", None),
        ("/missing", 404, "cache-control", None),
        ("/_redirects", 404, "location", None),
    ] {
        let reply = berth.get("siterules", path)?;
        ensure!(reply.status == status, "{path}: {} {}", reply.status, reply.text());
        let found = reply.header(header);
        ensure!(found == value, "{path}: {header} is {found:?}");
    }
    ensure!(berth.get("siterules", "/app/deep/link.x")?.text() == "the app", "a rewrite");
    repo.write(&[("public/_redirects", "/a /b 302 Country=de\n")])?;
    repo.commit("A condition")?;
    let refused = repo.git(&["push", "paas", "main"])?;
    ensure!(
        refused.code != 0 && refused.all().contains("public/_redirects: line 1: conditions (Country=de)"),
        "{}",
        refused.all()
    );
    Ok(())
}

fn static_json(berth: &Berth) -> Result<()> {
    let settings = r#"{"root": "site/", "routes": {"/**": "index.html"}, "error_page": "oops.html",
        "redirects": {"/old": {"url": "/new", "status": 302}}, "headers": {"/**": {"X-A": "b"}}}"#;
    let repo = Repo::new(
        berth,
        "herokustatic",
        &[("static.json", settings), ("site/index.html", "one page"), ("site/x.txt", "x")],
    )?;
    repo.push()?;
    let deep = berth.get("herokustatic", "/some/where")?;
    ensure!(
        deep.status == 200 && deep.text() == "one page" && deep.header("x-a") == Some("b"),
        "{}",
        deep.text()
    );
    ensure!(berth.get("herokustatic", "/old")?.header("location") == Some("/new"), "a redirect");
    ensure!(berth.get("herokustatic", "/static.json")?.text() == "one page", "settings are not served");
    Ok(())
}

const VITE: &str = r#"{"name": "v", "private": true, "type": "module", "scripts": {"dev": "vite", "build": "vite build"},
    "engines": {"node": "22.x"}, "devDependencies": {"vite": "6.0.7"}}"#;

fn vite(berth: &Berth) -> Result<()> {
    let page = "<!doctype html><div id=app></div><script type=module src=/src/main.js></script>";
    let files = [
        ("package.json", VITE),
        ("index.html", page),
        ("src/main.js", "document.title = 'built by vite'"),
        ("public/_headers", "/assets/*\n  Cache-Control: public, max-age=31536000, immutable\n"),
    ];
    let repo = Repo::new(berth, "viteapp", &files)?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("web: dist (what vite makes); Berth serves it itself"), "{pushed}");
    let page = berth.get("viteapp", "/deep/link")?;
    ensure!(page.status == 200, "the one page answers for all paths: {}", page.status);
    let text = page.text();
    let script =
        text.split("src=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("/none").to_owned();
    let script = berth.get("viteapp", &script)?;
    ensure!(script.status == 200 && script.text().contains("built by vite"), "{}", script.status);
    ensure!(
        script.header("cache-control") == Some("public, max-age=31536000, immutable"),
        "what public/_headers says"
    );
    ensure!(berth.get("viteapp", "/package.json")?.status == 404, "sources are not served");
    // The site's Node.js is in no image; a server asks for the same, and must get one that is.
    let server =
        "require('http').createServer((q, s) => s.end('node ' + process.version)).listen(process.env.PORT)";
    let package = r#"{"name": "s", "engines": {"node": "22.x"}}"#;
    Repo::new(berth, "samenode", &[("package.json", package), ("server.js", server)])?.push()?;
    ensure!(berth.get("samenode", "/")?.text().starts_with("node v22."), "a server with the same runtime");
    Ok(())
}

fn generators(berth: &Berth) -> Result<()> {
    let files = [
        ("mkdocs.yml", "site_name: Mine\n"),
        ("docs/index.md", "# Hello docs\n"),
        ("docs/_redirects", "/old / 302\n"),
    ];
    let repo = Repo::new(berth, "mkdocs-site", &files)?;
    repo.push()?;
    ensure!(berth.get("mkdocs-site", "/")?.text().contains("Hello docs"), "MkDocs");
    ensure!(berth.get("mkdocs-site", "/mkdocs.yml")?.status == 404, "only the site is in the image");
    ensure!(berth.get("mkdocs-site", "/old")?.header("location") == Some("/"), "rules of the finished site");
    let layout = "<h1>{{ .Title }}</h1>{{ .Content }}";
    let files = [
        ("hugo.toml", "baseURL = \"/\"\ntitle = \"H\"\n"),
        ("content/_index.md", "---\ntitle: Front\n---\nhello hugo\n"),
        ("layouts/index.html", layout),
        ("layouts/_default/single.html", layout),
        ("layouts/_default/list.html", layout),
    ];
    Repo::new(berth, "hugo-site", &files)?.push()?;
    ensure!(berth.get("hugo-site", "/")?.text().contains("hello hugo"), "Hugo");
    Ok(())
}

fn bun(berth: &Berth) -> Result<()> {
    let package =
        r#"{"name": "b", "private": true, "packageManager": "bun@1.3.0", "dependencies": {"ms": "2.1.3"}}"#;
    let server = "import ms from 'ms';\nconst port: number = Number(process.env.PORT);\n\
                  Bun.serve({ port, hostname: '0.0.0.0', fetch: () => new Response(`bun ${ms('1h')}`) });\n";
    let repo = Repo::new(berth, "bunapp", &[("package.json", package), ("index.ts", server)])?;
    let pushed = repo.push()?.all();
    ensure!(pushed.contains("Installing bun") && pushed.contains("web: bun index.ts"), "{pushed}");
    let reply = berth.send(&Request::get(&berth.host("bunapp"), "/"))?;
    ensure!(reply.text() == "bun 3600000", "{}", reply.text());
    Ok(())
}
