//! A small blocking HTTP/1.1 client: the tests must see exactly what came over the wire.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Such as `GET`.
    pub method: &'a str,
    /// Sent as `Host`.
    pub host: &'a str,
    /// Sent as it is: no normalisation.
    pub path: &'a str,
    /// More fields.
    pub headers: Vec<(String, String)>,
    /// Sent with a `Content-Length`.
    pub body: Option<Vec<u8>>,
}

impl<'a> Request<'a> {
    /// `GET path` of `host`.
    #[must_use]
    pub fn get(host: &'a str, path: &'a str) -> Self {
        Self { method: "GET", host, path, headers: Vec::new(), body: None }
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Field names in lower case; the last of several wins.
    pub headers: BTreeMap<String, String>,
    /// Without its framing.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A field, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Sends one request over an open connection and reads its answer.
pub(crate) fn exchange(stream: &mut BufReader<TcpStream>, request: &Request<'_>) -> Result<Reply> {
    let mut head = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", request.method, request.path, request.host);
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = &request.body {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(request.body.as_deref().unwrap_or_default());
    stream.get_mut().write_all(&bytes).context("sending the request")?;
    read_reply(stream, request.method == "HEAD")
}

fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    ensure!(stream.read_line(&mut line).context("reading a line")? > 0, "the connection was closed");
    Ok(line.trim_end().to_owned())
}

fn read_reply(stream: &mut BufReader<TcpStream>, head_only: bool) -> Result<Reply> {
    let status_line = read_line(stream)?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("not a status line: {status_line:?}"))?;
    let mut headers = BTreeMap::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').with_context(|| format!("not a field: {line:?}"))?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = Vec::new();
    if !head_only && status != 204 && status != 304 && status != 101 {
        if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            loop {
                let size = read_line(stream)?;
                let size =
                    usize::from_str_radix(&size, 16).with_context(|| format!("chunk size {size:?}"))?;
                let start = body.len();
                body.resize(start + size, 0);
                stream.read_exact(&mut body[start..]).context("reading a chunk")?;
                ensure!(read_line(stream)?.is_empty(), "a chunk does not end with CRLF");
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = headers.get("content-length") {
            body.resize(length.parse().context("content-length")?, 0);
            stream.read_exact(&mut body).context("reading the body")?;
        } else {
            stream.read_to_end(&mut body).context("reading the body")?;
        }
    }
    Ok(Reply { status, headers, body })
}

/// Opens a connection; reads and writes give up after `timeout`.
pub(crate) fn connect(to: SocketAddr, timeout: Duration) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&to, timeout).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// One request on a connection of its own.
pub fn once(to: SocketAddr, request: &Request<'_>) -> Result<Reply> {
    exchange(&mut connect(to, Duration::from_secs(20))?, request)
}

/// Opens a WebSocket (RFC 6455) to `path` of `host`, sends one masked text frame, gives the text of the answer.
pub fn websocket_echo(to: SocketAddr, host: &str, path: &str, text: &str) -> Result<String> {
    let mut stream = connect(to, Duration::from_secs(20))?;
    let request = Request {
        headers: [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        ..Request::get(host, path)
    };
    let reply = exchange(&mut stream, &request)?;
    if reply.status != 101 {
        bail!("{} instead of 101: {}", reply.status, reply.text());
    }
    // RFC 6455 §1.3: the accept value of the sample nonce.
    ensure!(
        reply.headers.get("sec-websocket-accept").map(String::as_str) == Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "wrong Sec-WebSocket-Accept"
    );
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).context("text too long")?;
    let mask = [1_u8, 2, 3, 4];
    let mut frame = vec![0x81, 0x80 | length];
    frame.extend_from_slice(&mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    stream.get_mut().write_all(&frame)?;
    let mut head = [0_u8; 2];
    stream.read_exact(&mut head).context("reading the answering frame")?;
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut payload)?;
    Ok(String::from_utf8_lossy(&payload).into_owned())
}
