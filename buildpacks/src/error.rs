//! Why there is no plan, in words for the person who pushed.

use crate::tree::TreeError;
use berth_model::procfile;

/// What the builders here build, for people.
const LANGUAGES: &str = "Dockerfiles, Go, Java, Node.js, PHP, Python, Ruby, Rust and static sites";
/// [`crate::BUILDERS`] for people.
pub(crate) const CHOICE: &str = "dockerfile, php, go, java, rust, ruby, python, node, static or procfile";

/// Why there is no plan. The text says what was found, what was expected, and what to try.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file could not be read.
    #[error("{0}")]
    Tree(#[from] TreeError),
    /// The Procfile is malformed.
    #[error("{0}")]
    Procfile(#[from] procfile::ParseError),
    /// A file that decides about the build says something wrong or unclear.
    #[error("{file}: {reason}")]
    Invalid {
        /// Which file.
        file: String,
        /// What was found, and what to write instead.
        reason: String,
    },
    /// The Dockerfile says something that cannot be done.
    #[error("{file}:{line}: {text}")]
    Dockerfile {
        /// Its path.
        file: String,
        /// Where, from 1.
        line: usize,
        /// What was found, and what to write instead.
        text: String,
    },
    /// The tree has no files.
    #[error(
        "the pushed commit has no files, so there is nothing to build.\n\
         1. Check that files are committed: `git status`, then `git add` and `git commit`.\n\
         2. Check that the right branch was pushed: `git log --stat -1`."
    )]
    Empty,
    /// No builder knows such a tree.
    #[error(
        "cannot tell how to build this app. Looked at the top of the repository for\n  \
         Go:      go.mod, go.work, *.go\n  \
         Rust:    Cargo.toml\n  \
         PHP:     composer.json, index.php\n  \
         Java:    pom.xml, build.gradle, gradlew, Main.java\n  \
         Ruby:    Gemfile, config.ru\n  \
         Python:  requirements.txt, pyproject.toml, uv.lock, poetry.lock, Pipfile, setup.py, manage.py, app.py, main.py\n  \
         Node.js: package.json\n  \
         Static:  index.html, Staticfile, static.json, .static, or a directory public, dist or _site with an index.html\n  \
         Sites:   hugo.toml, mkdocs.yml, _config.yml (Jekyll), docs/conf.py (Sphinx)\n  \
         Docker:  Dockerfile\n  \
         Any:     Procfile\n\
         and found {found}.\n\
         1. If the app is in a subdirectory, have that built: `berth builder:set APP build-dir DIR`, then push again.\n\
         2. If the app needs no language runtime, add a Procfile with a line such as `web: ./server`.\n\
         3. If one of the files above exists, check that it is committed and not in .gitignore."
    )]
    Unknown {
        /// Names at the top of the tree, cut to a few.
        found: String,
    },
    /// What was found is known, but this version has no builder for it.
    #[error(
        "found {found}. This version of Berth builds {LANGUAGES} only; support for {language} comes in a later version.\n\
         1. {first}\n\
         2. If another part of the repository is the app, choose its builder ({CHOICE}): \
         `berth builder:set APP selected python`, then push again.\n\
         3. If there is a buildpack for it: `berth buildpacks:add APP https://github.com/owner/buildpack`, then push again.\n\
         4. If the app is committed as a program that runs on Debian 12, add a Procfile with `web: ./program` and choose \
         `berth builder:set APP selected procfile`."
    )]
    NotYet {
        /// The file that told.
        found: String,
        /// The language or kind of build, in the plural or without an article.
        language: &'static str,
        /// What to try first.
        first: String,
    },
    /// The user chose a builder that does not exist.
    #[error(
        "there is no builder {name:?}; choose {CHOICE} (berth builder:set APP selected NAME), or none to let Berth detect"
    )]
    NoSuchBuilder {
        /// What was chosen.
        name: String,
    },
    /// Buildpacks were asked for, but none is named.
    #[error(
        "the builder {name} was chosen, but nothing says which buildpacks to run.\n\
         1. Name them in project.toml ([[io.buildpacks.group]] with `uri`, or builder = \"image\" below [io.buildpacks]) and commit it.\n\
         2. Or add them to the app: `berth buildpacks:add APP https://github.com/owner/buildpack`."
    )]
    NoBuildpacks {
        /// What was chosen.
        name: String,
    },
    /// The language was found, but nothing says what to run.
    #[error(
        "this is a {language} app, but nothing says what to start. Looked for {looked}.\n\
         1. Add a Procfile with a line such as `web: {example}` and commit it.\n\
         2. If the app has no web process, name another: `worker: …`."
    )]
    NothingToStart {
        /// Which language.
        language: &'static str,
        /// Where a command was looked for.
        looked: &'static str,
        /// A line that would do.
        example: &'static str,
    },
}

/// Shorthand for [`PlanError::Invalid`].
pub(crate) fn invalid<T>(file: &str, reason: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::Invalid { file: file.to_owned(), reason: reason.into() })
}
