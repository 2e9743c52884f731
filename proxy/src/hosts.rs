//! Host names and wildcards, and what each stands for.
//!
//! In: names as they are configured. Out: the value of a host that was asked for. Memory only.

use crate::fields;
use std::collections::HashMap;

/// Values by host name. A wildcard stands for one label (RFC 6125 §6.4.3); an exact name beats it.
#[derive(Debug)]
pub(crate) struct Hosts<T> {
    exact: HashMap<Box<str>, T>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new() }
    }
}

impl<T> Hosts<T> {
    /// Gives what was there before.
    pub(crate) fn insert(&mut self, host: &str, value: T) -> Option<T> {
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcard.insert(parent.into(), value),
            None => self.exact.insert(host.into(), value),
        }
    }

    /// Inserts what should not replace anything.
    pub(crate) fn insert_new(&mut self, host: &str, value: T) {
        let (names, name) = match host.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcard, parent),
            None => (&mut self.exact, host),
        };
        names.entry(name.into()).or_insert(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.values())
    }

    /// The value of a host as clients write it: any case, perhaps with a port or a last dot.
    pub(crate) fn find(&self, host: &[u8]) -> Option<&T> {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return None;
        }
        let mut space = [0; 256];
        self.get(fields::route_host(host, &mut space)?)
    }

    /// The value that a configured name has, or would have without one of its own.
    pub(crate) fn serving(&self, host: &str) -> Option<&T> {
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcard.get(parent),
            None => self.get(host),
        }
    }

    fn get(&self, name: &str) -> Option<&T> {
        self.exact.get(name).or_else(|| {
            let (label, parent) = name.split_once('.')?;
            self.wildcard.get(parent).filter(|_| !label.is_empty())
        })
    }
}
