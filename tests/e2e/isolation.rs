//! What a hostile app cannot do.

use crate::apps::push_server;
use anyhow::{Context, Result, ensure};
use berth_tests::Berth;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] =
    &[("apps_cannot_reach_each_other_or_the_machine", network), ("apps_run_confined", confined)];

fn network(berth: &Berth) -> Result<()> {
    push_server(berth, "victim", "one", &[])?;
    push_server(berth, "attacker", "one", &[])?;
    let victim = berth.containers("victim")?;
    let address = victim[0]["status"]["address"].as_str().context("no address")?.to_owned();
    let gateway = {
        let mut parts: Vec<_> = address.split('.').collect();
        parts[3] = "1";
        parts.join(".")
    };
    let connect = |host: &str, port: u16| {
        let code = format!(
            "import socket,sys\ntry:\n socket.create_connection(('{host}',{port}),2); print('CONNECTED')\nexcept OSError as e: print('refused',e)"
        );
        berth.ok(&["run", "attacker", "python", "-c", &code]).map(|output| output.stdout)
    };
    for (host, port) in [
        (address.as_str(), 5000),
        (gateway.as_str(), berth.api.port()),
        (gateway.as_str(), berth.ssh.port()),
        ("169.254.169.254", 80),
        ("127.0.0.1", berth.api.port()),
    ] {
        let said = connect(host, port)?;
        ensure!(!said.contains("CONNECTED"), "an app reached {host}:{port}");
    }
    ensure!(berth.get("victim", "/")?.status == 200, "the victim still serves through the proxy");
    Ok(())
}

fn confined(berth: &Berth) -> Result<()> {
    push_server(berth, "confined", "one", &[])?;
    let status =
        "grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/self/status; cat /proc/self/uid_map; id -u";
    for command in
        [&["run", "confined", "sh", "-c", status][..], &["enter", "confined", "web.1", "sh", "-c", status]]
    {
        let said = berth.ok(command)?.stdout;
        ensure!(said.contains("NoNewPrivs:\t1") && said.contains("Seccomp:\t2"), "{said}");
        ensure!(said.contains("CapEff:\t0000000000000000"), "{said}");
        ensure!(!said.lines().any(|line| line.split_whitespace().eq(["0", "0", "4294967295"])), "{said}");
        ensure!(said.trim_end().ends_with("1000"), "{said}");
    }
    for attack in [
        "echo x > /proc/sys/kernel/core_pattern",
        "head -c 1 /proc/kcore",
        "mount -t tmpfs t /mnt",
        "unshare -U true",
        "mknod /tmp/x c 1 1",
        "ls /proc/1/root/etc/../../../../work",
        "echo 1 > /sys/fs/cgroup/memory.max",
        "cat /run/berth/agent.sock",
    ] {
        let said = berth.berth(&["run", "confined", "sh", "-c", attack])?;
        ensure!(said.code != 0, "{attack:?} worked: {said:?}");
    }
    Ok(())
}
