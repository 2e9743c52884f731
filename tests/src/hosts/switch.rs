//! What the hosts are plugged into: a bridge in a network namespace of its own, which can refuse to pass frames on.
//!
//! In: who is cut off from whom, and how many frames get lost. Out: one nftables table of family `bridge`, replaced at
//! once. The kernels this runs on have no `netem`, so frames are lost by `numgen random` and never delayed.
//! Clients at the switch itself (192.0.2.254) talk to hosts by the bridge's own port: only [`Cut::Unplugged`] keeps them
//! away.

use crate::platform::{Output, run, until};
use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Frames that do not pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Of a host to another.
    OneWay(String, String),
    /// Between two hosts.
    Between(String, String),
    /// Between a host and all the others. Clients still reach it.
    Alone(String),
    /// All of a host's: its cable is out.
    Unplugged(String),
    /// So many of a hundred of a host's, each way.
    Loss(String, u8),
}

/// The rules that make it so, for `nft -f -`.
fn rules(cuts: &[Cut]) -> String {
    let (mut forward, mut own) = (String::new(), String::new());
    for cut in cuts {
        match cut {
            Cut::OneWay(from, to) => forward.push_str(&format!("iifname {from} oifname {to} drop\n")),
            Cut::Between(a, b) => {
                forward.push_str(&format!("iifname {a} oifname {b} drop\niifname {b} oifname {a} drop\n"));
            }
            Cut::Alone(host) => forward.push_str(&format!("iifname {host} drop\noifname {host} drop\n")),
            Cut::Unplugged(host) => {
                forward.push_str(&format!("iifname {host} drop\noifname {host} drop\n"));
                own.push_str(&format!("iifname {host} drop\noifname {host} drop\n"));
            }
            Cut::Loss(host, percent) => {
                for way in ["iifname", "oifname"] {
                    forward.push_str(&format!("{way} {host} numgen random mod 100 < {percent} drop\n"));
                }
            }
        }
    }
    let input: String =
        own.lines().filter(|line| line.starts_with("iif")).map(|line| format!("{line}\n")).collect();
    let output: String =
        own.lines().filter(|line| line.starts_with("oif")).map(|line| format!("{line}\n")).collect();
    format!(
        "table bridge bed {{}}\ndelete table bridge bed\ntable bridge bed {{\n\
         chain forward {{ type filter hook forward priority 0; policy accept;\n{forward}}}\n\
         chain input {{ type filter hook input priority 0; policy accept;\n{input}}}\n\
         chain output {{ type filter hook output priority 0; policy accept;\n{output}}}\n}}\n"
    )
}

/// The bridge, held by a process that ends when this does.
pub struct Switch {
    holder: Mutex<(Child, Option<ChildStdin>)>,
    pid: u32,
    cuts: Mutex<Vec<Cut>>,
}

impl Switch {
    pub(super) fn new() -> Result<Self> {
        // Without an address of its own a bridge has the lowest of its ports', and hosts would look for clients at one that
        // went with the host that was switched off.
        let script = "set -e\nmount --make-rprivate /\nip link set lo up\n\
            ip link add br0 address 02:00:00:00:00:fe type bridge\nip address add 192.0.2.254/24 dev br0\nip link set br0 up\n\
            ip route add unreachable default\necho 1 > /proc/sys/net/ipv4/ip_forward\nexec cat";
        let mut holder = Command::new("unshare");
        holder.args(["--net", "--mount", "bash", "-c", script]);
        let mut holder =
            holder.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("running unshare")?;
        let (pid, stdin) = (holder.id(), holder.stdin.take());
        let switch = Self { holder: Mutex::new((holder, stdin)), pid, cuts: Mutex::default() };
        until(Duration::from_secs(10), "the switch", || {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
            ensure!(comm.trim() == "cat", "it is still {comm}"); // the script's last step
            Ok(())
        })?;
        Ok(switch)
    }

    /// The process whose network is the switch's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A command that runs there.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", program]).stdin(Stdio::null());
        command
    }

    fn ok(&self, line: &[&str]) -> Result<Output> {
        let mut command = self.command(line[0]);
        command.args(&line[1..]);
        run(command, None)?.success().with_context(|| line.join(" "))
    }

    /// Does something on a thread that is at the switch: what it connects to is a host.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| self.enter().map(|()| work()));
            worker.join().map_err(|_| anyhow::anyhow!("the thread at the switch panicked"))?
        })
    }

    /// Moves this thread, and no other, to the switch for good.
    pub(super) fn enter(&self) -> Result<()> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid))?;
        setns(&namespace, CloneFlags::CLONE_NEWNET).context("entering the switch's network")
    }

    /// A path of a host's, seen from here: disks are mounted where only hosts see them.
    pub(super) fn path(&self, of_host: &Path) -> PathBuf {
        let inside = of_host.strip_prefix("/").unwrap_or(of_host);
        Path::new(&format!("/proc/{}/root", self.pid)).join(inside)
    }

    /// A disk of its own for a host, which it keeps while it is off.
    pub(super) fn mount_disk(&self, place: &Path, mib: u64) -> Result<()> {
        let place = place.display().to_string();
        self.ok(&["mount", "-t", "tmpfs", "-o", &format!("size={mib}m,mode=755"), "tmpfs", &place]).map(drop)
    }

    /// Plugs the network namespace of a process in.
    pub(super) fn plug(&self, name: &str, address: Ipv4Addr, pid: u32) -> Result<()> {
        let mut pair = self.command("ip");
        // Namespaces by process id, which only our own `/proc` knows.
        pair.args(["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &pid.to_string()]);
        run(pair, None)?.success().context("making a cable")?;
        self.ok(&["ip", "link", "set", name, "master", "br0", "up"])?;
        for line in [
            // A machine keeps it: others remember for half a minute whom an address belongs to.
            format!("ip link set eth0 address 02:62:00:00:00:{:02x}", address.octets()[3]),
            format!("ip address add {address}/24 dev eth0"),
            "ip link set lo up".to_owned(),
            "ip link set eth0 up".to_owned(),
            "ip route add default via 192.0.2.254".to_owned(), // which answers that the world is unreachable
        ] {
            let mut ip = Command::new("nsenter");
            ip.args(["--target", &pid.to_string(), "--net"]).args(line.split(' ')).stdin(Stdio::null());
            run(ip, None)?.success().context(line)?;
        }
        Ok(())
    }

    /// Takes the cable of a host that is off away: the kernel does so too, but when it likes.
    pub(super) fn unplug(&self, name: &str) -> Result<()> {
        let mut delete = self.command("ip");
        delete.args(["link", "delete", name]);
        run(delete, None)?; // fails if the kernel was first
        let mut show = self.command("ip");
        show.args(["link", "show", name]);
        ensure!(run(show, None)?.code != 0, "the cable of {name} is still there");
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Cut>)) -> Result<()> {
        let mut cuts =
            self.cuts.lock().map_err(|_| anyhow::anyhow!("a test panicked while it cut a cable"))?;
        change(&mut cuts);
        let text = rules(&cuts);
        let mut nft = self.command("nft");
        nft.args(["-f", "-"]);
        run(nft, Some(text.as_bytes()))?.success().with_context(|| text.clone()).map(drop)
    }

    /// From now on those frames do not pass either.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        self.change(|cuts| cuts.push(cut))
    }

    /// That cut is over.
    pub fn mend(&self, cut: &Cut) -> Result<()> {
        self.change(|cuts| cuts.retain(|other| other != cut))
    }

    /// Every cut is over.
    pub fn mend_all(&self) -> Result<()> {
        self.change(Vec::clear)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Ok(mut holder) = self.holder.lock() {
            holder.1 = None; // the end of its input is its end
            let _ = holder.0.kill();
            let _ = holder.0.wait();
        }
    }
}
