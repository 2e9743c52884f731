//! Numbers, times and states as people read them.

use maud::{Markup, html};

/// Bytes in the unit that leaves one to four digits: `512 B`, `1.4 KiB`, `20 MiB`, `3.1 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut unit = 0;
    let mut scaled = bytes;
    let mut rest = 0;
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    while scaled >= 1024 && unit < UNITS.len() - 1 {
        (rest, scaled) = (scaled % 1024, scaled / 1024);
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if scaled < 10 => format!("{scaled}.{} {}", rest * 10 / 1024, UNITS[unit]),
        _ => format!("{scaled} {}", UNITS[unit]),
    }
}

/// A rate a second from a count: `0`, `0.3`, `12`, `1.2k`.
pub(crate) fn rate(count: u64, seconds: u32) -> String {
    let tenths = count.saturating_mul(10) / u64::from(seconds.max(1));
    match tenths {
        0 if count > 0 => "<0.1".to_owned(),
        0 => "0".to_owned(),
        1..100 => format!("{}.{}", tenths / 10, tenths % 10),
        100..100_000 => (tenths / 10).to_string(),
        _ => format!("{}.{}k", tenths / 10_000, tenths / 1_000 % 10),
    }
}

/// Microseconds: `0.4 ms`, `12 ms`, `1.5 s`.
pub(crate) fn latency(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1000, micros / 100 % 10),
        10_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{}.{} s", micros / 1_000_000, micros / 100_000 % 10),
    }
}

/// Thousandths of a CPU as a share of one: `0.25`.
pub(crate) fn cpus(millis: u64) -> String {
    format!("{}.{:02}", millis / 1000, millis % 1000 / 10)
}

/// A share in percent: `0 %`, `0.4 %`, `12 %`.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match part.saturating_mul(1000).checked_div(whole) {
        None | Some(0) if part == 0 => "0 %".to_owned(),
        None | Some(0) => "<0.1 %".to_owned(),
        Some(permille @ 1..100) => format!("{}.{} %", permille / 10, permille % 10),
        Some(permille) => format!("{} %", permille / 10),
    }
}

/// Seconds: `4 s`, `3 min 5 s`, `2 h 10 min`, `5 d 3 h`, `7 d`.
pub(crate) fn duration(seconds: u64) -> String {
    let (whole, unit, rest, small) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3600 => (seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => (seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => (seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    };
    if rest == 0 { format!("{whole} {unit}") } else { format!("{whole} {unit} {rest} {small}") }
}

/// A moment: the browser shows how long ago it was, and the date when pointed at. What the server writes is the date in UTC,
/// which never changes, so a page that is otherwise the same stays the same.
pub(crate) fn moment(ms: i64) -> Markup {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => {
            let at = at.round(jiff::Unit::Second).unwrap_or(at);
            html! { time data-ago datetime=(at) { (at.strftime("%Y-%m-%d %H:%M:%S UTC")) } }
        }
        Err(_) => html! { "–" },
    }
}

/// A state with its colour: the word says it too.
pub(crate) fn state(word: &str) -> Markup {
    html! { span.state data-tone=(tone(word)) { (word) } }
}

/// `good`, `busy`, `warn`, `bad` or `idle`.
pub(crate) fn tone(word: &str) -> &'static str {
    match word {
        "running" | "live" | "succeeded" | "ready" | "alive" | "done" | "serving" | "ok" | "leads" => "good",
        "deploying" | "building" | "pending" | "starting" | "preparing" | "canary" | "draining"
        | "waiting" => "busy",
        "degraded" | "cordoned" | "interrupted" | "missed" | "skipped" | "not ready" | "expiring" => "warn",
        "crashed" | "failed" | "lost" | "backing off" | "exited" | "expired" => "bad",
        _ => "idle",
    }
}

/// `1 app`, `2 apps`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A part of a path, escaped (RFC 3986 §3.3: all but unreserved characters).
pub(crate) fn part(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_unit_that_suits_them() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(20 << 20), bytes(u64::MAX)],
            ["0 B", "1023 B", "1.5 KiB", "20 MiB", "16383 PiB"]
        );
        assert_eq!(
            [rate(0, 10), rate(1, 60), rate(3, 10), rate(120, 10), rate(123_456, 10)],
            ["0", "<0.1", "0.3", "12", "12.3k"]
        );
        assert_eq!([latency(450), latency(12_345), latency(1_500_000)], ["0.4 ms", "12 ms", "1.5 s"]);
        assert_eq!(
            [percent(0, 0), percent(1, 0), percent(1, 100_000), percent(4, 1000), percent(3, 4)],
            ["0 %", "<0.1 %", "<0.1 %", "0.4 %", "75 %"]
        );
        assert_eq!(
            [duration(4), duration(185), duration(7800), duration(443_000), duration(604_800)],
            ["4 s", "3 min 5 s", "2 h 10 min", "5 d 3 h", "7 d"]
        );
        assert_eq!(cpus(1250), "1.25");
        assert_eq!(part("a b/ü"), "a%20b%2F%C3%BC");
    }
}
