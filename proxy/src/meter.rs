//! What the proxy counts that is no app's, a [`Meter`] a thread, and what the route table's settings change for all.
//!
//! In: connections, handshakes, refusals; [`ProxySettings`]. Out: counts for the metrics, settings for the data path. A
//! thread writes its own meter only.

use crate::stats::Count;
use berth_model::route::{AccessLogFormat, ProxySettings, TraceContext};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts of one thread. Aligned, so that no two threads write one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Meter {
    /// Connections that were accepted, of any kind.
    pub(crate) accepted: Count,
    /// Requests for hosts that nobody has.
    pub(crate) unknown_hosts: Count,
    /// TLS handshakes that were completed with a full exchange of keys,
    pub(crate) tls_full: Count,
    /// that went on with an earlier session,
    pub(crate) tls_resumed: Count,
    /// and that failed.
    pub(crate) tls_failed: Count,
    /// Not on the way of a request that is served, so a lock does no harm.
    refused: Mutex<BTreeMap<(u16, &'static str), u64>>,
}

impl Meter {
    /// A request or connection was refused before it was any app's. Both words are from this program's text: there are
    /// only so many.
    pub(crate) fn refused(&self, status: u16, reason: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry((status, reason)).or_default() += 1;
    }

    /// Refusals by status and reason.
    pub(crate) fn refusals(&self) -> BTreeMap<(u16, &'static str), u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Settings that may change while requests are served: read by one plain load each.
#[derive(Debug)]
pub(crate) struct Tuning {
    /// What the proxy was started with.
    default: AccessLogFormat,
    access_log: AtomicU8,
    trace: AtomicU8,
}

impl Tuning {
    pub(crate) fn new(default: AccessLogFormat) -> Self {
        let tuning = Self { default, access_log: AtomicU8::new(0), trace: AtomicU8::new(0) };
        tuning.set(&ProxySettings::default());
        tuning
    }

    /// Takes over what a route table says.
    pub(crate) fn set(&self, settings: &ProxySettings) {
        let format = match settings.access_log_format.unwrap_or(self.default) {
            AccessLogFormat::Json => 0,
            AccessLogFormat::Combined => 1,
            AccessLogFormat::Off => 2,
        };
        self.access_log.store(format, Ordering::Relaxed);
        let trace = match settings.trace_context {
            TraceContext::Pass => 0,
            TraceContext::Unsampled => 1,
            TraceContext::Sampled => 2,
        };
        self.trace.store(trace, Ordering::Relaxed);
    }

    pub(crate) fn access_log_format(&self) -> AccessLogFormat {
        match self.access_log.load(Ordering::Relaxed) {
            0 => AccessLogFormat::Json,
            1 => AccessLogFormat::Combined,
            _ => AccessLogFormat::Off,
        }
    }

    pub(crate) fn new_traces(&self) -> Option<bool> {
        match self.trace.load(Ordering::Relaxed) {
            0 => None,
            other => Some(other == 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_word_beats_the_command_lines_while_it_is_said() {
        let tuning = Tuning::new(AccessLogFormat::Combined);
        assert_eq!((tuning.access_log_format(), tuning.new_traces()), (AccessLogFormat::Combined, None));
        let said = ProxySettings {
            access_log_format: Some(AccessLogFormat::Off),
            trace_context: TraceContext::Sampled,
        };
        tuning.set(&said);
        assert_eq!((tuning.access_log_format(), tuning.new_traces()), (AccessLogFormat::Off, Some(true)));
        tuning.set(&ProxySettings::default());
        assert_eq!((tuning.access_log_format(), tuning.new_traces()), (AccessLogFormat::Combined, None));
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let meter = Meter::default();
        for reason in ["a", "b", "a"] {
            meter.refused(400, reason);
        }
        assert_eq!(meter.refusals(), BTreeMap::from([((400, "a"), 2), ((400, "b"), 1)]));
    }
}
