//! Whether the PHP that can be had is one the app accepts.
//!
//! In: a constraint as in composer.json. Out: yes or no for one line of versions; `None` for what is no constraint.

/// Whether some version `8.2.x` satisfies `constraint` (Composer's words: `^`, `~`, `*`, comparisons, `||`, ranges).
pub(super) fn accepts(constraint: &str, line: (u32, u32)) -> Option<bool> {
    let mut any = false;
    for alternative in constraint.replace("||", "|").split('|') {
        any |= all(alternative.trim(), line)?;
    }
    Some(any)
}

fn all(text: &str, line: (u32, u32)) -> Option<bool> {
    if let Some((from, to)) = text.split_once(" - ") {
        let (from, to) = (version(from.trim())?, version(to.trim())?);
        return Some(pair(&from) <= line && line <= upper(&to));
    }
    // `>= 8.1` is written with and without the space.
    let mut joined = text.replace(',', " ");
    for operator in [">=", "<=", "!=", ">", "<", "^", "~", "="] {
        while joined.contains(&format!("{operator} ")) {
            joined = joined.replace(&format!("{operator} "), operator);
        }
    }
    let mut holds = true;
    let mut words = joined.split_whitespace().peekable();
    words.peek()?;
    for word in words {
        holds &= one(word.split('@').next().unwrap_or(word), line)?;
    }
    Some(holds)
}

fn one(word: &str, line: (u32, u32)) -> Option<bool> {
    if word == "*" {
        return Some(true);
    }
    let operator: String = word.chars().take_while(|c| "<>=!^~".contains(*c)).collect();
    let wanted = version(&word[operator.len()..])?;
    let (at, len) = (pair(&wanted), wanted.len());
    Some(match operator.as_str() {
        "^" => line.0 == at.0 && line >= at,
        "~" if len >= 3 => line == at,
        "~" => line.0 == at.0 && line >= at,
        ">=" => line >= at,
        ">" if len >= 3 => line >= at,
        ">" => line > at,
        "<=" => line <= upper(&wanted),
        // `<8.2.5` leaves some 8.2; `<8.2` none.
        "<" if len >= 3 && wanted[2] > 0 => line <= at,
        "<" => line < at,
        "!=" => len >= 3 || line != at,
        "" | "=" | "==" if len == 1 => line.0 == at.0,
        "" | "=" | "==" => line == at,
        _ => return None,
    })
}

/// Highest line that a bound such as `8` or `8.2` still means.
fn upper(version: &[u32]) -> (u32, u32) {
    (version[0], version.get(1).copied().unwrap_or(u32::MAX))
}

fn pair(version: &[u32]) -> (u32, u32) {
    (version[0], version.get(1).copied().unwrap_or(0))
}

/// `8.2`, `v8.2.1`, `8.2.*`, `8.2.0-dev`: its numbers.
fn version(text: &str) -> Option<Vec<u32>> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split(['-', '+']).next().unwrap_or(text);
    let mut numbers = Vec::new();
    for part in text.split('.') {
        if matches!(part, "*" | "x" | "X") {
            break;
        }
        numbers.push(part.parse().ok()?);
    }
    (!numbers.is_empty() && numbers.len() <= 4).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::accepts;

    #[test]
    fn constraints_mean_what_composer_says() {
        for yes in [
            "^8.1",
            ">=8.0",
            ">= 7.4",
            "~8.2.0",
            "8.2.*",
            "^7.4 || ^8.0",
            "^7.2|^8",
            "*",
            "8.1 - 8.3",
            ">=8.1 <8.3",
            ">=8.1,<8.2.5",
            "8.*",
            "~8.1",
            "8.2.7",
            "^8.2.1",
            "<=8.2",
            "!=8.2.3",
            "^8.1@stable",
        ] {
            assert_eq!(accepts(yes, (8, 2)), Some(true), "{yes}");
        }
        for no in ["^7.4", "8.3.*", ">=8.3", "<8.2", "~8.1.0", "^8.3", "7.4 - 8.1", ">8.2", "!=8.2"] {
            assert_eq!(accepts(no, (8, 2)), Some(false), "{no}");
        }
        for bad in ["", "eight", "^", "8.2 or so", ">=<8"] {
            assert_eq!(accepts(bad, (8, 2)), None, "{bad}");
        }
    }
}
