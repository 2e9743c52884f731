//! npm's version ranges as intervals.
//!
//! In: `20.x`, `^18.2 || >=20 <22`, `lts/*` and the like. Out: `>=20.0.0 <21.0.0 || …`, which a few lines of any
//! language can test. Pre-releases are never chosen by a range.

/// A version without a pre-release.
type Version = (u32, u32, u32);

/// Long-term support line of Node.js that is used if nothing is said.
pub(super) const DEFAULT_LINE: u32 = 24;

/// Names of Node.js' long-term support lines.
const LTS: [(&str, u32); 9] = [
    ("argon", 4),
    ("boron", 6),
    ("carbon", 8),
    ("dubnium", 10),
    ("erbium", 12),
    ("fermium", 14),
    ("gallium", 16),
    ("hydrogen", 18),
    ("iron", 20),
];
const LTS_NEW: [(&str, u32); 2] = [("jod", 22), ("krypton", 24)];

/// Versions from the first (included) to the second (excluded).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    from: Version,
    to: Option<Version>,
}

const ALL: Interval = Interval { from: (0, 0, 0), to: None };

/// The range in canonical words, or why it is none, as a clause.
pub(super) fn canonical(text: &str) -> Result<String, String> {
    let mut alternatives = Vec::new();
    for part in text.split("||") {
        if let Some(interval) = alternative(part.trim())?
            && !alternatives.contains(&interval)
        {
            alternatives.push(interval);
        }
    }
    if alternatives.is_empty() {
        return Err(format!("the range {text:?} holds no version"));
    }
    let show = |(major, minor, patch): Version| format!("{major}.{minor}.{patch}");
    let words = alternatives.iter().map(|interval| match interval.to {
        Some(to) => format!(">={} <{}", show(interval.from), show(to)),
        None => format!(">={}", show(interval.from)),
    });
    Ok(words.collect::<Vec<_>>().join(" || "))
}

/// One alternative; `None` if nothing can satisfy it.
fn alternative(text: &str) -> Result<Option<Interval>, String> {
    if let Some((from, to)) = text.split_once(" - ") {
        let (from, to) = (partial(from)?, partial(to)?);
        return Ok(meet(Interval { from: from.from, to: None }, Interval { from: (0, 0, 0), to: to.to }));
    }
    // `>= 18` is written with and without the blank.
    let mut words: Vec<String> = Vec::new();
    for word in text.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        match words.last_mut() {
            Some(last) if last.chars().all(|c| "<>=~^".contains(c)) => last.push_str(word),
            _ => words.push(word.to_owned()),
        }
    }
    words.iter().try_fold(Some(ALL), |so_far, word| {
        let interval = comparator(word)?;
        Ok(so_far.and_then(|so_far| meet(so_far, interval)))
    })
}

fn meet(a: Interval, b: Interval) -> Option<Interval> {
    let to = match (a.to, b.to) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let from = a.from.max(b.from);
    to.is_none_or(|to| from < to).then_some(Interval { from, to })
}

fn comparator(word: &str) -> Result<Interval, String> {
    let split = word.find(|c: char| !"<>=~^".contains(c)).unwrap_or(word.len());
    let (operator, version) = word.split_at(split);
    let spread = partial(version)?;
    Ok(match operator {
        "" | "=" | "==" => spread,
        ">=" => Interval { from: spread.from, to: None },
        ">" => Interval { from: spread.to.unwrap_or((u32::MAX, 0, 0)), to: None },
        "<" => Interval { from: (0, 0, 0), to: Some(spread.from) },
        "<=" => Interval { from: (0, 0, 0), to: spread.to },
        "^" => match (spread.from, numbers(version)?.len()) {
            ((0, 0, patch), 3) => Interval { from: (0, 0, patch), to: Some((0, 0, patch.saturating_add(1))) },
            ((0, minor, patch), 2 | 3) => {
                Interval { from: (0, minor, patch), to: Some((0, minor.saturating_add(1), 0)) }
            }
            (from, _) => Interval { from, to: spread.to.map(|_| (from.0.saturating_add(1), 0, 0)) },
        },
        "~" | "~>" => match (spread.from, numbers(version)?.len()) {
            (from, 2 | 3) => Interval { from, to: Some((from.0, from.1.saturating_add(1), 0)) },
            _ => spread,
        },
        _ => return Err(format!("{word:?} is not a version or range")),
    })
}

/// The versions that begin with these numbers: `20` is 20.0.0 to 21.0.0, `*` is all.
fn partial(text: &str) -> Result<Interval, String> {
    let text = text.trim();
    if let Some(name) = text.strip_prefix("lts/") {
        let named =
            LTS.iter().chain(&LTS_NEW).find(|(lts, _)| lts.eq_ignore_ascii_case(name)).map(|(_, line)| *line);
        let line = if name == "*" { Some(DEFAULT_LINE) } else { named };
        let line = line
            .ok_or_else(|| format!("{text:?} is not a long-term support line this version of Berth knows"))?;
        return Ok(Interval { from: (line, 0, 0), to: Some((line + 1, 0, 0)) });
    }
    if matches!(text, "node" | "latest" | "current" | "stable") {
        return Ok(ALL);
    }
    let numbers = numbers(text)?;
    Ok(match *numbers.as_slice() {
        [] => ALL,
        [major] => Interval { from: (major, 0, 0), to: Some((major.saturating_add(1), 0, 0)) },
        [major, minor] => Interval { from: (major, minor, 0), to: Some((major, minor.saturating_add(1), 0)) },
        [major, minor, patch, ..] => {
            Interval { from: (major, minor, patch), to: Some((major, minor, patch.saturating_add(1))) }
        }
    })
}

/// The numbers before the first `x` or `*`.
fn numbers(text: &str) -> Result<Vec<u32>, String> {
    let version = text.trim_start_matches(['v', 'V', '=']);
    let version = version.split('+').next().unwrap_or(version);
    let is_number = version.starts_with(|c: char| c.is_ascii_digit());
    if is_number && version.contains('-') {
        return Err(format!("{text:?} is a pre-release; use a released version"));
    }
    let mut numbers = Vec::new();
    let parts: Vec<&str> = version.split('.').collect();
    if parts.len() > 3 {
        return Err(format!("{text:?} is not a version or range"));
    }
    for part in parts {
        match part {
            "x" | "X" | "*" | "" => break,
            part => numbers.push(part.parse().map_err(|_| format!("{text:?} is not a version or range"))?),
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_intervals() {
        let cases = [
            "20.x",
            "20",
            "v20.11.1",
            "^18.2.0",
            "~20.1",
            "~20",
            "^0.2.3",
            "^0.0.3",
            ">=18",
            ">= 18 <21",
            ">18",
            "<=20.1",
            "<20",
            "18 || 20.x || 20",
            "16 - 18.2",
            "*",
            "",
            "lts/*",
            "lts/Iron",
            "node",
            ">=20 <19",
            "20.0.0-rc.1",
            "$(id)",
            "1.2.3.4",
            "<0",
            ">=18, <20",
            "=20.1.0",
            "99999999999",
        ];
        let shown: Vec<String> =
            cases.iter().map(|text| format!("{text:?} → {:?}", canonical(text))).collect();
        insta::assert_snapshot!(shown.join("\n"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), range in "([<>=~^v]{0,2}[0-9x*]{0,10}[. |\\-]{0,2}){0,6}") {
            let _ = canonical(&text);
            let _ = canonical(&range);
        }

        #[test]
        fn a_canonical_range_means_itself(major in 0..50u32, minor in 0..50u32, operator in "(\\^|~|>=|<=|=|)") {
            if let Ok(range) = canonical(&format!("{operator}{major}.{minor}")) {
                prop_assert_eq!(canonical(&range), Ok(range));
            }
        }
    }
}
