//! A Berth that is not there: an HTTP server on a unix socket that answers what a test says and remembers what came.
//!
//! In: (method and path, answer). Out: the calls that came, and the outcome of the real `berth` binary.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// An answer: status, content type, body.
type Answer = (u16, &'static str, String);

/// Content type and body for a call that no test named.
type Otherwise = Box<dyn Fn(&str) -> Option<(String, String)> + Send>;

/// The server.
pub(crate) struct Fake {
    directory: tempfile::TempDir,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    calls: Arc<Mutex<Vec<String>>>,
    otherwise: Arc<Mutex<Option<Otherwise>>>,
    _runtime: tokio::runtime::Runtime,
}

/// What a run of `berth` gave.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// All of it, as a snapshot shows it.
    pub(crate) fn shown(&self) -> String {
        format!("exit code {}\n--- stdout\n{}--- stderr\n{}", self.code, self.out, self.err)
    }
}

impl Fake {
    /// Listens where a Berth with this data directory would.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("run")).expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (answers, calls) =
            (Arc::<Mutex<BTreeMap<String, Answer>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let otherwise = Arc::<Mutex<Option<Otherwise>>>::default();
        for socket in ["api.sock", "internal.sock"] {
            let _inside = runtime.enter();
            let listener =
                tokio::net::UnixListener::bind(directory.path().join("run").join(socket)).expect("bound");
            let (answers, calls, otherwise) = (answers.clone(), calls.clone(), otherwise.clone());
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (answers, calls, otherwise) = (answers.clone(), calls.clone(), otherwise.clone());
                    tokio::spawn(async move {
                        let service = service_fn(|request| {
                            answer(request, answers.clone(), calls.clone(), otherwise.clone())
                        });
                        let connection = hyper::server::conn::http1::Builder::new();
                        let _ =
                            connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                    });
                }
            });
        }
        Self { directory, answers, calls, otherwise, _runtime: runtime }
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        self.directory.path()
    }

    /// Answers `call` (such as `GET /v1/apps`) with JSON.
    #[expect(clippy::needless_pass_by_value, reason = "tests read better with `json!` in place")]
    pub(crate) fn json(&self, call: &str, body: serde_json::Value) -> &Self {
        self.answer(call, 200, "application/json", body.to_string())
    }

    /// Answers `call` with events, one a line.
    pub(crate) fn lines(&self, call: &str, lines: &[serde_json::Value]) -> &Self {
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.answer(call, 200, "application/x-ndjson", body)
    }

    /// Refuses `call`.
    pub(crate) fn refuse(&self, call: &str, status: u16, code: &str, message: &str) -> &Self {
        let body = serde_json::json!({"code": code, "message": message});
        self.answer(call, status, "application/json", body.to_string())
    }

    fn answer(&self, call: &str, status: u16, kind: &'static str, body: String) -> &Self {
        self.answers.lock().expect("nobody panicked").insert(call.to_owned(), (status, kind, body));
        self
    }

    /// Answers calls that no test named.
    pub(crate) fn otherwise(&self, answer: impl Fn(&str) -> Option<(String, String)> + Send + 'static) {
        *self.otherwise.lock().expect("nobody panicked") = Some(Box::new(answer));
    }

    /// The calls so far, each as `METHOD path[ as NAME][ body]`; forgets them.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().expect("nobody panicked"))
    }

    /// `berth --data DIR` and these arguments, run to its end in an empty directory.
    pub(crate) fn berth(&self, arguments: &[&str]) -> Ran {
        self.berth_with(arguments, "", &[])
    }

    /// The same with standard input and environment.
    pub(crate) fn berth_with(&self, arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(program());
        command.arg("--data").arg(self.data()).args(arguments).current_dir(self.data());
        for variable in ["BERTH_HOST", "BERTH_TOKEN", "BERTH_CONTEXT", "DOKKU_HOST"] {
            command.env_remove(variable);
        }
        command.env("XDG_CONFIG_HOME", self.data().join("config")).envs(environment.iter().copied());
        let mut ran = run(command, input);
        let data = self.data().display().to_string();
        (ran.out, ran.err) = (ran.out.replace(&data, "DIR"), ran.err.replace(&data, "DIR"));
        ran
    }

    /// What the controller runs for `line` over SSH.
    pub(crate) fn session(&self, line: &[&str], input: &str) -> Ran {
        let arguments: Vec<&str> = std::iter::once("--ssh-session").chain(line.iter().copied()).collect();
        self.berth_with(&arguments, input, &[("BERTH_AS", "alice")])
    }
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    calls: Arc<Mutex<Vec<String>>>,
    otherwise: Arc<Mutex<Option<Otherwise>>>,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let call = format!("{} {}", request.method(), request.uri());
    let acts_as = request
        .headers()
        .get("berth-as")
        .and_then(|name| name.to_str().ok())
        .map(|name| format!(" as {name}"));
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body = if body.is_empty() { String::new() } else { format!(" {}", String::from_utf8_lossy(&body)) };
    calls.lock().expect("nobody panicked").push(format!("{call}{}{body}", acts_as.unwrap_or_default()));
    let known = answers.lock().expect("nobody panicked").get(&call).cloned();
    let other = || {
        let otherwise = otherwise.lock().expect("nobody panicked");
        let (kind, body) = otherwise.as_ref()?(&call)?;
        let kind: &'static str =
            if kind.contains("ndjson") { "application/x-ndjson" } else { "application/json" };
        Some((200, kind, body))
    };
    let (status, kind, body) = known.or_else(other).unwrap_or_else(|| {
        let text = serde_json::json!({"code": "app_not_found", "message": "App does not exist"});
        (404, "application/json", text.to_string())
    });
    let response = http::Response::builder().status(status).header("content-type", kind);
    Ok(response.body(Full::new(Bytes::from(body))).expect("valid by construction"))
}

/// The binary under test.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_berth"))
}

/// Runs a command with `input` to its end.
pub(crate) fn run(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let _ = stdin.write_all(input.as_bytes()); // it need not read all
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}
