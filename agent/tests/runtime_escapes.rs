//! Ways out of a container that have worked elsewhere.
#![allow(missing_docs, clippy::unwrap_used)]

mod runtime_support;

use berth_agent::runtime::{Bind, ExecSpec, IdMap};
use runtime_support::{BASE, Machine, output_of};
use std::os::unix::fs::symlink;

const PROBE: &str = "grep -E '^(Uid|Gid|Groups|Cap[A-Z][a-z]+|NoNewPrivs|Seccomp):' /proc/self/status; cat /proc/self/uid_map; ulimit -a; grep -c . /proc/self/mountinfo; ls /proc/self/fd | wc -l; cat /proc/self/cgroup | sed 's/.*://'";

#[tokio::test]
async fn start_and_exec_are_confined_identically() {
    let machine = Machine::new();
    for user in ["app", "root"] {
        let mut bundle = machine.sh(&format!("{PROBE}; echo ended; sleep 1000"));
        bundle.user = user.into();
        let handle = machine.start(&bundle).await;
        let mut session = handle.take_session().unwrap();
        let mut started = String::new();
        let mut buffer = [0; 8192];
        while !started.contains("ended\n") {
            use tokio::io::AsyncReadExt;
            let count = session.stdout.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{started}");
            started.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        let started = started.replace("ended\n", "");
        let argv = ["/bin/sh", "-c", PROBE].map(String::from).to_vec();
        let executed = output_of(handle.exec(ExecSpec { argv, ..ExecSpec::default() }).await.unwrap()).await;
        assert_eq!(started, executed);
        assert!(started.contains("Seccomp:\t2"), "{started}");
        assert!(started.contains("NoNewPrivs:\t1"), "{started}");
        assert!(started.contains(&BASE.to_string()), "uid_map is not the identity: {started}");
        let caps = if user == "app" { "CapEff:\t0000000000000000" } else { "CapEff:\t00000000800405fb" };
        assert!(started.contains(caps), "{user}: {started}");
        assert!(started.contains(&caps.replace("CapEff", "CapBnd")), "{user}: {started}");
        handle.kill_all().await.unwrap();
    }
}

#[tokio::test]
async fn only_stdio_is_open_and_only_its_own_processes_are_seen() {
    let machine = Machine::new();
    let (output, _) = machine.run(&machine.sh("ls /proc/self/fd; echo; ls -d /proc/[0-9]* | wc -l; ls /proc/1/fd 2>&1; readlink /proc/1/exe 2>&1; cat /proc/1/environ 2>&1; hostname")).await;
    assert!(output.starts_with("0\n1\n2\n3\n\n"), "{output}"); // 3 is ls's own
    assert!(output.contains("can't open"), "pid 1 is closed: {output}");
}

#[tokio::test]
async fn the_kernel_is_out_of_reach_even_for_root() {
    let machine = Machine::new();
    let mut bundle = machine.sh("try() { \"$@\" >/dev/null 2>&1 && echo \"POSSIBLE: $*\"; }
         try sh -c 'echo x > /proc/sys/kernel/core_pattern'
         try sh -c 'echo x > /proc/sysrq-trigger'
         try sh -c 'echo 1 > /proc/sys/vm/drop_caches'
         try sh -c 'echo 1 > /sys/kernel/profiling'
         try sh -c 'cat /proc/kcore | head -c 1 | grep .'
         try sh -c 'head -c 1 /proc/kallsyms | grep .'
         try sh -c 'head -c 1 /proc/keys | grep .'
         try sh -c 'ls /sys/firmware | grep .'
         try mknod /tmp/disk b 254 0
         try mknod /tmp/mem c 1 1
         try mount -t tmpfs none /mnt
         try mount -t proc none /tmp
         try mount -o remount,rw /proc/sys
         try umount /proc/kcore
         try unshare -r true
         try unshare -m true
         try unshare -n true
         try chroot /proc/1/root ls
         try nsenter -t 1 -m true
         try dmesg
         try ip link set lo down
         try hostname other
         try swapoff -a
         try insmod /tmp/x
         try sh -c 'date -s 2001-01-01; [ $(date +%Y) = 2001 ]'
         try sh -c 'echo 0 > /proc/1/oom_score_adj'
         try renice -n -5 1
         echo probed");
    bundle.user = "root".into();
    let (output, _) = machine.run(&bundle).await;
    assert_eq!(output, "probed\n");
}

#[tokio::test]
async fn working_directories_cannot_leave() {
    let machine = Machine::new();
    for number in 3..12 {
        let mut bundle = machine.sh("pwd; ls /proc/self/cwd/");
        bundle.cwd = format!("/proc/self/fd/{number}").into();
        let handle = machine.runtime.create(&bundle).await.unwrap();
        assert!(handle.start().await.is_err(), "fd {number}");
        drop(handle);
        machine.runtime.remove(&bundle.dir).unwrap();
    }
}

#[tokio::test]
async fn links_in_an_image_lead_nowhere() {
    let machine = Machine::new();
    // /dev/null, /dev/pts and /etc/resolv.conf of the image point out; its /proc is a link.
    let top = machine.data.path().join("agent/layers/hostile");
    let outside = machine.data.path().join("outside");
    std::fs::create_dir_all(outside.join("dev")).unwrap();
    std::fs::write(outside.join("dev/ptmx"), "host").unwrap();
    std::fs::create_dir_all(top.join("dev")).unwrap();
    std::fs::create_dir_all(top.join("etc")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", top.join("dev/null")).unwrap();
    symlink("/proc", top.join("dev/pts")).unwrap();
    symlink(outside.join("resolv.conf"), top.join("etc/resolv.conf")).unwrap();
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut bundle = machine.sh("echo x > /dev/null; cat /etc/resolv.conf; ls -l /dev/null");
    bundle.lowers.insert(0, top.clone());
    bundle.files.push(("/etc/resolv.conf".into(), b"nameserver 10.0.0.1\n".to_vec()));
    let (output, exit) = machine.run(&bundle).await;
    assert!(output.contains("nameserver 10.0.0.1") && output.contains("1,   3"), "{output}");
    assert_eq!(exit.code, 0);
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    assert!(!outside.join("resolv.conf").exists());

    for name in ["proc", "sys", "dev"] {
        let linked = machine.data.path().join(format!("agent/layers/linked-{name}"));
        std::fs::create_dir_all(&linked).unwrap();
        symlink(&outside, linked.join(name)).unwrap();
        let mut bundle = machine.sh("true");
        bundle.lowers.insert(0, linked);
        let refused = machine.runtime.create(&bundle).await;
        assert!(refused.is_err(), "a linked /{name} is refused");
        machine.runtime.remove(&bundle.dir).unwrap();
    }
    assert_eq!(std::fs::read_to_string(outside.join("dev/ptmx")).unwrap(), "host");
    assert_eq!(std::fs::read_dir(outside.join("dev")).unwrap().count(), 1);
}

#[tokio::test]
async fn our_program_never_runs_inside() {
    let machine = Machine::new();
    let mut direct = machine.bundle(&["/proc/self/exe"]);
    direct.user = "root".into();
    let script = machine.data.path().join("agent/layers/script");
    std::fs::create_dir_all(&script).unwrap();
    std::fs::write(script.join("run"), "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(script.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let mut by_script = machine.bundle(&["/run"]);
    by_script.lowers.insert(0, script);
    by_script.user = "root".into();
    for bundle in [direct, by_script] {
        let handle = machine.runtime.create(&bundle).await.unwrap();
        let started = handle.start().await;
        assert!(started.is_err(), "{started:?}");
    }
}

#[tokio::test]
async fn volumes_keep_plain_ids_and_read_only_holds() {
    let machine = Machine::new();
    let volume = machine.data.path().join("agent/volumes/data");
    let mut bundle = machine.sh("echo mine > /data/file && ls -ln /data/file; echo no > /ro/file; cat /ca");
    std::fs::create_dir_all(&volume).unwrap();
    std::os::unix::fs::chown(&volume, Some(1000), Some(1000)).unwrap();
    for (target, read_only) in [("/data", false), ("/ro", true)] {
        bundle.binds.push(Bind { source: volume.clone(), target: target.into(), read_only, create: true });
    }
    bundle.files.push(("/ca".into(), b"certificate\n".to_vec()));
    let (output, _) = machine.run(&bundle).await;
    assert!(output.contains("1000     1000"), "{output}");
    assert!(output.contains("Read-only file system"), "{output}");
    assert!(output.contains("certificate"), "{output}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(volume.join("file")).unwrap());
    assert_eq!(owner, 1000, "ids on disk are the container's own");
}

#[tokio::test]
async fn setuid_programs_gain_nothing() {
    let machine = Machine::new();
    let setuid = machine.data.path().join("agent/layers/setuid");
    std::fs::create_dir_all(setuid.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", setuid.join("bin/busybox-root")).unwrap();
    std::fs::set_permissions(
        setuid.join("bin/busybox-root"),
        std::os::unix::fs::PermissionsExt::from_mode(0o4755),
    )
    .unwrap();
    let mut bundle = machine.bundle(&["/bin/busybox-root", "id", "-u"]);
    bundle.lowers.insert(0, setuid);
    let (output, _) = machine.run(&bundle).await;
    assert_eq!(output, "1000\n");
}

#[tokio::test]
async fn without_a_user_namespace_the_rest_still_holds() {
    let machine = Machine::new();
    let mut bundle = machine.sh("id -u; grep -E '^(CapEff|CapBnd|Seccomp):' /proc/self/status; echo x > /proc/sys/kernel/core_pattern; mount -t tmpfs none /tmp");
    bundle.id_map = IdMap { base: 0, count: 0 };
    bundle.user = "root".into();
    let (output, exit) = machine.run(&bundle).await;
    assert!(output.contains("CapEff:\t00000000800405fb"), "{output}");
    assert!(output.contains("Seccomp:\t2"), "{output}");
    assert!(output.contains("Read-only file system"), "{output}");
    assert_ne!(exit.code, 0, "{output}");
}
