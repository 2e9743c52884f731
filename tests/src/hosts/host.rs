//! One simulated machine: switched on, paused, switched off.
//!
//! Its first process is a `bash` that waits for the end of its input and reaps whoever is left to it. All its other
//! processes are in its process-id namespace, so the kernel ends them with that one, at once and whatever they are doing:
//! what a power cut does. Only the directory stays.

use super::SHARED;
use super::cgroups::Group;
use super::switch::Switch;
use crate::platform::{Output, run, until};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Whatever it is filled with is in this file.
const FILLER: &str = "filler";

/// A machine at the switch.
pub struct Host {
    name: String,
    address: Ipv4Addr,
    directory: PathBuf,
    group: Group,
    switch: Arc<Switch>,
    power: Option<Power>,
    /// What it starts when it is switched on, besides what it is told later.
    services: Vec<Service>,
}

struct Power {
    /// `unshare`, which holds the input of the first process.
    unshare: Child,
    /// The first process.
    init: u32,
}

struct Service {
    line: Vec<String>,
    child: Option<Child>,
}

/// A command in a shell that first moves into cgroups.
fn in_cgroups(procs: &[PathBuf]) -> Command {
    let mut command = Command::new("bash");
    command.args([
        "-c",
        "while [ \"$1\" != -- ]; do echo $$ > \"$1\" || exit 125; shift; done; shift; exec \"$@\"",
        "bash",
    ]);
    command.args(procs).arg("--");
    command
}

impl Host {
    pub(super) fn new(
        name: &str,
        address: Ipv4Addr,
        directory: &Path,
        group: Group,
        switch: Arc<Switch>,
    ) -> Self {
        let (name, directory) = (name.to_owned(), directory.to_owned());
        Self { name, address, directory, group, switch, power: None, services: Vec::new() }
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address at the switch.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its directory, by the name it has on the host itself.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The same directory as this process sees it.
    #[must_use]
    pub fn seen(&self) -> PathBuf {
        self.switch.path(&self.directory)
    }

    /// What its services said, of every time they ran. Not on its own disk: that may be full.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last of that.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        format!("the log of {} ends with:\n{}", self.name, lines[lines.len().saturating_sub(25)..].join("\n"))
    }

    fn log_path(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.power.is_some()
    }

    /// Switches it on: an empty machine but for its directory. Its services start.
    pub fn power_on(&mut self) -> Result<()> {
        ensure!(self.power.is_none(), "{} is on", self.name);
        self.group.make()?;
        let script = format!(
            "set -e\nmount --make-rprivate /\numount -R -l /sys\nmount -t sysfs sysfs /sys\n{}\
             mount -t tmpfs -o mode=755 tmpfs /run\nmkdir -p /run/lock\nmount -t proc proc /proc\nhostname {}\n{}\
             echo on\nset +e\nwhile read -r _; do :; done",
            self.group.mounts(),
            self.name,
            self.own_disk()?
        );
        let mut command = in_cgroups(&self.group.roots());
        // The mounts are the switch's, which has the disks.
        command.args(["nsenter", "--target", &self.switch.pid().to_string(), "--mount", "unshare"]);
        command.args([
            "--net",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--cgroup",
            "--fork",
            "--kill-child=SIGKILL",
        ]);
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        command.args(["bash", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut unshare = command.spawn().context("running unshare")?;
        let mut word = String::new();
        let out = unshare.stdout.take().context("unshare has no output")?;
        BufReader::new(out).read_line(&mut word)?;
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = std::fs::read_to_string(children)?.trim().parse().context("unshare has no child");
        if word.trim() != "on" || init.is_err() {
            let _ = unshare.kill();
            let _ = unshare.wait();
        }
        ensure!(word.trim() == "on", "{} did not come up: {word}{}", self.name, self.log_tail());
        let init = init?;
        self.power = Some(Power { unshare, init });
        self.switch.plug(&self.name, self.address, init)?;
        for index in 0..self.services.len() {
            self.spawn(index)?;
        }
        Ok(())
    }

    /// Shell commands that leave, of the bed's directory, the host's own and the one that all share: a path of another host's
    /// disk leads nowhere.
    fn own_disk(&self) -> Result<String> {
        let bed = self.directory.parent().context("a host's directory is in the bed's")?;
        let (bed, own) = (bed.display(), self.directory.display());
        Ok(format!(
            "mkdir /run/own /run/shared\nmount --bind {own} /run/own\nmount --bind {bed}/{SHARED} /run/shared\n\
             mount -t tmpfs -o mode=755,size=1m tmpfs {bed}\nmkdir {own} {bed}/{SHARED}\n\
             mount --move /run/own {own}\nmount --move /run/shared {bed}/{SHARED}\nrmdir /run/own /run/shared\n"
        ))
    }

    /// Power loss: every process dies at once, containers too, and nothing is told to anybody.
    pub fn kill_everything(&mut self) -> Result<()> {
        let Some(mut power) = self.power.take() else { return Ok(()) };
        // First of all: the kernel that is shared would take leave of every connection for them.
        let unplugged = self.switch.unplug(&self.name);
        kill(Pid::from_raw(i32::try_from(power.init)?), Signal::SIGKILL)?;
        let _ = self.group.freeze(false); // the frozen die when they thaw
        power.unshare.wait()?;
        for service in &mut self.services {
            if let Some(mut child) = service.child.take() {
                child.wait()?; // `nsenter`, whose child was killed
            }
        }
        unplugged?;
        self.group.remove()
    }

    /// Off and on again.
    pub fn restart(&mut self) -> Result<()> {
        self.kill_everything()?;
        self.power_on()
    }

    /// Every process stops where it is, as in a machine whose hypervisor is busy. Its network is still there.
    pub fn pause(&self) -> Result<()> {
        self.group.freeze(true)
    }

    /// All go on.
    pub fn unpause(&self) -> Result<()> {
        self.group.freeze(false)
    }

    /// A command that runs on it.
    pub fn command(&self, program: &str) -> Result<Command> {
        let power = self.power.as_ref().with_context(|| format!("{} is off", self.name))?;
        let mut command = in_cgroups(&self.group.leaves());
        command.args(["nsenter", "--target", &power.init.to_string()]);
        command
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", program])
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command on it to its end.
    pub fn run(&self, line: &[&str]) -> Result<Output> {
        let mut command = self.command(line[0])?;
        command.args(&line[1..]);
        run(command, None)
    }

    /// The same with something to read.
    pub fn run_with_input(&self, line: &[&str], stdin: &[u8]) -> Result<Output> {
        let mut command = self.command(line[0])?;
        command.args(&line[1..]);
        run(command, Some(stdin))
    }

    /// Runs a command on it, which must work.
    pub fn ok(&self, line: &[&str]) -> Result<Output> {
        self.run(line)?.success().with_context(|| format!("{}: {}", self.name, line.join(" ")))
    }

    /// Starts a service, now and whenever it is switched on. Gives its number.
    pub fn start(&mut self, line: Vec<String>) -> Result<usize> {
        self.services.push(Service { line, child: None });
        let index = self.services.len() - 1;
        self.spawn(index)?;
        Ok(index)
    }

    /// Starts a service again that was stopped or killed.
    pub fn start_again(&mut self, service: usize) -> Result<()> {
        self.spawn(service)
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path())?;
        let line = self.services[index].line.clone();
        writeln!(&log, "=====> starting {}", line.join(" "))?;
        let mut command = self.command(&line[0])?;
        command.args(&line[1..]).stdout(log.try_clone()?).stderr(log);
        self.services[index].child = Some(command.spawn().with_context(|| format!("starting {line:?}"))?);
        Ok(())
    }

    /// Whether everything it was told to start still runs.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.services.iter().all(|service| {
            let nsenter = service.child.as_ref().map(Child::id);
            let state = nsenter.and_then(|id| std::fs::read_to_string(format!("/proc/{id}/stat")).ok());
            state.is_some_and(|text| !text.contains(") Z "))
        })
    }

    /// The process of a service, by its id on the machine that runs the test.
    pub fn pid(&self, service: usize) -> Result<Pid> {
        let child = self.services.get(service).and_then(|service| service.child.as_ref());
        let nsenter = child.with_context(|| format!("{}: service {service} does not run", self.name))?.id();
        let children = std::fs::read_to_string(format!("/proc/{nsenter}/task/{nsenter}/children"))?;
        let pid = children.trim().parse().with_context(|| format!("nsenter has no child: {children:?}"))?;
        Ok(Pid::from_raw(pid))
    }

    /// Sends a signal to a service alone.
    pub fn signal(&self, service: usize, signal: Signal) -> Result<()> {
        kill(self.pid(service)?, signal).with_context(|| format!("sending {signal} on {}", self.name))
    }

    /// Sends SIGKILL to a service, or SIGTERM, and waits for its end. What it started lives on, if it can.
    pub fn stop(&mut self, service: usize, signal: Signal) -> Result<()> {
        self.signal(service, signal)?;
        self.until_ended(service).with_context(|| signal.to_string())
    }

    /// Waits for the end of a service that was told to end.
    pub fn until_ended(&mut self, service: usize) -> Result<()> {
        let name = self.name.clone();
        let child = self.services[service].child.as_mut().context("it does not run")?;
        until(Duration::from_secs(60), &format!("service {service} of {name} to end"), || {
            child.try_wait()?.context("it still runs")
        })?;
        self.services[service].child = None;
        Ok(())
    }

    /// Its disk is full, but for a few pages. Only with a disk of its own.
    pub fn fill_disk(&self) -> Result<()> {
        let place = self.directory.display().to_string();
        let script = "[ \"$(stat -f -c %T .)\" = tmpfs ] || { echo 'no disk of its own' >&2; exit 1; }\n\
            free=$(( $(stat -f -c %a .) * $(stat -f -c %S .) - 65536 ))\n\
            [ $free -le 0 ] || fallocate -l $free filler";
        self.ok(&["env", "-C", &place, "bash", "-ec", script]).map(drop)
    }

    /// It is not any more.
    pub fn free_disk(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.seen().join(FILLER))?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.kill_everything() {
            let _ = writeln!(std::io::stderr(), "switching {} off: {error:#}", self.name);
        }
    }
}
