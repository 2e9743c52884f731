#!/usr/bin/env python3
"""Time to the first byte of the dashboard's pages with 200 apps, 50 nodes and 1,000 containers, beside the calls of the API that
each page makes; and what a first load weighs, compressed.

A page is a client of the API: what it adds is its own work and the waiting for the slowest of the calls, which it makes at once.
Both sides are asked in turns in one run, over connections that are kept. CPU time is that of the whole process, which makes up the
answers of the API as well.

Usage: tests/bench/dashboard.py [--rounds N]
       (builds controller/dashboard/examples/crowd in release; BERTH_CROWD=FILE measures that one)
"""
import argparse
import gzip
import http.client
import os
import pathlib
import re
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FULL = "an-app-whose-name-is-as-long-as-the-names-of-apps-may-be-at-199"
# Page, and the calls it waits for besides that of the session.
PAGES = [
    ("/ui/apps", ["apps", "traffic", "top"]),
    ("/ui/apps/blog-011", ["apps/blog-011", "apps/blog-011/ps", "top", "apps/blog-011/traffic", "apps/blog-011/releases/12"]),
    ("/ui/apps/blog-011/config", ["apps/blog-011", "apps/blog-011/config/variables", "config/variables", "apps/blog-011/config/history", "apps/blog-011/config/diff"]),
    (f"/ui/apps/{FULL}", [f"apps/{FULL}", f"apps/{FULL}/ps", "top", f"apps/{FULL}/traffic", f"apps/{FULL}/releases/300"]),
    (f"/ui/apps/{FULL}/deploys", [f"apps/{FULL}", f"apps/{FULL}/releases?limit=31", f"apps/{FULL}/builds", f"apps/{FULL}/deploy"]),
    (f"/ui/apps/{FULL}/jobs", [f"apps/{FULL}", f"apps/{FULL}/cron", f"apps/{FULL}/runs?all=true"]),
    ("/ui/nodes", ["nodes", "top", "apps", "controllers"]),
    ("/ui/nodes/node-08", ["nodes/node-08", "top"]),
    ("/ui/images", ["images"]),
    ("/ui/networks", ["networks", "apps"]),
    ("/ui/activity", ["events?lines=150"]),
    ("/ui/settings", ["apps", "acme/apps", "certificates", "drains", "alerts"]),
]


def ask(connection, path, headers):
    """Milliseconds to the first byte of the answer, and the answer."""
    begun = time.perf_counter()
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    first = (time.perf_counter() - begun) * 1000
    body = answer.read()
    assert answer.status == 200, f"{path}: {answer.status} {body[:200]}"
    return first, body


def cpu_ms(pid):
    """CPU time of a process so far, milliseconds (proc(5): utime and stime, in ticks)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def weight(connection, path, headers):
    """Bytes of the page, compressed, and of all that it loads the first time."""
    _, page = ask(connection, path, headers)
    text = gzip.decompress(page).decode()
    files = set(re.findall(r'(?:src|href)="(/ui/assets/[^"]+)"', text))
    return len(page), len(page) + sum(len(ask(connection, file, headers)[1]) for file in files)


def main():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=40)
    rounds = words.parse_args().rounds
    crowd = os.environ.get("BERTH_CROWD")
    if not crowd:
        subprocess.run(["cargo", "build", "--release", "-p", "berth-dashboard", "--example", "crowd"], cwd=ROOT, check=True)
        crowd = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/crowd"
    api_port = 18_000 + os.getpid() % 1000
    server = subprocess.Popen([crowd, "127.0.0.1:0", f"127.0.0.1:{api_port}"], stdout=subprocess.PIPE, text=True)
    try:
        host = server.stdout.readline().strip().removeprefix("http://")
        ui, api = http.client.HTTPConnection(host), http.client.HTTPConnection(f"127.0.0.1:{api_port}")
        headers = {"accept": "text/html", "accept-encoding": "gzip", "cookie": "berth=berths_x"}
        print(f"{'page':34} {'first byte, ms':>16} {'best':>7} {'CPU, ms':>8} {'slowest call':>13} {'all calls':>10} {'ratio':>6} {'HTML, kB':>9} {'first load':>11}")
        for page, calls in PAGES:
            own, slowest, summed, ratios = [], [], [], []
            for turn in range(rounds + 3):
                calling = lambda: [ask(api, "/v1/" + call, {})[0] for call in calls]
                if turn % 2:
                    one, (took, _) = calling(), ask(ui, page, headers)
                else:
                    (took, _), one = ask(ui, page, headers), calling()
                if turn >= 3:
                    own.append(took), slowest.append(max(one)), summed.append(sum(one)), ratios.append(took / sum(one))
            begun = cpu_ms(server.pid)
            for _ in range(rounds):
                ask(ui, page, headers)
            cpu = (cpu_ms(server.pid) - begun) / rounds
            html, whole = weight(ui, page, headers)
            print(f"{page.replace(FULL, 'FULL'):34} {statistics.median(own):16.1f} {min(own):7.1f} {cpu:8.1f} {statistics.median(slowest):13.1f}"
                  f" {statistics.median(summed):10.1f} {statistics.median(ratios):6.2f} {html / 1000:9.1f} {whole / 1000:11.1f}")
    finally:
        server.terminate()
        server.wait()


main()
