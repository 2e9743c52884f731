#!/usr/bin/env python3
"""Two minutes of load with a deploy, a certificate swap and an upgrade of every process in the middle: what failed?

Usage: tests/bench/endure.py [SECONDS]     (needs root, target/release/berth or BERTH_BIN, target/stacks or BERTH_STACK_DIR)
Clients: over plain HTTP and over TLS, some on connections they keep, some on a new one each time, curl over HTTP/2. A client
repeats a request only where RFC 9112 §9.3.1 has it: when a connection that carried an answer before was closed without one
byte. Exit code 1 if anything failed.
"""
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

from berth_platform import Berth, free_port, until

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 120
TLS_APP, PLAIN_APP = "endure", "endure-plain"


class Load:
    def __init__(self, berth):
        self.berth, self.stop, self.lock = berth, threading.Event(), threading.Lock()
        self.answered, self.failures, self.times = {}, [], []
        self.threads = []

    def start(self):
        for kind, count, new in (("plain", 3, False), ("plain", 2, True), ("tls", 3, False), ("tls", 2, True)):
            for _ in range(count):
                self.spawn(self.user, kind, new)
        self.spawn(self.curl)
        began = time.monotonic()
        self.began = began

    def spawn(self, target, *arguments):
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self.threads.append(thread)

    def count(self, what, took, problem=None):
        with self.lock:
            if problem:
                self.failures.append((time.monotonic() - self.began, what, problem))
            else:
                self.answered[what] = self.answered.get(what, 0) + 1
                self.times.append(took)

    def connect(self, kind):
        app, port = (TLS_APP, self.berth.https) if kind == "tls" else (PLAIN_APP, self.berth.http)
        host = f"{app}.bench.localhost"
        raw = socket.create_connection(("127.0.0.1", port), timeout=30)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind == "tls":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            raw = context.wrap_socket(raw, server_hostname=host)
        connection = http.client.HTTPConnection(host)
        connection.sock = raw
        return connection

    def user(self, kind, new):
        what = f"{kind}, {'a new connection each' if new else 'kept connections'}"
        connection, carried = None, 0
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                if connection is None or new:
                    if connection:
                        connection.close()
                    connection, carried = self.connect(kind), 0
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200 or b"hello" not in body:
                    raise OSError(f"{answer.status} {body[:60]!r}")
                carried += 1
                self.count(what, time.monotonic() - began)
                if answer.will_close:
                    connection = None
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError) as error:
                connection = None
                if carried == 0:
                    self.count(what, 0, repr(error))
            except (OSError, http.client.HTTPException) as error:
                connection = None
                self.count(what, 0, repr(error))
            time.sleep(0.003)

    def curl(self):
        host = f"{TLS_APP}.bench.localhost"
        while not self.stop.is_set():
            began = time.monotonic()
            done = subprocess.run(["curl", "-sSk", "--http2", "--resolve", f"{host}:{self.berth.https}:127.0.0.1", "-w",
                                   " %{http_version} %{http_code}", f"https://{host}:{self.berth.https}/"],
                                  capture_output=True, text=True)
            good = done.returncode == 0 and done.stdout.endswith(" 2 200")
            self.count("curl over HTTP/2", time.monotonic() - began, None if good else done.stdout[-80:] + done.stderr)

    def finish(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(40)


def make_certificate(berth, number):
    files = [f"{berth.data}/bench-{number}.{kind}" for kind in ("crt", "key")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", f"/CN=number-{number}", "-addext", f"subjectAltName=DNS:{TLS_APP}.bench.localhost",
                    "-out", files[0], "-keyout", files[1]], check=True, stderr=subprocess.DEVNULL)
    berth.berth("certs:add", TLS_APP, *files)


def presented(berth):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{berth.https}", "-servername",
                           f"{TLS_APP}.bench.localhost"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return next((line for line in done.stdout.splitlines() if line.startswith("subject=")), "")


def push(berth, directory, text):
    source = directory / "app.py"
    source.write_text(re.sub(r"hello from [a-z-]+", text, source.read_text()))
    berth.git(directory, "add", "-A")
    berth.git(directory, "commit", "-qm", text)
    berth.git(directory, "push", "paas", "main")


def main():
    # A binary of its own, which the upgrade replaces: a running one must not notice.
    binary = os.environ.get("BERTH_BIN") or str(os.path.join(os.path.dirname(__file__), "../../target/release/berth"))
    own = f"/tmp/berth-endure-{os.getpid()}"
    shutil.copy2(binary, own)
    os.environ["BERTH_BIN"] = own
    try:
        with Berth(https=free_port()) as berth:
            directories = {app: berth.repo(app, "python-flask") for app in (TLS_APP, PLAIN_APP)}
            for app, directory in directories.items():
                push(berth, directory, "hello from one")
                berth.berth("ps:scale", app, "web=2")
            make_certificate(berth, 1)
            until(lambda: "number-1" in presented(berth), 20, "the first certificate")
            load = Load(berth)
            load.start()
            step = SECONDS / 6
            events = []

            def at(seconds, what, act):
                while time.monotonic() - load.began < seconds:
                    time.sleep(0.05)
                began = time.monotonic()
                act()
                events.append(f"{began - load.began:5.1f} s: {what} ({time.monotonic() - began:.1f} s)")

            at(step, "git push to both apps", lambda: [push(berth, d, "hello from two") or None for d in directories.values()])
            at(2 * step, "another certificate", lambda: (make_certificate(berth, 2), until(
                lambda: "number-2" in presented(berth), 20, "the second certificate")))

            def upgrade():
                shutil.copy2(own, own + ".new")
                os.rename(own + ".new", own)
                before = {what: pid for pid, what in berth.processes() if what in ("controller", "agent", "proxy")}
                berth.up.send_signal(signal.SIGHUP)
                until(lambda: all(any(w == what and p != pid for p, w in berth.processes())
                                  for what, pid in before.items()), 60, "new processes")

            at(3 * step, "upgrade of controller, agent and proxy", upgrade)
            at(4 * step, "ps:restart of both apps", lambda: [berth.berth("ps:restart", app) for app in directories])
            at(5 * step, "a second upgrade", upgrade)
            while time.monotonic() - load.began < SECONDS:
                time.sleep(0.1)
            load.finish()
            took = sorted(load.times)
            print("\n".join(events))
            for what, count in sorted(load.answered.items()):
                print(f"{count:8d} answered: {what}")
            print(f"{len(took):8d} in all; p50 {took[len(took) // 2] * 1e3:.1f} ms, p99 {took[len(took) * 99 // 100] * 1e3:.1f} ms, "
                  f"longest {took[-1] * 1e3:.0f} ms; {len(load.failures)} failed")
            for when, what, problem in load.failures[:20]:
                print(f"  failed at {when:.2f} s, {what}: {problem}")
            sys.exit(1 if load.failures else 0)
    finally:
        os.unlink(own)


if __name__ == "__main__":
    main()
