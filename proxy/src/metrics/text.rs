//! The exposition formats: Prometheus text 0.0.4 and OpenMetrics 1.0.0.
//!
//! In: families and samples. Out: text. The two differ in little: OpenMetrics names a counter's family without `_total`,
//! wants `1.0` for a bound of one, and ends in `# EOF`.

use berth_model::traffic::{LATENCY_BOUNDS_US, Latencies};
use std::fmt::Write;

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page under construction.
#[derive(Debug)]
pub(super) struct Page {
    out: String,
    open: bool,
    family: &'static str,
}

impl Page {
    pub(super) fn new(open: bool) -> Self {
        Self { out: String::with_capacity(16 * 1024), open, family: "" }
    }

    /// Begins a family; its samples follow. `name` is without `_total`.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.family = name;
        let suffix = if kind == Kind::Counter && !self.open { "_total" } else { "" };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.put(format_args!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"));
    }

    /// One value of the family, at its name with `suffix`.
    pub(super) fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: u64) {
        self.series(suffix, labels);
        self.put(format_args!(" {value}\n"));
    }

    /// An app's latencies, in cumulative buckets with `bounds`, which must be among those counted.
    pub(super) fn histogram(&mut self, app: &str, latencies: &Latencies, bounds: &[u64], sum_us: u64) {
        for bound in bounds {
            let held = LATENCY_BOUNDS_US.iter().zip(&latencies.0).filter(|(upper, _)| *upper <= bound);
            let count = held.map(|(_, count)| count).sum();
            let mut le = seconds(*bound);
            if self.open && !le.contains('.') {
                le.push_str(".0");
            }
            self.sample("_bucket", &[("app", app), ("le", &le)], count);
        }
        self.sample("_bucket", &[("app", app), ("le", "+Inf")], latencies.count());
        self.series("_sum", &[("app", app)]);
        self.put(format_args!(" {}\n", seconds(sum_us)));
        self.sample("_count", &[("app", app)], latencies.count());
    }

    /// A family that only says something by its labels.
    pub(super) fn info(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)]) {
        if self.open {
            self.put(format_args!("# HELP {name} {help}\n# TYPE {name} info\n"));
        } else {
            self.put(format_args!("# HELP {name}_info {help}\n# TYPE {name}_info gauge\n"));
        }
        self.family = name;
        self.sample("_info", labels, 1);
    }

    pub(super) fn finish(mut self) -> String {
        if self.open {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn series(&mut self, suffix: &str, labels: &[(&str, &str)]) {
        self.out.push_str(self.family);
        self.out.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.put(format_args!("{}{name}=\"", if index == 0 { '{' } else { ',' }));
            for character in value.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(text); // a String takes everything
    }
}

/// Microseconds as seconds, without loss.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::traffic::latency_bucket;

    fn page(open: bool) -> String {
        let mut page = Page::new(open);
        page.family("a", Kind::Counter, "Of a.");
        page.sample("_total", &[("app", "x"), ("reason", "a \"b\" \\ \n")], 7);
        page.family("b_seconds", Kind::Histogram, "Of b.");
        let mut latencies = Latencies::default();
        for micros in [400, 500, 501, 2_000_000] {
            latencies.0[latency_bucket(micros)] += 1;
        }
        page.histogram("x", &latencies, &[500, 1_000_000], 2_001_401);
        page.family("c", Kind::Gauge, "Of c.");
        page.sample("", &[], 0);
        page.info("d", "Of d.", &[("version", "1")]);
        page.finish()
    }

    #[test]
    fn the_text_format() {
        assert_eq!(
            page(false),
            "# HELP a_total Of a.\n# TYPE a_total counter\na_total{app=\"x\",reason=\"a \\\"b\\\" \\\\ \\n\"} 7\n\
             # HELP b_seconds Of b.\n# TYPE b_seconds histogram\nb_seconds_bucket{app=\"x\",le=\"0.0005\"} 2\n\
             b_seconds_bucket{app=\"x\",le=\"1\"} 3\nb_seconds_bucket{app=\"x\",le=\"+Inf\"} 4\n\
             b_seconds_sum{app=\"x\"} 2.001401\nb_seconds_count{app=\"x\"} 4\n\
             # HELP c Of c.\n# TYPE c gauge\nc 0\n# HELP d_info Of d.\n# TYPE d_info gauge\nd_info{version=\"1\"} 1\n"
        );
    }

    #[test]
    fn open_metrics() {
        let page = page(true);
        assert!(page.contains("# TYPE a counter\na_total{"), "{page}");
        assert!(page.contains("le=\"1.0\"} 3\n"), "{page}");
        assert!(page.ends_with("# TYPE d info\nd_info{version=\"1\"} 1\n# EOF\n"), "{page}");
    }

    #[test]
    fn seconds_lose_nothing() {
        for (micros, text) in
            [(0, "0"), (1, "0.000001"), (1_000_000, "1"), (10_500_000, "10.5"), (100_000_000, "100")]
        {
            assert_eq!(seconds(micros), text);
        }
    }
}
