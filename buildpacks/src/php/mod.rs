//! PHP: Apache with PHP inside, packages by Composer, the app.
//!
//! In: a tree with a composer.json or an index.php. Out: layers for PHP and Apache, for Composer (which no image gets), for the
//! packages (keyed by composer.json and composer.lock) and for the app.

mod version;

use crate::PlanError;
use crate::debian::{self, Packages};
use crate::draft::{Draft, Outcome, Step, image_config, quoted};
use crate::error::invalid;
use crate::tree::SourceTree;
use serde_json::Value;

/// The PHP of the stack's distribution.
const LINE: (u32, u32) = (8, 2);

/// Extensions every app gets: what frameworks take for granted.
const EXTENSIONS: [&str; 11] =
    ["bcmath", "curl", "gd", "intl", "mbstring", "mysql", "opcache", "pgsql", "sqlite3", "xml", "zip"];

/// Extensions that are packages of their own, by the name composer.json uses.
const MORE: [&str; 22] = [
    "amqp",
    "apcu",
    "bz2",
    "ds",
    "enchant",
    "gearman",
    "gmp",
    "igbinary",
    "imagick",
    "imap",
    "ldap",
    "mailparse",
    "memcached",
    "mongodb",
    "msgpack",
    "oauth",
    "redis",
    "snmp",
    "soap",
    "ssh2",
    "tidy",
    "yaml",
];

/// The file that makes the tree a PHP app.
pub(crate) fn detect(tree: &dyn SourceTree) -> Option<&'static str> {
    ["composer.json", "index.php"].into_iter().find(|file| tree.has(file))
}

/// composer.json as far as it matters here.
#[derive(Default)]
struct Manifest {
    /// Packages besides PHP and its extensions.
    has_packages: bool,
    /// Packages or autoloading: Composer has something to do.
    needs_composer: bool,
    extensions: Vec<String>,
    php: Option<String>,
    scripts: Vec<&'static str>,
    /// Directories of packages in the tree.
    paths: Vec<String>,
}

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    let tree = draft.tree;
    let manifest = read(tree)?;
    if let Some(constraint) = &manifest.php {
        match version::accepts(constraint, LINE) {
            Some(true) => {}
            None => {
                return invalid(
                    "composer.json",
                    format!("the required PHP version {constraint:?} is not a constraint such as ^8.2"),
                );
            }
            Some(false) => {
                return invalid(
                    "composer.json",
                    format!(
                        "it requires PHP {constraint:?}, and this stack has PHP 8.2 only; if the app runs with that, require \"^8.2\" and update composer.lock"
                    ),
                );
            }
        }
    }
    let root = document_root(tree);
    let web = if root.is_empty() { "berth-php".to_owned() } else { format!("berth-php {root}") };
    let has_program = tree.entries().iter().any(|entry| entry.path.ends_with(".php"));
    if !has_program && draft.wants_default_web() {
        return Err(PlanError::NothingToStart {
            language: "PHP",
            looked: "a Procfile and any .php file",
            example: "berth-php public",
        });
    }
    runtime(draft, &manifest)?;
    // Packages that are committed are the app's own files.
    let layered = manifest.has_packages && !draft.tree.has_dir("vendor");
    if manifest.needs_composer {
        composer(draft)?;
    }
    if layered {
        dependencies(draft, &manifest)?;
    }
    let mut notes = Vec::new();
    if draft.wants_default_web() {
        let shown = if root.is_empty() { "." } else { root };
        notes.push(format!("web: {web} (Apache serves {shown}); a Procfile would overrule this"));
    }
    match manifest.needs_composer {
        true => build(draft, &manifest, layered, notes)?,
        false => draft.source(notes, &[]),
    }
    let processes = draft.processes(Some(web).filter(|_| draft.wants_default_web()));
    Ok(Outcome { processes, config: image_config(&["/layers/php/bin", "/app/vendor/bin"], &[]) })
}

fn read(tree: &dyn SourceTree) -> Result<Manifest, PlanError> {
    const FILE: &str = "composer.json";
    let Some(text) = tree.text(FILE)? else { return Ok(Manifest::default()) };
    let json: Value = match serde_json::from_str(if text.trim().is_empty() { "{}" } else { &text }) {
        Ok(json) => json,
        Err(error) => return invalid(FILE, format!("it is not valid JSON ({error})")),
    };
    let Some(top) = json.as_object() else { return invalid(FILE, "it is not a JSON object") };
    let empty = serde_json::Map::new();
    let require = top.get("require").and_then(Value::as_object).unwrap_or(&empty);
    let is_platform = |name: &str| {
        matches!(name, "php" | "php-64bit") || name.starts_with("ext-") || name.starts_with("lib-")
    };
    let mut extensions: Vec<String> = Vec::new();
    let locked = tree.text("composer.lock")?.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    // What packages need is only in the lock file.
    let packages = locked.as_ref().and_then(|lock| lock.get("packages")).and_then(Value::as_array);
    let nested = packages.into_iter().flatten().filter_map(|package| package.get("require")?.as_object());
    for name in std::iter::once(require).chain(nested).flat_map(serde_json::Map::keys) {
        extensions.extend(name.strip_prefix("ext-").filter(|name| MORE.contains(name)).map(str::to_owned));
    }
    extensions.sort();
    extensions.dedup();
    let text_at = |path: &str| json.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let has_script = |name: &&str| top.get("scripts").and_then(|scripts| scripts.get(name)).is_some();
    let repositories = top.get("repositories").and_then(Value::as_array).into_iter().flatten();
    let paths =
        repositories.filter(|repository| repository.get("type").and_then(Value::as_str) == Some("path"));
    let paths = paths.filter_map(|repository| repository.get("url")?.as_str());
    let paths = paths.map(|path| {
        path.trim_start_matches("./").split('*').next().unwrap_or("").trim_end_matches('/').to_owned()
    });
    let has_packages = require.keys().any(|name| !is_platform(name));
    Ok(Manifest {
        has_packages,
        needs_composer: has_packages || top.contains_key("autoload"),
        extensions,
        php: text_at("/require/php").or_else(|| text_at("/require/php-64bit")),
        scripts: ["post-install-cmd", "compile"].into_iter().filter(|name| has_script(name)).collect(),
        paths: paths.filter(|path| !path.is_empty() && tree.has_dir(path)).collect(),
    })
}

/// Where frameworks keep their front controller, when the top has none.
fn document_root(tree: &dyn SourceTree) -> &'static str {
    if tree.has("index.php") {
        return "";
    }
    let dirs = ["public", "web", "webroot", "htdocs", "html"];
    dirs.into_iter().find(|dir| tree.has(&format!("{dir}/index.php"))).unwrap_or("")
}

fn runtime(draft: &mut Draft<'_>, manifest: &Manifest) -> Result<(), PlanError> {
    let mut packages = vec!["php8.2-cli".to_owned(), "libapache2-mod-php8.2".to_owned()];
    packages.extend(
        EXTENSIONS
            .iter()
            .copied()
            .chain(manifest.extensions.iter().map(String::as_str))
            .map(|name| format!("php8.2-{name}")),
    );
    let mut notes = vec![match &manifest.php {
        Some(constraint) => {
            format!("PHP 8.2 satisfies {constraint:?} of composer.json; this stack has no other")
        }
        None => "no version was asked for; this stack has PHP 8.2".to_owned(),
    }];
    if !manifest.extensions.is_empty() {
        notes.push(format!(
            "extensions that composer.json or composer.lock requires: {}",
            manifest.extensions.join(", ")
        ));
    }
    let finish = format!(
        "packages\nmkdir -p /layers/php/bin\ncat >/layers/php/apache2.conf <<'BERTH-APACHE'\n{}BERTH-APACHE\ncat >/layers/php/bin/berth-php <<'BERTH-START'\n{}BERTH-START\n{}",
        include_str!("apache2.conf"),
        include_str!("start.sh"),
        include_str!("finish.sh")
    );
    debian::layer(
        draft,
        Packages {
            name: "php/runtime",
            title: "Installing PHP 8.2 and Apache".to_owned(),
            notes,
            packages,
            script: &finish,
            env: Vec::new(),
            launch: true,
            uses: Vec::new(),
        },
    )
}

fn composer(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let env = draft.config(|name| name == "BERTH_COMPOSER_MIRROR");
    debian::layer(
        draft,
        Packages {
            name: "php/composer",
            title: "Installing Composer".to_owned(),
            notes: Vec::new(),
            packages: vec!["composer".to_owned()],
            script: include_str!("composer.sh"),
            env,
            launch: false,
            uses: vec!["php/runtime"],
        },
    )
}

/// The app's own classes are written beside those of the packages, in a later step and by another user.
const WRITABLE: &str =
    "chmod a+w vendor vendor/composer vendor/composer/* vendor/autoload.php 2>/dev/null || true\n";

/// What every call of Composer needs.
fn env() -> Vec<(&'static str, String)> {
    vec![
        ("HOME", "/tmp".to_owned()),
        ("PATH", "/layers/composer/bin:/layers/php/bin:/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("COMPOSER_HOME", "/tmp/composer".to_owned()),
        ("COMPOSER_CACHE_DIR", "/cache/composer".to_owned()),
        ("COMPOSER_NO_INTERACTION", "1".to_owned()),
    ]
}

fn dependencies(draft: &mut Draft<'_>, manifest: &Manifest) -> Result<(), PlanError> {
    let mut sources: Vec<String> = ["composer.json", "composer.lock", "auth.json"]
        .into_iter()
        .filter(|file| draft.tree.has(file))
        .map(str::to_owned)
        .collect();
    sources.extend(manifest.paths.iter().cloned());
    let mut env_vars = draft.config(|name| name.starts_with("COMPOSER_"));
    env_vars.extend(env());
    let notes = match draft.tree.has("composer.lock") {
        true => "packages come from composer.lock".to_owned(),
        false => "there is no composer.lock, so versions may change between builds; commit composer.lock"
            .to_owned(),
    };
    draft.step(Step {
        name: "php/dependencies",
        title: "Installing dependencies with Composer".to_owned(),
        notes: vec![notes],
        script: format!("{}install\n{WRITABLE}", include_str!("install.sh")),
        env: env_vars,
        sources,
        keep_app: false,
        outputs: vec!["/app/vendor"],
        caches: vec![("composer", "/cache/composer")],
        launch: true,
        uses: vec!["php/runtime", "php/composer"],
    })
}

fn build(
    draft: &mut Draft<'_>,
    manifest: &Manifest,
    layered: bool,
    mut notes: Vec<String>,
) -> Result<(), PlanError> {
    if draft.tree.has_dir("vendor") {
        notes.push(
            "vendor is committed: packages in it are kept where they are those of composer.lock".to_owned(),
        );
    }
    let mut script = format!("cd /app\n{}{}", draft.prune(), include_str!("install.sh"));
    if !layered {
        script.push_str("install\n");
    }
    script.push_str("composer dump-autoload --no-dev --optimize --no-scripts --no-ansi\n");
    for name in &manifest.scripts {
        script.push_str(&format!(
            "echo {}\ncomposer run-script --no-dev {name}\n",
            quoted(&format!("composer run-script {name}"))
        ));
    }
    let mut env_vars = draft.build_config();
    env_vars.extend(env());
    draft.step(Step {
        name: "app",
        title: "Adding the app's files".to_owned(),
        notes,
        script,
        env: env_vars,
        sources: vec![".".to_owned()],
        keep_app: true,
        outputs: Vec::new(),
        caches: vec![("composer", "/cache/composer")],
        launch: true,
        uses: vec!["php/runtime", "php/composer", "php/dependencies"],
    })
}
