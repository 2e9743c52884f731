//! Starting an app's process.
//!
//! In: the name this was called by, arguments, the image's metadata. Out: a program in this one's place; an error if there
//! is none.

use crate::Failure;
use berth_launcher::{Env, METADATA, Metadata, PROCESS_DIR, Process};
use rustix::io::{FdFlags, dup2, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Largest metadata.
const MAX_METADATA: u64 = 4 << 20;
/// Most that an exec.d program may say.
const MAX_OUTPUT: u64 = 1 << 20;
/// Where an exec.d program writes its variables (Buildpack specification, “exec.d”).
const EXEC_D_FD: i32 = 3;
/// Variables for the launcher itself, and who starts it.
const OWN: [&str; 5] =
    ["CNB_APP_DIR", "CNB_LAYERS_DIR", "CNB_PROCESS_TYPE", "CNB_PLATFORM_API", "CNB_DEPRECATION_MODE"];

struct Launch {
    app: PathBuf,
    metadata: Metadata,
    /// Layers by buildpack, in order, with the buildpack's API.
    layers: Vec<(Vec<PathBuf>, (u32, u32))>,
    env: Env,
}

/// What is to run.
struct Chosen {
    process: Process,
    /// Whether arguments are words, not text that a shell reads again.
    verbatim: bool,
}

/// Comes back only if nothing could be started.
pub(crate) fn run(name: &OsStr, args: &[OsString]) -> Failure {
    match begin(name, args) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn begin(name: &OsStr, args: &[OsString]) -> Result<std::convert::Infallible, Failure> {
    let mut env = Env(std::env::vars_os().collect());
    let directory = |name: &str, default: &str| {
        let value = env.get(name).filter(|value| !value.is_empty());
        PathBuf::from(value.unwrap_or(OsStr::new(default)))
    };
    let (layers_dir, app) = (directory("CNB_LAYERS_DIR", "/layers"), directory("CNB_APP_DIR", "/workspace"));
    let metadata = metadata(&layers_dir)?;
    let asked = env.get("CNB_PROCESS_TYPE").map(OsStr::to_owned);
    for own in OWN {
        env.0.remove(OsStr::new(own));
    }
    if let Some(path) = env.get("PATH").map(OsStr::to_owned) {
        env.set("PATH", without_own(&path));
    }
    let chosen = choose(&metadata, name, asked.as_deref(), args)?;
    let layers = metadata.buildpacks.iter().map(|buildpack| {
        let dir = layers_dir.join(buildpack.id.replace('/', "_"));
        Ok((directories(&dir)?, api(&buildpack.api)))
    });
    let layers = layers.collect::<io::Result<Vec<_>>>();
    let layers = layers.map_err(|error| Failure::launch(format!("the layers cannot be read: {error}")))?;
    let mut launch = Launch { app, metadata, layers, env };
    launch.environment(&chosen.process.name)?;
    launch.start(chosen)
}

fn metadata(layers: &Path) -> Result<Metadata, Failure> {
    let path = layers.join(METADATA);
    let wrong = |error: &dyn std::fmt::Display| Failure::launch(format!("{}: {error}", path.display()));
    let mut text = String::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_METADATA).read_to_string(&mut text))
        .map_err(|error| wrong(&error))?;
    toml::from_str(&text).map_err(|error| wrong(&error))
}

/// `0.10` as numbers.
fn api(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

/// Without the directory of process types, which is no place for the app to find programs in.
fn without_own(path: &OsStr) -> OsString {
    let own = [PROCESS_DIR, "/cnb/lifecycle"].map(str::as_bytes);
    let parts = path.as_bytes().split(|byte| *byte == b':').filter(|part| !own.contains(part));
    OsStr::from_bytes(&parts.collect::<Vec<_>>().join(&b':')).to_owned()
}

/// `/cnb/process/web [arguments]`, `launcher TYPE`, `launcher -- program [arguments]`, `launcher line`, and Berth's own
/// `launcher --profile -- program [arguments]`: with what profiles say, and arguments as they are.
fn choose(
    metadata: &Metadata,
    name: &OsStr,
    asked: Option<&OsStr>,
    args: &[OsString],
) -> Result<Chosen, Failure> {
    let find = |name: &OsStr| metadata.processes.iter().find(|process| OsStr::new(&process.name) == name);
    let words = |args: &[OsString]| -> Result<Vec<String>, Failure> {
        let word = |arg: &OsString| {
            arg.to_str().map(str::to_owned).ok_or_else(|| Failure::invalid("an argument is not UTF-8"))
        };
        args.iter().map(word).collect()
    };
    let defined = |process: &Process, args: &[OsString]| {
        let mut process = process.clone();
        if !args.is_empty() {
            process.args = words(args)?;
        }
        Ok(Chosen { verbatim: false, process })
    };
    if let Some(process) = find(name) {
        return defined(process, args);
    }
    if name != "launcher" && name != "berth-launcher" {
        let known: Vec<_> = metadata.processes.iter().map(|process| process.name.as_str()).collect();
        return Err(Failure::launch(format!(
            "there is no process type {}; there are: {}",
            name.display(),
            known.join(", ")
        )));
    }
    let (profile, args) = match args {
        [first, rest @ ..] if first == "--profile" => (true, rest),
        args => (false, args),
    };
    let (direct, args) = match args {
        [first, rest @ ..] if first == "--" => (true, rest),
        args => (false, args),
    };
    match args {
        [] if !direct => {
            let of_default = || metadata.processes.iter().find(|process| process.default);
            let process = match asked {
                Some(asked) => find(asked),
                None => of_default().or_else(|| find(OsStr::new("web"))),
            };
            let none = || Failure::launch("no process type was asked for, and the image has no default one");
            return defined(process.ok_or_else(none)?, &[]);
        }
        [one] if !direct && find(one).is_some() => {
            return defined(find(one).ok_or_else(|| Failure::invalid("no such process"))?, &[]);
        }
        _ => {}
    }
    let mut words = words(args)?.into_iter();
    let Some(program) = words.next() else {
        return Err(Failure::invalid("there is no program after --"));
    };
    let process = Process {
        command: vec![program],
        args: words.collect(),
        direct: direct && !profile,
        ..Process::default()
    };
    Ok(Chosen { verbatim: profile, process })
}

/// Sorted directories below `dir`; none if it is not there.
fn directories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let found = children(dir)?;
    Ok(found.into_iter().filter(|path| path.is_dir()).collect())
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(children(dir)?.into_iter().filter(|path| path.is_file()).collect())
}

impl Launch {
    /// What layers and their exec.d programs say.
    fn environment(&mut self, process: &str) -> Result<(), Failure> {
        let unreadable = |error: io::Error| Failure::launch(format!("the layers cannot be read: {error}"));
        for (layers, _) in &self.layers {
            self.env.launch_layers(layers, process).map_err(unreadable)?;
        }
        for layer in self.layers.iter().flat_map(|(layers, _)| layers) {
            let mut dirs = vec![layer.join("exec.d")];
            if !process.is_empty() {
                dirs.push(layer.join("exec.d").join(process));
            }
            for program in dirs
                .iter()
                .map(|dir| files(dir))
                .collect::<io::Result<Vec<_>>>()
                .map_err(unreadable)?
                .concat()
            {
                exec_d(&program, &self.app, &mut self.env)?;
            }
        }
        Ok(())
    }

    /// Scripts to read before a shell process.
    fn profiles(&self, process: &str) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for (layers, _) in &self.layers {
            for layer in layers {
                found.extend(files(&layer.join("profile.d"))?);
                if !process.is_empty() {
                    found.extend(files(&layer.join("profile.d").join(process))?);
                }
            }
        }
        if self.metadata.classic {
            let scripts = files(&self.app.join(".profile.d"))?;
            found.extend(scripts.into_iter().filter(|path| path.extension() == Some(OsStr::new("sh"))));
        }
        found.extend(Some(self.app.join(".profile")).filter(|path| path.is_file()));
        Ok(found)
    }

    fn start(self, chosen: Chosen) -> Result<std::convert::Infallible, Failure> {
        let Chosen { process, verbatim } = chosen;
        let directory = match process.working_dir.as_str() {
            "" => self.app.clone(),
            dir => self.app.join(dir),
        };
        std::env::set_current_dir(&directory)
            .map_err(|error| Failure::launch(format!("cannot change to {}: {error}", directory.display())))?;
        let profiles = match process.direct {
            true => Vec::new(),
            false => self.profiles(&process.name).map_err(Failure::launch)?,
        };
        let words: Vec<&str> = process.command.iter().chain(&process.args).map(String::as_str).collect();
        let Some((program, rest)) = words.split_first() else {
            return Err(Failure::launch(format!("the process type {} has no command", process.name)));
        };
        let mut argv: Vec<OsString> = Vec::new();
        if process.direct || verbatim && profiles.is_empty() {
            argv.extend(words.iter().map(OsString::from));
        } else {
            let shell = self.shell()?;
            let mut script = String::new();
            for profile in &profiles {
                script.push_str(&format!(". {}\n", quoted(profile)?));
            }
            // What a profile says of the environment holds for the program. A line alone is the shell's; words of a
            // shell process are read once more each, so that `$PORT` in them means something.
            script.push_str(&match (verbatim, rest.is_empty()) {
                (true, _) => "exec \"$0\" \"$@\"".to_owned(),
                (false, true) => format!("exec {} -c \"$0\"", shell.display()),
                (false, false) => {
                    let word = |at: usize| format!("\"$(eval echo \\\"${{{at}}}\\\")\"");
                    let all: Vec<String> = (0..words.len()).map(word).collect();
                    format!("exec {}", all.join(" "))
                }
            });
            argv.extend([shell.into_os_string(), "-c".into(), script.into(), program.into()]);
            argv.extend(rest.iter().map(OsString::from));
        }
        let found = look_up(&argv[0], self.env.get("PATH"));
        let mut command = Command::new(&found);
        command.arg0(&argv[0]).args(&argv[1..]).env_clear().envs(&self.env.0);
        Err(Failure::launch(format!("cannot start {}: {}", argv[0].display(), command.exec())))
    }

    /// Bash, which profiles are written for, or what else there is.
    fn shell(&self) -> Result<PathBuf, Failure> {
        let found =
            ["/bin/bash", "/usr/bin/bash", "/bin/sh"].iter().map(PathBuf::from).find(|path| path.exists());
        found.ok_or_else(|| Failure::launch("this image has no shell, and this process needs one"))
    }
}

/// Where the app's own search path has a program; the name as it is if nowhere.
fn look_up(program: &OsStr, path: Option<&OsStr>) -> PathBuf {
    if !program.as_bytes().contains(&b'/') {
        for dir in path.map(OsStr::as_bytes).unwrap_or_default().split(|byte| *byte == b':') {
            let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
            let at = dir.join(program);
            if fs::metadata(&at).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
            {
                return at;
            }
        }
    }
    program.into()
}

fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().ok_or_else(|| Failure::launch("the name of a profile is not UTF-8"))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// Runs one exec.d program, and sets what it writes to its descriptor 3.
fn exec_d(program: &Path, app: &Path, env: &mut Env) -> Result<(), Failure> {
    let wrong = |text: String| Failure::launch(format!("exec.d program {}: {text}", program.display()));
    let failed = |error: &dyn std::fmt::Display| wrong(error.to_string());
    // The first descriptor that is free is 3, unless somebody passed one on to us. Anything that is always there will do.
    let mut third: OwnedFd = File::open("/").map_err(|error| failed(&error))?.into();
    if third.as_raw_fd() != EXEC_D_FD {
        return Err(wrong("descriptor 3 is taken; start the container without extra descriptors".to_owned()));
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(&error))?;
    dup2(&writer, &mut third).map_err(|error| failed(&error))?;
    fcntl_setfd(&third, FdFlags::empty()).map_err(|error| failed(&error))?;
    drop(writer);
    let mut command = Command::new(program);
    command.current_dir(app).env_clear().envs(&env.0);
    let spawned = command.spawn();
    drop(third);
    let mut child = spawned.map_err(|error| failed(&error))?;
    let mut text = String::new();
    let read = File::from(reader).take(MAX_OUTPUT).read_to_string(&mut text);
    let status = child.wait().map_err(|error| failed(&error))?;
    if !status.success() {
        return Err(wrong(format!("it ended with {status}")));
    }
    read.map_err(|error| failed(&error))?;
    let said: std::collections::BTreeMap<String, String> = toml::from_str(&text)
        .map_err(|error| wrong(format!("what it said is not TOML of texts: {error}")))?;
    for (name, value) in said {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(wrong(format!("it set {name:?}, which cannot be a variable")));
        }
        env.set(name, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let process = |name: &str, default| Process {
            name: name.to_owned(),
            command: vec!["serve".to_owned()],
            args: vec!["--quick".to_owned()],
            direct: true,
            default,
            ..Process::default()
        };
        Metadata { processes: vec![process("web", false), process("worker", true)], ..Metadata::default() }
    }

    fn chosen(name: &str, asked: Option<&str>, args: &[&str]) -> Option<(Vec<String>, bool)> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let found = choose(&metadata(), OsStr::new(name), asked.map(OsStr::new), &args).ok()?;
        let process = found.process;
        Some((process.command.into_iter().chain(process.args).collect(), process.direct))
    }

    #[test]
    fn names_and_arguments_choose_a_process() {
        let words =
            |words: &[&str], direct| Some((words.iter().map(|word| (*word).to_owned()).collect(), direct));
        assert_eq!(chosen("web", None, &[]), words(&["serve", "--quick"], true));
        assert_eq!(chosen("web", None, &["--slow"]), words(&["serve", "--slow"], true));
        assert_eq!(chosen("launcher", None, &["web"]), words(&["serve", "--quick"], true));
        assert_eq!(chosen("launcher", Some("web"), &[]), words(&["serve", "--quick"], true));
        assert_eq!(chosen("launcher", None, &[]), words(&["serve", "--quick"], true));
        assert_eq!(chosen("launcher", None, &["--", "ls", "-l"]), words(&["ls", "-l"], true));
        assert_eq!(chosen("launcher", None, &["ls -l"]), words(&["ls -l"], false));
        assert_eq!(chosen("launcher", None, &["--profile", "--", "ls"]), words(&["ls"], false));
        assert_eq!(chosen("launcher", None, &["--"]), None);
        assert_eq!(chosen("cron", None, &[]), None);
    }

    #[test]
    fn the_launchers_own_directories_leave_the_search_path() {
        assert_eq!(without_own(OsStr::new("/cnb/process:/cnb/lifecycle:/usr/bin:/bin")), "/usr/bin:/bin");
        assert_eq!(api("0.10"), (0, 10));
        assert!(api("0.9") < api("0.10"));
    }
}
