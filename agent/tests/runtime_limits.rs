//! What a container may use, and what it is told at the limit.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_precision_loss)]

mod runtime_support;

use berth_agent::runtime::{Stdio, logs};
use berth_model::container::{IoLimits, Limits};
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

/// A file of `count` times 64 KiB, written and read past the page cache; gives how long each took, in seconds.
async fn direct(machine: &Machine, limits: Limits, count: u32) -> (f64, f64) {
    let script = format!(
        "cd /tmp; s() {{ cut -d' ' -f1 /proc/uptime; }}; a=$(s); \
         dd if=/dev/zero of=f bs=64k count={count} oflag=direct 2>/dev/null || echo no direct; b=$(s); \
         dd if=f of=/dev/null bs=64k iflag=direct 2>/dev/null; c=$(s); echo $a $b $c"
    );
    let mut bundle = machine.sh(&script);
    bundle.limits = limits;
    let (output, exit) = machine.run(&bundle).await;
    assert_eq!(exit.code, 0, "{output}");
    let times: Vec<f64> = output.split_whitespace().map(|word| word.parse().expect(&output)).collect();
    (times[1] - times[0], times[2] - times[1])
}

#[tokio::test]
async fn io_is_held_to_its_rate() {
    let machine = Machine::new();
    // 4 MiB at 1 MiB/s, both ways.
    let io = IoLimits { read_bps: Some(1 << 20), write_bps: Some(1 << 20), ..IoLimits::default() };
    let (write, read) = direct(&machine, Limits { io, ..Limits::default() }, 64).await;
    assert!((3.0..15.0).contains(&write), "{write} s to write 4 MiB at 1 MiB/s");
    assert!((3.0..15.0).contains(&read), "{read} s to read 4 MiB at 1 MiB/s");
    // 64 operations at 20 a second.
    let io = IoLimits { read_iops: Some(20), write_iops: Some(20), ..IoLimits::default() };
    let (write, read) = direct(&machine, Limits { io, ..Limits::default() }, 64).await;
    assert!((2.2..15.0).contains(&write), "{write} s for 64 writes at 20/s");
    assert!((2.2..15.0).contains(&read), "{read} s for 64 reads at 20/s");
}

#[tokio::test]
async fn a_cpu_hog_gets_its_part() {
    let machine = Machine::new();
    let mut bundle = machine.sh("while :; do :; done");
    bundle.limits.cpu_millis = Some(200);
    let handle = machine.start(&bundle).await;
    let (begun, before) = (std::time::Instant::now(), handle.stats().unwrap().cpu_us);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await; // what is measured is time itself
    let used = handle.stats().unwrap().cpu_us - before;
    let part = used as f64 / begun.elapsed().as_micros() as f64;
    assert!(part < 0.23, "a fifth of a CPU was allowed, {part:.3} was used");
    handle.kill_all().await.unwrap();
    handle.wait().await;
}

#[tokio::test]
async fn the_heavier_gets_more_of_a_busy_cpu() {
    let machine = Machine::new();
    // Together on one CPU.
    let hog = |weight: u64| {
        let mut bundle = machine.sh("exec taskset 1 sh -c 'while :; do :; done'");
        bundle.limits.cpu_weight = weight;
        bundle
    };
    let (light, heavy) = (machine.start(&hog(50)).await, machine.start(&hog(400)).await);
    let used = || (light.stats().unwrap().cpu_us, heavy.stats().unwrap().cpu_us);
    let before = used();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let after = used();
    let ratio = (after.1 - before.1) as f64 / (after.0 - before.0).max(1) as f64;
    assert!(ratio > 4.0, "weights of 400 and 50 gave {ratio:.1} to 1");
    for handle in [light, heavy] {
        handle.kill_all().await.unwrap();
        handle.wait().await;
    }
}

#[tokio::test]
async fn swap_is_used_up_to_its_limit_and_no_further() {
    let swap = std::fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() > 1;
    let machine = Machine::new();
    // 40 MiB of memory in a variable of the shell's.
    let hog = |both: Option<u64>| {
        let mut bundle = machine.sh("x=$(head -c 40m /dev/zero | tr '\\0' x); echo held ${#x}");
        (bundle.limits.memory_mib, bundle.limits.memory_swap_mib) = (Some(32), both);
        bundle
    };
    let (output, exit) = machine.run(&hog(None)).await;
    assert!(exit.oom_killed && !output.contains("held"), "without swap it is killed: {output} {exit:?}");
    let (output, exit) = machine.run(&hog(Some(256))).await;
    // On a node without swap there is none to give.
    assert_eq!((output.contains("held"), exit.oom_killed), (swap, !swap), "{output} {exit:?}");
}

#[tokio::test]
async fn orphans_of_a_forking_program_leave_no_zombies() {
    let machine = Machine::new();
    // 300 children whose parents are gone, of a program that waits for none; the limit counts zombies, too.
    let script = "i=0; while [ $i -lt 300 ]; do (true &); i=$((i+1)); done; \
        n=0; while [ $n -lt 100 ] && ps -o stat | grep -q '^Z'; do sleep 0.05; n=$((n+1)); done; \
        echo zombies $(ps -o stat | grep -c '^Z') of $i";
    let mut bundle = machine.sh(script);
    bundle.limits.pids = Some(64);
    let (output, exit) = machine.run(&bundle).await;
    assert_eq!((output.trim(), exit.code), ("zombies 0 of 300", 0));
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
