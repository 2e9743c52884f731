//! Lines that programs wrote, as plain text: no orders to a terminal, nothing invisible.
//!
//! As the CLI shows them, without colours; the page's script (`assets/logs.js`, `plain`) does the same, and keeps the colours.

/// A line without colours (SGR sequences, ECMA-48 §8.3.117). All other control characters, and the marks that reorder a line,
/// are written out: `\x1b`, `\r`, `\u{202e}`.
pub(crate) fn plain(line: &str) -> String {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let length = match colour(rest) {
            Some(length) => length,
            None => {
                match u32::from(c) {
                    _ if !is_unsafe(c) => shown.push(c),
                    code if code < 0x100 && c != '\r' => shown.push_str(&format!("\\x{code:02x}")),
                    _ => shown.extend(c.escape_default()),
                }
                c.len_utf8()
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    shown
}

/// C0, DEL and C1 controls, line separators, and the marks that reorder a line.
fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Length in bytes of the colour that a text begins with.
fn colour(text: &str) -> Option<usize> {
    let codes = text.strip_prefix("\x1b[")?;
    let end = codes.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':')?;
    (codes.get(end..)?.starts_with('m') && end <= 32).then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_and_everything_else_is_written_out() {
        for (line, shown) in [
            ("\x1b[31mred\x1b[0m \x1b[38;5;200;1mx\x1b[m", "red x"),
            ("\x1b[2J\x1b[Hafter", "\\x1b[2J\\x1b[Hafter"),
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("\u{9b}31mc1\x7f", "\\x9b31mc1\\x7f"),
            ("\x1b[31ü\x1b", "\\x1b[31ü\\x1b"),
            ("10%\r20%\r", "10%\\r20%"),
            ("\u{202e}txt\u{2028}", "\\u{202e}txt\\u{2028}"),
            ("tab\tstays <b>", "tab\tstays <b>"),
        ] {
            assert_eq!(plain(line), shown, "{line:?}");
        }
    }

    #[test]
    fn many_begins_take_no_longer_than_other_text() {
        assert_eq!(plain(&"\x1b[1".repeat(100_000)).len(), 600_000);
    }
}
