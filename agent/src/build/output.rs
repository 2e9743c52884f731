//! What a step prints, made fit for the pusher's terminal: whole lines, colours kept, everything else that could steer
//! a terminal shown as text.

/// Longest line in bytes; what is beyond is cut.
const MAX_LINE: usize = 4096;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    current: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Takes bytes as they come; gives the lines that are complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.push(self.take()),
                _ if self.current.len() < MAX_LINE => self.current.push(*byte),
                // A progress bar that never ends its line starts it anew.
                b'\r' => {
                    self.current.clear();
                    self.cut = false;
                }
                _ => self.cut = true,
            }
        }
        lines
    }

    /// The last line, if it has no newline.
    pub(crate) fn finish(&mut self) -> Option<String> {
        (!self.current.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let bytes = std::mem::take(&mut self.current);
        let text = String::from_utf8_lossy(&bytes);
        // What a terminal would show of a line drawn over and over: its last state.
        let shown = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or("");
        let mut line = escape(shown);
        if std::mem::take(&mut self.cut) {
            line.push_str(" … (line cut)");
        }
        line
    }
}

/// Keeps colours (`ESC [ digits and ; m`), shows other control characters as escapes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '\u{1b}'
            && let Some(length) = colour(rest)
        {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        match c {
            '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            // Characters that turn the direction of what follows could make a line read as another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.extend(c.escape_default()),
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Length of the colour sequence at the start of `text`.
fn colour(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\u{1b}[")?;
    let digits = inner.bytes().take(32).take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
    (inner.as_bytes().get(digits) == Some(&b'm')).then_some(digits + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut splitter = Lines::default();
        let mut all = Vec::new();
        for chunk in bytes.chunks(3) {
            all.extend(splitter.push(chunk));
        }
        all.extend(splitter.finish());
        all
    }

    #[test]
    fn colours_stay_and_the_rest_cannot_steer_a_terminal() {
        assert_eq!(lines(b"\x1b[1;32mok\x1b[0m\n"), ["\x1b[1;32mok\x1b[0m"]);
        assert_eq!(lines(b"a\x1b[2Jb\x1b]0;title\x07\n"), ["a\\u{1b}[2Jb\\u{1b}]0;title\\u{7}"]);
        assert_eq!(lines(b"bad \xff byte"), ["bad \u{fffd} byte"]);
    }

    #[test]
    fn lines_are_whole_and_bounded() {
        assert_eq!(lines(b"one\r\n\ntwo"), ["one", "", "two"]);
        assert_eq!(lines(b" 10%\r 50%\r100%\n"), ["100%"]);
        let long = lines(&[vec![b'x'; 10_000], b"\nnext".to_vec()].concat());
        assert_eq!(long[0].len(), MAX_LINE + " … (line cut)".len());
        assert_eq!(long[1], "next");
    }
}
