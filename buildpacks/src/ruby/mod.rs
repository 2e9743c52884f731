//! Ruby: the interpreter, gems by Bundler, the app (Rack, Sinatra, Rails).
//!
//! In: a tree with a Gemfile or a config.ru. Out: layers for Ruby, for what compiles gems (which no image gets), for the gems
//! (keyed by Gemfile and Gemfile.lock) and for the app.

mod version;

use crate::PlanError;
use crate::debian::{self, Packages};
use crate::draft::{Draft, Outcome, Step, image_config};
use crate::error::invalid;
use crate::tree::SourceTree;
use version::Wanted;

const GEMS: &str = "/layers/ruby-gems";

/// The file that makes the tree a Ruby app.
pub(crate) fn detect(tree: &dyn SourceTree) -> Option<&'static str> {
    ["Gemfile", "config.ru"].into_iter().find(|file| tree.has(file))
}

/// What the tree says about its gems.
struct Gems {
    /// Names in Gemfile.lock, or in the Gemfile without one.
    names: Vec<String>,
    /// Whether Bundler is used.
    bundled: bool,
    locked: bool,
    /// Files that decide about the gems.
    sources: Vec<String>,
}

impl Gems {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|other| other == name)
    }
}

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    let gems = gems(draft.tree)?;
    let web = match draft.wants_default_web() {
        true => web(draft.tree, &gems),
        false => None,
    };
    if web.is_none() && draft.wants_default_web() {
        return Err(PlanError::NothingToStart {
            language: "Ruby",
            looked: "a Procfile, Rails, config.ru, and a program app.rb that requires Sinatra",
            example: "bundle exec puma -p $PORT",
        });
    }
    runtime(draft, &gems, true)?;
    if gems.bundled {
        dependencies(draft, &gems, true)?;
    }
    let mut notes = Vec::new();
    if let Some((line, reason)) = &web {
        notes.push(format!("web: {line} ({reason}); a Procfile would overrule this"));
    }
    let compiles = gems.has("railties")
        && (gems.has("sprockets-rails") || gems.has("propshaft") || gems.has("sprockets"))
        && draft.tree.has("Rakefile")
        && !matches!(draft.var("DISABLE_ASSETS_PRECOMPILE"), Some(value) if value != "0");
    match compiles {
        true => assets(draft, &gems, notes)?,
        false => draft.source(notes, &[]),
    }
    let mut env = vec![
        ("RACK_ENV", "production"),
        ("RAILS_ENV", "production"),
        ("RAILS_LOG_TO_STDOUT", "enabled"),
        ("RAILS_SERVE_STATIC_FILES", "enabled"),
        ("MALLOC_ARENA_MAX", "2"),
    ];
    if gems.bundled {
        env.extend([
            ("BUNDLE_PATH", GEMS),
            ("BUNDLE_WITHOUT", "development:test"),
            ("BUNDLE_GEMFILE", "/app/Gemfile"),
        ]);
        if gems.locked {
            env.push(("BUNDLE_FROZEN", "true"));
        }
    }
    let path = ["/app/bin", "/layers/ruby/bin"];
    Ok(Outcome { processes: draft.processes(web.map(|(line, _)| line)), config: image_config(&path, &env) })
}

/// Adds layers, which no image gets, with Ruby and the gems of the Gemfile. Gives their names.
pub(crate) fn tool(draft: &mut Draft<'_>) -> Result<[&'static str; 3], PlanError> {
    let gems = gems(draft.tree)?;
    runtime(draft, &gems, false)?;
    dependencies(draft, &gems, false)?;
    Ok(["ruby/runtime", "ruby/headers", "ruby/dependencies"])
}

/// What programs of those gems need.
pub(crate) fn tool_env(draft: &Draft<'_>) -> Result<Vec<(&'static str, String)>, PlanError> {
    Ok(env(gems(draft.tree)?.locked, draft.var("BUNDLE_WITHOUT")))
}

fn gems(tree: &dyn SourceTree) -> Result<Gems, PlanError> {
    let Some(gemfile) = tree.text("Gemfile")? else {
        return Ok(Gems { names: Vec::new(), bundled: false, locked: false, sources: Vec::new() });
    };
    let lock = tree.text("Gemfile.lock")?;
    let mut names = Vec::new();
    let mut sources: Vec<String> = Vec::new();
    match &lock {
        Some(lock) => {
            let mut section = "";
            for line in lock.lines() {
                if !line.starts_with(' ') {
                    section = line.trim();
                } else if let Some(path) = line.trim().strip_prefix("remote: ").filter(|_| section == "PATH")
                {
                    sources.push(path.trim_start_matches("./").trim_end_matches('/').to_owned());
                } else if line.starts_with("    ") && !line.starts_with("     ") {
                    names.extend(line.split_whitespace().next().map(str::to_owned));
                }
            }
        }
        None => names.extend(gemfile.lines().filter_map(named)),
    }
    // A Gemfile is a program: one that reads other files gets the whole tree.
    let reads_more = ["eval_gemfile", "require_relative", "gemspec", "File.", "Dir.", "load "]
        .iter()
        .any(|word| gemfile.contains(word))
        || (lock.is_none() && gemfile.contains("path:"));
    if reads_more || sources.iter().any(|path| path.is_empty() || path == "." || !tree.has_dir(path)) {
        sources = vec![".".to_owned()];
    } else {
        let files = ["Gemfile", "Gemfile.lock", ".ruby-version", ".tool-versions"];
        sources.extend(files.into_iter().filter(|file| tree.has(file)).map(str::to_owned));
        sources.extend(
            ["vendor/cache", ".bundle"].into_iter().filter(|dir| tree.has_dir(dir)).map(str::to_owned),
        );
    }
    Ok(Gems { names, bundled: true, locked: lock.is_some(), sources })
}

/// The gem a line of a Gemfile names.
fn named(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("gem")?.trim_start_matches([' ', '(']);
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    rest[1..].split_once(quote).map(|(name, _)| name.to_owned())
}

/// `web`, and why.
fn web(tree: &dyn SourceTree, gems: &Gems) -> Option<(String, &'static str)> {
    let bundle = if gems.bundled { "bundle exec " } else { "" };
    if gems.has("railties") && tree.has("config.ru") && gems.has("puma") {
        return Some(("bundle exec puma -p $PORT".to_owned(), "Rails with Puma"));
    }
    if gems.has("railties") && tree.has("config.ru") {
        return Some(("bin/rails server -b 0.0.0.0 -p $PORT -e $RAILS_ENV".to_owned(), "Rails"));
    }
    if tree.has("config.ru") {
        return Some(match gems.has("puma") || !gems.bundled {
            true => (format!("{bundle}puma -p $PORT"), "config.ru with Puma"),
            false => (format!("{bundle}rackup config.ru -o 0.0.0.0 -p $PORT"), "config.ru"),
        });
    }
    let is_sinatra = |file: &&str| {
        let text = tree.glance(file).unwrap_or_default();
        text.lines().any(|line| matches!(line.trim(), "require 'sinatra'" | "require \"sinatra\""))
    };
    let program = ["app.rb", "main.rb", "server.rb", "web.rb"].into_iter().find(is_sinatra)?;
    Some((format!("{bundle}ruby {program} -o 0.0.0.0 -p $PORT"), "Sinatra"))
}

fn runtime(draft: &mut Draft<'_>, gems: &Gems, launch: bool) -> Result<(), PlanError> {
    let (wanted, text, origin) = version::wanted(draft.tree)?;
    if let Wanted::Source(version) = wanted {
        if !gems.bundled {
            return invalid(
                origin,
                format!(
                    "it asks for Ruby {version}, for which there are no gems of Debian; add a Gemfile with rack and puma, and commit it with Gemfile.lock"
                ),
            );
        }
        let mut env = draft.config(|name| name == "BERTH_RUBY_MIRROR");
        env.extend([("RUBY_WANTED", version.clone()), ("HOME", "/tmp".to_owned())]);
        if version.matches('.').count() < 2 && draft.settings.refresh > 0 {
            env.push(("RUBY_REFRESH", draft.settings.refresh.to_string()));
        }
        return draft.step(Step {
            name: "ruby/runtime",
            title: format!("Compiling Ruby {version}"),
            notes: vec![
                format!("the version {text} comes from {origin}"),
                format!("Debian has Ruby {} only, so this one is compiled from its source: some minutes, once on this machine", version::LINE),
            ],
            script: include_str!("compile.sh").to_owned(),
            env,
            sources: Vec::new(),
            keep_app: false,
            outputs: vec!["/layers/ruby"],
            caches: Vec::new(),
            launch,
            uses: Vec::new(),
        });
    }
    let mut packages = vec!["ruby".to_owned(), "ruby-bundler".to_owned()];
    let mut notes = vec![match origin {
        "" => "no version was asked for: Debian's Ruby 3.1 is used; another is compiled if Gemfile.lock, Gemfile or .ruby-version names it".to_owned(),
        origin => format!("Debian's Ruby 3.1 satisfies {text} of {origin}"),
    }];
    if !gems.bundled {
        packages.extend(["ruby-rack", "puma"].map(str::to_owned));
        notes.push("there is no Gemfile: Debian's Rack and Puma are used".to_owned());
    }
    debian::layer(
        draft,
        Packages {
            name: "ruby/runtime",
            title: "Installing Ruby 3.1".to_owned(),
            notes,
            packages,
            script: "packages\nruby --version\n",
            env: Vec::new(),
            launch,
            uses: Vec::new(),
        },
    )?;
    if !gems.bundled {
        return Ok(());
    }
    debian::layer(
        draft,
        Packages {
            name: "ruby/headers",
            title: "Installing Ruby's headers".to_owned(),
            notes: vec!["for gems in C; they do not become part of the image".to_owned()],
            packages: vec!["ruby-dev".to_owned()],
            script: "packages\n",
            env: Vec::new(),
            launch: false,
            uses: vec!["ruby/runtime"],
        },
    )
}

/// What every call of Bundler needs.
fn env(gems_locked: bool, without: Option<&str>) -> Vec<(&'static str, String)> {
    let mut env = vec![
        ("HOME", "/tmp".to_owned()),
        ("PATH", "/layers/ruby/bin:/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("BUNDLE_PATH", GEMS.to_owned()),
        ("BUNDLE_GEMFILE", "/app/Gemfile".to_owned()),
        ("BUNDLE_WITHOUT", without.unwrap_or("development:test").to_owned()),
        ("BUNDLE_USER_HOME", "/tmp/bundle".to_owned()),
        ("BUNDLE_CACHE_PATH", "vendor/cache".to_owned()),
        ("BUNDLE_JOBS", "4".to_owned()),
        ("BUNDLE_RETRY", "2".to_owned()),
    ];
    if gems_locked {
        env.push(("BUNDLE_FROZEN", "true".to_owned()));
    }
    env
}

fn dependencies(draft: &mut Draft<'_>, gems: &Gems, launch: bool) -> Result<(), PlanError> {
    let notes = match gems.locked {
        true => "gems come from Gemfile.lock".to_owned(),
        false => {
            "there is no Gemfile.lock, so versions may change between builds; run `bundle lock` and commit it"
                .to_owned()
        }
    };
    let mut vars = draft.config(|name| name.starts_with("BUNDLE_") || name.starts_with("GEM_"));
    vars.extend(env(gems.locked, draft.var("BUNDLE_WITHOUT")));
    draft.step(Step {
        name: "ruby/dependencies",
        title: "Installing gems with Bundler".to_owned(),
        notes: vec![notes],
        script: include_str!("dependencies.sh").to_owned(),
        env: vars,
        sources: gems.sources.clone(),
        keep_app: false,
        outputs: vec![GEMS],
        caches: vec![("ruby", "/cache/ruby")],
        launch,
        uses: vec!["ruby/runtime", "ruby/headers"],
    })
}

/// Rails' assets become files of the app.
fn assets(draft: &mut Draft<'_>, gems: &Gems, mut notes: Vec<String>) -> Result<(), PlanError> {
    notes.push("Rails: rake assets:precompile (DISABLE_ASSETS_PRECOMPILE=1 turns this off)".to_owned());
    let script = format!("cd /app\n{}{}", draft.prune(), include_str!("assets.sh"));
    let mut vars = draft.build_config();
    vars.extend(env(gems.locked, draft.var("BUNDLE_WITHOUT")));
    vars.extend([
        ("RAILS_ENV", "production".to_owned()),
        ("RACK_ENV", "production".to_owned()),
        ("SECRET_KEY_BASE_DUMMY", "1".to_owned()),
    ]);
    draft.step(Step {
        name: "app",
        title: "Adding the app's files".to_owned(),
        notes,
        script,
        env: vars,
        sources: vec![".".to_owned()],
        keep_app: true,
        outputs: Vec::new(),
        caches: Vec::new(),
        launch: true,
        uses: vec!["ruby/runtime", "ruby/headers", "ruby/dependencies"],
    })
}
