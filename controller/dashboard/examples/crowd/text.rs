//! Words that pages have to cope with, and the time.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// A word that nothing breaks by itself.
pub(crate) const LONG_WORD: &str = "averylongwordwithoutanyplacewhereitcouldbebrokenintotwolinessuchasakeyoratokenwouldbe0123456789abcdef0123456789abcdef0123456789abcdef";
/// Written from right to left.
pub(crate) const ARABIC: &str = "نشر الإصدار الجديد من المتجر (v2)";

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// When this program was started so many seconds ago; the same whenever it is asked for.
pub(crate) fn before(seconds: usize) -> i64 {
    static START: LazyLock<i64> = LazyLock::new(now_ms);
    *START - i64::try_from(seconds).unwrap_or(0) * 1000
}

/// What has the form of the API's type, and nothing else.
pub(crate) fn typed<T: DeserializeOwned + Serialize>(value: Value) -> T {
    serde_json::from_value(value).expect("what the API answers has this form")
}

/// Many lines.
pub(crate) fn lines(count: usize) -> String {
    let line = |number: usize| match number % 9 {
        4 => format!("  File \"/app/{LONG_WORD}/views.py\", line {number}, in get\n"),
        7 => format!("  {ARABIC}\n"),
        _ => format!("  line {number}: the build of the wheel for this package did not go as it should\n"),
    };
    (1..=count).map(line).collect()
}
