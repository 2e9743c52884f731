//! Amounts as people write them in forms, and as a form shows them.
//!
//! In: `512`, `1g`, `0.5`, `10m`; empty, or `none`, is no limit. Out: numbers in the units of the API, by the same rules as
//! `berth resource:limit`, or a sentence.

/// In what something is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// MiB, at least 8; without a unit MiB.
    Mib,
    /// Thousandths of a CPU, at least 10; without a unit CPUs.
    Cpu,
    /// A number from 1.
    Count,
    /// Bytes a second, at least 4096.
    Rate,
    /// 1000 bits a second, at least 8; without a unit 1,000,000.
    Kbit,
}

impl Unit {
    /// What is written, or why it is not that.
    pub(super) fn parse(self, text: &str) -> Result<Option<u64>, String> {
        let lower = text.trim().to_ascii_lowercase();
        if lower.is_empty() || lower == "none" {
            return Ok(None);
        }
        let (least, example) = match self {
            Self::Mib => (8, "256, 256m or 1g (at least 8 MiB)"),
            Self::Cpu => (10, "2, 0.5 or 500m (at least 10m)"),
            Self::Count => (1, "a whole number from 1"),
            Self::Rate => (4096, "512k, 10m or 1g a second (at least 4k)"),
            Self::Kbit => (8, "10 (Mbit), 500k, 10m or 1g (at least 8k)"),
        };
        let shown: String = text.chars().take(40).collect();
        let read = if self == Self::Cpu { cpus(&lower) } else { self.amount(&lower) };
        let read = read.filter(|number| *number >= least);
        read.map(Some)
            .ok_or_else(|| format!("{shown:?} does not fit: write {example}, or nothing for no limit"))
    }

    fn amount(self, lower: &str) -> Option<u64> {
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        // `512mib`, `512mb` and `512m` are the same.
        let unit = lower[digits.len()..].trim_end_matches("bit").trim_end_matches('b').trim_end_matches('i');
        let factor: u64 = match (self, unit) {
            (Self::Mib, "" | "m") | (Self::Count | Self::Rate, "") | (Self::Kbit, "k") => 1,
            (Self::Mib, "g") | (Self::Rate, "k") => 1 << 10,
            (Self::Mib, "t") | (Self::Rate, "m") => 1 << 20,
            (Self::Rate, "g") => 1 << 30,
            (Self::Kbit, "" | "m") => 1000,
            (Self::Kbit, "g") => 1_000_000,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(factor)
    }

    /// As [`Unit::parse`] reads it back; empty for no limit.
    pub(super) fn text(self, value: Option<u64>) -> String {
        let Some(value) = value else { return String::new() };
        match self {
            Self::Mib if value > 0 && value.is_multiple_of(1024) => format!("{}g", value / 1024),
            Self::Mib => format!("{value}m"),
            Self::Cpu if value.is_multiple_of(1000) => (value / 1000).to_string(),
            Self::Cpu => format!("{}.{:03}", value / 1000, value % 1000).trim_end_matches('0').to_owned(),
            Self::Count => value.to_string(),
            Self::Rate if value.is_multiple_of(1 << 20) => format!("{}m", value >> 20),
            Self::Rate if value.is_multiple_of(1 << 10) => format!("{}k", value >> 10),
            Self::Rate => value.to_string(),
            Self::Kbit if value.is_multiple_of(1000) => format!("{}m", value / 1000),
            Self::Kbit => format!("{value}k"),
        }
    }
}

/// `2`, `0.5`, `.25`, `500m`.
fn cpus(lower: &str) -> Option<u64> {
    // Rust reads `+9` as a number; people do not write it.
    if lower.starts_with('+') {
        return None;
    }
    if let Some(millis) = lower.strip_suffix('m') {
        return millis.parse().ok();
    }
    let (whole, part) = lower.split_once('.').unwrap_or((lower, ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    whole.checked_mul(1000)?.checked_add(format!("{part:0<3}").parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_on_the_command_line() {
        for (unit, text, wanted) in [
            (Unit::Mib, "256", 256),
            (Unit::Mib, " 2GiB", 2048),
            (Unit::Mib, "512mb", 512),
            (Unit::Cpu, "0.5", 500),
            (Unit::Cpu, ".25", 250),
            (Unit::Cpu, "1500m", 1500),
            (Unit::Count, "512", 512),
            (Unit::Rate, "10m", 10 << 20),
            (Unit::Rate, "4096", 4096),
            (Unit::Kbit, "10", 10_000),
            (Unit::Kbit, "8kbit", 8),
        ] {
            assert_eq!(unit.parse(text), Ok(Some(wanted)), "{text}");
        }
        for unit in [Unit::Mib, Unit::Cpu, Unit::Count, Unit::Rate, Unit::Kbit] {
            assert_eq!((unit.parse(""), unit.parse("none")), (Ok(None), Ok(None)));
            for bad in ["x", "-1", "0", "1.2345", "99999999999999999999", "9 m", "1x", "+9"] {
                assert!(unit.parse(bad).is_err(), "{unit:?} {bad}");
            }
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for unit in [Unit::Mib, Unit::Cpu, Unit::Count, Unit::Rate, Unit::Kbit] {
            for value in [4096, 5000, 5120, 8192, 123_456, 1 << 20, 3 << 30] {
                assert_eq!(unit.parse(&unit.text(Some(value))), Ok(Some(value)), "{unit:?}");
            }
        }
        assert_eq!(
            [Unit::Mib.text(Some(1024)), Unit::Cpu.text(Some(1250)), Unit::Mib.text(None)],
            ["1g", "1.25", ""]
        );
    }
}
