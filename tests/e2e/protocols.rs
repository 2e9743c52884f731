//! What is not HTTP/1.1: gRPC, WebSockets over HTTP/2, further ports, TLS by server name, UDP, the PROXY protocol.

use anyhow::{Context, Result, ensure};
use berth_tests::{Berth, Repo, Request, until};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

pub(crate) const SCENARIOS: &[(&str, crate::Scenario)] = &[
    ("protocols_grpc_streams_and_trailers", grpc),
    ("protocols_ports_of_every_kind", raw),
    ("protocols_udp_through_scale_and_deploy", udp),
];

/// A server of grpcio without generated code: messages are bytes.
const GRPC: &str = r#"
import os, time
from concurrent import futures
import grpc

def unary(request, context):
    context.set_trailing_metadata((("x-seen", dict(context.invocation_metadata()).get("x-forwarded-proto", "?")),))
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return b"hello " + request

def stream(requests, context):
    for request in requests:
        yield b"got " + request

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/echo.Echo/Unary":
            return grpc.unary_unary_rpc_method_handler(unary)
        if details.method == "/echo.Echo/Stream":
            return grpc.stream_stream_rpc_method_handler(stream)

server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Handler()])
server.add_insecure_port("0.0.0.0:" + os.environ["PORT"])
server.start()
server.wait_for_termination()
"#;

type Answer = (http::HeaderMap, Vec<Vec<u8>>, Option<http::HeaderMap>);

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), future).await? })
}

async fn http2(to: SocketAddr) -> Result<h2::client::SendRequest<Bytes>> {
    let stream = tokio::net::TcpStream::connect(to).await?;
    let (send, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(send)
}

fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).unwrap_or_default().to_be_bytes();
    [&[0][..], &length, text.as_bytes()].concat().into()
}

/// Calls a method with `messages`, one after the answer to the one before.
async fn call(berth: &Berth, host: &str, method: &str, messages: &[&str]) -> Result<Answer> {
    let mut send = http2(berth.http).await?.ready().await?;
    let request = http::Request::post(format!("http://{host}/echo.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut sending) = send.send_request(request, false)?;
    let mut response = Some(response);
    let mut body = None;
    let mut head = http::HeaderMap::new();
    let mut answers = Vec::new();
    let mut left = messages.len();
    for text in messages {
        left -= 1;
        sending.send_data(message(text), left == 0)?;
        if let Some(response) = response.take() {
            let (parts, stream) = response.await?.into_parts();
            ensure!(parts.status == 200, "{parts:?}");
            head = parts.headers;
            body = Some(stream);
        }
        let body: &mut h2::RecvStream = body.as_mut().context("it has answered")?;
        if let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            answers.push(data.get(5..).unwrap_or_default().to_vec());
        }
    }
    let mut body = body.context("it has answered")?;
    while let Some(data) = body.data().await {
        ensure!(data?.is_empty(), "more than was asked for");
    }
    Ok((head, answers, body.trailers().await?))
}

fn grpc(berth: &Berth) -> Result<()> {
    berth.ok(&["apps:create", "protogrpc"])?;
    berth.ok(&["ports:set", "protogrpc", "grpc:80:5000", "grpcs:443:5000"])?;
    let files =
        [("server.py", GRPC), ("requirements.txt", "grpcio\n"), ("Procfile", "web: python server.py\n")];
    Repo::new(berth, "protogrpc", &files)?.push()?;
    let host = berth.host("protogrpc");
    let (head, answers, trailers) = block_on(call(berth, &host, "Unary", &["world"]))?;
    ensure!(head["content-type"] == "application/grpc" && answers == [b"hello world"], "{answers:?}");
    let trailers = trailers.context("trailers")?;
    ensure!(trailers["grpc-status"] == "0" && trailers["x-seen"] == "http", "{trailers:?}");
    let (_, answers, trailers) = block_on(call(berth, &host, "Stream", &["one", "two", "three"]))?;
    ensure!(answers == [&b"got one"[..], b"got two", b"got three"], "{answers:?}");
    ensure!(trailers.context("trailers")?["grpc-status"] == "0");
    let (head, _, trailers) = block_on(call(berth, &host, "Unary", &["fail"]))?;
    let status = trailers.as_ref().and_then(|fields| fields.get("grpc-status")).or(head.get("grpc-status"));
    ensure!(status.is_some_and(|status| status == "5"), "{head:?} {trailers:?}");
    Ok(())
}

/// Speaks everything: HTTP with WebSockets on $PORT, HTTP on 8000, a TCP port that repeats what it hears on 7001, UDP on
/// 6001, TLS on 4433.
const RAW: &str = r#"
import base64, hashlib, os, socket, ssl, threading

def serve(port, handle, wrap=None):
    listener = socket.create_server(("0.0.0.0", port))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=run, args=(connection, handle, wrap), daemon=True).start()

def run(connection, handle, wrap):
    try:
        with (wrap(connection) if wrap else connection) as connection:
            handle(connection)
    except OSError:
        pass

def head(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(4096)
        if not more:
            raise OSError("end")
        data += more
    return data.decode("latin1")

def web(connection):
    text = head(connection)
    fields = dict(line.split(": ", 1) for line in text.split("\r\n")[1:] if ": " in line)
    fields = {key.lower(): value for key, value in fields.items()}
    if fields.get("upgrade") == "websocket":
        accept = hashlib.sha1((fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        connection.sendall(("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Accept: %s\r\n\r\n" % base64.b64encode(accept).decode()).encode())
        return echo(connection)
    body = os.environ.get("SAYS", "web")
    connection.sendall(("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)).encode())

def admin(connection):
    head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nadmin")

def echo(connection):
    while data := connection.recv(4096):
        connection.sendall(data)

def tls(connection):
    connection.sendall(os.environ["NAME"].encode() + b" " + connection.recv(4))

def udp():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 6001))
    while True:
        data, peer = server.recvfrom(65536)
        server.sendto(os.environ.get("SAYS", socket.gethostname()).encode() + b" " + data, peer)

threading.Thread(target=udp, daemon=True).start()
for port, handle in ((8000, admin), (7001, echo)):
    threading.Thread(target=serve, args=(port, handle), daemon=True).start()
if os.path.exists("cert.pem"):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("cert.pem", "key.pem")
    wrap = lambda connection: context.wrap_socket(connection, server_side=True)
    threading.Thread(target=serve, args=(4433, tls, wrap), daemon=True).start()
serve(int(os.environ["PORT"]), web)
"#;

const PROCFILE: (&str, &str) = ("Procfile", "web: python app.py\n");

fn push_raw(berth: &Berth, app: &str) -> Result<Repo> {
    let directory = tempfile::tempdir()?;
    let name = berth.host(app);
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&directory)
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |file: &str| std::fs::read_to_string(directory.path().join(file));
    berth.ok(&["config:set", app, &format!("NAME={app}")])?;
    let (cert, key) = (read("cert.pem")?, read("key.pem")?);
    let files =
        [("app.py", RAW), ("requirements.txt", ""), PROCFILE, ("cert.pem", &*cert), ("key.pem", &*key)];
    let repo = Repo::new(berth, app, &files)?;
    repo.push()?;
    Ok(repo)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// What a TLS client hears that asks for `name`; its standard error if that fails.
fn over_tls(port: u16, name: &str) -> Result<String> {
    let mut client = std::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &at(port).to_string(), "-servername", name])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = client.stdin.take() {
        let _ = stdin.write_all(b"ping");
    }
    let output = client.wait_with_output()?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn raw(berth: &Berth) -> Result<()> {
    let [http, tcp, tls] = [free_port()?, free_port()?, free_port()?];
    for app in ["protoone", "prototwo"] {
        berth.ok(&["apps:create", app])?;
        // Both share the ports that are led by name.
        berth.ok(&["ports:add", app, &format!("http:{http}:8000"), &format!("tls:{tls}:4433")])?;
    }
    berth.ok(&["ports:add", "protoone", &format!("tcp:{tcp}:7001"), "--proxy-protocol", "v1"])?;
    let refused = berth.berth(&["ports:add", "prototwo", &format!("tcp:{tcp}:7001")])?;
    ensure!(refused.code != 0 && refused.all().contains("belongs to app protoone"), "{}", refused.all());
    let _repos = (push_raw(berth, "protoone")?, push_raw(berth, "prototwo")?);
    for app in ["protoone", "prototwo"] {
        ensure!(berth.get(app, "/")?.text() == "web");
        let host = berth.host(app);
        until(Duration::from_secs(10), "the further port answers", || {
            let reply = berth_tests::once(at(http), &Request::get(&host, "/"))?;
            ensure!(reply.text() == "admin", "{}", reply.text());
            Ok(())
        })?;
        let heard = over_tls(tls, &host)?;
        ensure!(heard.contains(&format!("{app} ping")), "{heard}");
    }
    let heard = over_tls(tls, "unknown.test.localhost")?;
    ensure!(heard.contains("unrecognized name"), "{heard}");

    let mut stream = TcpStream::connect(at(tcp))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let own = stream.local_addr()?.port();
    stream.write_all(b"hello")?;
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own} {tcp}\r\nhello");
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard)?;
    ensure!(heard == expected.as_bytes(), "{}", String::from_utf8_lossy(&heard));

    block_on(async {
        let mut send = http2(berth.http).await?.ready().await?;
        // The setting that allows it comes with the first answer at the latest.
        let plain = http::Request::get(format!("http://{}/", berth.host("protoone"))).body(())?;
        ensure!(send.send_request(plain, true)?.0.await?.status() == 200);
        let request = http::Request::builder()
            .method("CONNECT")
            .uri(format!("http://{}/chat", berth.host("protoone")))
            .extension(h2::ext::Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13")
            .body(())?;
        let (response, mut sending) = send.ready().await?.send_request(request, false)?;
        let response = response.await?;
        ensure!(response.status() == 200, "{response:?}");
        let mut body = response.into_body();
        for text in ["one", "two"] {
            sending.send_data(text.into(), false)?;
            let data = body.data().await.context("an echo")??;
            ensure!(data == text, "{data:?}");
        }
        Ok(())
    })?;
    berth.ok(&["ports:clear", "protoone"])?;
    until(Duration::from_secs(10), "the port is closed", || {
        ensure!(TcpStream::connect(at(tcp)).is_err(), "it is open");
        Ok(())
    })
}

/// Asks until there is an answer to this very text: datagrams may get lost.
fn ask(socket: &UdpSocket, text: &str) -> Result<String> {
    until(Duration::from_secs(20), "an answer over UDP", || {
        let _ = socket.send(text.as_bytes());
        let mut space = [0; 1024];
        let count = socket.recv(&mut space)?;
        let heard = String::from_utf8_lossy(&space[..count]).into_owned();
        ensure!(heard.ends_with(text), "{heard}");
        Ok(heard)
    })
}

fn caller(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(at(port))?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    Ok(socket)
}

fn udp(berth: &Berth) -> Result<()> {
    let port = free_port()?;
    berth.ok(&["apps:create", "protoudp"])?;
    berth.ok(&["ports:add", "protoudp", &format!("udp:{port}:6001")])?;
    let files = [("app.py", RAW), ("requirements.txt", ""), PROCFILE];
    Repo::new(berth, "protoudp", &files)?.push()?;
    berth.ok(&["ps:scale", "protoudp", "web=3"])?;
    let callers = (0..20).map(|_| caller(port)).collect::<Result<Vec<_>>>()?;
    let mut names = std::collections::BTreeSet::new();
    for socket in &callers {
        let first = ask(socket, "one")?;
        let name = first.strip_suffix(" one").context("a name")?.to_owned();
        for _ in 0..5 {
            ensure!(ask(socket, "two")? == format!("{name} two"), "a flow changed its container");
        }
        names.insert(name);
    }
    ensure!(names.len() > 1, "all flows are with {names:?}");
    berth.ok(&["config:set", "protoudp", "SAYS=new"])?;
    ensure!(ask(&caller(port)?, "hello")? == "new hello", "new flows go to new containers");
    until(Duration::from_secs(100), "old flows move to new containers", || {
        for socket in &callers {
            ensure!(ask(socket, "later")? == "new later");
        }
        Ok(())
    })
}
