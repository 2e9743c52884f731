//! Apps that reach each other.

use crate::apps::{push_server, server};
use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, until};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] =
    &[("apps_on_one_network_reach_each_other_by_name", linked)];

fn linked(berth: &Berth) -> Result<()> {
    let cache = push_server(berth, "net-cache", "net-cache", &[])?;
    for app in ["net-shop", "net-other"] {
        push_server(berth, app, app, &[])?;
    }
    let started = |app: &str| -> Result<Vec<i32>> { berth.pids(app) };
    let before = started("net-shop")?;
    // In a container that runs already: what changes, changes for it.
    let fetch = |from: &str, host: &str| {
        let code = format!(
            "import http.client\ntry:\n c=http.client.HTTPConnection('{host}',5000,timeout=4); c.request('GET','/'); \
             print(c.getresponse().read().decode())\nexcept OSError as e: print('refused',e)"
        );
        berth.ok(&["enter", from, "web.1", "python", "-c", &code]).map(|output| output.stdout)
    };
    let says = |from: &str, host: &str, text: &str| {
        until(Duration::from_secs(15), &format!("{from} hears {text:?} from {host}"), || {
            let said = fetch(from, host)?;
            Ok(said.contains(text).then_some(()))
        })
    };
    ensure!(
        fetch("net-shop", "net-cache.internal")?.contains("refused"),
        "without a network there is no name"
    );
    berth.ok(&["network:create", "net-back"])?;
    ensure!(berth.berth(&["network:create", "net-back"])?.code != 0, "a network is made once");
    ensure!(berth.berth(&["network:exists", "net-back"])?.code == 0);
    ensure!(berth.berth(&["network:exists", "net-none"])?.code != 0);
    ensure!(berth.berth(&["network:attach", "net-shop", "net-none"])?.code != 0, "it must exist");
    berth.ok(&["network:attach", "net-shop", "net-back"])?;
    berth.ok(&["network:set", "net-cache", "attach-post-deploy", "net-back"])?;
    for name in ["net-cache.internal", "web.net-cache.internal", "1.web.net-cache.internal", "net-cache.web"]
    {
        says("net-shop", name, "net-cache")?;
    }
    says("net-cache", "net-shop.internal", "net-shop")?;
    ensure!(fetch("net-other", "net-cache.internal")?.contains("refused"), "who is not on it knows no name");
    let containers = berth.containers("net-cache")?;
    let address = containers[0]["status"]["address"].as_str().context("no address")?.to_owned();
    ensure!(fetch("net-other", &address)?.contains("refused"), "and reaches no address");
    ensure!(fetch("net-shop", &address)?.contains("net-cache"));
    let once = berth.ok(&[
        "run",
        "net-shop",
        "python",
        "-c",
        "import socket; print(socket.gethostbyname('net-cache.internal'))",
    ])?;
    ensure!(once.stdout.contains(&address), "one-offs too: {once:?}");
    let report = berth.ok(&["network:report", "net-cache"])?.stdout;
    ensure!(report.contains("web.net-cache.internal") && report.contains("net-shop"), "{report}");
    let info = berth.ok(&["network:info", "net-back"])?.stdout;
    ensure!(info.contains("net-shop") && info.contains("net-cache"), "{info}");
    ensure!(berth.ok(&["network:list"])?.stdout.contains("net-back"));

    // A deploy of the one that is called: the name leads to the new container, and to nobody else.
    cache.change(&[("server.py", &server("net-second"))])?;
    says("net-shop", "net-cache.internal", "net-second")?;

    ensure!(berth.berth(&["network:destroy", "net-back"])?.code != 0, "apps are on it");
    berth.ok(&["network:detach", "net-cache", "net-back"])?;
    says("net-shop", "net-cache.internal", "refused")?;
    ensure!(started("net-shop")? == before, "nothing of all this restarts a container");
    berth.ok(&["network:detach", "net-shop", "net-back"])?;
    berth.ok(&["network:destroy", "net-back"])?;
    ensure!(berth.get("net-cache", "/")?.status == 200);
    Ok(())
}
