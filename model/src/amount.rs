//! Amounts as people write them.
//!
//! In: `512`, `1g`, `0.5`, `10m`, `2h`; `none` is no limit. Out: numbers in the units of the API. What has no unit or no sense is
//! refused with an example.

/// In what something is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// MiB, at least 8; without a unit MiB.
    Mib,
    /// Thousandths of a CPU, at least 10; without a unit CPUs.
    Cpu,
    /// A number from 1.
    Count,
    /// Bytes a second, at least 4096; without a unit bytes.
    Rate,
    /// 1000 bits a second, at least 8; without a unit 1,000,000.
    Kbit,
}

/// A text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: write {example}")]
pub struct AmountError {
    text: String,
    what: &'static str,
    example: &'static str,
}

impl AmountError {
    fn new(text: &str, what: &'static str, example: &'static str) -> Self {
        Self { text: text.chars().take(40).collect(), what, example }
    }
}

impl Unit {
    /// What is written; `None` is no limit.
    pub fn parse(self, text: &str) -> Result<Option<u64>, AmountError> {
        let lower = text.to_ascii_lowercase();
        if lower == "none" {
            return Ok(None);
        }
        let (least, what, example) = match self {
            Self::Mib => (8, "amount", "256, 256m or 1g (at least 8 MiB)"),
            Self::Cpu => (10, "number of CPUs", "2, 0.5 or 500m (at least 10m)"),
            Self::Count => (1, "number", "1 or more, or none"),
            Self::Rate => (4096, "number of bytes a second", "512k, 10m or 1g (at least 4k)"),
            Self::Kbit => (8, "number of bits a second", "10 (Mbit), 500k, 10m or 1g (at least 8k)"),
        };
        let number =
            if self == Self::Cpu { cpu_millis(&lower) } else { number(&lower, |unit| self.factor(unit)) };
        let number = number.filter(|number| *number >= least);
        number.map(Some).ok_or_else(|| AmountError::new(text, what, example))
    }

    fn factor(self, unit: &str) -> Option<u64> {
        match (self, unit) {
            (Self::Mib, "" | "m" | "mb" | "mi" | "mib")
            | (Self::Rate, "" | "b")
            | (Self::Kbit, "k" | "kbit")
            | (Self::Count, "") => Some(1),
            (Self::Mib, "g" | "gb" | "gi" | "gib") | (Self::Rate, "k" | "kb" | "ki" | "kib") => Some(1 << 10),
            (Self::Mib, "t" | "tb" | "ti" | "tib") | (Self::Rate, "m" | "mb" | "mi" | "mib") => Some(1 << 20),
            (Self::Rate, "g" | "gb" | "gi" | "gib") => Some(1 << 30),
            (Self::Kbit, "" | "m" | "mbit") => Some(1000),
            (Self::Kbit, "g" | "gbit") => Some(1_000_000),
            _ => None,
        }
    }

    /// As [`Unit::parse`] reads it back.
    pub fn text(self, value: u64) -> String {
        match self {
            Self::Mib if value.is_multiple_of(1 << 10) => format!("{}g", value >> 10),
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

/// Seconds, from `90`, `90s`, `15m`, `2h`, `7d`; at least 1.
pub fn seconds(text: &str) -> Result<u64, AmountError> {
    let factor = |unit: &str| match unit {
        "" | "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    number(&text.to_ascii_lowercase(), factor)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| AmountError::new(text, "time", "90s, 15m, 2h or 7d"))
}

/// Digits and the unit behind them.
fn number(lower: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    whole(digits)?.checked_mul(factor(&lower[digits.len()..])?)
}

/// Digits alone: Rust reads `+9` as a number, people do not write it.
fn whole(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `2`, `0.5`, `.25`, `500m`.
fn cpu_millis(lower: &str) -> Option<u64> {
    if let Some(millis) = lower.strip_suffix('m') {
        return whole(millis);
    }
    let (before, part) = lower.split_once('.').unwrap_or((lower, ""));
    if part.len() > 3 || before.len() + part.len() == 0 {
        return None;
    }
    let before = if before.is_empty() { 0 } else { whole(before)? };
    before.checked_mul(1000)?.checked_add(whole(&format!("{part:0<3}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Unit; 5] = [Unit::Mib, Unit::Cpu, Unit::Count, Unit::Rate, Unit::Kbit];

    #[test]
    fn amounts_as_people_write_them() {
        for (unit, text, wanted) in [
            (Unit::Mib, "256", 256),
            (Unit::Mib, "256m", 256),
            (Unit::Mib, "512mb", 512),
            (Unit::Mib, "1g", 1024),
            (Unit::Mib, "2GiB", 2048),
            (Unit::Mib, "1t", 1 << 20),
            (Unit::Cpu, "1", 1000),
            (Unit::Cpu, "0.5", 500),
            (Unit::Cpu, ".25", 250),
            (Unit::Cpu, "1.125", 1125),
            (Unit::Cpu, "1500m", 1500),
            (Unit::Count, "512", 512),
            (Unit::Rate, "4096", 4096),
            (Unit::Rate, "4k", 4096),
            (Unit::Rate, "10m", 10 << 20),
            (Unit::Rate, "1GiB", 1 << 30),
            (Unit::Kbit, "10", 10_000),
            (Unit::Kbit, "10m", 10_000),
            (Unit::Kbit, "500k", 500),
            (Unit::Kbit, "1g", 1_000_000),
            (Unit::Kbit, "8kbit", 8),
        ] {
            assert_eq!(unit.parse(text), Ok(Some(wanted)), "{text}");
        }
        for (text, wanted) in [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_with_an_example() {
        for unit in ALL {
            assert_eq!(unit.parse("none"), Ok(None));
            for bad in
                ["", ".", "x", "-1", "0", "1.2345", "99999999999999999999", "1x", "+9", "+9m", " 9", "9 m"]
            {
                assert!(unit.parse(bad).is_err() && seconds(bad).is_err(), "{unit:?} {bad:?}");
            }
        }
        for (unit, bad) in [
            (Unit::Mib, "7"),
            (Unit::Mib, "1.5g"),
            (Unit::Cpu, "0.001"),
            (Unit::Cpu, "9m"),
            (Unit::Count, "1.5"),
            (Unit::Rate, "4095"),
            (Unit::Kbit, "7k"),
        ] {
            assert!(unit.parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Unit::Mib.parse("7").expect_err("too little").to_string(),
            "\"7\" is no amount: write 256, 256m or 1g (at least 8 MiB)"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(value in 4096..1_u64 << 40, scale in 0..3_u32) {
            for unit in ALL {
                for value in [value, (value >> 10) << 10, value / 1000 * 1000 + 1000, 4096 << (10 * scale)] {
                    prop_assert_eq!(unit.parse(&unit.text(value)), Ok(Some(value)));
                }
            }
        }
    }
}
