//! Static sites: files under one directory, which belong to users who may be hostile.
//!
//! In: a site's directory, and a parsed request with its rewritten head. Out: the answer, streamed through one buffer.
//! The kernel keeps every path beneath the root (`openat2`, `RESOLVE_BENEATH`): symlinks work inside it and lead
//! nowhere outside. The threads that serve never wait for a disk: what is not cached is fetched elsewhere.

use crate::buffer::{Buf, Head};
use crate::exchange::{Outcome, Trace};
use crate::head::{Framing, Method, Request};
use crate::io::{self, Progress, Socket};
use crate::media::media_type;
use crate::pages::Page;
use crate::site_path::SitePath;
use crate::site_rules::{Fields, Led, Rules};
use berth_model::site::SiteRules;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A directory that is served.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// What is trusted: the data directory, or `/` for a root outside it.
    base: PathBuf,
    /// The rest; layers hold what users made, so no symlink is followed on this way.
    root: PathBuf,
    spa_fallback: bool,
    rules: Arc<Rules>,
}

/// What a path leads to.
enum Found {
    File(File),
    /// Somewhere else: status, `Location`.
    Redirect(u16, Vec<u8>),
    Missing,
}

struct File {
    fd: OwnedFd,
    stat: Stat,
    name: Vec<u8>,
    encoding: Option<&'static str>,
    /// Another encoding of it exists.
    varies: bool,
    status: u16,
}

/// Which encodings the client takes.
#[derive(Clone, Copy, Default)]
struct Accepts {
    brotli: bool,
    gzip: bool,
}

impl Site {
    /// The site at `root`; `bases` are the names of the data directory.
    pub(crate) fn new(root: &Path, bases: &[PathBuf], spa_fallback: bool, rules: &SiteRules) -> Self {
        let within =
            bases.iter().find_map(|base| Some((base.clone(), root.strip_prefix(base).ok()?.to_owned())));
        let (base, root) = within.unwrap_or_else(|| {
            ("/".into(), root.strip_prefix("/").map_or_else(|_| root.to_owned(), Path::to_owned))
        });
        Self { base, root, spa_fallback, rules: Arc::new(Rules::new(rules)) }
    }

    fn open_root(&self, how: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = openat2(CWD, &self.base, flags, Mode::empty(), how)?;
        let strict = how | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(base, &self.root, flags, Mode::empty(), strict)
    }

    /// Finds what answers `path`. `Err` only for what is worth another try elsewhere: not everything is cached.
    fn find(&self, path: &SitePath, accepts: Accepts, how: ResolveFlags) -> Result<Found, Errno> {
        let root = match self.open_root(how) {
            Ok(root) => root,
            Err(error) if how.contains(ResolveFlags::CACHED) => return Err(error),
            Err(error) => {
                tracing::warn!(root = %self.base.join(&self.root).display(), %error, "cannot open a static site");
                return Ok(Found::Missing);
            }
        };
        let look = Look { root, accepts, how };
        let canonical = if self.rules.redirects() { path.canonical() } else { String::new() };
        if let Some(found) = self.led(&look, path, &canonical, true)? {
            return Ok(found);
        }
        if let Some(found) = look.find(path, 200)? {
            return Ok(found);
        }
        if let Some(found) = self.led(&look, path, &canonical, false)? {
            return Ok(found);
        }
        let spa = self.spa_fallback && !path.has_extension() && !path.is_hidden();
        let index = spa.then_some((&b"index.html"[..], 200));
        let error_page = self.rules.error_page.as_deref().map(|name| (name, 404));
        for (name, status) in index.into_iter().chain(error_page).chain([(&b"404.html"[..], 404)]) {
            if let Some((fd, stat)) = look.regular(name)? {
                return look.file(fd, stat, name.to_vec(), status).map(Found::File);
            }
        }
        Ok(Found::Missing)
    }

    /// Where the site's own rules lead: those that count before files, or those after.
    fn led(
        &self,
        look: &Look,
        path: &SitePath,
        canonical: &str,
        force: bool,
    ) -> Result<Option<Found>, Errno> {
        if canonical.is_empty() || path.is_hidden() {
            return Ok(None);
        }
        match self.rules.lead(canonical, path.query(), force) {
            None => Ok(None),
            Some(Led::Elsewhere(status, location)) => Ok(Some(Found::Redirect(status, location))),
            // A file that is not there is as if there were no rule.
            Some(Led::File(status, target)) => match SitePath::parse(target.as_bytes()) {
                Some(path) => look.find(&path, status),
                None => Ok(None),
            },
        }
    }
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// One search beneath an opened root.
struct Look {
    root: OwnedFd,
    accepts: Accepts,
    how: ResolveFlags,
}

impl Look {
    /// Opens `name`. `None` when there is nothing, or nothing that may be served.
    fn open(&self, name: &[u8]) -> Result<Option<(OwnedFd, Stat)>, Errno> {
        // Not blocking: opening a fifo must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let how = self.how | ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(&self.root, OsStr::from_bytes(name), flags, Mode::empty(), how)
            .and_then(|fd| fstat(&fd).map(|stat| (fd, stat)));
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if self.how.contains(ResolveFlags::CACHED) && is_uncached(error) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The file, page or directory that `path` names, or where its directory is.
    fn find(&self, path: &SitePath, status: u16) -> Result<Option<Found>, Errno> {
        if path.is_hidden() || matches!(path.file(), b"_headers" | b"_redirects") {
            return Ok(None);
        }
        match self.open(path.file())? {
            Some((fd, stat)) if is(&stat, FileType::RegularFile) && !path.is_folder() => {
                return self.file(fd, stat, path.file().to_vec(), status).map(|file| Some(Found::File(file)));
            }
            Some((_, stat)) if is(&stat, FileType::Directory) => {
                let index = path.join(b"index.html");
                if let Some((fd, stat)) = self.regular(&index)? {
                    // For a rewrite the client's own path counts: there is nothing to add a slash to.
                    return if path.is_folder() || path.file() == b"." || status != 200 {
                        self.file(fd, stat, index, status).map(|file| Some(Found::File(file)))
                    } else {
                        Ok(Some(Found::Redirect(301, path.with_slash())))
                    };
                }
            }
            _ => {}
        }
        if !path.is_folder() {
            let page = [path.file(), b".html"].concat();
            if let Some((fd, stat)) = self.regular(&page)? {
                return self.file(fd, stat, page, status).map(|file| Some(Found::File(file)));
            }
        }
        Ok(None)
    }

    fn regular(&self, name: &[u8]) -> Result<Option<(OwnedFd, Stat)>, Errno> {
        Ok(self.open(name)?.filter(|(_, stat)| is(stat, FileType::RegularFile)))
    }

    /// The file itself, or its compressed sibling if there is one the client takes.
    fn file(&self, fd: OwnedFd, stat: Stat, name: Vec<u8>, status: u16) -> Result<File, Errno> {
        let mut file = File { fd, stat, encoding: None, varies: false, status, name };
        for (suffix, encoding, wanted) in
            [(&b".br"[..], "br", self.accepts.brotli), (b".gz", "gzip", self.accepts.gzip)]
        {
            if let Some((fd, stat)) = self.regular(&[&file.name, suffix].concat())? {
                file.varies = true;
                if wanted && file.encoding.is_none() {
                    (file.fd, file.stat, file.encoding) = (fd, stat, Some(encoding));
                }
            }
        }
        Ok(file)
    }
}

/// What `RESOLVE_CACHED` says when it would have to wait, or is not known (before Linux 5.12).
fn is_uncached(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INVAL)
}

/// The request's fields that matter for files.
#[derive(Default)]
struct Wishes<'a> {
    none_match: Option<&'a [u8]>,
    modified_since: Option<&'a [u8]>,
    range: Option<&'a [u8]>,
    if_range: Option<&'a [u8]>,
    accepts: Accepts,
}

impl<'a> Wishes<'a> {
    fn of(head: &'a [u8]) -> Self {
        let mut storage = [const { std::mem::MaybeUninit::uninit() }; crate::settings::MAX_FIELDS + 16];
        let mut parsed = httparse::Request::new(&mut []);
        let mut wishes = Self::default();
        if parsed.parse_with_uninit_headers(head, &mut storage).is_err() {
            return wishes; // our own head: this does not happen, and without wishes the whole file is right
        }
        for field in parsed.headers.iter() {
            let slot = match field.name.len() {
                5 if field.name.eq_ignore_ascii_case("range") => &mut wishes.range,
                8 if field.name.eq_ignore_ascii_case("if-range") => &mut wishes.if_range,
                13 if field.name.eq_ignore_ascii_case("if-none-match") => &mut wishes.none_match,
                15 if field.name.eq_ignore_ascii_case("accept-encoding") => {
                    wishes.accepts = accepts(field.value);
                    continue;
                }
                17 if field.name.eq_ignore_ascii_case("if-modified-since") => &mut wishes.modified_since,
                _ => continue,
            };
            *slot = Some(field.value);
        }
        if wishes.range.is_some() {
            wishes.accepts = Accepts::default(); // a part of the file, not of its compressed form
        }
        wishes
    }
}

/// Reads an `Accept-Encoding`; a weight of 0 refuses.
fn accepts(value: &[u8]) -> Accepts {
    let mut accepts = Accepts::default();
    for item in crate::fields::tokens(value) {
        let mut parts = item.split(|b| *b == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            part.strip_prefix(b"q=")
                .or_else(|| part.strip_prefix(b"Q="))
                .is_some_and(|weight| weight.iter().all(|b| matches!(b, b'0' | b'.')))
        });
        accepts.brotli |= !refused && name.eq_ignore_ascii_case(b"br");
        accepts.gzip |= !refused && name.eq_ignore_ascii_case(b"gzip");
    }
    accepts
}

/// A part that is asked for lies within the file, whatever is asked.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(value: &[u8]) {
    let _ = accepts(value);
    for size in [0, 1, 10, u64::MAX] {
        if let Part::Bytes(first, count) = part(value, size) {
            assert!(first <= size && count <= size - first, "{first}+{count} of {size}");
        }
    }
}

/// A part of a file that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// From the first, so many bytes.
    Bytes(u64, u64),
    Unsatisfiable,
}

/// Reads a `Range` for a file of `size` bytes. More than one range, or nonsense, is answered with the whole.
fn part(range: &[u8], size: u64) -> Part {
    let Some(spec) = range.trim_ascii().strip_prefix(b"bytes=") else { return Part::Whole };
    let Some(dash) = spec.iter().position(|b| *b == b'-') else { return Part::Whole };
    let (first, last) = (spec[..dash].trim_ascii(), spec[dash + 1..].trim_ascii());
    let number = crate::fields::content_length;
    match (first, number(first), last, number(last)) {
        (b"", _, _, Some(0)) => Part::Unsatisfiable,
        (b"", _, _, Some(_)) if size == 0 => Part::Unsatisfiable,
        (b"", _, _, Some(count)) => Part::Bytes(size - count.min(size), count.min(size)),
        (_, Some(first), b"", _) if first < size => Part::Bytes(first, size - first),
        (_, Some(first), _, Some(last)) if first < size && first <= last => {
            Part::Bytes(first, (last - first + 1).min(size - first))
        }
        (_, Some(first), _, Some(last)) if first > last => Part::Whole,
        (_, Some(_), b"", _) | (_, Some(_), _, Some(_)) => Part::Unsatisfiable,
        _ => Part::Whole,
    }
}

/// Answers a request for `site`; `lines` go into the head.
#[expect(clippy::too_many_arguments, reason = "one call; an answer has that many sources")]
pub(crate) async fn answer(
    site: &Site,
    client: &impl Socket,
    request: &Request,
    head: &[u8],
    stopping: bool,
    lines: &str,
    progress: &Progress,
    trace: &mut Trace,
) -> Outcome {
    let has_body = !matches!(request.framing, Framing::None | Framing::Length(0));
    progress.sent.store(!has_body, Ordering::Relaxed);
    if !matches!(request.method, Method::Get | Method::Head) {
        return Outcome::Fail(Page::of(405));
    }
    let Some(path) = SitePath::parse(&head[request.target.clone()]) else {
        return Outcome::Fail(Page::of(400));
    };
    let wishes = Wishes::of(head);
    let found = match site.find(&path, wishes.accepts, ResolveFlags::CACHED) {
        Ok(found) => found,
        Err(_) => {
            let (site, path, accepts) = (site.clone(), path.clone(), wishes.accepts);
            let looking = move || site.find(&path, accepts, ResolveFlags::empty());
            match tokio::task::spawn_blocking(looking).await {
                Ok(Ok(found)) => found,
                _ => return Outcome::Fail(Page::of(500)),
            }
        }
    };
    let close = has_body || stopping || !request.keep_alive;
    let mut out = Head::take();
    let sending = match found {
        Found::Missing => return Outcome::Fail(Page::of(404)),
        Found::Redirect(status, location) => {
            line(&mut out.0, &[redirect_line(status), b"\r\nLocation: ", &location]);
            line(&mut out.0, &[b"Content-Length: 0"]);
            trace.status = status;
            None
        }
        Found::File(file) => {
            let fields = site.rules.fields(&path);
            describe(file, &fields, &wishes, request.method, &mut out.0, trace)
        }
    };
    out.0.extend_from_slice(lines.as_bytes());
    if close {
        line(&mut out.0, &[b"Connection: close"]);
    } else if request.old {
        line(&mut out.0, &[b"Connection: keep-alive"]);
    }
    out.0.extend_from_slice(b"\r\n");
    progress.answering.store(true, Ordering::Relaxed);
    match send(client, &out.0, sending, progress, trace).await {
        Err(_) => Outcome::Abort,
        Ok(()) if close => Outcome::Close,
        Ok(()) => Outcome::Again,
    }
}

/// RFC 9110 §15.4.
fn redirect_line(status: u16) -> &'static [u8] {
    match status {
        302 => b"HTTP/1.1 302 Found",
        303 => b"HTTP/1.1 303 See Other",
        307 => b"HTTP/1.1 307 Temporary Redirect",
        308 => b"HTTP/1.1 308 Permanent Redirect",
        _ => b"HTTP/1.1 301 Moved Permanently",
    }
}

fn line(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

/// A name for these very bytes. Layers have constant modification times, so the time they were unpacked counts too.
fn entity_tag(file: &File) -> String {
    let mut hasher = DefaultHasher::new();
    let stat = &file.stat;
    (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec).hash(&mut hasher);
    (stat.st_ctime, stat.st_ctime_nsec, file.encoding).hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// Writes the head of the answer with `file`. Returns what of it follows.
fn describe(
    file: File,
    fields: &Fields<'_>,
    wishes: &Wishes<'_>,
    method: Method,
    out: &mut Vec<u8>,
    trace: &mut Trace,
) -> Option<(OwnedFd, u64, u64)> {
    let size = u64::try_from(file.stat.st_size).unwrap_or(0);
    let tag = entity_tag(&file);
    let changed = jiff::Timestamp::from_second(file.stat.st_ctime).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let changed = changed.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    // Times are compared for being the same, as nginx does: a rollback brings older files.
    let same = |value: &[u8]| value == tag.as_bytes() || value == changed.as_bytes();
    let unchanged = file.status == 200
        && match (wishes.none_match, wishes.modified_since) {
            (Some(tags), _) => crate::fields::tokens(tags)
                .any(|one| one == b"*" || one.strip_prefix(b"W/").unwrap_or(one) == tag.as_bytes()),
            (None, Some(since)) => since == changed.as_bytes(),
            (None, None) => false,
        };
    let range = wishes
        .range
        .filter(|_| file.status == 200 && method == Method::Get && wishes.if_range.is_none_or(same));
    let part = range.map_or(Part::Whole, |range| part(range, size));
    let (status, first, length): (&[u8], u64, u64) = match part {
        _ if unchanged => (b"304 Not Modified", 0, 0),
        _ if file.status == 404 => (b"404 Not Found", 0, size),
        Part::Whole => (b"200 OK", 0, size),
        Part::Bytes(first, length) => (b"206 Partial Content", first, length),
        Part::Unsatisfiable => (b"416 Range Not Satisfiable", 0, 0),
    };
    trace.status = status[..3].iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    line(out, &[b"HTTP/1.1 ", status]);
    match part {
        _ if unchanged => {}
        Part::Unsatisfiable => {
            line(out, &[format!("Content-Range: bytes */{size}\r\nContent-Length: 0").as_bytes()]);
        }
        _ => {
            if !fields.has("content-type") {
                line(out, &[b"Content-Type: ", media_type(&file.name).as_bytes()]);
            }
            if !fields.has("x-content-type-options") {
                line(out, &[b"X-Content-Type-Options: nosniff"]);
            }
            line(out, &[b"Content-Length: ", itoa::Buffer::new().format(length).as_bytes()]);
            if trace.status == 206 {
                let last = first + length - 1;
                line(out, &[format!("Content-Range: bytes {first}-{last}/{size}").as_bytes()]);
            }
            if let Some(encoding) = file.encoding {
                line(out, &[b"Content-Encoding: ", encoding.as_bytes()]);
            }
        }
    }
    if file.status == 200 {
        line(out, &[b"ETag: ", tag.as_bytes(), b"\r\nLast-Modified: ", changed.as_bytes()]);
        line(out, &[b"Accept-Ranges: bytes"]);
        if !fields.has("cache-control") {
            line(out, &[b"Cache-Control: public, max-age=0, must-revalidate"]);
        }
    }
    // A page for what is not there must not be kept as long as what is.
    let kept = |name: &str| file.status == 200 || !name.eq_ignore_ascii_case("cache-control");
    for (name, value) in fields.set().filter(|(name, _)| kept(name)) {
        line(out, &[name.as_bytes(), b": ", value.as_bytes()]);
    }
    if file.varies {
        line(out, &[b"Vary: Accept-Encoding"]);
    }
    (method == Method::Get && length > 0).then_some((file.fd, first, length))
}

/// Writes the head, then the part of the file that follows it.
async fn send(
    client: &impl Socket,
    head: &[u8],
    sending: Option<(OwnedFd, u64, u64)>,
    progress: &Progress,
    trace: &mut Trace,
) -> std::io::Result<()> {
    let mut moved = |count: usize| {
        trace.sent += count as u64;
        progress.touch();
    };
    let Some((fd, mut at, mut left)) = sending else {
        return io::write_all(client, &mut [IoSlice::new(head)], moved).await;
    };
    let fd = Arc::new(fd);
    let mut head = head;
    while left > 0 {
        let mut buf = Buf::take();
        let space = buf.space();
        let wanted = usize::try_from(left).map_or(space.len(), |left| left.min(space.len()));
        let space = &mut space[..wanted];
        let count = match preadv2(&fd, &mut [IoSliceMut::new(space)], at, ReadWriteFlags::NOWAIT) {
            Ok(count) if count > 0 => count,
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => {
                let reading = fd.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; wanted];
                    pread(&reading, &mut bytes[..], at).map(|count| {
                        bytes.truncate(count);
                        bytes
                    })
                });
                let bytes = read.await.map_err(std::io::Error::other)??;
                space[..bytes.len()].copy_from_slice(&bytes);
                bytes.len()
            }
            Err(error) => return Err(error.into()),
        };
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into()); // it has shrunk: the promised length cannot be kept
        }
        let mut slices = [std::mem::take(&mut head), &space[..count]].map(IoSlice::new);
        io::write_all(client, &mut slices, &mut moved).await?;
        at += count as u64;
        left -= count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (range, expected) in [
            ("bytes=0-0", Part::Bytes(0, 1)),
            ("bytes=2-", Part::Bytes(2, 8)),
            ("bytes=-3", Part::Bytes(7, 3)),
            ("bytes=-30", Part::Bytes(0, 10)),
            ("bytes=5-99", Part::Bytes(5, 5)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=10-12", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=3-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("bytes=", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
        ] {
            assert_eq!(part(range.as_bytes(), 10), expected, "{range}");
        }
        assert_eq!(part(b"bytes=0-", 0), Part::Unsatisfiable);
    }

    #[test]
    fn encodings_can_be_refused() {
        let both = accepts(b"gzip;q=0.5, br");
        assert!(both.gzip && both.brotli);
        let one = accepts(b"br;q=0.000, gzip ; q=1, deflate");
        assert!(one.gzip && !one.brotli);
        assert!(!accepts(b"identity, *").gzip);
    }
}
