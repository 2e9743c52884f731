#!/usr/bin/env python3
"""`git push` of a one-line change over SSH: seconds from its start to the first response of the new version.

Usage: tests/bench/push.py [ROUNDS]        (needs root, target/release/berth or BERTH_BIN, target/stacks or BERTH_STACK_DIR)
The floor beside it is the same commit pushed over the file system to a bare repository with no hook.
"""
import os
import statistics
import subprocess
import sys
import threading
import time

from berth_platform import Berth

SAMPLES = {
    "python-flask": ("app.py", "hello from python-flask"),
    "node-express": ("server.js", "hello from node-express"),
}


def one_round(berth, directory, app, file, text, number):
    source = (directory / file).read_text()
    stamp = f"{text} round-{number}"
    previous = f"{text} round-{number - 1}" if number > 1 else text
    (directory / file).write_text(source.replace(previous, stamp))
    berth.git(directory, "commit", "-qam", str(number))
    steps, answered = [], []

    def poll():
        while not answered:
            if stamp in berth.get(app)[1]:
                answered.append(time.monotonic())
            time.sleep(0.002)

    watcher = threading.Thread(target=poll)
    begun = time.monotonic()
    watcher.start()
    push = subprocess.Popen(["git", "push", "paas", "main"], cwd=directory, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "GIT_SSH_COMMAND": berth.ssh_command})
    for line in push.stderr:
        if "----->" in line or "=====>" in line:
            steps.append((time.monotonic() - begun, line.split("remote:")[-1].strip()))
    if push.wait() != 0:
        raise SystemExit(f"the push of round {number} failed: {steps}")
    ended = time.monotonic() - begun
    watcher.join(30)
    return answered[0] - begun, ended, steps


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with Berth() as berth:
        for sample, (file, text) in SAMPLES.items():
            directory = berth.repo(sample, sample)
            berth.git(directory, "add", "-A")
            berth.git(directory, "commit", "-qm", "first")
            begun = time.monotonic()
            berth.git(directory, "push", "paas", "main")
            first = time.monotonic() - begun
            results = [one_round(berth, directory, sample, file, text, n) for n in range(1, rounds + 1)]
            bare = f"{berth.data}/floor-{sample}.git"
            subprocess.run(["git", "init", "-q", "--bare", bare], check=True)
            begun = time.monotonic()
            berth.git(directory, "push", "-q", bare, "main")
            floor = time.monotonic() - begun
            answer = sorted(r[0] for r in results)
            end = sorted(r[1] for r in results)
            print(f"{sample}: first push {first:.2f} s; one-line change, {rounds} rounds:")
            print(f"  first response: median {statistics.median(answer):.3f} s, best {answer[0]:.3f}, worst {answer[-1]:.3f}")
            print(f"  push returns:   median {statistics.median(end):.3f} s; plain git push to a local directory {floor:.3f} s")
            for at, line in results[-1][2]:
                print(f"    {at:7.3f} s  {line}")


main()
