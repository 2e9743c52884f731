"""One running Berth for the benchmarks: starts `berth up` on a directory of its own, and ends it with its apps."""
import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.002)
    raise SystemExit(f"waited {seconds} s for {what}")


class Berth:
    def __init__(self, https=0):
        """With `https`, a port, TLS is served there."""
        self.binary = os.environ.get("BERTH_BIN", str(ROOT / "target/release/berth"))
        self.data = tempfile.mkdtemp(prefix="berth-bench-")
        self.http, self.ssh, self.api = free_port(), free_port(), free_port()
        stacks = os.environ.get("BERTH_STACK_DIR", str(ROOT / "target/stacks"))
        self.https = https
        secure = ["--https", f"127.0.0.1:{self.https}"] if self.https else []
        self.log = open(f"{self.data}/up.log", "wb")
        self.up = subprocess.Popen(
            [self.binary, "up", "--data", self.data, "--domain", "bench.localhost", "--stack-dir", stacks]
            + ["--http", f"127.0.0.1:{self.http}", "--ssh", f"127.0.0.1:{self.ssh}", "--api", f"127.0.0.1:{self.api}", *secure],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        until(lambda: self._get(self.api, "localhost", "/healthz")[0] == 200, 180, "/healthz")
        until(lambda: "=====> Berth is ready" in open(f"{self.data}/up.log").read(), 300, "the stacks to be imported")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.data}/bench_key"], check=True)
        self.berth("ssh-keys:add", "bench", stdin=open(f"{self.data}/bench_key.pub", "rb"))
        self.ssh_command = (f"ssh -i {self.data}/bench_key -o IdentitiesOnly=yes -o StrictHostKeyChecking=no "
                            "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.up.send_signal(signal.SIGTERM)
        self.up.wait(60)
        subprocess.run([self.binary, "agent", "--data", self.data, "--stop-apps"], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.data, ignore_errors=True)

    def berth(self, *arguments, stdin=subprocess.DEVNULL):
        return subprocess.run([self.binary, "--data", self.data, *arguments], check=True, stdin=stdin,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout

    @staticmethod
    def _get(port, host, path):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except OSError:
            return 0, ""
        except http.client.HTTPException:
            return 0, ""

    def get(self, app, path="/"):
        return self._get(self.http, f"{app}.bench.localhost", path)

    def repo(self, app, sample):
        directory = pathlib.Path(tempfile.mkdtemp(prefix="repo-", dir=self.data))
        shutil.copytree(ROOT / "tests/samples" / sample, directory, dirs_exist_ok=True)
        self.git(directory, "init", "-q", "-b", "main")
        self.git(directory, "remote", "add", "paas", f"ssh://paas@127.0.0.1:{self.ssh}/{app}")
        return directory

    def git(self, directory, *arguments):
        environment = dict(os.environ, GIT_SSH_COMMAND=self.ssh_command, GIT_AUTHOR_NAME="b", GIT_AUTHOR_EMAIL="b@b",
                           GIT_COMMITTER_NAME="b", GIT_COMMITTER_EMAIL="b@b")
        return subprocess.run(["git", *arguments], cwd=directory, env=environment, check=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def processes(self):
        """Every process of this platform, apps left out: (pid, what)."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                words = open(f"/proc/{entry}/cmdline", "rb").read().split(b"\0")
            except OSError:
                continue
            line = b" ".join(words).decode(errors="replace")
            name = open(f"/proc/{entry}/comm").read().strip() if os.path.exists(f"/proc/{entry}/comm") else ""
            if name == "berth-shim":
                found.append((int(entry), "shim"))
            elif self.data in line and os.path.basename(words[0]) == b"berth":
                found.append((int(entry), words[1].decode()))
        return found


def pss_kib(pid):
    try:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
