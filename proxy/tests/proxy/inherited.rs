//! A supervisor holds the listening socket: a proxy may die and connections only wait for the next one.

use crate::origin::Origin;
use crate::proxy::{Client, one, until, write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts the example proxy as a process with `listener` as its descriptor 3.
fn start(data: &Path, listener: &TcpListener) -> Child {
    let program = std::env::current_exe().unwrap();
    let program = program.parent().unwrap().with_file_name("examples").join("serve");
    assert!(program.exists(), "build the example first: cargo build -p berth-proxy --example serve");
    // The shell moves standard input, which a test can set, to where listening sockets are expected.
    Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" \"$@\" 3<&0 0</dev/null"])
        .arg(program)
        .arg(data)
        .args(["127.0.0.1:1", "2"])
        .env("BERTH_LISTEN_FDS", "1")
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())))
        .spawn()
        .unwrap()
}

#[test]
fn no_connection_is_refused_while_a_killed_proxy_is_replaced() {
    let origin = Origin::fixed("ok");
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("proxy/table.json"), serde_json::to_vec(&one("app.test", origin.address)).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let get = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n";
    let mut child = start(dir.path(), &listener);
    for _ in 0..3 {
        for _ in 0..20 {
            let mut client = Client::connect(address);
            client.send(get);
            assert_eq!(client.reply("GET").text(), "ok");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut waiting: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
        waiting.iter_mut().for_each(|client| client.send(get));
        child = start(dir.path(), &listener);
        for client in &mut waiting {
            assert_eq!(client.reply("GET").text(), "ok");
        }
    }
    // Asked to stop, it leaves what is queued to the next one.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    let mut waiting = Client::connect(address);
    waiting.send(get);
    let mut child = start(dir.path(), &listener);
    assert_eq!(waiting.reply("GET").text(), "ok");
    child.kill().unwrap();
    child.wait().unwrap();
    until("every request was logged or cut by a kill", || dir.path().join("proxy/access.log").exists());
}
