//! Terminal streams: one-off containers (`run`) and commands in running ones (`exec`), framed over an upgraded connection.
//!
//! In: frames of the client. Out: the process's output and its exit code. When the client goes away the process ends too.

use crate::life::{self, chain};
use crate::node::Node;
use crate::runtime::{ExecSpec, Handle, RuntimeError, Session, SessionControl, Stdio, Stream};
use berth_model::ContainerId;
use berth_model::container::ContainerSpec;
use berth_wire::{Frame, read_frame, write_frame};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Longest wait for the first frame.
const GREETING: Duration = Duration::from_secs(10);
/// What is still in the pipes after the process ended is waited for this long: a child it left behind may hold them.
const DRAIN: Duration = Duration::from_secs(2);

/// What a shell may be called, the best first.
const SHELLS: [&[&str]; 5] =
    [&["bash"], &["sh"], &["ash"], &["/bin/busybox", "sh"], &["/busybox/busybox", "sh"]];

/// First frame of `/v1/run`.
#[derive(Debug, Deserialize)]
pub(crate) struct RunStart {
    spec: ContainerSpec,
    tty: Option<(u16, u16)>,
}

/// First frame of `/v1/exec`.
#[derive(Debug, Deserialize)]
pub(crate) struct ExecStart {
    container: ContainerId,
    /// Empty for the best shell.
    argv: Vec<String>,
    tty: Option<(u16, u16)>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// Reads the first frame, runs `work` with what it says, and tells the client when that failed.
async fn greeted<S, T, F>(mut stream: S, work: impl FnOnce(S, T) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: serde::de::DeserializeOwned,
    F: Future<Output = ()>,
{
    let first = tokio::time::timeout(GREETING, read_frame(&mut stream)).await;
    let start = match first {
        Ok(Ok(Some(Frame::Start(bytes)))) => {
            serde_json::from_slice(&bytes).map_err(|error| error.to_string())
        }
        Ok(Ok(_)) => Err("the first frame must say what to run".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no first frame within {} s", GREETING.as_secs())),
    };
    match start {
        Ok(start) => work(stream, start).await,
        Err(reason) => refuse(&mut stream, reason).await,
    }
}

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), reason: String) {
    // A client that is gone needs no answer.
    let _ = write_frame(stream, &Frame::Failed(reason)).await;
    let _ = stream.shutdown().await;
}

/// Serves `/v1/exec`.
pub(crate) async fn exec(node: Arc<Node>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    greeted(stream, |mut stream, start: ExecStart| async move {
        let handle = node.table().get(&start.container).and_then(|entry| entry.handle.clone());
        let Some(handle) = handle else {
            return refuse(&mut stream, format!("the container {} does not run", start.container)).await;
        };
        match enter(&handle, start).await {
            // Dropping the session's control, when the client is gone, kills its process.
            Ok(session) => drop(converse(stream, session).await),
            Err(reason) => refuse(&mut stream, reason).await,
        }
    })
    .await;
}

/// Begins the command, or without one the best shell there is.
async fn enter(handle: &Handle, start: ExecStart) -> Result<Session, String> {
    let env: Vec<_> = start.env.into_iter().collect();
    let spec = |argv: &[String]| ExecSpec {
        argv: argv.to_vec(),
        env: env.clone(),
        cwd: None,
        user: None,
        tty: start.tty,
    };
    if !start.argv.is_empty() {
        return handle.exec(spec(&start.argv)).await.map_err(|error| chain(&error));
    }
    for shell in SHELLS {
        let argv: Vec<_> = shell.iter().map(|word| (*word).to_owned()).collect();
        match handle.exec(spec(&argv)).await {
            Ok(session) => return Ok(session),
            Err(RuntimeError::ExecFailed { .. }) => {}
            Err(error) => return Err(chain(&error)),
        }
    }
    Err(format!(
        "the image of {} has no shell (bash, sh, ash and busybox were tried); name a program that it has",
        handle.id()
    ))
}

/// Serves `/v1/run`: a container of its own, removed at its end or when the client goes away.
pub(crate) async fn run(node: Arc<Node>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    greeted(stream, |mut stream, start: RunStart| async move {
        let spec = start.spec;
        let one_offs = || node.one_offs.lock().unwrap_or_else(PoisonError::into_inner);
        // Known from here to the end, so that housekeeping leaves its layers alone and its id is used once.
        let taken = node.table().contains_key(&spec.id)
            || one_offs().insert(spec.id.clone(), spec.image.clone()).is_some();
        if taken {
            return refuse(&mut stream, format!("there is a container {} already", spec.id)).await;
        }
        match begin(&node, &spec, start.tty).await {
            Ok((handle, session)) => {
                tracing::info!(app = %spec.app, container = %spec.id, "one-off command began");
                if !converse(stream, session).await {
                    life::end(&handle, &spec.stop).await;
                }
            }
            Err(reason) => refuse(&mut stream, reason).await,
        }
        remove(&node, &spec.id).await;
        one_offs().remove(&spec.id);
    })
    .await;
}

async fn begin(
    node: &Arc<Node>,
    spec: &ContainerSpec,
    tty: Option<(u16, u16)>,
) -> Result<(Handle, Session), String> {
    let ready = node.images.ensure(&spec.image).await.map_err(|error| chain(&error))?;
    let _turn = node.starts.acquire().await.map_err(|error| error.to_string())?;
    // A second container must not take over the ports of the one that serves.
    let attached = node.network.attach(&spec.id, &spec.app, &[]).await;
    let attachment = attached.map_err(|error| chain(&error))?;
    // Apps it may reach on other nodes learn its address.
    node.changed();
    life::limit_network(&node.network, spec).await?;
    let mut bundle = life::bundle(node, spec, &ready, &attachment)?;
    bundle.stdio = match tty {
        Some((rows, cols)) => Stdio::Tty { rows, cols },
        None => Stdio::Piped,
    };
    let handle = node.runtime.create(&bundle).await.map_err(|error| chain(&error))?;
    let Some(session) = handle.take_session() else {
        return Err("the container has no input and output".into());
    };
    match handle.start().await {
        Ok(()) => Ok((handle, session)),
        Err(error) => {
            let _ = handle.kill_all().await;
            Err(chain(&error))
        }
    }
}

async fn remove(node: &Arc<Node>, id: &ContainerId) {
    let dir = node.paths.containers().join(id.as_str());
    if let Err(error) = life::remove_runtime(node, dir).await {
        tracing::warn!(container = %id, %error, "cannot remove a one-off container; the next start of the agent will");
    }
    if let Err(error) = node.network.detach(id).await {
        tracing::warn!(container = %id, error = chain(&error), "cannot remove the network of a one-off container");
    }
}

/// Moves bytes both ways until the process ended (true) or the client is gone (false).
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, session: Session) -> bool {
    let (from_client, mut to_client) = tokio::io::split(stream);
    let Session { stdin, stdout, stderr, control } = session;
    // Bounded: a slow client slows the process, not the agent.
    let (frames, mut outgoing) = mpsc::channel::<Frame>(16);
    let mut out = tokio::spawn(pump(stdout, frames.clone(), Frame::Stdout));
    let has_terminal = stderr.is_none();
    let mut err = stderr.map(|stderr| tokio::spawn(pump(stderr, frames, Frame::Stderr)));
    let mut input = tokio::spawn(obey(from_client, stdin, has_terminal, control.clone()));
    let mut gone = false;
    let code = {
        let waited = control.wait();
        tokio::pin!(waited);
        loop {
            // Every arm is cancel-safe; writing a frame happens in the arm's body and runs to its end.
            tokio::select! {
                code = &mut waited => break Some(code),
                ended = &mut input, if !gone => {
                    // `true`: the client closed its side on purpose and still listens.
                    gone = true;
                    if !ended.unwrap_or(false) {
                        break None;
                    }
                }
                Some(frame) = outgoing.recv() => {
                    if write_frame(&mut to_client, &frame).await.is_err() {
                        break None;
                    }
                }
            }
        }
    };
    input.abort();
    if let Some(code) = code {
        let rest = async {
            while let Some(frame) = outgoing.recv().await {
                write_frame(&mut to_client, &frame).await?;
            }
            Ok::<_, berth_wire::FrameError>(())
        };
        let _ = tokio::time::timeout(DRAIN, rest).await;
        let _ = write_frame(&mut to_client, &Frame::Exit(code)).await;
        let _ = to_client.shutdown().await;
    }
    out.abort();
    if let Some(err) = &mut err {
        err.abort();
    }
    let _ = (&mut out).await;
    code.is_some()
}

async fn pump(mut from: Stream, to: mpsc::Sender<Frame>, frame: fn(Vec<u8>) -> Frame) {
    let mut buffer = vec![0; 32 * 1024];
    // A terminal's master answers EIO when its last process is gone: the end, too.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.send(frame(buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

/// Does what the client's frames say. Gives false when the connection broke off.
async fn obey(
    mut from: impl AsyncRead + Unpin,
    mut stdin: Option<Stream>,
    has_terminal: bool,
    control: SessionControl,
) -> bool {
    loop {
        match read_frame(&mut from).await {
            Ok(Some(Frame::Stdin(bytes))) => {
                if let Some(to) = &mut stdin
                    && to.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Ok(Some(Frame::StdinEnd)) => match stdin.take() {
                // A terminal has no end: the key for it (Ctrl-D, the end-of-file character of a fresh terminal) does.
                Some(mut to) if has_terminal => drop(to.write_all(&[4]).await),
                _ => {}
            },
            Ok(Some(Frame::Resize { rows, columns })) => {
                let _ = control.resize(rows, columns).await;
            }
            Ok(Some(Frame::Signal(number))) => {
                let _ = control.signal(number).await;
            }
            Ok(Some(_)) | Err(_) | Ok(None) => return false,
        }
    }
}
