//! Times as people say them: `10m`, `2h30m`, `3d`, `2026-03-04`, `2026-03-04T05:06:07Z`, `1772600000`.
//!
//! In: text and the time it is. Out: milliseconds since the Unix epoch. Without a zone a time is UTC, as everywhere.

use crate::args::option;
use crate::error::{CliError, Result};
use clap::{Arg, ArgMatches};

/// `--since TIME`.
pub(super) fn since() -> Arg {
    option("since", "TIME", "Only from then on: 10m, 2h, 3d ago, or 2026-03-04T05:06:07Z")
}

/// `--until TIME`.
pub(super) fn until() -> Arg {
    option("until", "TIME", "Only until then: 10m, 2h, 3d ago, or 2026-03-04T05:06:07Z")
}

/// What one of them says, in milliseconds since the Unix epoch.
pub(super) fn asked(matches: &ArgMatches, name: &str) -> Result<Option<i64>> {
    let Some(text) = matches.get_one::<String>(name) else { return Ok(None) };
    let now = jiff::Timestamp::now().as_millisecond();
    let shown: String = text.chars().take(80).collect();
    let refused = || {
        CliError::Misuse(format!(
            "--{name} {shown:?} is no time: write how long ago (10m, 2h, 3d, 1w) or when (2026-03-04, 2026-03-04T05:06:07Z)"
        ))
    };
    parse(text.trim(), now).map(Some).ok_or_else(refused)
}

/// `None` for what is no time.
fn parse(text: &str, now_ms: i64) -> Option<i64> {
    if let Some(ago) = span_ms(text) {
        return now_ms.checked_sub(ago);
    }
    if !text.is_empty() && text.len() >= 9 && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<i64>().ok()?.checked_mul(1000);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    let local = text.parse::<jiff::civil::DateTime>().ok()?;
    Some(local.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// `1h30m` in milliseconds; every number has a unit.
pub(super) fn span_ms(text: &str) -> Option<i64> {
    let mut sum: i64 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match rest.get(..letters)? {
            "s" | "sec" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return None,
        };
        rest = rest.get(letters..)?;
        sum = sum.checked_add(number.checked_mul(unit)?)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_many_ways() {
        let now = 1_772_600_000_000;
        assert_eq!(parse("10m", now), Some(now - 600_000));
        assert_eq!(parse("1h30m", now), Some(now - 5_400_000));
        assert_eq!(parse("2w", now), Some(now - 14 * 86_400_000));
        assert_eq!(parse("1772600000", now), Some(now));
        assert_eq!(parse("2026-03-04", now), Some(1_772_582_400_000));
        assert_eq!(parse("2026-03-04T05:06:07Z", now), Some(1_772_600_767_000));
        assert_eq!(parse("2026-03-04T05:06:07+01:00", now), Some(1_772_597_167_000));
        assert_eq!(parse("2026-03-04T05:06", now), Some(1_772_600_760_000));
        for bad in [
            "",
            "10",
            "m",
            "10x",
            "-5m",
            "99999999999999999999d",
            "9223372036854775807w",
            "yesterday",
            "2026-13-01",
            "1h 2m",
        ] {
            assert_eq!(parse(bad, now), None, "{bad:?}");
        }
    }
}
