//! The test bed itself: what it promises the other scenarios.

use anyhow::{Context, Result, ensure};
use berth_tests::hosts::{Bed, BedOptions, Cluster, Cut};
use berth_tests::until;
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Alone)] = &[
    ("hosts_are_apart_and_nothing_of_them_stays", apart),
    ("frames_are_cut_and_lost_as_told", cuts),
    ("three_platforms_run_side_by_side_and_survive_power_loss", side_by_side),
];

/// Whether `from` gets an answer of `to` within a second.
fn hears(bed: &Bed, from: usize, to: usize) -> Result<bool> {
    let to = bed.host(to).address().to_string();
    Ok(bed.host(from).run(&["ping", "-c", "1", "-W", "1", &to])?.code == 0)
}

fn cgroups_of(bed: &Bed) -> Vec<std::path::PathBuf> {
    let name = bed.directory().file_name().unwrap_or_default();
    let entries = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let all = entries.map(|entry| entry.path()).chain([std::path::PathBuf::from("/sys/fs/cgroup")]);
    all.map(|mount| mount.join(name)).filter(|path| path.exists()).collect()
}

fn apart() -> Result<()> {
    let mut bed = Bed::new(&BedOptions { hosts: 2, disks: vec![(1, 16)] })?;
    ensure!(bed.host(0).ok(&["hostname"])?.stdout == "h1\n", "its own name");
    ensure!(!std::path::Path::new("/run/mark").exists());
    bed.host(0).ok(&["touch", "/run/mark"])?;
    ensure!(!std::path::Path::new("/run/mark").exists(), "its own /run");
    ensure!(bed.host(1).run(&["test", "-e", "/run/mark"])?.code != 0, "of each its own");
    let links = bed.host(0).ok(&["ls", "/sys/class/net"])?.stdout;
    ensure!(links.split_whitespace().eq(["eth0", "lo"]), "its own links: {links}");
    let out = bed.host(0).run(&["ping", "-c", "1", "-W", "5", "198.51.100.1"])?;
    ensure!(
        out.code != 0 && out.all().contains("Unreachable"),
        "no way out, and told so at once: {}",
        out.all()
    );
    let seen = bed.host(0).ok(&["ps", "-e", "-o", "pid="])?.stdout;
    ensure!(seen.lines().count() < 5, "its own processes: {seen}");
    ensure!(!cgroups_of(&bed).is_empty(), "cgroups");

    // A pause stops everything, and nothing is lost by it.
    let count = "n=0; while :; do n=$((n+1)); echo $n > /run/n; sleep 0.02; done";
    bed.host_mut(0).start(vec!["bash".into(), "-c".into(), count.into()])?;
    let number = |bed: &Bed| -> Result<u64> {
        until(Duration::from_secs(5), "a number", || {
            let path = format!("/proc/{}/root/run/n", bed.host(0).pid(0)?);
            Ok(std::fs::read_to_string(path)?.trim().parse()?)
        })
    };
    let grows = |bed: &Bed, than: u64| {
        until(Duration::from_secs(5), "it to count on", || {
            ensure!(number(bed)? > than, "it stands still");
            Ok(())
        })
    };
    grows(&bed, number(&bed)?)?;
    bed.host(0).pause()?;
    let paused = number(&bed)?;
    std::thread::sleep(Duration::from_millis(300)); // that nothing happens takes a time, not a condition
    ensure!(number(&bed)? == paused, "it counts while paused");
    bed.host(0).unpause()?;
    grows(&bed, paused)?;

    // Power loss: nothing but the directory stays; services start again.
    std::fs::write(bed.host(0).seen().join("kept"), "1")?;
    std::fs::write(bed.host(1).seen().join("kept"), "1")?;
    bed.host(0).pause()?;
    bed.host_mut(0).kill_everything()?;
    ensure!(bed.host(0).run(&["true"]).is_err(), "it is off");
    bed.host_mut(0).power_on()?;
    bed.host_mut(1).restart()?;
    ensure!(bed.host(0).run(&["test", "-e", "/run/mark"])?.code != 0, "an empty /run");
    grows(&bed, 0)?;
    for index in 0..2 {
        ensure!(bed.host(index).seen().join("kept").exists(), "the directory of {index} stays");
    }

    let other = bed.host(1).directory().join("kept").display().to_string();
    ensure!(bed.host(0).run(&["test", "-e", &other])?.code != 0, "the other's disk is not there");

    // A full disk.
    ensure!(bed.host(0).fill_disk().is_err(), "the machine's own disk is never filled");
    bed.host(1).fill_disk()?;
    let place = bed.host(1).directory().display().to_string();
    let write = format!("head -c 100000 /dev/zero > {place}/more");
    ensure!(bed.host(1).run(&["bash", "-c", &write])?.code != 0, "no room");
    bed.host(1).free_disk()?;
    bed.host(1).ok(&["bash", "-c", &write])?;

    let (groups, directory) = (cgroups_of(&bed), bed.directory().to_owned());
    let place = directory.display().to_string();
    drop(bed);
    for path in groups.iter().chain([&directory]) {
        ensure!(!path.exists(), "{} is left", path.display());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&place), "a mount is left");
    Ok(())
}

fn cuts() -> Result<()> {
    let bed = Bed::of(3)?;
    let name = |index: usize| bed.host(index).name().to_owned();
    let switch = bed.switch();
    let client_hears = |index: usize| -> Result<bool> {
        let address = bed.host(index).address().to_string();
        Ok(switch.command("ping").args(["-c", "1", "-W", "1", &address]).output()?.status.success())
    };
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        ensure!(hears(&bed, from, to)?, "{from} and {to} are not cut off");
    }
    switch.cut(Cut::Between(name(0), name(1)))?;
    ensure!(!hears(&bed, 0, 1)? && !hears(&bed, 1, 0)? && hears(&bed, 0, 2)?, "between two");
    switch.mend_all()?;
    ensure!(hears(&bed, 0, 1)?, "mended");
    let alone = Cut::Alone(name(2));
    switch.cut(alone.clone())?;
    ensure!(!hears(&bed, 0, 2)? && !hears(&bed, 2, 1)? && hears(&bed, 0, 1)?, "one alone");
    ensure!(client_hears(2)?, "which clients still reach");
    switch.mend(&alone)?;
    switch.cut(Cut::Unplugged(name(2)))?;
    ensure!(!hears(&bed, 0, 2)? && !client_hears(2)?, "unplugged");
    switch.mend_all()?;

    // One way: what 0 sends arrives at 1, what 1 sends does not.
    let listen = |index: usize| -> Result<std::process::Child> {
        let mut python = bed.host(index).command("python3")?;
        python.args([
            "-c",
            "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.settimeout(2)\ns.bind(('',999))\n\
             print('up',flush=True)\ntry: print(s.recvfrom(9)[0])\nexcept TimeoutError: print('nothing')",
        ]);
        Ok(python.stdout(std::process::Stdio::piped()).spawn()?)
    };
    let arrives = |from: usize, to: usize| -> Result<bool> {
        use std::io::{BufRead, BufReader, Read};
        let mut child = listen(to)?;
        let mut out = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        let send = format!("echo word > /dev/udp/{}/999", bed.host(to).address());
        bed.host(from).ok(&["bash", "-c", &send])?;
        line.clear();
        out.read_to_string(&mut line)?;
        child.wait()?;
        Ok(line.contains("word"))
    };
    // Addresses are known beforehand: to learn them takes both ways.
    ensure!(hears(&bed, 0, 1)? && hears(&bed, 1, 0)?, "mended");
    switch.cut(Cut::OneWay(name(1), name(0)))?;
    ensure!(!hears(&bed, 0, 1)?, "no answer");
    ensure!(arrives(0, 1)? && !arrives(1, 0)?, "one way only");
    switch.mend_all()?;

    switch.cut(Cut::Loss(name(0), 50))?;
    let address = bed.host(1).address().to_string();
    let said = bed.host(0).run(&["ping", "-c", "60", "-i", "0.01", "-W", "1", &address])?.stdout;
    let received =
        said.split(" received").next().and_then(|text| text.rsplit(' ').next()).unwrap_or_default();
    let received: u32 = received.parse().with_context(|| said.clone())?;
    ensure!((2..45).contains(&received), "of 60, a quarter is to be expected: {said}");
    switch.mend_all()
}

fn side_by_side() -> Result<()> {
    let mut cluster = Cluster::new(3)?;
    for index in 0..3 {
        cluster.up(index, &[])?;
    }
    crate::step("three platforms are up");
    // Each its own instance, though all chose at the same place of what each takes for its own machine.
    for index in 0..3 {
        cluster.admit(index)?;
        let repo = cluster.repo(index, "who", &format!("host{index}"))?;
        repo.push()?;
        cluster.until_says(index, "who", &format!("host{index} web.1"))?;
    }
    crate::step("three pushes");
    let swarm = cluster.swarm(&[1, 2], "who");
    swarm.until_more(100)?;
    cluster.bed.host_mut(0).kill_everything()?;
    ensure!(!hears(&cluster.bed, 1, 0)?, "it is off");
    let report = swarm.finish();
    ensure!(report.lost_count == 0 && report.by.len() == 2, "the others do not notice: {}", report.losses());
    crate::step("one is off");
    let before = cluster.times_ready(0);
    cluster.bed.host_mut(0).power_on()?;
    cluster.until_ready(0, before)?;
    crate::step("on again");
    cluster.until_says(0, "who", "host0 web.1")?;
    Ok(())
}
