//! Work: what one step asks for, every word filled in.
//!
//! In: flags and words of RUN, COPY and ADD. Out: values whose serialised form names their result, together with what
//! they are applied to and the contents of what they read.

use super::lines::Heredoc;
use super::{Chmod, GitSource};
use berth_model::EnvName;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a step does to the files of its stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum Work {
    /// Runs a program.
    Run(Run),
    /// Copies files.
    Copy(Copy),
    /// Makes a directory (`WORKDIR`) unless it is there.
    Directory {
        /// Absolute.
        path: String,
        /// Who owns it, as in an image's config.
        user: String,
    },
}

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The line for the shell, if the default shell gets one: then its two outputs may be made one.
    pub script: Option<String>,
    /// Whole environment besides the platform's: ENV over ARG.
    pub env: BTreeMap<EnvName, String>,
    /// As in an image's config.
    pub user: String,
    /// Absolute.
    pub cwd: String,
    /// `--mount`s.
    pub mounts: Vec<Mount>,
    /// Small files that are there while it runs: path, content.
    pub files: Vec<(String, String)>,
    /// `false` for `--network=none`.
    pub online: bool,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The pushed tree.
    Context,
    /// An earlier stage, by number.
    Stage(usize),
    /// An image, as written.
    Image(String),
}

/// `--mount=…` of RUN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Absolute place in the container; empty for a secret that is only a variable.
    pub target: String,
    /// Whether the program may not write it.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MountKind {
    /// A directory kept between builds of the app.
    Cache {
        /// Which; the target by default.
        id: String,
        /// Owner of a new one.
        uid: u32,
        /// Group of a new one.
        gid: u32,
        /// Permissions of a new one.
        mode: u32,
        /// What a new one begins with: whose files, and which.
        from: Option<(Origin, String)>,
    },
    /// Files of the tree, a stage or an image, for the time of the step. What is written there is lost.
    Bind {
        /// Whose.
        from: Origin,
        /// Which.
        source: String,
    },
    /// A config var as a file, or as a variable. Its value is no part of the key.
    Secret {
        /// Name of the config var.
        id: String,
        /// Name of the variable to set.
        env: Option<String>,
        /// Whether it is an error if there is no such config var.
        required: bool,
    },
    /// An empty directory.
    Tmpfs,
}

/// Files to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// What.
    pub sources: Vec<Source>,
    /// Absolute; ends with `/` if it must be a directory.
    pub dest: String,
    /// Where the paths of `sources` are.
    pub from: Origin,
    /// `user[:group]`, names or numbers; `None` keeps the owners.
    pub chown: Option<String>,
    /// Permissions of files and directories; `None` keeps them.
    pub chmod: Option<Chmod>,
    /// Paths are copied with the directories above them, from `/./` on if that is in them.
    pub parents: bool,
    /// Patterns of what is left out, relative to the source.
    pub exclude: Vec<String>,
    /// Archives of the tree are unpacked (`ADD`).
    pub unpack: bool,
    /// What a download must be: `sha256:…`.
    pub checksum: Option<String>,
}

/// One source of COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A path, or a pattern.
    Path(String),
    /// A here-document: name and content.
    Inline(String, String),
    /// `https://…`
    Url(String),
    /// A git repository.
    Git(GitSource),
}

impl Mount {
    /// A field of the comma-separated text, as it is written.
    pub(super) fn field(text: &str, name: &str) -> Option<String> {
        fields(text).find(|(key, _)| *key == name).map(|(_, value)| value.unwrap_or_default())
    }

    /// Reads `--mount=text`. `expand` fills in variables, `origin` looks a stage up.
    pub(super) fn parse(
        text: &str,
        cwd: &str,
        expand: &dyn Fn(&str) -> Result<String, String>,
        origin: &dyn Fn(&str) -> Result<Origin, String>,
    ) -> Result<Self, String> {
        let mut given = BTreeMap::new();
        for (key, value) in fields(text) {
            let key = match key {
                "dst" | "destination" => "target",
                "src" => "source",
                "ro" => "readonly",
                "rw" | "readwrite" => "rw",
                key => key,
            };
            let value = value.as_deref().map(expand).transpose()?;
            if given.insert(key.to_owned(), value).is_some() {
                return Err(format!("--mount names {key} twice"));
            }
        }
        let mut take = |key: &str| given.remove(key).map(Option::unwrap_or_default);
        let kind = take("type").unwrap_or_else(|| "bind".to_owned());
        let target = take("target").map(|path| absolute(cwd, &path));
        let flag = |value: Option<String>| value.map(|value| !matches!(value.as_str(), "false" | "0"));
        let (read_only, writable) = (flag(take("readonly")), flag(take("rw")));
        let number = |value: Option<String>, radix: u32, default: u32| match value {
            None => Ok(default),
            Some(text) => {
                u32::from_str_radix(&text, radix).map_err(|_| format!("{text:?} in --mount is no number"))
            }
        };
        let needs_target = || format!("--mount=type={kind} needs target=PATH");
        let mount = match kind.as_str() {
            "cache" => {
                let target = target.ok_or_else(needs_target)?;
                drop(take("sharing")); // builds of an app do not run at the same time
                let source = take("source").unwrap_or_default();
                let from = take("from").filter(|from| !from.is_empty());
                let from = from.map(|from| Ok::<_, String>((origin(&from)?, source))).transpose()?;
                let kind = MountKind::Cache {
                    id: take("id").filter(|id| !id.is_empty()).unwrap_or_else(|| target.clone()),
                    uid: number(take("uid"), 10, 0)?,
                    gid: number(take("gid"), 10, 0)?,
                    mode: number(take("mode"), 8, 0o755)? & 0o7777,
                    from,
                };
                Self { kind, target, read_only: read_only.unwrap_or(false) }
            }
            "bind" => {
                let from = match take("from") {
                    None => Origin::Context,
                    Some(from) => origin(&from)?,
                };
                let source = take("source").unwrap_or_default();
                let read_only = read_only.unwrap_or(!writable.unwrap_or(false));
                Self {
                    kind: MountKind::Bind { from, source },
                    target: target.ok_or_else(needs_target)?,
                    read_only,
                }
            }
            "secret" => {
                let (id, source) = (take("id"), take("source"));
                let env = take("env");
                let id = id.or(source).or_else(|| target.as_deref().and_then(last_name));
                let id = id
                    .filter(|id| !id.is_empty())
                    .ok_or("--mount=type=secret needs id=NAME, a config var")?;
                let required = flag(take("required")).unwrap_or(false);
                for unused in ["mode", "uid", "gid"] {
                    drop(take(unused)); // the file can be read by every user of the step
                }
                let target = target.or_else(|| env.is_none().then(|| format!("/run/secrets/{id}")));
                let kind = MountKind::Secret { id, env, required };
                Self { kind, target: target.unwrap_or_default(), read_only: true }
            }
            "tmpfs" => {
                drop(take("size"));
                Self { kind: MountKind::Tmpfs, target: target.ok_or_else(needs_target)?, read_only: false }
            }
            "ssh" => {
                return Err("--mount=type=ssh is not known here: there is no agent to forward. Put a deploy key into a config var \
                            and use --mount=type=secret,id=NAME"
                    .to_owned());
            }
            other => {
                return Err(format!(
                    "--mount has no type {other:?}; known are bind, cache, secret and tmpfs"
                ));
            }
        };
        match given.into_keys().next() {
            Some(key) => Err(format!("--mount=type={kind} has no field {key:?}")),
            None => Ok(mount),
        }
    }
}

fn fields(text: &str) -> impl Iterator<Item = (&str, Option<String>)> {
    text.split(',').filter(|field| !field.is_empty()).map(|field| {
        let field = field.trim_matches('"');
        match field.split_once('=') {
            Some((key, value)) => (key, Some(value.trim_matches('"').to_owned())),
            None => (field, None),
        }
    })
}

fn last_name(path: &str) -> Option<String> {
    path.rsplit('/').next().map(str::to_owned)
}

/// `path` seen from `cwd`, with `.` and `..` worked out; a slash at the end stays.
pub(super) fn absolute(cwd: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{cwd}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let is_directory = whole.ends_with('/') || whole.ends_with("/.") || path == ".";
    let end = if is_directory && !parts.is_empty() { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

/// The program that a RUN with here-documents starts, and the files it needs: a command that is nothing but one
/// here-document is a script of its own; otherwise the shell reads the documents after its line.
pub(super) fn with_heredocs(line: &str, heredocs: &[Heredoc]) -> (String, Option<(String, String)>) {
    if let [doc] = heredocs
        && super::lines::heredoc_name(line).is_some()
    {
        if doc.content.starts_with("#!") {
            return (String::new(), Some((format!("/run/berth/heredoc/{}", doc.name), doc.content.clone())));
        }
        return (doc.content.clone(), None);
    }
    let mut script = line.to_owned();
    for doc in heredocs {
        script = format!("{script}\n{}{}", doc.content, doc.name);
    }
    (script, None)
}
