//! Bytes both ways between two sockets, each side's end passed on as it comes.
//!
//! In: two sockets, and what one of them said early. Out: the bytes moved, once both directions have ended. An idle
//! tunnel holds no buffer; it may be silent for hours, and what was sent may wait for any time.

use crate::buffer::Buf;
use crate::connection::keep_alive;
use crate::io::{self, Socket};
use crate::upstream;
use std::future::poll_fn;
use std::io::{IoSlice, Result};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// How long a client may be silent before the kernel asks whether it is there.
const ASKED_AFTER: Duration = Duration::from_secs(60);

/// Bytes that went each way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// Copies until both sides have ended, or one broke. `early` are bytes read from each side before.
pub(crate) async fn run(
    client: &impl Socket,
    app: &impl Socket,
    early: (Option<Buf>, Option<Buf>),
    moved: &mut Moved,
) {
    keep_alive(client.tcp(), ASKED_AFTER);
    upstream::bound(app.tcp(), None);
    let Moved { received, sent } = moved;
    let mut up = pin!(one_way(client, app, early.0, received));
    let mut down = pin!(one_way(app, client, early.1, sent));
    let (mut up_done, mut down_done) = (false, false);
    poll_fn(|cx| {
        for (way, done) in [(0, &mut up_done), (1, &mut down_done)] {
            if *done {
                continue;
            }
            let polled = if way == 0 { up.as_mut().poll(cx) } else { down.as_mut().poll(cx) };
            match polled {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => *done = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()), // the other way has no use any more
            }
        }
        if up_done && down_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn one_way(from: &impl Socket, to: &impl Socket, early: Option<Buf>, moved: &mut u64) -> Result<()> {
    if let Some(buf) = early {
        io::write_all(to, &mut [IoSlice::new(buf.data())], |count| *moved += count as u64).await?;
    }
    loop {
        io::readable(from).await?;
        let mut buf = Buf::take();
        let count = io::read(from, buf.space()).await?;
        if count == 0 {
            return to.shut();
        }
        buf.filled(count);
        io::write_all(to, &mut [IoSlice::new(buf.data())], |count| *moved += count as u64).await?;
    }
}
