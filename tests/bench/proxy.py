#!/usr/bin/env python3
"""CPU a request of Berth's proxy beside nginx and HAProxy: the same work, in one run, in turns.

    tests/bench/proxy.py [--case NAME ...] [--rounds N] [--seconds S] [--connections C] [--berth COMMAND ...]

Cases: get-1k, get-100k, post-10k, chunked, new-connection, tls-1k, tls-handshake, h2-1k, websocket, hosts-10000 (CPU time and
instructions a request), p99 (latency at 2,000 requests a second), idle (memory of 7,000 idle connections), swap (10,000 hosts
exchanged under load, Berth alone). All of them without --case.

All three write an access log, set X-Forwarded-* and keep connections to the origin open. The proxy under test runs on core
0, load and origin on core 1, in a network namespace of their own (root needed; two cores; nginx haproxy wrk nghttp2-client
linux-perf openssl). Rounds go A B C, C B A; what is printed is the median of the rounds and of the per-round ratios to
HAProxy. `foreign` is CPU that others used meanwhile, in cores: above 0.1 only ratios count. --berth measures another
binary: the words DIR, HTTP and HTTPS are filled in.
"""
import argparse
import http.server
import json
import os
import resource
import signal
import socket
import socketserver
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {"berth": 8081, "nginx": 8082, "haproxy": 8083}
TLS = {"berth": 8441, "nginx": 8442, "haproxy": 8443}
ORIGIN, ECHO = 8090, 8091
HOST, BARE = "app.test", "h1.many.test"  # the second has no certificate: its plain requests are not sent to TLS


def wrk(path="/1k", script="", secure=False):
    def command(name, seconds, connections, folder):
        lua = folder / "case.lua"
        lua.write_text(script)
        base = f"https://{HOST}:{TLS[name]}" if secure else f"http://{BARE}:{PLAIN[name]}"
        return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(lua), base + path]

    return command


def h2load(name, seconds, connections, _folder):
    # As many streams at once as the others have connections, on a tenth of them.
    clients = max(connections // 8, 1)
    return ["h2load", "-t1", f"-c{clients}", "-m8", f"-D{seconds}", f"https://{HOST}:{TLS[name]}/1k"]


def echo(name, seconds, connections, _folder):
    return [str(example("echo")), "load", f"127.0.0.1:{PLAIN[name]}", str(connections), str(seconds)]


CASES = {
    "get-1k": wrk(),
    "get-100k": wrk("/100k"),
    "post-10k": wrk("/post", 'wrk.method = "POST"; wrk.body = string.rep("x", 10240)'),
    "chunked": wrk("/chunked", 'wrk.headers["Accept-Encoding"] = "gzip"'),
    "new-connection": wrk("/1k", 'wrk.headers["Connection"] = "close"'),
    "tls-1k": wrk(secure=True),
    "tls-handshake": wrk("/1k", 'wrk.headers["Connection"] = "close"', secure=True),
    "h2-1k": h2load,
    "websocket": echo,
    "hosts-10000": wrk("/1k", 'local n = 0; request = function() n = (n * 7919 + 104729) % 10000; '
                       'wrk.headers["Host"] = "h" .. n .. ".many.test"; return wrk.format() end'),
}


def example(name):
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release/examples" / name


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def table(hosts=(HOST,), revision=1, port=ORIGIN):
    backend = {"container": "app.web.1.a", "incarnation": 1, "address": f"127.0.0.1:{port}"}
    route = lambda host: {"host": host, "app": "app", "release": 1,
                          "target": {"target": "backends", "backends": [backend]}}
    return {"revision": revision, "http": [route(host) for host in hosts], "tcp": []}


MANY = [f"h{number}.many.test" for number in range(10000)]


def configure(folder):
    """Everything the servers read."""
    for name, size in (("1k", 1024), ("100k", 102400)):
        write(folder / "origin" / name, "x" * size)
    run = lambda *command: subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", f"{folder}/key.pem", "-out",
        f"{folder}/cert.pem")
    chain, key = (folder / "cert.pem").read_text(), (folder / "key.pem").read_text()
    write(folder / "both.pem", chain + key)
    write(folder / "data/proxy/certificates.json", json.dumps(
        {"revision": 1, "certificates": [{"names": [HOST], "chain_pem": chain, "key_pem": key}]}))
    hosts = table([HOST, *MANY])
    hosts["http"].append({**table(["echo.test"], port=ECHO)["http"][0]})
    hosts["http"][-1]["app"] = "echo"
    hosts["http"][-1]["target"]["backends"][0]["container"] = "echo.web.1.a"
    write(folder / "data/proxy/table.json", json.dumps(hosts))
    write(folder / "origin.conf", f"""
        daemon off; worker_processes 1; pid {folder}/origin.pid; error_log {folder}/origin.err crit;
        events {{ worker_connections 16384; }}
        http {{ access_log off; sendfile on; keepalive_requests 1000000; client_body_buffer_size 64k;
          open_file_cache max=100; open_file_cache_valid 1h;
          server {{ listen 127.0.0.1:{ORIGIN} reuseport backlog=4096; root {folder}/origin;
            location = /post {{ return 200 "ok"; }}
            location = /chunked {{ gzip on; gzip_min_length 1; gzip_types *; gzip_comp_level 1; try_files /1k =404; }} }} }}""")
    names = " ".join(MANY)
    write(folder / "nginx.conf", f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err crit;
        worker_rlimit_nofile 20000; events {{ worker_connections 19000; }}
        http {{
          log_format full '$msec $remote_addr "$request" $host $status $request_length $bytes_sent $request_time $upstream_addr $request_id';
          access_log {folder}/nginx.log full buffer=48k flush=1s; keepalive_requests 1000000; keepalive_timeout 300s;
          server_names_hash_max_size 65536; server_names_hash_bucket_size 128; http2_max_requests 100000000;
          client_body_temp_path {folder}/nginx/b; proxy_temp_path {folder}/nginx/p; fastcgi_temp_path {folder}/nginx/f;
          uwsgi_temp_path {folder}/nginx/u; scgi_temp_path {folder}/nginx/s;
          ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:4m;
          map $http_upgrade $up {{ default upgrade; '' ''; }}
          upstream app {{ server 127.0.0.1:{ORIGIN}; keepalive 128; keepalive_requests 1000000; }}
          upstream echo {{ server 127.0.0.1:{ECHO}; }}
          proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
          proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
          proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port;
          proxy_set_header X-Request-Start $msec; proxy_set_header X-Request-Id $request_id; proxy_request_buffering off;
          server {{ listen 127.0.0.1:{PLAIN['nginx']} backlog=4096; server_name {HOST} {names};
            listen 127.0.0.1:{TLS['nginx']} ssl http2 backlog=4096;
            ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
            location / {{ proxy_pass http://app; }} }}
          server {{ listen 127.0.0.1:{PLAIN['nginx']}; server_name echo.test;
            location / {{ proxy_pass http://echo; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $up; }} }}
        }}""")
    write(folder / "hosts.map", "".join(f"{host} app\n" for host in (HOST, *MANY)) + "echo.test echo\n")
    write(folder / "haproxy.cfg", f"""
global
    nbthread 1
    maxconn 9500
    log {folder}/log.sock len 1024 local0
    tune.ssl.default-dh-param 2048
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    log global
    option httplog
    option forwardfor
    timeout connect 2s
    timeout client 300s
    timeout http-keep-alive 300s
    timeout server 60s
    http-reuse always
frontend web
    bind 127.0.0.1:{PLAIN['haproxy']} backlog 4096
    bind 127.0.0.1:{TLS['haproxy']} backlog 4096 ssl crt {folder}/both.pem alpn h2,http/1.1
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Request-Start %[date(0,ms)]
    unique-id-format %[uuid()]
    unique-id-header X-Request-Id
    use_backend %[req.hdr(host),field(1,:),lower,map({folder}/hosts.map,none)]
backend app
    server s1 127.0.0.1:{ORIGIN} pool-max-conn 128
backend echo
    server s1 127.0.0.1:{ECHO}
backend none
    http-request deny
""")


class Controller(socketserver.ThreadingUnixStreamServer):
    """What the proxy asks for its tables: a stand-in that only `swap` gives anything."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.table, self.seen, self.news = None, 0, threading.Condition()
        super().__init__(str(path), Answer)
        self.handle_error = lambda *_: None  # a proxy that ends hangs up on its polls
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(http.server.BaseHTTPRequestHandler):
    """Routes when there are newer ones, nothing else."""

    def log_message(self, *_):
        pass

    def address_string(self):
        return "proxy"

    def reply(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def do_GET(self):
        path, _, after = self.path.partition("?after=")
        with self.server.news:
            newer = lambda: (path == "/proxy/v1/routes" and self.server.table
                             and self.server.table["revision"] != int(after))
            self.server.news.wait_for(newer, timeout=20)
            body = json.dumps(self.server.table).encode() if newer() else None
        self.reply(200, body) if body else self.reply(204)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/proxy/v1/status":
            with self.server.news:
                self.server.seen = max(self.server.seen, json.loads(body)["revision"])
                self.server.news.notify_all()
        self.reply(204)


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder, self.children, self.pids = options, folder, [], {}
        self.controller = Controller(folder / "data/run/internal.sock")

    def start(self, core, *command):
        log = open(self.folder / "children.log", "ab")
        child = subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], stdout=log, stderr=log)
        self.children.append(child)
        return child.pid

    def __enter__(self):
        folder = self.folder
        log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        log.bind(f"{folder}/log.sock")  # somebody must read HAProxy's log: on the other core and not counted
        threading.Thread(target=lambda: [log.recv(65536) for _ in iter(int, 1)], daemon=True).start()
        self.start(1, "nginx", "-p", folder / "origin", "-c", folder / "origin.conf")
        self.start(1, example("echo"), "origin", f"127.0.0.1:{ECHO}")
        words = {"DIR": folder / "data", "HTTP": f"127.0.0.1:{PLAIN['berth']}", "HTTPS": f"127.0.0.1:{TLS['berth']}"}
        self.pids["berth"] = self.start(0, *(words.get(word, word) for word in self.options.berth))
        (folder / "nginx").mkdir()
        self.pids["nginx"] = self.start(0, "nginx", "-p", folder / "nginx", "-c", folder / "nginx.conf")
        self.pids["haproxy"] = self.start(0, "haproxy", "-q", "-f", folder / "haproxy.cfg")
        for name in PLAIN:
            for url in (f"http://{BARE}:{PLAIN[name]}/1k", f"https://{HOST}:{TLS[name]}/1k"):
                curl = ["curl", "-fsSk", "-o", "/dev/null", "--retry", "100", "--retry-delay", "0", "--retry-connrefused",
                        "--retry-all-errors", "--retry-max-time", "20"]
                subprocess.run([*curl, url], check=True, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        for child in self.children:
            child.terminate()
        for child in self.children:
            child.wait()

    def tree(self, pid):
        pids = [pid]
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                pids += self.tree(int(child))
        return pids

    def busy(self):
        fields = Path("/proc/stat").read_text().split("\n")[0].split()
        return sum(int(fields[index]) for index in (1, 2, 3, 6, 7)) / os.sysconf("SC_CLK_TCK")

    def own(self):
        total = 0.0
        for child in self.children:
            for pid in self.tree(child.pid):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

    def sample(self, case, name):
        """(requests, failures, proxy's CPU seconds, user and kernel instructions, foreign cores, seconds)"""
        command = CASES[case](name, self.options.seconds, self.options.connections, self.folder)
        counts = self.folder / "counts"
        pids = ",".join(str(pid) for pid in self.tree(self.pids[name]))
        events = "task-clock,instructions:u,instructions:k"
        perf = ["perf", "stat", "-x,", "-o", str(counts), "-e", events, "-p", pids, "--"]
        busy, own, began = self.busy(), self.own(), time.monotonic()
        times = os.times()
        out = subprocess.run(["taskset", "-c", "1", *perf, *command], check=True, capture_output=True, text=True).stdout
        elapsed = time.monotonic() - began
        load = sum(os.times()[2:4]) - sum(times[2:4])
        foreign = max(0.0, self.busy() - busy - (self.own() - own) - load) / elapsed
        values = {}
        for line in counts.read_text().splitlines():
            fields = line.split(",")
            if len(fields) > 2 and fields[0].replace(".", "").isdigit():
                values[fields[2]] = float(fields[0])
        done, failed = parse(out)
        return done, failed, values["task-clock"] / 1e3, values.get("instructions:u", 0), values.get("instructions:k", 0), foreign, elapsed

    def cpu(self, case):
        for name in PLAIN:  # warm
            subprocess.run(["taskset", "-c", "1", *CASES[case](name, 1, self.options.connections, self.folder)],
                           check=True, capture_output=True)
        rounds = {name: [] for name in PLAIN}
        foreign, failures = [], {name: 0 for name in PLAIN}
        for number in range(self.options.rounds):
            for name in list(PLAIN)[:: -1 if number % 2 else 1]:
                done, failed, seconds, user, kernel, others, elapsed = self.sample(case, name)
                rounds[name].append((seconds * 1e6 / done, user / done, kernel / done, done / elapsed))
                failures[name] += failed
                foreign.append(others)
        median = lambda name, index: statistics.median(one[index] for one in rounds[name])
        ratio = lambda name, other: statistics.median(a[0] / b[0] for a, b in zip(rounds[name], rounds[other]))
        for name in PLAIN:
            print(f"| {case} | {name} | {median(name, 0):.1f} | {ratio(name, 'haproxy'):.2f} | {ratio(name, 'nginx'):.2f} | "
                  f"{median(name, 1) / 1e3:.1f}k + {median(name, 2) / 1e3:.1f}k | {median(name, 3):.0f} | {failures[name]} | "
                  f"{statistics.median(foreign):.2f} |", flush=True)

    def p99(self):
        """Latency at a fixed rate."""
        print("\n| latency at 2,000 requests/s | p50 µs | p99 µs |\n| --- | --- | --- |")
        rounds = {name: [] for name in PLAIN}
        for number in range(self.options.rounds):
            for name in list(PLAIN)[:: -1 if number % 2 else 1]:
                log = self.folder / "latency"
                log.unlink(missing_ok=True)
                subprocess.run(["taskset", "-c", "1", "h2load", "--h1", "-t1", "-c40", "--rps=50", f"-D{self.options.seconds}",
                                f"--log-file={log}", f"http://{BARE}:{PLAIN[name]}/1k"], check=True, capture_output=True)
                took = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
                rounds[name].append((took[len(took) // 2], took[len(took) * 99 // 100]))
        for name, values in rounds.items():
            print(f"| {name} | {statistics.median(v[0] for v in values):.0f} | {statistics.median(v[1] for v in values):.0f} |",
                  flush=True)

    def idle(self):
        """Memory that an idle connection costs after one request."""
        count = 7000  # Berth closes idle ones early when three quarters of all are taken
        print(f"\n| bytes a connection, {count} idle | plain | TLS |\n| --- | --- | --- |")
        for name in PLAIN:
            costs = []
            for port, secure in ((PLAIN[name], False), (TLS[name], True)):
                pss = lambda: sum(self.pss(pid) for pid in self.tree(self.pids[name]))
                before, held = pss(), []
                context = ssl.create_default_context(cafile=f"{self.folder}/cert.pem")
                for number in range(count):
                    # From 16 addresses: Berth lets none of them take all connections.
                    one = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.1.{number % 16 + 1}", 0))
                    one = context.wrap_socket(one, server_hostname=HOST) if secure else one
                    host = HOST if secure else BARE
                    one.sendall(f"GET /1k HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                    left = 1024
                    while left > 0:
                        left -= len(one.recv(65536).split(b"\r\n\r\n", 1)[-1])
                    held.append(one)
                costs.append((pss() - before) / count)
                for one in held:
                    one.close()
            print(f"| {name} | {costs[0]:.0f} | {costs[1]:.0f} |", flush=True)

    def pss(self, pid):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0

    def swap(self):
        """10,000 hosts exchanged twice a second under load: how long until served, and what it cost the load."""
        took, stop = [], threading.Event()

        def swap():
            revision = 10
            while not stop.wait(0.5):
                revision += 1
                began = time.monotonic()
                with self.controller.news:
                    self.controller.table = table([HOST, *MANY], revision)
                    self.controller.news.notify_all()
                    self.controller.news.wait_for(lambda: self.controller.seen >= revision, timeout=20)
                took.append(time.monotonic() - began)

        swapping = threading.Thread(target=swap)
        swapping.start()
        out = subprocess.run(["taskset", "-c", "1", "h2load", "--h1", "-t1", "-c40", "--rps=50", "-D10",
                              f"http://{BARE}:{PLAIN['berth']}/1k"], check=True, capture_output=True, text=True).stdout
        stop.set()
        swapping.join()
        done, failed = parse(out)
        print(f"\n{len(took)} swaps of 10,001 hosts at 2,000 requests/s: {statistics.median(took) * 1e3:.0f} ms from the "
              f"controller's answer to the proxy's report (JSON and disk included); {done} answered, {failed} failed")


def parse(out):
    """Requests answered and failed, from wrk, h2load or echo."""
    done = failed = 0
    for line in out.splitlines():
        words = line.replace(",", "").split()
        if "requests in" in line:
            done = int(words[0])
        elif line.startswith("requests:") or line.startswith("messages:"):
            numbers = dict(zip(words[2::2], words[1::2]))
            done = int(numbers.get("succeeded", words[1]))
            failed += int(numbers.get("failed", 0)) + int(numbers.get("errored", 0)) + int(numbers.get("timeout", 0))
        elif "Non-2xx" in line:
            failed += int(words[-1])
        elif "Socket errors" in line:
            failed += sum(int(word) for word in words if word.isdigit())
    if not done:
        sys.exit(f"nothing was answered:\n{out}")
    return done, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    extra = ["p99", "idle", "swap"]
    parser.add_argument("--case", action="append", choices=[*CASES, *extra])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--berth", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if os.environ.get("BENCH_NAMESPACE") != "1":
        subprocess.run(["cargo", "build", "--release", "-p", "berth-proxy", "--example", "serve", "--example", "echo"],
                       cwd=ROOT, check=True)
        os.environ["BENCH_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "-n", "-m", sys.executable, *sys.argv])
    options.berth = options.berth or [example("serve"), "DIR", "HTTP", "1", "HTTPS"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    folder = Path(tempfile.mkdtemp(prefix="berth-bench-"))
    folder.chmod(0o755)  # nginx's workers give up root
    names = " ".join([HOST, "echo.test", BARE])
    hosts = write(folder / "hosts", f"127.0.0.1 localhost {names}\n")
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    configure(folder)
    wanted = options.case or [*CASES, *extra]
    with Bench(options, folder) as bench:
        cases = [case for case in wanted if case in CASES]
        if cases:
            print(f"{options.connections} connections, {options.rounds} rounds of {options.seconds} s\n")
            print("| case | proxy | CPU µs | x HAProxy | x nginx | instructions, user + kernel | a second | failed | foreign |")
            print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for case in cases:
            bench.cpu(case)
        for case in extra:
            if case in wanted:
                getattr(bench, case)()
    subprocess.run(["rm", "-rf", str(folder)], check=True)


if __name__ == "__main__":
    main()
