//! Fairness between clients: when connections run short, no address may hold more than its part of them.
//!
//! In: addresses of accepted connections, and how many are open. Out: a [`Place`] until dropped, or none. While less than
//! half of a thread's connections are taken nobody is refused, however many come from one address: that may be a load
//! balancer. An IPv6 customer has a /64, which counts as one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many connections each address has on one thread.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<HashMap<IpAddr, usize>>);

/// One address's connection.
#[derive(Debug)]
pub(crate) struct Place {
    peers: Arc<Peers>,
    key: IpAddr,
}

/// Whether connections are short: idle ones are then kept for a shorter time.
pub(crate) fn is_short(open: usize, most: usize) -> bool {
    open >= most - most / 4
}

impl Peers {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // counts are right after any panic
    }

    /// Takes a place for a connection of `address`, while `open` of `most` are taken.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, open: usize, most: usize) -> Option<Place> {
        let key = customer(address);
        let mut counts = self.counts();
        let count = counts.entry(key).or_insert(0);
        if open >= most / 2 && *count >= (most / 4).max(1) {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { peers: self.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.peers.counts().entry(self.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others() {
        let peers = Arc::new(Peers::default());
        let (one, other) = ("192.0.2.1".parse().expect("valid"), "192.0.2.2".parse().expect("valid"));
        let mut places = Vec::new();
        while let Some(place) = peers.enter(one, places.len(), 100) {
            places.push(place);
        }
        assert_eq!(places.len(), 50, "half of all, as long as nobody else comes");
        for _ in 0..25 {
            places.push(peers.enter(other, places.len(), 100).expect("there is room"));
        }
        assert!(peers.enter(other, places.len(), 100).is_none());
        places.clear();
        assert!(peers.counts().is_empty(), "nothing is remembered of those who left");
        assert!(peers.enter(one, 99, 100).is_some());
    }

    #[test]
    fn a_customer_of_ipv6_is_one() {
        let key = |text: &str| customer(text.parse().expect("valid"));
        assert_eq!(key("2001:db8:1:2:3::4"), key("2001:db8:1:2:ffff::1"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
