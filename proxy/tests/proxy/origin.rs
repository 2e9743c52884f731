//! An origin: a real server whose answers a test chooses, and which records every byte it gets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Serve = dyn Fn(&mut Peer) + Send + Sync;

pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) received: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
}

/// One connection of the proxy to an origin.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) pending: Vec<u8>,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Peer {
    /// Reads more; false at the end.
    pub(crate) fn fill(&mut self) -> bool {
        let mut space = [0; 65536];
        match self.stream.read(&mut space) {
            Ok(count) if count > 0 => {
                self.pending.extend_from_slice(&space[..count]);
                self.received.lock().unwrap().extend_from_slice(&space[..count]);
                true
            }
            _ => false,
        }
    }

    /// The next request's head, as text; `None` at the end.
    pub(crate) fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.pending.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads `count` bytes of a body.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        while self.pending.len() < count && self.fill() {}
        self.pending.drain(..count.min(self.pending.len())).collect()
    }

    /// Reads the body that `head` announces; chunks are read plainly.
    pub(crate) fn body(&mut self, head: &str) -> Vec<u8> {
        if let Some(length) = field(head, "content-length") {
            return self.take(length.parse().unwrap());
        }
        let mut body = Vec::new();
        if field(head, "transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(&self.line(), 16).expect("a plain chunk size");
                body.extend(self.take(size));
                assert_eq!(self.line(), "", "nothing between chunks, no trailers");
                if size == 0 {
                    break;
                }
            }
        }
        body
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.pending.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..at + 2).collect();
                return String::from_utf8_lossy(&line[..at]).into_owned();
            }
            assert!(self.fill(), "the body ends within a line");
        }
    }

    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }
}

/// A field of a head.
pub(crate) fn field(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

impl Origin {
    /// Serves each connection with `serve`.
    pub(crate) fn start(serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve: Arc<Serve> = Arc::new(serve);
        let origin =
            Self { address, connections: Arc::default(), received: Arc::default(), stop: Arc::default() };
        let (connections, received, stop) =
            (origin.connections.clone(), origin.received.clone(), origin.stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { return };
                stream.set_nodelay(true).unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let mut peer = Peer { stream, pending: Vec::new(), received: received.clone() };
                let serve = serve.clone();
                std::thread::spawn(move || serve(&mut peer));
            }
        });
        origin
    }

    /// Answers every request with 200 and `body`, keeping connections open.
    pub(crate) fn fixed(body: &'static str) -> Self {
        Self::start(move |peer| {
            while let Some(head) = peer.head() {
                peer.body(&head);
                peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            }
        })
    }

    /// No new connections from now on.
    pub(crate) fn close(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let began = Instant::now();
        // The first wakes the loop, which then drops the listener: when one is refused, it has.
        while TcpStream::connect(self.address).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(10), "the listener stays");
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }
}
