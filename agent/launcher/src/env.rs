//! Environments of buildpacks and of what they built (Buildpack specification, “Environment”).
//!
//! In: variables, layer directories. Out: variables. Files are read as bytes, exactly: a newline at the end counts.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Directory of a layer, variable it goes in front of; while buildpacks run.
const BUILD_ROOTS: [(&str, &str); 5] = [
    ("bin", "PATH"),
    ("lib", "LD_LIBRARY_PATH"),
    ("lib", "LIBRARY_PATH"),
    ("include", "CPATH"),
    ("pkgconfig", "PKG_CONFIG_PATH"),
];
/// The same when the app starts.
const LAUNCH_ROOTS: [(&str, &str); 2] = [("bin", "PATH"), ("lib", "LD_LIBRARY_PATH")];
/// Variables that a user's value goes in front of instead of replacing it.
const PATHS: [&str; 5] = ["PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH"];
/// Longest file with a variable.
const MAX_VALUE: u64 = 1 << 20;

/// Variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env(pub BTreeMap<OsString, OsString>);

/// A file of an `env` directory: its name and its bytes.
pub type EnvFile = (OsString, Vec<u8>);

impl Env {
    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Sets a variable.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.0.insert(name.into(), value.into());
    }

    fn prepend(&mut self, name: &OsStr, value: &[u8], delimiter: &[u8]) {
        let old = self.0.get(name).map(|old| old.as_bytes()).unwrap_or_default();
        let joined = if old.is_empty() { value.to_vec() } else { [value, delimiter, old].concat() };
        self.0.insert(name.to_owned(), OsString::from_vec(joined));
    }

    /// What one `env` directory says. A file's suffix says how: none or `override`, `append`, `prepend`, `default`;
    /// `delim` names what comes between.
    pub fn apply(&mut self, files: &[EnvFile]) {
        let delimiter = |name: &[u8]| {
            let wanted = [name, b".delim"].concat();
            let found = files.iter().find(|(file, _)| file.as_bytes() == wanted);
            found.map(|(_, bytes)| bytes.as_slice()).unwrap_or_default()
        };
        for (file, value) in files {
            let file = file.as_bytes();
            let dot = file.iter().position(|byte| *byte == b'.');
            let (name, kind) = match dot {
                Some(dot) => (&file[..dot], &file[dot + 1..]),
                None => (file, &b"override"[..]),
            };
            if name.is_empty() || name.contains(&b'=') || value.contains(&0) {
                continue;
            }
            let key = OsStr::from_bytes(name);
            let is_unset = || self.0.get(key).is_none_or(|old| old.is_empty());
            match kind {
                b"override" => drop(self.0.insert(key.to_owned(), OsString::from_vec(value.clone()))),
                b"default" if is_unset() => {
                    self.0.insert(key.to_owned(), OsString::from_vec(value.clone()));
                }
                b"prepend" => self.prepend(key, value, delimiter(name)),
                b"append" => {
                    let old = self.0.get(key).map(|old| old.as_bytes()).unwrap_or_default();
                    let joined =
                        if old.is_empty() { value.clone() } else { [old, delimiter(name), value].concat() };
                    self.0.insert(key.to_owned(), OsString::from_vec(joined));
                }
                _ => {}
            }
        }
    }

    fn roots(&mut self, layer: &Path, roots: &[(&str, &str)]) {
        for (dir, variable) in roots {
            let path = layer.join(dir);
            if path.is_dir() {
                self.prepend(OsStr::new(variable), path.as_os_str().as_bytes(), b":");
            }
        }
    }

    /// The layers of one buildpack, for the buildpacks after it.
    pub fn build_layers(&mut self, layers: &[impl AsRef<Path>]) -> io::Result<()> {
        for layer in layers {
            self.roots(layer.as_ref(), &BUILD_ROOTS);
        }
        for layer in layers {
            for dir in ["env", "env.build"] {
                self.apply(&read(&layer.as_ref().join(dir))?);
            }
        }
        Ok(())
    }

    /// The layers of one buildpack, for the process type `process`.
    pub fn launch_layers(&mut self, layers: &[impl AsRef<Path>], process: &str) -> io::Result<()> {
        for layer in layers {
            self.roots(layer.as_ref(), &LAUNCH_ROOTS);
        }
        for layer in layers {
            let mut dirs = vec![layer.as_ref().join("env"), layer.as_ref().join("env.launch")];
            if !process.is_empty() {
                dirs.push(layer.as_ref().join("env.launch").join(process));
            }
            for dir in dirs {
                self.apply(&read(&dir)?);
            }
        }
        Ok(())
    }

    /// A user's variables: they win, but go in front of search paths.
    pub fn user(&mut self, files: &[EnvFile]) {
        for (name, value) in files {
            if PATHS.iter().any(|path| name == path) {
                self.prepend(name, value, b":");
            } else if !value.contains(&0) && !name.is_empty() && !name.as_bytes().contains(&b'=') {
                self.0.insert(name.clone(), OsString::from_vec(value.clone()));
            }
        }
    }
}

/// The files of a directory, sorted by name; none if there is no such directory.
pub fn read(dir: &Path) -> io::Result<Vec<EnvFile>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(found) = fs::metadata(entry.path()) else { continue };
        if found.is_file() && found.len() <= MAX_VALUE {
            files.push((entry.file_name(), fs::read(entry.path())?));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(name: &str, value: &str) -> EnvFile {
        (name.into(), value.as_bytes().to_vec())
    }

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env(pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect())
    }

    #[test]
    fn suffixes_say_how_a_variable_changes() {
        let mut found = env(&[("A", "a"), ("P", "old"), ("Q", "old"), ("D", "kept"), ("E", "")]);
        found.apply(&[
            file("A", "new"),
            file("B.override", "set\n"),
            file("D.default", "unused"),
            file("E.default", "used"),
            file("N.append", "first"),
            file("P.delim", ";"),
            file("P.prepend", "new"),
            file("Q.append", "new"),
            file("X.delim", ":"),
            file("Y.unknown", "ignored"),
        ]);
        let wanted = env(&[
            ("A", "new"),
            ("B", "set\n"),
            ("D", "kept"),
            ("E", "used"),
            ("N", "first"),
            ("P", "new;old"),
            ("Q", "oldnew"),
        ]);
        assert_eq!(found, wanted);
    }

    #[test]
    fn layers_go_in_front_and_users_win() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for path in ["one/bin", "one/env", "two/bin", "two/lib", "two/env.build", "two/env.launch/web"] {
            fs::create_dir_all(dir.path().join(path)).expect("room");
        }
        fs::write(one.join("env/PATH.prepend"), "/own").expect("room");
        fs::write(one.join("env/PATH.delim"), ":").expect("room");
        fs::write(two.join("env.build/ONLY"), "build").expect("room");
        fs::write(two.join("env.launch/ONLY"), "launch").expect("room");
        fs::write(two.join("env.launch/web/ONLY"), "web").expect("room");
        let layers = [one.clone(), two.clone()];
        let mut build = env(&[("PATH", "/bin")]);
        build.build_layers(&layers).expect("read");
        let path = format!("/own:{}/bin:{}/bin:/bin", two.display(), one.display());
        assert_eq!(build.get("PATH"), Some(OsStr::new(&path)));
        assert_eq!(build.get("ONLY"), Some(OsStr::new("build")));
        assert_eq!(build.get("LIBRARY_PATH"), Some(two.join("lib").as_os_str()));
        build.user(&[file("PATH", "/mine"), file("ONLY", "user")]);
        assert_eq!(build.get("PATH"), Some(OsStr::new(&format!("/mine:{path}"))));
        assert_eq!(build.get("ONLY"), Some(OsStr::new("user")));
        let mut launch = env(&[]);
        launch.launch_layers(&layers, "worker").expect("read");
        assert_eq!(launch.get("ONLY"), Some(OsStr::new("launch")));
        launch.launch_layers(&layers, "web").expect("read");
        assert_eq!(launch.get("ONLY"), Some(OsStr::new("web")));
        assert_eq!(launch.get("LIBRARY_PATH"), None);
    }

    proptest! {
        #[test]
        fn any_file_names_are_taken(names in prop::collection::vec("[A-Z.=]{0,6}|PATH.[a-z]{0,8}", 0..8)) {
            let mut found = env(&[("PATH", "/bin")]);
            let files: Vec<_> = names.iter().map(|name| file(name, "v")).collect();
            found.apply(&files);
            for name in found.0.keys() {
                let name = name.as_bytes();
                prop_assert!(!name.is_empty() && !name.contains(&b'=') && !name.contains(&b'.'));
            }
        }
    }
}
