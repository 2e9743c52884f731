//! Sites that a generator makes: Hugo, MkDocs, Sphinx, Jekyll.
//!
//! In: a tree with a generator's settings. Out: layers for the generator, which no image gets, and one with the finished
//! site alone. What npm packages make (Vite, Astro …) is the Node.js builder's.

use super::settings;
use crate::debian::{self, Packages};
use crate::draft::{Draft, Outcome, Step, image_config, quoted};
use crate::error::invalid;
use crate::tree::SourceTree;
use crate::{PlanError, python, ruby};
use berth_model::ProcessType;
use berth_model::image::{Process, StaticSite};
use berth_model::site::SiteRules;

/// Directories that may hold the settings of Sphinx.
const SPHINX: [&str; 5] = ["docs", "doc", "docs/source", "doc/source", "source"];

/// A program that makes sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generator {
    /// Settings are in this file.
    Hugo(&'static str),
    /// The same.
    MkDocs(&'static str),
    /// The directory of conf.py.
    Sphinx(&'static str),
    /// Whether there is a Gemfile that names it.
    Jekyll(bool),
}

impl Generator {
    /// Its name, and the file that told.
    pub(crate) fn shown(self) -> (&'static str, String) {
        match self {
            Self::Hugo(file) => ("Hugo", file.to_owned()),
            Self::MkDocs(file) => ("MkDocs", file.to_owned()),
            Self::Sphinx(dir) => ("Sphinx", format!("{dir}/conf.py")),
            Self::Jekyll(_) => ("Jekyll", "_config.yml".to_owned()),
        }
    }
}

/// The generator whose sources a tree is.
pub(crate) fn detect(tree: &dyn SourceTree) -> Option<Generator> {
    let first = |names: &[&'static str]| names.iter().copied().find(|name| tree.has(name));
    if let Some(file) = first(&["hugo.toml", "hugo.yaml", "hugo.yml", "hugo.json"]) {
        return Some(Generator::Hugo(file));
    }
    let looks_like_hugo = tree.has_dir("content")
        && (tree.has_dir("layouts") || tree.has_dir("themes") || tree.has_dir("archetypes"));
    let old =
        first(&["config.toml", "config.yaml", "config/_default/hugo.toml", "config/_default/config.toml"]);
    if let Some(file) = old.filter(|_| looks_like_hugo) {
        return Some(Generator::Hugo(file));
    }
    if let Some(file) = first(&["mkdocs.yml", "mkdocs.yaml"]) {
        return Some(Generator::MkDocs(file));
    }
    if tree.has("_config.yml") {
        let gemfile =
            tree.glance("Gemfile").map(|text| text.contains("jekyll") || text.contains("github-pages"));
        let dirs = ["_posts", "_layouts", "_includes", "_pages"].into_iter().any(|dir| tree.has_dir(dir));
        let pages = first(&["index.md", "index.markdown", "index.html"]).is_some();
        match gemfile {
            Some(true) => return Some(Generator::Jekyll(true)),
            None if dirs || pages => return Some(Generator::Jekyll(false)),
            _ => {}
        }
    }
    let is_sphinx = |dir: &&str| {
        let text = tree.glance(&format!("{dir}/conf.py")).unwrap_or_default();
        text.lines().any(|line| {
            let name = line.split('=').next().unwrap_or_default().trim();
            matches!(name, "extensions" | "html_theme" | "project") && line.contains('=')
        })
    };
    SPHINX.into_iter().find(is_sphinx).map(Generator::Sphinx)
}

pub(crate) fn plan(draft: &mut Draft<'_>, generator: Generator) -> Result<Outcome, PlanError> {
    let (shown, file) = generator.shown();
    let mut env = draft.build_config();
    let mut uses = Vec::new();
    let command = match generator {
        Generator::Hugo(_) => {
            hugo(draft)?;
            uses.push("hugo");
            env.push(("HUGO_CACHEDIR", "/tmp/hugo".to_owned()));
            if draft.var("HUGO_ENV").is_none() {
                env.push(("HUGO_ENV", "production".to_owned()));
            }
            env.push(("PATH", "/layers/hugo/bin:/usr/local/bin:/usr/bin:/bin".to_owned()));
            "hugo --noBuildLock --destination /tmp/site".to_owned()
        }
        Generator::MkDocs(file) => {
            uses.extend(python::tool(draft, "mkdocs")?);
            env.extend(python::tool_env());
            format!("mkdocs build --quiet --clean -f {} -d /tmp/site", quoted(file))
        }
        Generator::Sphinx(dir) => {
            uses.extend(python::tool(draft, "sphinx")?);
            env.extend(python::tool_env());
            format!("sphinx-build -q -b html {} /tmp/site", quoted(dir))
        }
        Generator::Jekyll(true) => {
            uses.extend(ruby::tool(draft)?);
            env.extend(ruby::tool_env(draft)?);
            env.push(("JEKYLL_ENV", "production".to_owned()));
            "bundle exec jekyll build --destination /tmp/site".to_owned()
        }
        Generator::Jekyll(false) => {
            jekyll(draft)?;
            uses.push("jekyll");
            env.push(("JEKYLL_ENV", "production".to_owned()));
            "jekyll build --disable-disk-cache --destination /tmp/site".to_owned()
        }
    };
    let notes = vec![
        format!("site: what {shown} makes ({file} exists); Berth serves it itself, no process runs"),
        command.clone(),
    ];
    // Where the sources stand is where the site is served from: nothing else is left there.
    let script = format!(
        "cd /app\n{}{command} || {{\n\techo \"{shown} failed; its message is above. The same command shows it on your machine.\"\n\texit 1\n}}\n\
         [[ -e /tmp/site/index.html || -e /tmp/site/404.html ]] || {{\n\techo \"{shown} made no index.html: is there content for the front page, and not only drafts?\"\n\texit 1\n}}\n\
         find /app -mindepth 1 -delete\ncp -R /tmp/site/. /app/\n",
        draft.prune()
    );
    env.push(("HOME", "/tmp".to_owned()));
    let mut seen = std::collections::BTreeSet::new();
    // Ours come last, and count.
    let mut env: Vec<_> = env.into_iter().rev().filter(|(name, _)| seen.insert(*name)).collect();
    env.reverse();
    draft.step(Step {
        name: "app",
        title: format!("Building the site with {shown}"),
        notes,
        script,
        env,
        sources: vec![".".to_owned()],
        keep_app: true,
        outputs: Vec::new(),
        caches: Vec::new(),
        launch: true,
        uses,
    })?;
    // Hugo copies what is in `static`, the others what lies there as it is.
    for dir in ["static", "docs", ""] {
        settings::check_files(draft.tree, dir)?;
    }
    let mut processes = draft.processes(None);
    let site = StaticSite { root: "/app".to_owned(), spa_fallback: false, rules: SiteRules::default() };
    processes.entry(ProcessType::web()).or_insert(Process::Static(site));
    Ok(Outcome { processes, config: image_config(&[], &[]) })
}

/// Hugo: its own release, or Debian's package where that cannot be had and no other version was asked for.
fn hugo(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let tool_version = |text: String| {
        text.lines().find_map(|line| Some(line.trim().strip_prefix("hugo ")?.trim().to_owned()))
    };
    let netlify = |text: String| {
        let value: toml::Value = toml::from_str(&text).ok()?;
        Some(value.get("build")?.get("environment")?.get("HUGO_VERSION")?.as_str()?.to_owned())
    };
    let first_line = |text: String| text.lines().next().map(|line| line.trim().to_owned());
    let wishes = [
        ("the config var HUGO_VERSION", draft.var("HUGO_VERSION").map(str::to_owned)),
        (".hugo-version", draft.tree.text(".hugo-version")?.and_then(first_line)),
        (".tool-versions", draft.tree.text(".tool-versions")?.and_then(tool_version)),
        ("netlify.toml", draft.tree.text("netlify.toml")?.and_then(netlify)),
    ];
    let found = wishes.into_iter().find_map(|(origin, wish)| Some((origin, wish?)));
    let (origin, version) = found.unwrap_or(("", String::new()));
    let version = version.trim_start_matches("extended_").trim_start_matches('v').to_owned();
    let good = version.split('.').count() <= 3 && version.split('.').all(|part| part.parse::<u16>().is_ok());
    if !version.is_empty() && !good {
        return invalid(origin, format!("{version:?} is no version of Hugo; write one such as 0.148.2"));
    }
    let (title, note) = match origin {
        "" => (
            "Installing Hugo".to_owned(),
            "no version was asked for: the newest is used; to choose one, set the config var HUGO_VERSION or commit .hugo-version"
                .to_owned(),
        ),
        origin => (format!("Installing Hugo {version}"), format!("the version comes from {origin}")),
    };
    let mut env = draft.config(|name| name == "BERTH_HUGO_MIRROR");
    env.push(("HUGO_WANTED", version));
    debian::layer(
        draft,
        Packages {
            name: "hugo",
            title,
            notes: vec![note],
            packages: vec!["hugo".to_owned()],
            script: concat!(
                "cat >/tmp/hugo.py <<'BERTH-HUGO'\n",
                include_str!("hugo.py"),
                "BERTH-HUGO\n",
                include_str!("hugo.sh")
            ),
            env,
            launch: false,
            uses: Vec::new(),
        },
    )
}

/// Debian's Jekyll and the plugins that most sites name.
fn jekyll(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let names = [
        "jekyll",
        "jekyll-theme-minima",
        "ruby-jekyll-feed",
        "ruby-jekyll-seo-tag",
        "ruby-jekyll-sitemap",
        "ruby-jekyll-paginate",
        "ruby-jekyll-redirect-from",
    ];
    debian::layer(
        draft,
        Packages {
            name: "jekyll",
            title: "Installing Jekyll 4.3".to_owned(),
            notes: vec![
                "there is no Gemfile: Debian's Jekyll is used, with the theme minima and the plugins feed, paginate, redirect-from, \
                 seo-tag and sitemap; for others commit a Gemfile and Gemfile.lock"
                    .to_owned(),
            ],
            packages: names.map(str::to_owned).to_vec(),
            script: "packages\njekyll --version\n",
            env: Vec::new(),
            launch: false,
            uses: Vec::new(),
        },
    )
}
