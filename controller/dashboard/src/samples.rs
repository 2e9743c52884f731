//! Apps to begin with. Their sources are files in `samples/`, part of the binary, packed as an archive that the API builds
//! like any other.

use std::io;

/// One of them.
#[derive(Debug)]
pub(crate) struct Sample {
    /// As forms send it.
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    /// What it is, in a sentence.
    pub(crate) words: &'static str,
    /// Paths and contents.
    files: &'static [(&'static str, &'static str)],
}

macro_rules! file {
    ($path:literal, $source:literal) => {
        ($path, include_str!(concat!("../samples/", $source)))
    };
}

/// Every sample, the simplest first.
pub(crate) const ALL: [Sample; 3] = [
    Sample {
        id: "static",
        name: "Static site",
        words: "A page and a style sheet. Berth serves them itself.",
        files: &[file!("index.html", "static/index.html"), file!("style.css", "style.css")],
    },
    Sample {
        id: "node",
        name: "Node.js",
        words: "A web app without packages. The build fetches Node.js.",
        files: &[
            file!("package.json", "node/package.json"),
            file!("page.html", "node/page.html"),
            file!("server.js", "node/server.js"),
            file!("style.css", "style.css"),
        ],
    },
    Sample {
        id: "python",
        name: "Python",
        words: "A web app with Flask. The build fetches its packages.",
        files: &[
            file!("Procfile", "python/Procfile"),
            file!("app.py", "python/app.py"),
            file!("requirements.txt", "python/requirements.txt"),
            file!("static/style.css", "style.css"),
            file!("templates/index.html", "python/templates/index.html"),
        ],
    },
];

impl Sample {
    /// The one that a form names.
    pub(crate) fn find(id: &str) -> Option<&'static Self> {
        ALL.iter().find(|sample| sample.id == id)
    }

    /// Its files as a tar archive; the same bytes each time.
    pub(crate) fn archive(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, text) in self.files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            archive.append_data(&mut header, path, text.as_bytes())?;
        }
        archive.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    fn unpacked(sample: &Sample) -> BTreeMap<String, String> {
        let packed = sample.archive().expect("memory takes it");
        let mut archive = tar::Archive::new(packed.as_slice());
        let entries = archive.entries().expect("an archive").map(|entry| {
            let mut entry = entry.expect("an entry");
            assert_eq!(entry.header().mode().expect("a mode"), 0o644);
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            (path, text)
        });
        entries.collect()
    }

    #[test]
    fn an_archive_has_every_file_of_its_sample() {
        for sample in &ALL {
            let files = unpacked(sample);
            assert_eq!(files.len(), sample.files.len(), "{}", sample.id);
            for (path, text) in sample.files {
                assert_eq!(files.get(*path).map(String::as_str), Some(*text), "{path}");
            }
            assert_eq!(sample.archive().ok(), sample.archive().ok());
            assert_eq!(Sample::find(sample.id).map(|found| found.name), Some(sample.name));
        }
        assert!(Sample::find("").is_none());
    }

    #[test]
    fn pages_have_the_style_sheet_they_ask_for() {
        for sample in &ALL {
            let files = unpacked(sample);
            let pages: Vec<_> = files.iter().filter(|(path, _)| path.ends_with(".html")).collect();
            assert_eq!(pages.len(), 1, "{}", sample.id);
            let sheet = files.keys().find(|path| path.ends_with(".css")).expect("a sheet");
            assert!(pages[0].1.contains(&format!("href=\"/{sheet}\"")), "{}", sample.id);
        }
    }
}
