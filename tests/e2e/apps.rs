//! Tiny apps that the scenarios push.

use berth_tests::Files;

/// Answers `{GREETING or "hello"} {VERSION in the file}`; `/slow` after two seconds; `/env/NAME`; `/big` with 1 MB.
pub(crate) const SERVER: &str = r#"
import os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "VERSION-HERE"

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        status, body = 200, f"{os.environ.get('GREETING', 'hello')} {VERSION}"
        if self.path == "/slow":
            time.sleep(2)
        elif self.path == "/crash":
            os._exit(9)
        elif self.path == "/big":
            body = "x" * 1_000_000
        elif self.path.startswith("/env/"):
            body = os.environ.get(self.path[5:], "<unset>")
        elif self.path == "/who":
            body = os.environ.get("DYNO", "?")
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, format, *args):
        print(format % args, flush=True)

class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False

server = Server(("0.0.0.0", int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(f"serving {VERSION}", flush=True)
server.serve_forever()
"#;

/// The server of a given version.
pub(crate) fn server(version: &str) -> String {
    SERVER.replace("VERSION-HERE", version)
}

/// A Procfile with only `web`.
pub(crate) const WEB: &str = "web: python server.py\n";

/// What makes a tree a Python app.
pub(crate) const REQUIREMENTS: (&str, &str) = ("requirements.txt", "# standard library only\n");

/// Pushes the server of `version` as `app`.
pub(crate) fn push_server(
    berth: &berth_tests::Berth,
    app: &str,
    version: &str,
    more: Files<'_>,
) -> anyhow::Result<berth_tests::Repo> {
    let server = server(version);
    let mut files = vec![REQUIREMENTS, ("Procfile", WEB), ("server.py", server.as_str())];
    files.retain(|(path, _)| more.iter().all(|(other, _)| other != path));
    files.extend_from_slice(more);
    let repo = berth_tests::Repo::new(berth, app, &files)?;
    repo.push()?;
    Ok(repo)
}
