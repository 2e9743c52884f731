//! Lines that programs wrote, as plain text: no orders to a terminal, nothing invisible.
//!
//! The page's script (`assets/logs.js`, `plain`) does the same, and keeps the colours.

/// A line without colours and other orders to a terminal (ECMA-48). What else would control one is written as its picture
/// (U+2400 and following), so that nothing is hidden: also the begin of an order that has no end.
pub(crate) fn plain(line: &str) -> String {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = order(rest) {
            rest = rest.get(length..).unwrap_or_default();
            continue;
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        shown.push(match c {
            '\t' => '\t',
            '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
            '\x7f' => '\u{2421}',
            '\u{80}'..='\u{9f}' => '\u{fffd}',
            other => other,
        });
    }
    shown
}

/// Length in bytes of the order to a terminal that a text begins with, if it is whole. Looks no further than to the next
/// escape, so a line full of them takes no longer than another.
fn order(text: &str) -> Option<usize> {
    let after = |start: usize| text.get(start..).unwrap_or_default().bytes().enumerate();
    let csi = |start: usize| {
        let (at, last) = after(start).find(|(_, byte)| !(0x20..=0x3f).contains(byte))?;
        (0x40..=0x7e).contains(&last).then_some(start + at + 1)
    };
    if text.starts_with('\u{9b}') {
        return csi('\u{9b}'.len_utf8());
    }
    let (_, kind) = text.starts_with('\x1b').then(|| after(1).next())??;
    match kind {
        b'[' => csi(2),
        // Strings: titles, links, device control. They end with ESC \, and titles with BEL as well.
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let (at, end) = after(2).find(|(_, byte)| matches!(byte, 0x07 | 0x1b))?;
            match end {
                0x07 => (kind == b']').then_some(2 + at + 1),
                _ => (after(2 + at + 1).next()?.1 == b'\\').then_some(2 + at + 2),
            }
        }
        0x20..=0x7e => {
            let (at, last) = after(1).find(|(_, byte)| !(0x20..=0x2f).contains(byte))?;
            (0x30..=0x7e).contains(&last).then_some(1 + at + 1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_to_a_terminal_are_left_out() {
        for (line, shown) in [
            ("\x1b[31mred\x1b[0m \x1b[38;5;200;1mx\x1b[m", "red x"),
            ("\x1b[2J\x1b[Hafter", "after"),
            ("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
            ("\u{9b}31mc1 \x1b(B\x1b7", "c1 "),
            ("crlf\r", "crlf"),
            ("tab\tstays <b>", "tab\tstays <b>"),
        ] {
            assert_eq!(plain(line), shown, "{line:?}");
        }
    }

    #[test]
    fn nothing_is_hidden_by_what_is_not_whole() {
        for (line, shown) in [
            ("\x1b]0;no end", "␛]0;no end"),
            ("\x1bPno\x07end", "␛Pno␇end"),
            ("\x1b[31", "␛[31"),
            ("\x1b[31ü", "␛[31ü"),
            ("\x1b", "␛"),
            ("\x1bü", "␛ü"),
            ("10%\r20%", "10%␍20%"),
            ("a\0b\x7fc\u{85}", "a␀b␡c\u{fffd}"),
        ] {
            assert_eq!(plain(line), shown, "{line:?}");
        }
    }

    #[test]
    fn many_begins_take_no_longer_than_other_text() {
        let line = "\x1b]".repeat(100_000);
        assert_eq!(plain(&line).chars().count(), 200_000);
    }
}
