//! Making a data directory of an archive.
//!
//! In: an archive, a directory that is empty or not there. Out: a data directory that a controller starts from; or nothing at
//! all: everything is unpacked aside and moved into its place when the last byte was checked. Entries are believed in nothing:
//! not where they lead, not how long they say they are.

use super::{CONTROLLER, FORMAT, HEAD, Head, KEPT, Line, NODE, NODES, STORE, Sums, TAIL, Tail, VOLUMES};
use crate::store::{Store, StoreError, Write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_model::NodeName;
use berth_model::node::NodeRecord;
use berth_wire::{TreeEntry, TreeKind, write_end, write_entry};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType};

/// The longest head or tail, in bytes.
const SHORT: u64 = 64 * 1024;
/// The longest line of the store: the largest value, in base64.
const LONGEST_LINE: u64 = 256 << 20;
/// Is in a store that was restored until a controller has started on it.
pub(crate) const RESTORED: &str = "restored";
/// Entries of the store that are written at once.
const AT_ONCE: usize = 500;
/// The longest path of an entry.
const LONGEST_PATH: usize = 4096;

/// An archive could not be restored. The data directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something already.
    #[error("{} is not empty: give --data a directory that is, or is not there yet", path.display())]
    NotEmpty {
        /// Where.
        path: PathBuf,
    },
    /// It is no backup.
    #[error("this is no backup of Berth: it does not begin with {HEAD}")]
    NotABackup,
    /// A newer Berth made it.
    #[error(
        "the backup was made by Berth {berth} (format {found}, this one knows up to {FORMAT}); nothing was restored: use \
         that version or a newer one"
    )]
    Newer {
        /// Its format.
        found: u32,
        /// Who made it.
        berth: String,
    },
    /// It is not what was written.
    #[error("the backup is damaged or incomplete ({0}); nothing was restored: take another one")]
    Damaged(String),
    /// A file or directory.
    #[error("cannot restore to {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The new store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// When the backup was made; milliseconds since the Unix epoch.
    pub made_ms: i64,
    /// How many files.
    pub files: u64,
    /// How many entries of the store.
    pub entries: u64,
    /// Whether volumes were in it.
    pub volumes: bool,
    /// Volumes that wait for their nodes.
    pub nodes: BTreeMap<NodeName, Vec<String>>,
    /// Nodes that were away, whose volumes are not in it.
    pub left_out: Vec<NodeName>,
}

fn damaged(what: impl std::fmt::Display) -> RestoreError {
    RestoreError::Damaged(what.to_string())
}

/// Restores `archive` to `data`. Blocks while it unpacks.
pub async fn restore(archive: impl Read, data: &Path) -> Result<Restored, RestoreError> {
    let io = |source| RestoreError::Io { path: data.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(io)?;
    if fs::read_dir(data).map_err(io)?.next().is_some() {
        return Err(RestoreError::NotEmpty { path: data.to_owned() });
    }
    let aside = tempfile::Builder::new().prefix(".restoring-").tempdir_in(data).map_err(io)?;
    let (head, tail, nodes) = unpack(archive, aside.path())?;
    let entries = fill(aside.path()).await?;
    rustix::fs::sync();
    fs::set_permissions(data, fs::Permissions::from_mode(0o700)).map_err(io)?;
    // The controller's directory last: without it nothing starts.
    for name in ["agent", NODE, CONTROLLER] {
        let from = aside.path().join(name);
        if from.exists() {
            fs::rename(&from, data.join(name)).map_err(io)?;
        }
    }
    File::open(data).and_then(|data| data.sync_all()).map_err(io)?;
    Ok(Restored {
        made_ms: head.made_ms,
        files: tail.files,
        entries,
        volumes: head.volumes,
        nodes,
        left_out: head.left_out,
    })
}

/// Unpacks and checks all of it below `to`.
fn unpack(archive: impl Read, to: &Path) -> Result<(Head, Tail, Waiting), RestoreError> {
    // Whatever the decoder or the tar reader says is about the archive.
    let zstd = zstd::Decoder::new(archive).map_err(|_| RestoreError::NotABackup)?;
    let mut archive = Archive::new(zstd);
    let mut entries = archive.entries().map_err(damaged)?;
    let mut sums = Sums::default();
    let mut seen = BTreeSet::new();
    let mut head: Option<Head> = None;
    let mut kept = Kept { dir: to.join(CONTROLLER).join(KEPT), open: None, waiting: Waiting::new() };
    while let Some(entry) = entries.next() {
        let mut entry = match (entry, &head) {
            (Err(_), None) => return Err(RestoreError::NotABackup),
            (entry, _) => entry.map_err(damaged)?,
        };
        let name = name(&entry)?;
        let Some(head) = &head else {
            head = Some(begin(&name, &mut entry, &mut sums)?);
            continue;
        };
        if name == TAIL {
            let text = short(&mut entry)?;
            let tail: Tail = serde_json::from_slice(&text).map_err(damaged)?;
            let found = sums.tail();
            if found != tail {
                return Err(damaged("the checksums differ"));
            }
            if !seen.contains(STORE) {
                return Err(damaged("it has no store"));
            }
            // To the end of the frame, whose checksum is looked at there.
            let rest = entries.next().is_some();
            io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
            return match rest {
                true => Err(damaged("something follows its end")),
                false => Ok((head.clone(), tail, kept.finish()?)),
            };
        }
        if let Some(below) = name.strip_prefix(NODES).and_then(|below| below.strip_prefix('/')) {
            kept.entry(&mut entry, &name, below, &mut sums)?;
            continue;
        }
        if !seen.insert(name.clone()) {
            return Err(damaged(format!("{name} is in it twice")));
        }
        one(&mut entry, &name, to, &mut sums)?;
    }
    match head {
        None => Err(RestoreError::NotABackup),
        Some(_) => Err(damaged("its end is missing")),
    }
}

/// The path of an entry: plain parts, nothing that leads out.
fn name(entry: &Entry<'_, impl Read>) -> Result<String, RestoreError> {
    let path = entry.path().map_err(damaged)?;
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    match path.to_str() {
        Some(text) if plain && !text.is_empty() && text.len() <= LONGEST_PATH => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(damaged(format!("{} is no path of a backup", path.display()))),
    }
}

fn short(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, RestoreError> {
    let mut text = Vec::new();
    entry.take(SHORT).read_to_end(&mut text).map_err(damaged)?;
    Ok(text)
}

fn begin(name: &str, entry: &mut Entry<'_, impl Read>, sums: &mut Sums) -> Result<Head, RestoreError> {
    /// What every format has.
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
        berth: String,
    }
    if name != HEAD {
        return Err(RestoreError::NotABackup);
    }
    let text = short(entry)?;
    let Format { format, berth } = serde_json::from_slice(&text).map_err(|_| RestoreError::NotABackup)?;
    if format > FORMAT {
        return Err(RestoreError::Newer { found: format, berth: berth.chars().take(40).collect() });
    }
    sums.file(name, text.len() as u64, Sha256::new_with_prefix(&text));
    serde_json::from_slice(&text).map_err(damaged)
}

/// Where an entry belongs, and whether it keeps its owner.
fn place(name: &str, to: &Path) -> Option<(PathBuf, bool)> {
    if matches!(name, NODE | STORE) {
        return Some((to.join(name), false));
    }
    let (top, below) = name.split_once('/').unwrap_or((name, ""));
    match top {
        CONTROLLER => Some((to.join(CONTROLLER).join(below), false)),
        VOLUMES => Some((to.join("agent/volumes").join(below), true)),
        _ => None,
    }
}

fn one(entry: &mut Entry<'_, impl Read>, name: &str, to: &Path, sums: &mut Sums) -> Result<(), RestoreError> {
    let (path, owned) = place(name, to).ok_or_else(|| damaged(format!("{name} is no part of a backup")))?;
    let io = |source| RestoreError::Io { path: path.clone(), source };
    let kind = entry.header().entry_type();
    let plain = |path: &Path| -> Result<(), RestoreError> {
        // A link that was unpacked must not lead anything elsewhere.
        for parent in path.ancestors().skip(1).take_while(|parent| *parent != to) {
            match fs::symlink_metadata(parent) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(damaged(format!("{name} is below something that is no directory"))),
                Err(_) => {
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(io)?;
                }
            }
        }
        Ok(())
    };
    plain(&path)?;
    match kind {
        EntryType::Directory => match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(io)?,
        },
        EntryType::Regular => {
            let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
            let mut hash = Sha256::new();
            let size = copy(entry, &mut made.map_err(io)?, &mut hash).map_err(|error| match error {
                Failure::Reading(error) => damaged(error),
                Failure::Writing(error) => io(error),
            })?;
            sums.file(name, size, hash);
        }
        EntryType::Symlink if owned => {
            let target =
                entry.link_name().map_err(damaged)?.ok_or_else(|| damaged("a link leads nowhere"))?;
            symlink(&target, &path).map_err(io)?;
            sums.file(name, 0, Sha256::new_with_prefix(target.as_os_str().as_encoded_bytes()));
        }
        _ => return Err(damaged(format!("{name} is no file, directory or link"))),
    }
    if owned {
        let header = entry.header();
        let id = |id: io::Result<u64>| Some(u32::try_from(id.ok()?).unwrap_or(0));
        let (uid, gid) = (id(header.uid()), id(header.gid()));
        if kind == EntryType::Symlink {
            return lchown(&path, uid, gid).map_err(io);
        }
        chown(&path, uid, gid).map_err(io)?;
        let mode = header.mode().map_err(damaged)? & 0o7777;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(io)?;
    }
    Ok(())
}

/// Volumes that wait, by node.
type Waiting = BTreeMap<NodeName, Vec<String>>;

/// Volumes of other nodes: each is kept as one file until its node takes it. Nothing of them is made on this machine.
struct Kept {
    dir: PathBuf,
    /// The one that is being written, and what it is called in the archive.
    open: Option<(String, BufWriter<File>)>,
    waiting: Waiting,
}

impl Kept {
    /// `NODE/VOLUME` or something in it.
    fn entry(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        name: &str,
        below: &str,
        sums: &mut Sums,
    ) -> Result<(), RestoreError> {
        let mut parts = below.splitn(3, '/');
        let node = parts.next().and_then(|node| NodeName::parse(node).ok());
        let volume = parts.next().filter(|volume| berth_wire::is_volume(volume));
        let (Some(node), Some(volume)) = (node, volume) else {
            return Err(damaged(format!("{name} is no volume of a node")));
        };
        let path = parts.next().unwrap_or_default().to_owned();
        let of = format!("{node}/{volume}");
        if self.open.as_ref().is_none_or(|(open, _)| *open != of) {
            self.close()?;
            let file = self.dir.join(format!("{of}.tree"));
            let io = |source| RestoreError::Io { path: file.clone(), source };
            let dir = file.parent().unwrap_or(&self.dir);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
            let waiting = self.waiting.entry(node).or_default();
            if waiting.iter().any(|other| other == volume) {
                return Err(damaged(format!("{name} is in it twice")));
            }
            waiting.push(volume.to_owned());
            // What waited for the node already when the backup was made is older.
            let made = File::options().write(true).create(true).truncate(true).mode(0o600).open(&file);
            let made = made.map_err(io)?;
            self.open = Some((of, BufWriter::new(made)));
        }
        let Some((_, to)) = &mut self.open else { return Ok(()) };
        let io = |source| RestoreError::Io { path: self.dir.clone(), source };
        let header = entry.header();
        let id = |id: io::Result<u64>| u32::try_from(id.unwrap_or(0)).unwrap_or(0);
        let (uid, gid, mtime) = (id(header.uid()), id(header.gid()), header.mtime().unwrap_or(0));
        let mode = header.mode().map_err(damaged)? & 0o7777;
        let kind = match header.entry_type() {
            EntryType::Directory => TreeKind::Directory,
            EntryType::Regular => TreeKind::File { size: entry.size() },
            EntryType::Symlink => {
                let target = entry.link_name_bytes();
                let target = target.and_then(|target| String::from_utf8(target.into_owned()).ok());
                TreeKind::Link { target: target.ok_or_else(|| damaged("a link leads nowhere"))? }
            }
            _ => return Err(damaged(format!("{name} is no file, directory or link"))),
        };
        let mtime = i64::try_from(mtime).unwrap_or(0);
        let line = TreeEntry { path, kind, mode, uid, gid, mtime };
        write_entry(to, &line).map_err(io)?;
        match line.kind {
            TreeKind::Directory => {}
            TreeKind::Link { target } => sums.file(name, 0, Sha256::new_with_prefix(target)),
            TreeKind::File { size } => {
                let mut hash = Sha256::new();
                let copied = copy(entry, to, &mut hash).map_err(|error| match error {
                    Failure::Reading(error) => damaged(error),
                    Failure::Writing(error) => io(error),
                })?;
                if copied != size {
                    return Err(damaged(format!("{name} is shorter than it says")));
                }
                sums.file(name, size, hash);
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), RestoreError> {
        let Some((_, mut file)) = self.open.take() else { return Ok(()) };
        write_end(&mut file).map_err(|source| RestoreError::Io { path: self.dir.clone(), source })
    }

    fn finish(mut self) -> Result<Waiting, RestoreError> {
        self.close()?;
        Ok(self.waiting)
    }
}

enum Failure {
    Reading(io::Error),
    Writing(io::Error),
}

fn copy(from: &mut impl Read, to: &mut impl io::Write, hash: &mut Sha256) -> Result<u64, Failure> {
    let mut buffer = vec![0; 128 * 1024];
    let mut size = 0;
    loop {
        let count = from.read(&mut buffer).map_err(Failure::Reading)?;
        if count == 0 {
            return Ok(size);
        }
        hash.update(&buffer[..count]);
        to.write_all(&buffer[..count]).map_err(Failure::Writing)?;
        size += count as u64;
    }
}

/// The record of the controller's own machine without the address that other nodes reached it at: this may be another machine.
/// It is known again when one connects.
fn elsewhere(record: &[u8]) -> Result<Vec<u8>, RestoreError> {
    let mut record: NodeRecord = serde_json::from_slice(record).map_err(damaged)?;
    record.address = None;
    serde_json::to_vec(&record).map_err(damaged)
}

/// Makes the database of the store's lines; gives how many.
async fn fill(dir: &Path) -> Result<u64, RestoreError> {
    let lines = dir.join(STORE);
    let io = |source| RestoreError::Io { path: lines.clone(), source };
    let controller = dir.join(CONTROLLER);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&controller).map_err(io)?;
    let store = Store::open(&controller.join("state.db"))?;
    let mut reader = BufReader::new(File::open(&lines).map_err(io)?);
    let own = fs::read_to_string(dir.join(NODE)).ok().and_then(|own| NodeName::parse(own.trim()).ok());
    let own = own.map(|own| crate::platform::node_key(&own));
    let (mut count, mut writes, mut line) = (0, Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(io)?;
        if read == 0 {
            writes.push(Write::Put(RESTORED.to_owned(), Vec::new()));
        }
        if read == 0 || writes.len() == AT_ONCE {
            store.txn(Vec::new(), std::mem::take(&mut writes)).await?;
        }
        if read == 0 {
            break;
        }
        let Line { key, value } = serde_json::from_slice(&line).map_err(damaged)?;
        let mut value = STANDARD.decode(value).map_err(damaged)?;
        if own.as_ref() == Some(&key) {
            value = elsewhere(&value)?;
        }
        writes.push(Write::Put(key, value));
        count += 1;
    }
    fs::remove_file(&lines).map_err(io)?;
    Ok(count)
}
