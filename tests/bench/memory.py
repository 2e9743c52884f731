#!/usr/bin/env python3
"""Memory of the platform (PSS, so shared pages are counted once) with 0, 1 and 20 apps, apps themselves left out; and the
time from `ps:scale web=10` to the tenth answer.

Usage: tests/bench/memory.py        (needs root, target/release/berth or BERTH_BIN, target/stacks or BERTH_STACK_DIR)
"""
import json
import time

from berth_platform import Berth, pss_kib, until


def show(berth, apps):
    sums = {}
    for pid, kind in berth.processes():
        sums[kind] = sums.get(kind, 0) + pss_kib(pid)
    roles = sum(value for kind, value in sums.items() if kind != "shim")
    shims = sums.get("shim", 0)
    parts = ", ".join(f"{kind} {value / 1024:.1f}" for kind, value in sorted(sums.items()))
    print(f"{apps:3} apps: roles {roles / 1024:6.1f} MiB, shims and inits {shims / 1024:5.1f} MiB"
          f" ({shims / apps if apps else 0:.0f} KiB an app)   [{parts}]")


def main():
    with Berth() as berth:
        show(berth, 0)
        directory = berth.repo("mem1", "python-worker")
        berth.git(directory, "add", "-A")
        berth.git(directory, "commit", "-qm", "first")
        for number in range(1, 21):
            berth.git(directory, "push", "-q", f"ssh://paas@127.0.0.1:{berth.ssh}/mem{number}", "main")
            if number == 1:
                show(berth, 1)
        show(berth, 20)
        begun = time.monotonic()
        berth.berth("ps:scale", "mem1", "web=10")
        scaled = time.monotonic() - begun

        def ready():
            report = json.loads(berth.berth("ps:report", "mem1", "--format", "json"))
            return sum(1 for c in report["containers"] if (c["status"] or {}).get("state", {}).get("ready")) >= 10

        until(ready, 30, "ten containers")
        print(f"ps:scale web=10 from 1: returned after {scaled:.2f} s, all ready after {time.monotonic() - begun:.2f} s")


main()
