//! For benchmarks: `echo origin ADDRESS` upgrades every connection to a WebSocket and sends back what comes;
//! `echo load ADDRESS CONNECTIONS SECONDS` sends 64 bytes on each connection, again and again as they come back.

use anyhow::{Context, Result, ensure};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a message: a masked frame with a short payload.
const MESSAGE: usize = 64;
const ASK: &str = "GET /echo HTTP/1.1\r\nHost: echo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    match words[..] {
        ["origin", address] => runtime.block_on(local.run_until(origin(address))),
        ["load", address, connections, seconds] => {
            let span = Duration::from_secs(seconds.parse()?);
            let done = runtime.block_on(local.run_until(load(address, connections.parse()?, span)))?;
            use std::io::Write;
            writeln!(std::io::stdout(), "messages: {done} succeeded, 0 failed").context("standard output")
        }
        _ => anyhow::bail!("usage: echo origin ADDRESS | echo load ADDRESS CONNECTIONS SECONDS"),
    }
}

async fn head(stream: &mut TcpStream) -> Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await?);
        ensure!(seen.len() < 8192, "no end of a head");
    }
    Ok(())
}

async fn origin(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            stream.set_nodelay(true)?;
            head(&mut stream).await?;
            stream.write_all(AGREE.as_bytes()).await?;
            let mut buffer = [0; 4096];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return anyhow::Ok(()),
                    count => stream.write_all(&buffer[..count]).await?,
                }
            }
        });
    }
}

async fn load(address: &str, connections: usize, span: Duration) -> Result<u64> {
    let address: Rc<str> = address.into();
    let end = Instant::now() + span;
    let mut users = Vec::new();
    for _ in 0..connections {
        let address = address.clone();
        users.push(tokio::task::spawn_local(async move {
            let mut stream = TcpStream::connect(&*address).await?;
            stream.set_nodelay(true)?;
            stream.write_all(ASK.as_bytes()).await?;
            head(&mut stream).await?;
            let (mut count, mut buffer) = (0_u64, [b'x'; MESSAGE]);
            while Instant::now() < end {
                stream.write_all(&buffer).await?;
                stream.read_exact(&mut buffer).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }));
    }
    let mut sum = 0;
    for user in users {
        sum += user.await??;
    }
    Ok(sum)
}
