//! What apps wrote on other machines is in the backup, and comes back to the machine of that name.

use crate::step;
use anyhow::{Context, Result, ensure};
use berth_tests::hosts::Cluster;
use berth_tests::until;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Alone)] =
    &[("volumes_of_a_joined_host_are_backed_up_and_given_to_its_successor", rehearsal)];

const SOON: Duration = Duration::from_secs(60);

fn volumes(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.bed.host(index).seen().join("agent/volumes")
}

/// Hosts 0 and 1 are a cluster; 2 and 3 are what stands in their place afterwards.
fn rehearsal() -> Result<()> {
    let mut cluster = Cluster::new(4)?;
    cluster.up(0, &[])?;
    cluster.admit(0)?;
    cluster.join(1, 0)?;
    cluster.until_nodes(0, 2)?;
    let app = "keeps";
    cluster.ok(0, &["apps:create", app])?;
    for volume in ["first", "second"] {
        cluster.ok(0, &["storage:mount", app, &format!("{volume}:/{volume}")])?;
        cluster.ok(0, &["storage:node", app, volume, "h2"])?;
    }
    cluster.repo(0, app, "one")?.push()?;
    cluster.until_says(0, app, "one web.1")?;
    let first = volumes(&cluster, 1).join("first");
    fs::create_dir(first.join("sub"))?;
    fs::write(first.join("sub/data"), "kept")?;
    fs::set_permissions(first.join("sub/data"), fs::Permissions::from_mode(0o640))?;
    chown(first.join("sub/data"), Some(1234), Some(5678))?;
    symlink("sub//data", first.join("link"))?;
    fs::write(first.join("large"), vec![7; 20 << 20])?;
    fs::write(volumes(&cluster, 1).join("second/data"), "of the backup")?;
    step("an app wrote to volumes of h2");

    let file = |name: &str| cluster.bed.shared().join(name).display().to_string();
    let (whole, without, never) = (file("whole.berth"), file("without.berth"), file("never.berth"));
    cluster.ok(0, &["backup", &whole, "--volumes"])?;
    cluster.bed.host_mut(1).kill_everything()?;
    let refused = cluster.berth(0, &["backup", &never, "--volumes"])?;
    ensure!(refused.code != 0 && refused.all().contains("h2 ("), "it is named: {}", refused.all());
    ensure!(refused.all().contains("--skip-away") && fs::metadata(&never).is_err(), "{}", refused.all());
    let said = cluster.ok(0, &["backup", &without, "--volumes", "--skip-away"])?;
    ensure!(said.stderr.contains("Not in it: volumes of h2"), "{}", said.all());
    step("backed up, with h2 and without");

    cluster.bed.host_mut(0).kill_everything()?;
    let said = cluster.ok(2, &["restore", &whole])?.all();
    ensure!(said.contains("Volumes of h2 wait for it: first, second"), "{said}");
    cluster.up(2, &[])?;
    let report = cluster.ok(2, &["node:report", "h2"])?.stdout;
    ensure!(report.contains("first, second: they go there when it connects"), "{report}");
    step("restored on another machine");

    // The new h2 has a volume of one of the names already.
    let there = volumes(&cluster, 3).join("second");
    fs::create_dir_all(&there)?;
    fs::write(there.join("data"), "of this machine")?;
    cluster.join_as(3, 2, Some("h2"))?;
    // From the restored machine too, which has another address than the one that died.
    let serves = until(SOON, "the app to serve on the new h2", || {
        let reply = cluster.get(2, app, "/")?;
        let text = reply.text();
        ensure!(reply.status == 200 && text.starts_with("one web.1"), "{} {text}", reply.status);
        Ok(())
    });
    serves.with_context(|| {
        let said = [&["ps:report", app][..], &["node:report"], &["events"]]
            .map(|line| cluster.berth(2, line).map_or_else(|error| error.to_string(), |output| output.all()));
        let logs = [2, 3].map(|index| cluster.bed.host(index).log_tail());
        format!("{}\n{}", said.join("\n"), logs.join("\n"))
    })?;
    let first = volumes(&cluster, 3).join("first");
    let data = fs::metadata(first.join("sub/data")).context("it is back")?;
    ensure!(fs::read_to_string(first.join("sub/data"))? == "kept");
    ensure!((data.uid(), data.gid(), data.mode() & 0o7777) == (1234, 5678, 0o640), "{data:?}");
    ensure!(fs::read_link(first.join("link"))?.as_os_str() == "sub//data");
    ensure!(fs::read(first.join("large"))? == vec![7; 20 << 20]);
    ensure!(fs::read_to_string(there.join("data"))? == "of this machine", "it is never overwritten");
    let report = cluster.ok(2, &["node:report", "h2"])?.stdout;
    ensure!(!report.contains("waiting"), "{report}");
    let kept = cluster.bed.host(2).seen().join("controller/volumes-kept/h2");
    ensure!(kept.join("second.not-needed").exists() && !kept.join("first.tree").exists());
    let events = cluster.ok(2, &["events"])?.stdout;
    ensure!(events.contains("volume first of h2 was put back there"), "{events}");
    ensure!(events.contains("h2 has a volume second, which was left as it is"), "{events}");
    Ok(())
}
