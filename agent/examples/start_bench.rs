//! Times a container's life, from nothing to reaped and removed, of `/bin/true`.
//!
//! In: how many times (default 30), then optionally `crun` or `runc` to time those on a ready root file system in the
//! same run, alternating. Out: median, 10th and 90th percentile in milliseconds. Needs root and busybox-static.
#![expect(clippy::print_stdout, reason = "a program for people")]

use anyhow::{Context, Result, bail};
use berth_agent::runtime::{Bundle, IdMap, Runtime, Stdio};
use berth_model::ContainerId;
use berth_model::container::Limits;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const WARM_UP: usize = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let count: usize =
        args.next().map_or(Ok(30), |text| text.parse()).context("the first argument is a number")?;
    let others: Vec<String> = args.collect();
    let data = std::env::temp_dir().join(format!("berth-bench-{}", std::process::id()));
    let layer = data.join("layer");
    make_layer(&layer)?;
    let runtime = Runtime::open(&format!("{:06x}", std::process::id()), &data)?;
    let mut ours: [Vec<Duration>; 5] = Default::default();
    let mut theirs: Vec<Vec<Duration>> = vec![Vec::new(); others.len()];
    for round in 0..count + WARM_UP {
        let took = life(&runtime, &data, &layer).await?;
        if round >= WARM_UP {
            for (times, part) in ours.iter_mut().zip(took) {
                times.push(part);
            }
        }
        for (name, times) in others.iter().zip(&mut theirs) {
            let took = oci(name, &data, &layer)?;
            if round >= WARM_UP {
                times.push(took);
            }
        }
    }
    runtime.close();
    std::fs::remove_dir_all(&data)?;
    let whole = format!("berth (cgroup {})", runtime.cgroup_kind());
    for (name, times) in ["  create", "  start", "  run", "  remove", &whole].into_iter().zip(&mut ours) {
        report(name, times);
    }
    for (name, times) in others.iter().zip(&mut theirs) {
        report(name, times);
    }
    Ok(())
}

async fn life(runtime: &Runtime, data: &Path, layer: &Path) -> Result<[Duration; 5]> {
    let id = ContainerId::parse("bench.web.1.a")?;
    let dir = data.join("agent/containers").join(id.as_str());
    let bundle = Bundle {
        log_dir: Some(data.join("agent/logs").join(id.as_str())),
        dir: dir.clone(),
        id,
        lowers: vec![layer.to_owned()],
        netns: None,
        argv: vec!["/bin/true".into()],
        env: Vec::new(),
        cwd: "/".into(),
        user: "1000".into(),
        hostname: "bench".into(),
        limits: Limits::default(),
        binds: Vec::new(),
        files: Vec::new(),
        private: Vec::new(),
        stdio: Stdio::Logged,
        id_map: IdMap { base: 300_000, count: 65536 },
        upper: None,
    };
    let begun = Instant::now();
    let handle = runtime.create(&bundle).await?;
    let created = begun.elapsed();
    handle.start().await?;
    let started = begun.elapsed();
    let exit = handle.wait().await;
    drop(handle);
    let exited = begun.elapsed();
    runtime.remove(&dir)?;
    if exit.code != 0 {
        bail!("it ended with {exit:?}");
    }
    let removed = begun.elapsed();
    Ok([created, started - created, exited - started, removed - exited, removed])
}

fn oci(program: &str, data: &Path, layer: &Path) -> Result<Duration> {
    let bundle = data.join(program);
    if !bundle.join("config.json").exists() {
        std::fs::create_dir_all(&bundle)?;
        let made = Command::new(program).arg("spec").current_dir(&bundle).status()?;
        if !made.success() {
            bail!("{program} spec failed");
        }
        let path = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = vec!["/bin/true"].into();
        // The same work: a filter, if the caller has one for them (`SECCOMP=FILE`), and limits.
        if let Ok(filter) = std::env::var("SECCOMP") {
            config["linux"]["seccomp"] = serde_json::from_slice(&std::fs::read(filter)?)?;
        }
        config["linux"]["resources"] = serde_json::json!({
            "memory": {"limit": 512 << 20}, "pids": {"limit": 512}, "cpu": {"shares": 1024},
        });
        config["root"]["path"] = layer.to_string_lossy().into_owned().into();
        std::fs::write(&path, serde_json::to_vec(&config)?)?;
    }
    let begun = Instant::now();
    let status = Command::new(program)
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(format!("bench-{}", std::process::id()))
        .status()?;
    if !status.success() {
        bail!("{program} run failed: {status}");
    }
    Ok(begun.elapsed())
}

fn make_layer(layer: &Path) -> Result<()> {
    for dir in ["bin", "etc", "proc", "sys", "dev"] {
        std::fs::create_dir_all(layer.join(dir))?;
    }
    std::fs::copy("/bin/busybox", layer.join("bin/busybox")).context("busybox-static is not installed")?;
    std::os::unix::fs::symlink("busybox", layer.join("bin/true"))?;
    Ok(())
}

fn report(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    let ms = |percent| at(percent).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    println!(
        "{name:<20} median {:7.1}  p10 {:7.1}  p90 {:7.1}  ms, n={}",
        ms(50),
        ms(10),
        ms(90),
        times.len()
    );
}
