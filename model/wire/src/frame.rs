//! Frames of a terminal stream (`run`, `enter`): one byte of kind, four bytes of big-endian length, the payload.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest payload, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame from the client: the request as JSON.
    Start(Vec<u8>),
    /// Client → process.
    Stdin(Vec<u8>),
    /// The client's input ended.
    StdinEnd,
    /// Process → client.
    Stdout(Vec<u8>),
    /// Process → client.
    Stderr(Vec<u8>),
    /// The client's terminal has this size now.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// The client asks for this signal to be sent to the process.
    Signal(i32),
    /// Last frame to the client: the process exited.
    Exit(i32),
    /// Last frame to the client: it could not be run; the text says why.
    Failed(String),
}

/// A stream broke the format, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the stream broke off")]
    Io(#[from] std::io::Error),
    /// The peer does not speak this format.
    #[error("the peer sent a malformed frame: {0}")]
    Malformed(&'static str),
}

/// Writes one frame and flushes it.
pub async fn write_frame<W: AsyncWrite + Unpin>(to: &mut W, frame: &Frame) -> Result<(), FrameError> {
    let (kind, payload): (u8, std::borrow::Cow<'_, [u8]>) = match frame {
        Frame::Start(bytes) => (0, bytes.into()),
        Frame::Stdin(bytes) => (1, bytes.into()),
        Frame::StdinEnd => (2, [].as_slice().into()),
        Frame::Stdout(bytes) => (3, bytes.into()),
        Frame::Stderr(bytes) => (4, bytes.into()),
        Frame::Resize { rows, columns } => {
            let [a, b] = rows.to_be_bytes();
            let [c, d] = columns.to_be_bytes();
            (5, vec![a, b, c, d].into())
        }
        Frame::Signal(number) => (6, number.to_be_bytes().to_vec().into()),
        Frame::Exit(code) => (7, code.to_be_bytes().to_vec().into()),
        Frame::Failed(text) => (8, text.as_bytes().into()),
    };
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_FRAME);
    let length = length.ok_or(FrameError::Malformed("payload is longer than 1 MiB"))?;
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length.to_be_bytes());
    to.write_all(&head).await?;
    to.write_all(&payload).await?;
    to.flush().await?;
    Ok(())
}

/// Reads one frame; `None` when the stream ended between two frames. Not cancel-safe: give it a task of its own.
pub async fn read_frame<R: AsyncRead + Unpin>(from: &mut R) -> Result<Option<Frame>, FrameError> {
    let mut head = [0_u8; 5];
    if from.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..]).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::Malformed("payload is longer than 1 MiB"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    let number = |payload: &[u8]| {
        <[u8; 4]>::try_from(payload).map(i32::from_be_bytes).map_err(|_| FrameError::Malformed("number"))
    };
    Ok(Some(match head[0] {
        0 => Frame::Start(payload),
        1 => Frame::Stdin(payload),
        2 => Frame::StdinEnd,
        3 => Frame::Stdout(payload),
        4 => Frame::Stderr(payload),
        5 => match payload[..] {
            [a, b, c, d] => {
                Frame::Resize { rows: u16::from_be_bytes([a, b]), columns: u16::from_be_bytes([c, d]) }
            }
            _ => return Err(FrameError::Malformed("size")),
        },
        6 => Frame::Signal(number(&payload)?),
        7 => Frame::Exit(number(&payload)?),
        8 => Frame::Failed(String::from_utf8_lossy(&payload).into_owned()),
        _ => return Err(FrameError::Malformed("unknown kind")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went() {
        let frames = [
            Frame::Start(b"{}".to_vec()),
            Frame::Stdin(vec![0, 255]),
            Frame::StdinEnd,
            Frame::Stdout(b"x".to_vec()),
            Frame::Stderr(Vec::new()),
            Frame::Resize { rows: 24, columns: 80 },
            Frame::Signal(2),
            Frame::Exit(-1),
            Frame::Failed("no".into()),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            write_frame(&mut bytes, frame).await.expect("memory takes it");
        }
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(read_frame(&mut from).await.expect("well-formed"), Some(frame));
        }
        assert_eq!(read_frame(&mut from).await.expect("the end"), None);
    }

    #[tokio::test]
    async fn a_huge_length_is_refused_before_memory_is_taken() {
        let mut from = [1, 255, 255, 255, 255].as_slice();
        assert!(matches!(read_frame(&mut from).await, Err(FrameError::Malformed(_))));
    }
}
