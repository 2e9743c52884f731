//! A machine elsewhere: a network namespace that containers reach as they reach the world, with a git server in it.

use crate::platform::{run, until};
use anyhow::{Result, ensure};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Port of git's own protocol (git-daemon(1)).
const GIT: u16 = 9418;
/// Port of files.
const FILES: u16 = 8080;

/// A network namespace with one address (of 198.18.0.0/15, RFC 2544) and a `git daemon`. All is gone when it is dropped.
pub struct Outside {
    name: String,
    address: String,
    daemon: Option<Child>,
}

impl Outside {
    /// Makes it, and serves every repository below `repositories`.
    pub fn serving(repositories: &Path) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = (std::process::id() * 4 + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_384;
        let at = |host: u32| format!("198.18.{}.{}", id / 64, id % 64 * 4 + host);
        let mut outside = Self { name: format!("bto{id}"), address: at(2), daemon: None };
        let (name, gateway) = (outside.name.clone(), at(1));
        let (name, host, inside) =
            (name.as_str(), format!("{gateway}/30"), format!("{}/30", outside.address));
        for arguments in [
            &["netns", "add", name][..],
            &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name],
            &["address", "add", &host, "dev", name],
            &["link", "set", name, "up"],
            &["-n", name, "address", "add", &inside, "dev", "eth0"],
            &["-n", name, "link", "set", "eth0", "up"],
            &["-n", name, "link", "set", "lo", "up"],
            &["-n", name, "route", "add", "default", "via", &gateway],
        ] {
            let mut ip = Command::new("ip");
            ip.args(arguments);
            run(ip, None)?.success()?;
        }
        let mut daemon = Command::new("ip");
        daemon.args(["netns", "exec", name, "git", "-c", "safe.directory=*", "daemon", "--export-all"]);
        daemon.args(["--informative-errors", &format!("--base-path={}", repositories.display())]);
        daemon.arg(repositories).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        outside.daemon = Some(daemon.spawn()?);
        let at = (outside.address.clone(), GIT);
        until(Duration::from_secs(10), "the git daemon to listen", || {
            ensure!(TcpStream::connect(&at).is_ok(), "not yet");
            Ok(())
        })?;
        Ok(outside)
    }

    /// Serves the files of a directory by HTTP/1.1, with entity tags, until the process ends; gives their base address.
    pub fn files(&self, directory: &Path) -> Result<String> {
        let namespace = File::open(format!("/run/netns/{}", self.name))?;
        let directory = directory.to_owned();
        let (listening, listens) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Of this thread alone: what it opens from now on is the other machine's.
            let listener = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(std::io::Error::from)
                .and_then(|()| TcpListener::bind((Ipv4Addr::UNSPECIFIED, FILES)));
            let listener = match listener {
                Ok(listener) => listener,
                Err(error) => return listening.send(Err(error)),
            };
            listening.send(Ok(()))?;
            for connection in listener.incoming().flatten() {
                // Whoever asked is told by the end of the connection.
                let _ = answer(connection, &directory);
            }
            Ok(())
        });
        listens.recv()??;
        Ok(format!("http://{}:{FILES}", self.address))
    }

    /// The address of a repository.
    #[must_use]
    pub fn url(&self, repository: &str) -> String {
        format!("git://{}/{repository}", self.address)
    }
}

/// Answers one request for a file.
fn answer(mut connection: TcpStream, directory: &Path) -> std::io::Result<()> {
    let (mut line, mut tag) = (String::new(), String::new());
    let mut head = BufReader::new(connection.try_clone()?);
    head.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        if head.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("if-none-match")
        {
            value.trim().clone_into(&mut tag);
        }
    }
    let path = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let file = std::fs::read(directory.join(path)).ok().filter(|_| !path.contains(".."));
    let Some(bytes) = file else {
        return connection
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let sum: u64 = bytes.iter().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let own = format!("\"{sum:x}\"");
    if tag == own {
        return connection.write_all(b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n");
    }
    let length = bytes.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nETag: {own}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(&bytes)
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}
