//! `git-lfs-transfer`: large files over the same SSH connection as the push (git-lfs, `docs/proposals/ssh_adapter.md`).
//!
//! In: packet lines of a client (git's pkt-line, gitprotocol-common(5)), a repository's [`Objects`]. Out: answers in the same
//! form. One request after the other, in memory that does not grow with the objects. Locks are not kept: there are none.

use super::lfs::{LfsError, MAX_BATCH, Objects};
use std::io::{self, Read, Write};

/// Largest packet with its length, and most data in it.
const LARGEST: usize = 65_520;
const CHUNK: usize = 65_516 - 4;
/// Most lines of a request besides the objects'.
const MAX_ARGUMENTS: usize = 100;

/// What the client came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It has objects for us.
    Upload,
    /// It wants some.
    Download,
    /// It asks for locks.
    Lock,
}

impl Operation {
    /// As it is written on the command line.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "upload" => Some(Self::Upload),
            "download" => Some(Self::Download),
            "lock" => Some(Self::Lock),
            _ => None,
        }
    }

    /// As it is written on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Lock => "lock",
        }
    }
}

/// A packet.
enum Packet {
    Flush,
    Delimiter,
    Data(Vec<u8>),
}

fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// The next packet; `None` where the client has ended.
fn read(from: &mut impl Read) -> io::Result<Option<Packet>> {
    let mut head = [0; 4];
    let first = from.read(&mut head)?;
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[first..])?;
    let text = std::str::from_utf8(&head).map_err(|_| bad("the length of a packet is no number"))?;
    let length = usize::from_str_radix(text, 16).map_err(|_| bad("the length of a packet is no number"))?;
    match length {
        0 => Ok(Some(Packet::Flush)),
        1 => Ok(Some(Packet::Delimiter)),
        5..=LARGEST => {
            let mut data = vec![0; length - 4];
            from.read_exact(&mut data)?;
            Ok(Some(Packet::Data(data)))
        }
        _ => Err(bad(format!("a packet of {length} bytes"))),
    }
}

fn line(to: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(to, "{:04x}{text}", text.len() + 5)
}

fn flush(to: &mut impl Write) -> io::Result<()> {
    to.write_all(b"0000")?;
    to.flush()
}

fn refuse(to: &mut impl Write, status: u16, text: &str) -> io::Result<()> {
    line(to, &format!("status {status}"))?;
    to.write_all(b"0001")?;
    line(to, text)?;
    flush(to)
}

/// The bytes between a delimiter and the flush, as one stream.
struct Data<'a, R> {
    from: &'a mut R,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            match read(self.from)? {
                Some(Packet::Data(data)) => (self.piece, self.at) = (data, 0),
                Some(Packet::Flush) => self.ended = true,
                Some(Packet::Delimiter) => return Err(bad("a delimiter within an object")),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = to.len().min(self.piece.len() - self.at);
        to[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// A request's lines up to its delimiter or flush; whether more follows.
fn lines(from: &mut impl Read, most: usize) -> io::Result<(Vec<String>, bool)> {
    let mut lines = Vec::new();
    loop {
        match read(from)? {
            Some(Packet::Data(data)) if lines.len() < most => {
                let text = String::from_utf8(data).map_err(|_| bad("a line that is not UTF-8"))?;
                lines.push(text.trim_end_matches('\n').to_owned());
            }
            Some(Packet::Data(_)) => return Err(bad(format!("more than {most} lines"))),
            Some(Packet::Flush) => return Ok((lines, false)),
            Some(Packet::Delimiter) => return Ok((lines, true)),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Serves a client to its end.
///
/// Errors: the connection, or a client that does not keep to the protocol.
pub fn serve(
    objects: &Objects,
    operation: Operation,
    from: &mut impl Read,
    to: &mut impl Write,
) -> io::Result<()> {
    line(to, "version=1")?;
    line(to, "locking")?;
    flush(to)?;
    loop {
        // Where a client may leave: between requests.
        let Some(first) = read(from)? else { return Ok(()) };
        let Packet::Data(first) = first else { return Err(bad("a request without a command")) };
        let first = String::from_utf8(first).map_err(|_| bad("a command that is not UTF-8"))?;
        let (command, rest) = first.trim_end_matches('\n').split_once(' ').unwrap_or((first.trim_end(), ""));
        let (arguments, more) = lines(from, MAX_ARGUMENTS)?;
        match (command, operation) {
            ("version", _) if rest == "1" => {
                line(to, "status 200")?;
                flush(to)?;
            }
            ("version", _) => refuse(to, 400, "only version 1 is spoken here")?,
            ("quit", _) => {
                line(to, "status 200")?;
                return flush(to);
            }
            ("batch", Operation::Upload | Operation::Download) => {
                let (wanted, _) = if more { lines(from, MAX_BATCH)? } else { (Vec::new(), false) };
                batch(objects, operation, &wanted, to)?;
            }
            ("put-object", Operation::Upload) if more => put(objects, rest, &arguments, from, to)?,
            ("verify-object", Operation::Upload) => verify(objects, rest, &arguments, to)?,
            ("get-object", Operation::Download) => get(objects, rest, to)?,
            // The proposal says the one, clients the other.
            ("list-lock" | "list-locks", _) => {
                line(to, "status 200")?;
                to.write_all(b"0001")?;
                flush(to)?;
            }
            ("lock" | "unlock", _) => {
                if more {
                    lines(from, MAX_ARGUMENTS)?;
                }
                refuse(to, 501, "Berth keeps no locks of Git LFS")?;
            }
            _ => {
                refuse(
                    to,
                    400,
                    &format!("{} is no request of {}", command.escape_debug(), operation.name()),
                )?;
                if more {
                    return Err(bad("an unknown request with data"));
                }
            }
        }
    }
}

fn size_of(arguments: &[String]) -> Option<u64> {
    arguments.iter().find_map(|argument| argument.strip_prefix("size="))?.parse().ok()
}

fn batch(objects: &Objects, operation: Operation, wanted: &[String], to: &mut impl Write) -> io::Result<()> {
    let mut answers = Vec::new();
    for wanted in wanted {
        let mut words = wanted.split(' ');
        let (Some(oid), Some(Ok(size))) = (words.next(), words.next().map(str::parse::<u64>)) else {
            return refuse(to, 422, "an object is named by its hash and its size");
        };
        let found = match objects.size(oid) {
            Ok(found) => found,
            Err(error) => return refuse(to, 422, &error.to_string()),
        };
        let action = match (operation, found) {
            (Operation::Upload, None) => "upload",
            (Operation::Download, Some(found)) if found == size => "download",
            _ => "noop",
        };
        answers.push(format!("{oid} {size} {action}"));
    }
    line(to, "status 200")?;
    to.write_all(b"0001")?;
    answers.iter().try_for_each(|answer| line(to, answer))?;
    flush(to)
}

fn put(
    objects: &Objects,
    oid: &str,
    arguments: &[String],
    from: &mut impl Read,
    to: &mut impl Write,
) -> io::Result<()> {
    let mut data = Data { from, piece: Vec::new(), at: 0, ended: false };
    let kept = match size_of(arguments) {
        Some(size) => objects.put(oid, size, &mut data).map_err(|error| (status(&error), error.to_string())),
        None => Err((400, "the size of the object is missing".to_owned())),
    };
    // What is left of it belongs to no next request.
    io::copy(&mut data, &mut io::sink())?;
    match kept {
        Ok(()) => {
            line(to, "status 200")?;
            flush(to)
        }
        Err((status, text)) => refuse(to, status, &text),
    }
}

fn status(error: &LfsError) -> u16 {
    match error {
        LfsError::Name(_) | LfsError::Mismatch(_) => 422,
        LfsError::TooBig(_) => 413,
        LfsError::Io { .. } => 507,
    }
}

fn verify(objects: &Objects, rest: &str, arguments: &[String], to: &mut impl Write) -> io::Result<()> {
    // The size stands behind the hash, or is an argument: clients do the one, the proposal says the other.
    let (oid, size) = rest.split_once(' ').map_or((rest, None), |(oid, size)| (oid, size.parse().ok()));
    match (objects.size(oid), size.or_else(|| size_of(arguments))) {
        (Err(error), _) => refuse(to, 422, &error.to_string()),
        (Ok(None), _) => refuse(to, 404, "there is no such object"),
        (Ok(Some(found)), Some(size)) if found != size => refuse(to, 409, "the object has another size"),
        (Ok(Some(_)), _) => {
            line(to, "status 200")?;
            flush(to)
        }
    }
}

fn get(objects: &Objects, oid: &str, to: &mut impl Write) -> io::Result<()> {
    let (mut file, size) = match objects.open(oid) {
        Ok(Some(found)) => found,
        Ok(None) => return refuse(to, 404, "there is no such object"),
        Err(error) => return refuse(to, 422, &error.to_string()),
    };
    line(to, "status 200")?;
    line(to, &format!("size={size}"))?;
    to.write_all(b"0001")?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return flush(to),
            read => {
                write!(to, "{:04x}", read + 4)?;
                to.write_all(&chunk[..read])?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn packets(parts: &[&str]) -> Vec<u8> {
        let packet = |part: &&str| match *part {
            "0000" | "0001" => (*part).to_owned(),
            text => format!("{:04x}{text}", text.len() + 4),
        };
        parts.iter().map(packet).collect::<String>().into_bytes()
    }

    fn talk(objects: &Objects, operation: Operation, parts: &[&str]) -> (io::Result<()>, String) {
        let (mut output, input) = (Vec::new(), packets(parts));
        let result = serve(objects, operation, &mut input.as_slice(), &mut output);
        (result, String::from_utf8_lossy(&output).into_owned())
    }

    #[test]
    fn an_object_goes_up_and_comes_down() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = Objects::of(dir.path());
        let (named, put) = (format!("{OID} 5\n"), format!("put-object {OID}\n"));
        let asked = ["version 1\n", "0000", "batch\n", "transfer=ssh\n", "0001", &named, "0000"];
        let (result, said) = talk(&objects, Operation::Upload, &asked);
        result.expect("served");
        assert!(said.contains(&format!("{OID} 5 upload\n0000")), "{said}");
        let sent = [&put, "size=5\n", "0001", "hel", "lo", "0000", "quit\n", "0000"];
        let (result, said) = talk(&objects, Operation::Upload, &sent);
        result.expect("served");
        assert_eq!(said.matches("status 200").count(), 2, "{said}");
        let verify = format!("verify-object {OID}\n");
        let (_, said) = talk(&objects, Operation::Upload, &[&verify, "size=5\n", "0000"]);
        assert!(said.contains("status 200"), "{said}");
        let (_, said) = talk(&objects, Operation::Upload, &[&verify, "size=6\n", "0000"]);
        assert!(said.contains("status 409"), "{said}");
        let (_, said) = talk(&objects, Operation::Upload, &asked);
        assert!(said.contains("5 noop"), "what is there is not wanted again: {said}");
        let get = format!("get-object {OID}\n");
        let (_, said) = talk(&objects, Operation::Download, &[&get, "0000"]);
        assert!(said.contains("size=5\n00010009hello0000"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_refused_and_the_next_request_is_served() {
        let dir = tempfile::tempdir().expect("a directory");
        let objects = Objects::of(dir.path());
        let put = format!("put-object {OID}\n");
        for wrong in
            [&["put-object ../x\n", "size=5\n"][..], &[&put, "size=4\n"], &[&put], &[&put, "size=x\n"]]
        {
            let parts = [wrong, &["0001", "hello", "0000", "quit\n", "0000"]].concat();
            let (result, said) = talk(&objects, Operation::Upload, &parts);
            result.expect("served");
            assert!(said.contains("status 4") && said.ends_with("status 200\n0000"), "{said}");
        }
        assert_eq!(objects.size(OID).expect("no error"), None);
        let (_, said) = talk(&objects, Operation::Download, &[&put, "0000"]);
        assert!(said.contains("status 400"), "a download takes nothing: {said}");
        for broken in [&b"zzzz"[..], b"0003", b"fff5xx", b"0009vers", b"0000"] {
            let result = serve(&objects, Operation::Upload, &mut &*broken, &mut io::sink());
            assert!(result.is_err(), "{broken:?}");
        }
    }
}
