//! Accepting connections, and what each of them needs from the kernel.
//!
//! In: a listening socket. Out: a task for each connection, until the listener is told to stop.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After an error of `accept(2)`: out of file descriptors, most likely, which only others can free.
const PAUSE: Duration = Duration::from_millis(100);

/// Gives each connection that `accept` brings to `serve`, in a task of its own, at most `most` of them at once: more wait in the
/// kernel's queue. Returns at `stop`, with the tasks that go on.
///
/// ```ignore
/// let tasks = accept_each(512, &stop, || listener.accept(), |(stream, address)| serve(stream, address)).await;
/// drain(tasks, Duration::from_secs(5)).await;
/// ```
pub async fn accept_each<C, A, S>(
    most: usize,
    stop: &CancellationToken,
    accept: impl Fn() -> A,
    serve: impl Fn(C) -> S,
) -> TaskTracker
where
    A: Future<Output = io::Result<C>>,
    S: Future<Output = ()> + Send + 'static,
{
    let (tasks, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(most)));
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            (slot, accept().await)
        };
        // A connection that was accepted is in the hands of this task at once: nothing is lost at `stop`.
        let (slot, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => return tasks,
            next = next => next,
        };
        match accepted {
            Ok(connection) => {
                let serving = serve(connection);
                tasks.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Waits until the tasks are done, at most for `patience`; what is not done then goes on alone.
pub async fn drain(tasks: TaskTracker, patience: Duration) {
    tasks.close();
    if tokio::time::timeout(patience, tasks.wait()).await.is_err() {
        tracing::info!(connections = tasks.len(), "leaving connections that are still open");
    }
}

/// Has the kernel end a connection whose peer has answered nothing for `after`, a few seconds or more: its machine is gone, or the
/// way to it (tcp(7): `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_USER_TIMEOUT`).
///
/// Errors: the socket is closed.
pub fn notice_death(stream: &TcpStream, after: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, after / 3)?;
    sockopt::set_tcp_keepintvl(stream, after / 3)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(after.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn more_than_the_most_wait_and_the_end_waits_for_those_under_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let (ended, until) = (stop.clone(), Arc::new(listener));
        let echo = |(mut stream, _): (TcpStream, _)| async move {
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() {
                stream.write_all(&byte).await.expect("sent");
            }
        };
        let loops = tokio::spawn(async move { accept_each(1, &ended, || until.accept(), echo).await });
        let mut byte = [0];
        let mut first = TcpStream::connect(address).await.expect("connects");
        first.write_all(b"1").await.expect("sent");
        first.read_exact(&mut byte).await.expect("served");
        let mut second = TcpStream::connect(address).await.expect("is queued");
        second.write_all(b"2").await.expect("sent");
        let early = tokio::time::timeout(Duration::from_millis(100), second.read_exact(&mut byte)).await;
        assert!(early.is_err(), "served beside the first");
        drop(first);
        second.read_exact(&mut byte).await.expect("served after the first");
        assert_eq!(&byte, b"2");

        stop.cancel();
        let tasks = loops.await.expect("ended");
        assert_eq!(tasks.len(), 1);
        second.write_all(b"3").await.expect("sent");
        second.read_exact(&mut byte).await.expect("still served");
        drop(second);
        drain(tasks.clone(), Duration::from_secs(5)).await;
        assert!(tasks.is_empty());
    }
}
