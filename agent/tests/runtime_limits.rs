//! What a container may use, and what it is told at the limit.
#![allow(missing_docs, clippy::unwrap_used)]

mod runtime_support;

use berth_agent::runtime::{Stdio, logs};
use runtime_support::Machine;

#[tokio::test]
async fn a_fork_bomb_ends_at_the_limit() {
    let machine = Machine::new();
    let mut bundle = machine.sh("i=0; while [ $i -lt 200 ]; do sleep 60 & i=$((i+1)); done; echo done");
    bundle.limits.pids = Some(20);
    let handle = machine.start(&bundle).await;
    let session = handle.take_session().unwrap();
    let output = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        let mut session = session;
        let mut seen = String::new();
        let mut buffer = [0; 512];
        while !seen.contains("fork") {
            use tokio::io::AsyncReadExt;
            let count = session.stderr.as_mut().unwrap().read(&mut buffer).await.unwrap();
            assert!(count > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        seen
    });
    assert!(output.await.expect("told").contains("can't fork"));
    assert!(handle.stats().map_or(true, |stats| stats.pids <= 20));
    handle.kill_all().await.unwrap();
    handle.wait().await;
}

#[tokio::test]
async fn a_memory_hog_is_killed_and_it_is_told() {
    let machine = Machine::new();
    let mut bundle = machine.sh("head -c 200m /dev/zero | tail; echo survived with $?");
    bundle.limits.memory_mib = Some(32);
    bundle.stdio = Stdio::Logged;
    let handle = machine.start(&bundle).await;
    let exit = handle.wait().await;
    assert!(exit.oom_killed);
    let entries = logs::tail(bundle.log_dir.as_ref().unwrap(), 20).unwrap().0;
    assert!(entries.iter().any(|entry| entry.text.contains("out of memory")), "{entries:?}");
    // The program itself: code 137.
    let mut bundle = machine.bundle(&["tail", "/dev/zero"]);
    bundle.limits.memory_mib = Some(32);
    let (_, exit) = machine.run(&bundle).await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
}

#[tokio::test]
async fn a_full_disk_stops_it_with_a_message() {
    let machine = Machine::new();
    let mut bundle = machine.sh("cd /tmp; i=0; while :; do dd if=/dev/zero of=f$i bs=1M count=4 2>/dev/null; i=$((i+1)); sleep 0.1; done");
    bundle.limits.disk_mib = Some(8);
    bundle.stdio = Stdio::Logged;
    let handle = machine.start(&bundle).await;
    let exit =
        tokio::time::timeout(std::time::Duration::from_secs(30), handle.wait()).await.expect("stopped");
    assert_eq!(exit.signal, Some(9));
    let entries = logs::tail(bundle.log_dir.as_ref().unwrap(), 5).unwrap().0;
    assert!(entries.iter().any(|entry| entry.text.contains("disk limit")), "{entries:?}");
}

#[tokio::test]
async fn limits_cannot_be_raised_from_inside() {
    let machine = Machine::new();
    let mut bundle = machine.sh(
        "ulimit -n; for f in $(find /sys/fs/cgroup -name '*max*' -o -name '*limit*' 2>/dev/null); do echo 1 > $f && echo wrote $f; done; ulimit -n 999999 || echo no",
    );
    bundle.user = "root".into();
    bundle.limits.open_files = 1234;
    let (output, _) = machine.run(&bundle).await;
    assert!(output.contains("1234"), "{output}");
    assert!(!output.contains("wrote"), "{output}");
    assert!(output.contains("no\n"), "{output}");
}
