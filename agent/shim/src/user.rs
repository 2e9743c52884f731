//! Who a container's process runs as, by the container's own `/etc/passwd` and `/etc/group`.
//!
//! In: the user as an OCI config says it, the container's root (already this process's root). Out: ids.
//! The files are the container's, so they are read as hostile: regular files only, never waiting, 1 MiB at most.

use crate::failure::exec_failure;
use berth_shim::protocol::Failure;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

const MAX_FILE: u64 = 1024 * 1024;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Looks `wanted` (`""`, `name`, `uid`, `user:group`) up below `root`.
pub(crate) fn lookup(root: BorrowedFd<'_>, wanted: &str) -> Result<User, Failure> {
    resolve(wanted, &read(root, "etc/passwd"), &read(root, "etc/group"))
}

fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<User, Failure> {
    let (name, group_name) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = name.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6 && (fields[0] == name || number.is_some_and(|uid| fields[2].parse() == Ok(uid)))
    });
    let (login, uid, mut gid, home) = match entry {
        Some(fields) => {
            let id = |text: &str| text.parse::<u32>().map_err(|_| broken("/etc/passwd", fields[0]));
            (fields[0].to_owned(), id(fields[2])?, id(fields[3])?, fields[5].to_owned())
        }
        None => match number {
            Some(uid) => (String::new(), uid, 0, "/".to_owned()),
            None => {
                return Err(exec_failure(format!(
                    "there is no user {name:?} in the image's /etc/passwd; create it in the image or use a number"
                )));
            }
        },
    };
    let lines: Vec<Vec<&str>> = group.lines().map(|line| line.split(':').collect()).collect();
    let mut groups = Vec::new();
    match group_name {
        Some(group_name) => {
            let by_name = lines.iter().find(|fields| fields.len() >= 3 && fields[0] == group_name);
            gid = match (by_name.and_then(|fields| fields[2].parse().ok()), group_name.parse().ok()) {
                (Some(gid), _) | (None, Some(gid)) => gid,
                (None, None) => {
                    return Err(exec_failure(format!(
                        "there is no group {group_name:?} in the image's /etc/group"
                    )));
                }
            };
        }
        None if !login.is_empty() => {
            for fields in lines.iter().filter(|fields| fields.len() >= 4) {
                if fields[3].split(',').any(|member| member == login) {
                    groups.extend(fields[2].parse::<u32>());
                }
            }
        }
        None => {}
    }
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    let home = if home.is_empty() { "/".to_owned() } else { home };
    Ok(User { uid, gid, groups, home })
}

fn broken(file: &str, name: &str) -> Failure {
    exec_failure(format!("the entry of {name:?} in the image's {file} has no number where an id belongs"))
}

fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(fd) = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) else { return String::new() };
    if !rustix::fs::fstat(&fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    {
        return String::new();
    }
    let mut bytes = Vec::new();
    match File::from(fd).take(MAX_FILE).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:1000:1000::/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:app,other\napp:x:1000:\nweb:x:33:app\n";

    fn user(wanted: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        let found = resolve(wanted, PASSWD, GROUP).map_err(|failure| failure.text)?;
        Ok((found.uid, found.gid, found.groups, found.home))
    }

    #[test]
    fn users_are_resolved_as_oci_says() {
        assert_eq!(user(""), Ok((0, 0, vec![0], "/root".into())));
        assert_eq!(user("app"), Ok((1000, 1000, vec![1000, 4, 33], "/home/app".into())));
        assert_eq!(user("1000:33"), Ok((1000, 33, vec![33], "/home/app".into())));
        assert_eq!(user("4242"), Ok((4242, 0, vec![0], "/".into())));
        assert_eq!(user("app:web"), Ok((1000, 33, vec![33], "/home/app".into())));
        assert!(user("nobody-here").is_err());
        assert!(user("../../etc").is_err());
    }
}
