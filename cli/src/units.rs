//! Amounts as people write them.
//!
//! In: `512`, `1g`, `0.5`, `10m`, `2h`. Out: numbers in the units of the API; `none` is no limit. What has no unit or no
//! sense is refused with an example.

use crate::error::{CliError, Result};

/// Digits and the unit behind them, in lower case.
fn split(text: &str) -> (String, String) {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    (digits.to_owned(), lower[digits.len()..].to_owned())
}

fn amount(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let (digits, unit) = split(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(factor(&unit)?)
}

/// MiB, at least 8; `none` for no limit.
pub(crate) fn mib(text: &str) -> Result<Option<u64>> {
    if text == "none" {
        return Ok(None);
    }
    let factor = |unit: &str| match unit {
        "" | "m" | "mb" | "mi" | "mib" => Some(1),
        "g" | "gb" | "gi" | "gib" => Some(1024),
        "t" | "tb" | "ti" | "tib" => Some(1024 * 1024),
        _ => None,
    };
    let mib = amount(text, factor).filter(|mib| *mib >= 8);
    mib.map(Some).ok_or_else(|| {
        CliError::Misuse(format!("{text:?} is no amount: write 256, 256m or 1g (at least 8 MiB)"))
    })
}

/// Thousandths of a CPU, at least 10; `none` for no limit.
pub(crate) fn cpu_millis(text: &str) -> Result<Option<u64>> {
    let wrong =
        || CliError::Misuse(format!("{text:?} is no number of CPUs: write 2, 0.5 or 500m (at least 10m)"));
    if text == "none" {
        return Ok(None);
    }
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse::<u64>().map_err(|_| wrong())?,
        None => {
            let (whole, part) = text.split_once('.').unwrap_or((text, ""));
            if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            let thousandths: u64 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
            let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
            whole.checked_mul(1000).and_then(|whole| whole.checked_add(thousandths)).ok_or_else(wrong)?
        }
    };
    if millis < 10 { Err(wrong()) } else { Ok(Some(millis)) }
}

/// Bytes, at least 4096; `none` for no limit.
pub(crate) fn bytes(text: &str) -> Result<Option<u64>> {
    if text == "none" {
        return Ok(None);
    }
    let factor = |unit: &str| match unit {
        "" | "b" => Some(1),
        "k" | "kb" | "ki" | "kib" => Some(1 << 10),
        "m" | "mb" | "mi" | "mib" => Some(1 << 20),
        "g" | "gb" | "gi" | "gib" => Some(1 << 30),
        _ => None,
    };
    let bytes = amount(text, factor).filter(|bytes| *bytes >= 4096);
    bytes.map(Some).ok_or_else(|| {
        CliError::Misuse(format!(
            "{text:?} is no number of bytes a second: write 512k, 10m or 1g (at least 4k)"
        ))
    })
}

/// kbit/s of 1000 bits, at least 8; without a unit Mbit/s; `none` for no limit.
pub(crate) fn kbit(text: &str) -> Result<Option<u64>> {
    if text == "none" {
        return Ok(None);
    }
    let factor = |unit: &str| match unit {
        "k" | "kbit" => Some(1),
        "" | "m" | "mbit" => Some(1000),
        "g" | "gbit" => Some(1_000_000),
        _ => None,
    };
    let kbit = amount(text, factor).filter(|kbit| *kbit >= 8);
    kbit.map(Some).ok_or_else(|| {
        CliError::Misuse(format!(
            "{text:?} is no number of bits a second: write 10 (Mbit), 500k, 10m or 1g (at least 8k)"
        ))
    })
}

/// A number from 1; `none` for no limit.
pub(crate) fn count(text: &str) -> Result<Option<u64>> {
    if text == "none" {
        return Ok(None);
    }
    let count = text.parse().ok().filter(|count| *count > 0);
    count
        .map(Some)
        .ok_or_else(|| CliError::Misuse(format!("{text:?} is no number: write 1 or more, or none")))
}

/// Seconds, from `90`, `90s`, `15m`, `2h`, `7d`.
pub(crate) fn seconds(text: &str) -> Result<u64> {
    let factor = |unit: &str| match unit {
        "" | "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    amount(text, factor)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| CliError::Misuse(format!("{text:?} is no time: write 90s, 15m, 2h or 7d")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_as_people_write_them() {
        for (text, wanted) in [("256", 256), ("256m", 256), ("1g", 1024), ("2GiB", 2048), ("1t", 1 << 20)] {
            assert_eq!(mib(text).expect("valid"), Some(wanted), "{text}");
        }
        for (text, wanted) in [("1", 1000), ("0.5", 500), (".25", 250), ("500m", 500), ("1.125", 1125)] {
            assert_eq!(cpu_millis(text).expect("valid"), Some(wanted), "{text}");
        }
        for (text, wanted) in
            [("10", 10_000), ("10m", 10_000), ("500k", 500), ("1g", 1_000_000), ("8kbit", 8)]
        {
            assert_eq!(kbit(text).expect("valid"), Some(wanted), "{text}");
        }
        for (text, wanted) in [("4096", 4096), ("4k", 4096), ("10m", 10 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(bytes(text).expect("valid"), Some(wanted), "{text}");
        }
        for (text, wanted) in [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(seconds(text).expect("valid"), wanted, "{text}");
        }
        for none in [mib("none"), cpu_millis("none"), kbit("none"), bytes("none"), count("none")] {
            assert_eq!(none.expect("valid"), None);
        }
        for bad in ["", "x", "-1", "1x", "0", "99999999999999999999", "1.5g", "+9", " 9", "9 m"] {
            assert!(mib(bad).is_err(), "{bad}");
            assert!(kbit(bad).is_err() && bytes(bad).is_err() && seconds(bad).is_err(), "{bad}");
        }
        for bad in ["", "x", "-1", "0", "1.2345", "0.001", "9m"] {
            assert!(cpu_millis(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "-1", "1.5", "many"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }
}
