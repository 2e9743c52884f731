//! The addresses: the proxy's listener, bound here so that a killed proxy loses no connection, and who is in the way.
//!
//! In: addresses. Out: a bound listener; or an error that names the process that has the port.

use crate::roles::DEFAULT_HTTP;
use anyhow::{Context, Result, anyhow};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where apps are served when port 80 is taken and nobody said where else.
const SECOND_CHOICE: &str = "0.0.0.0:8000";

/// How long an address may still belong to a process that is ending, such as a role of a killed `berth up`.
const ENDING: Duration = Duration::from_secs(5);

/// Binds the proxy's HTTP listener: where the user said, else port 80, else port 8000.
pub(super) fn http(wanted: Option<SocketAddr>) -> Result<TcpListener> {
    if let Some(address) = wanted {
        return bind(address, "--http");
    }
    let first = DEFAULT_HTTP.parse().context("the default is an address")?;
    match bind_patiently(first) {
        Ok(listener) => Ok(listener),
        Err(error) => {
            tracing::warn!("{}; serving apps at {SECOND_CHOICE} instead", in_the_way(first, &error));
            bind(SECOND_CHOICE.parse().context("the second choice is an address")?, "--http")
        }
    }
}

/// Binds the proxy's HTTPS listener: where the user said; else port 443 if plain requests are taken at port 80 and nobody
/// has it; else nowhere.
pub(super) fn https(
    wanted: Option<SocketAddr>,
    http_wanted: Option<SocketAddr>,
    http: SocketAddr,
) -> Result<Option<TcpListener>> {
    if let Some(address) = wanted {
        return bind(address, "--https").map(Some);
    }
    if http.port() != 80 || http_wanted.is_some_and(|address| address.ip().is_loopback()) {
        return Ok(None);
    }
    let address = SocketAddr::new(http.ip(), 443);
    match bind_patiently(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => {
            tracing::warn!(
                "{}; apps are served without TLS (--https ADDRESS chooses where)",
                in_the_way(address, &error)
            );
            Ok(None)
        }
    }
}

/// Makes sure that a role will be able to listen at `address`, before anything is started.
pub(super) fn check(address: SocketAddr, option: &str) -> Result<()> {
    bind(address, option).map(drop)
}

fn bind(address: SocketAddr, option: &str) -> Result<TcpListener> {
    bind_patiently(address)
        .map_err(|error| anyhow!("{}; choose another address with {option}", in_the_way(address, &error)))
}

/// A socket outlives the lock of the role that had it by a moment, and nobody can be seen to hold it while its process
/// ends: only an address that somebody visibly keeps is refused at once.
fn bind_patiently(address: SocketAddr) -> std::io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse
                    && began.elapsed() < ENDING
                    && holder(address.port()).is_none_or(|who| who.starts_with("berth ")) =>
            {
                std::thread::sleep(super::LOOK_AGAIN);
            }
            bound => return bound,
        }
    }
}

fn in_the_way(address: SocketAddr, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => match holder(address.port()) {
            Some(who) => format!("{address} is taken by {who}"),
            None => format!("{address} is taken by another program"),
        },
        ErrorKind::AddrNotAvailable => format!("{address} is no address of this machine"),
        ErrorKind::PermissionDenied => format!("{address} may only be opened by root"),
        _ => format!("cannot listen at {address}: {error}"),
    }
}

/// Who listens on `port`, as `nginx (process 812)`: from the kernel's table of sockets and every process's descriptors.
fn holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| table.lines().filter_map(|line| listening_inode(line, port)).collect::<Vec<_>>())
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut numbered = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = numbered.find(|pid| has_any(Path::new(&format!("/proc/{pid}/fd")), &inodes))?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim()))
}

fn listening_inode(line: &str, port: u16) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let listens = fields.get(3) == Some(&"0A") && u16::from_str_radix(local, 16) == Ok(port);
    fields.get(9).filter(|_| listens).map(|inode| (*inode).to_owned())
}

fn has_any(descriptors: &Path, sockets: &[String]) -> bool {
    let Ok(entries) = std::fs::read_dir(descriptors) else { return false };
    let mut targets = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_who_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = http(Some(address)).expect_err("it is taken").to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        assert!(error.contains("--http"), "{error}");
    }
}
