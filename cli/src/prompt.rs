//! Asking somebody at a terminal.
//!
//! In: a question. Out: the answer, without echo where it is a secret. The terminal is restored whatever happens, but for
//! SIGKILL.

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, Read, Write};

/// The terminal as it was.
struct Restore(Termios);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Asks on stderr and reads one line that is not shown. Ctrl-C is `Interrupted`: taken as a key, not as a signal, for that
/// would leave the terminal silent.
pub(crate) fn hidden(question: &str) -> io::Result<String> {
    let before = tcgetattr(io::stdin())?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    let restore = Restore(before);
    tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let answer = keys(&mut io::stdin().lock());
    drop(restore);
    stderr.write_all(b"\n")?;
    answer
}

/// Keys up to Enter, as a terminal in no particular mode would take them.
fn keys(input: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut key = [0];
    loop {
        let ended = input.read(&mut key)? == 0;
        match key[0] {
            _ if ended => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was typed")),
            b'\n' | b'\r' => break,
            0x03 => return Err(io::Error::new(io::ErrorKind::Interrupted, "it was cancelled")),
            0x04 if line.is_empty() => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was typed"));
            }
            0x15 => line.clear(),
            0x7f | 0x08 => {
                // A whole character, of however many bytes.
                while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            byte => line.push(byte),
        }
    }
    String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "that is no UTF-8"))
}

/// Asks on stderr and reads one line.
pub(crate) fn line(question: &str) -> io::Result<String> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()?;
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "nothing was typed"));
    }
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_make_a_line() {
        let typed = |bytes: &[u8]| keys(&mut &bytes[..]).map_err(|error| error.kind());
        assert_eq!(typed(b"pass\n").as_deref(), Ok("pass"));
        assert_eq!(typed("pä\u{7f}x\r".as_bytes()).as_deref(), Ok("px"));
        assert_eq!(typed(b"wrong\x15right\n").as_deref(), Ok("right"));
        assert_eq!(typed(b"pa\x03\n"), Err(io::ErrorKind::Interrupted));
        assert_eq!(typed(b"\x04"), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(typed(b"half"), Err(io::ErrorKind::UnexpectedEof));
    }
}
