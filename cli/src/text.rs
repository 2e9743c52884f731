//! Making text safe to show.
//!
//! In: log lines, build output, names: written by whoever controls an app. Out: text without control characters, so
//! that it can recolour its own line at most: it cannot move the cursor, set titles, ring, or answer as if typed.

/// `text` with every control character written out (`\x1b`, `\r`, `\u{202e}`), except tabs and complete SGR sequences
/// (`ESC [ digits ; m`: colours). A line that uses those ends with a reset, so that nothing bleeds into the next.
pub(crate) fn safe_line(text: &str) -> String {
    let text = text.strip_suffix('\r').unwrap_or(text);
    let mut shown = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(length) = sgr_length(rest) {
            shown.push_str(&rest[..length]);
            coloured = true;
            rest = &rest[length..];
            continue;
        }
        if is_unsafe(character) {
            shown.extend(escape(character));
        } else {
            shown.push(character);
        }
        rest = &rest[character.len_utf8()..];
    }
    if coloured {
        shown.push_str("\u{1b}[0m");
    }
    shown
}

/// Like [`safe_line`], for text of several lines: newlines stay.
pub(crate) fn safe_text(text: &str) -> String {
    text.split('\n').map(safe_line).collect::<Vec<_>>().join("\n")
}

/// JSON for people's terminals too: `serde_json` leaves DEL, C1 controls and direction marks as they are.
pub(crate) fn safe_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unsafe(character) && character != '\n' {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// C0, DEL and C1 controls, line separators, and the marks that reorder a line.
fn is_unsafe(character: char) -> bool {
    (character.is_control() && character != '\t')
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(character: char) -> Box<dyn Iterator<Item = char>> {
    match u32::from(character) {
        code if code < 0x100 && !matches!(character, '\r' | '\n') => {
            Box::new(format!("\\x{code:02x}").chars().collect::<Vec<_>>().into_iter())
        }
        _ => Box::new(character.escape_default()),
    }
}

/// Length of the SGR sequence that `text` begins with.
fn sgr_length(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';' && c != ':')?;
    (parameters[end..].starts_with('m') && end <= 32).then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_stay_and_everything_else_is_written_out() {
        assert_eq!(safe_line("\u{1b}[31mred\u{1b}[0m"), "\u{1b}[31mred\u{1b}[0m\u{1b}[0m");
        assert_eq!(safe_line("\u{1b}[2Jgone\u{7}"), "\\x1b[2Jgone\\x07");
        assert_eq!(safe_line("\u{1b}]0;title\u{7}"), "\\x1b]0;title\\x07");
        assert_eq!(safe_line("a\rb\r"), "a\\rb");
        assert_eq!(safe_line("\u{9b}2J\u{7f}"), "\\x9b2J\\x7f");
        assert_eq!(safe_line("\u{202e}txt"), "\\u{202e}txt");
        assert_eq!(safe_line("tab\tstays"), "tab\tstays");
        assert_eq!(safe_line("\u{1b}["), "\\x1b[");
        assert_eq!(safe_json("\"\u{9b}\""), "\"\\u009b\"");
    }

    proptest! {
        #[test]
        fn what_is_shown_never_controls_the_terminal(text in "(\\PC|[\u{0}-\u{9f}]|\u{1b}\\[[0-9;]{0,3}[mJ])*") {
            let mut rest = safe_line(&text);
            while let Some(at) = rest.find('\u{1b}') {
                let length = sgr_length(&rest[at..]);
                prop_assert!(length.is_some(), "raw escape in {rest:?}");
                rest.replace_range(at..at + length.unwrap_or(1), "");
            }
            prop_assert!(!rest.chars().any(is_unsafe));
        }
    }
}
