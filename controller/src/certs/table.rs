//! The table that proxies present certificates from.
//!
//! In: the apps with their host names, every certificate, challenges that are to be met, the time. Out: a
//! [`CertificateTable`]. Pure. A certificate is presented only for names that lead to its app.

use super::check::covers;
use super::kept::{Kept, Place, Slot, Stored};
use berth_model::tls::{AlpnChallenge, Certificate, CertificateTable, HttpChallenge};
use berth_model::{AppName, HostPattern};
use std::collections::{BTreeMap, BTreeSet};

/// What is shown while an order is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Challenges {
    pub(super) http: Vec<HttpChallenge>,
    pub(super) alpn: Vec<AlpnChallenge>,
}

/// The whole table, without a revision. Where two certificates have a name: an app's before the platform's, a valid one
/// before an expired one, one given by hand before one that was got.
pub(super) fn table(
    hosts: &BTreeMap<AppName, Vec<HostPattern>>,
    kept: &Kept,
    challenges: &Challenges,
    on_demand: bool,
    now_ms: i64,
) -> CertificateTable {
    let mut order: Vec<(&Place, &Stored)> =
        kept.iter().map(|(place, stored)| (place, stored.as_ref())).collect();
    order.sort_by_key(|(place, stored)| rank(place, stored, now_ms));
    let mut certificates = Vec::new();
    for (place, stored) in order {
        let names = match place.app() {
            None => stored.certificate.names.clone(),
            Some(app) => presented(&stored.certificate.names, hosts.get(app).map_or(&[], Vec::as_slice)),
        };
        if !names.is_empty() {
            certificates.push(Certificate {
                names,
                chain_pem: stored.certificate.chain_pem.clone(),
                key_pem: stored.certificate.key_pem.clone(),
            });
        }
    }
    CertificateTable {
        revision: 0,
        certificates,
        http_challenges: challenges.http.clone(),
        alpn_challenges: challenges.alpn.clone(),
        on_demand,
    }
}

/// Smaller is presented first.
pub(super) fn rank(place: &Place, stored: &Stored, now_ms: i64) -> (bool, bool, u8, i64) {
    let kind = match place {
        Place::App(_) | Place::Global(_) => 0,
        Place::Acme(_, Slot::Main(_)) => 1,
        Place::Acme(_, Slot::OnDemand(_)) => 2,
    };
    let expired = stored.certificate.expires_ms <= now_ms;
    (place.app().is_none(), expired, kind, -stored.certificate.expires_ms)
}

/// The names of `hosts` that a certificate for `names` may be presented for.
pub(super) fn presented(names: &[HostPattern], hosts: &[HostPattern]) -> Vec<HostPattern> {
    let mut found = BTreeSet::new();
    for host in hosts {
        for name in names {
            if covers(name, host) {
                found.insert(host.clone());
            } else if covers(host, name) {
                found.insert(name.clone());
            }
        }
    }
    found.into_iter().collect()
}

/// Whether somebody who asks for `host` gets a certificate of this table.
pub(super) fn is_covered(table: &CertificateTable, host: &HostPattern) -> bool {
    table.certificates.iter().flat_map(|certificate| &certificate.names).any(|name| covers(name, host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::check;
    use berth_model::tls::KeyPem;
    use std::sync::Arc;

    fn host(name: &str) -> HostPattern {
        HostPattern::parse(name).expect("a name")
    }

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a name")
    }

    fn stored(mark: &str, names: &[&str], expires_ms: i64) -> Arc<Stored> {
        let certificate = check::Certificate {
            chain_pem: mark.to_owned(),
            key_pem: KeyPem(String::new()),
            id: String::new(),
            names: names.iter().map(|name| host(name)).collect(),
            issuer: String::new(),
            subject: String::new(),
            starts_ms: 0,
            expires_ms,
            self_signed: false,
        };
        Arc::new(Stored { certificate, generated: false, server: None })
    }

    #[test]
    fn a_certificate_is_presented_only_for_names_that_lead_to_its_app() {
        let hosts = BTreeMap::from([
            (app("a"), vec![host("a.test"), host("*.a.test")]),
            (app("b"), vec![host("b.test")]),
        ]);
        let kept = Kept::from([
            (Place::App(app("a")), stored("a", &["a.test", "x.a.test", "b.test", "a.b.a.test"], 10)),
            (Place::App(app("gone")), stored("gone", &["a.test"], 10)),
            (Place::Global("g".to_owned()), stored("g", &["*.test"], 10)),
        ]);
        let table = table(&hosts, &kept, &Challenges::default(), false, 5);
        let shown: Vec<_> =
            table.certificates.iter().map(|one| (one.chain_pem.as_str(), one.names.clone())).collect();
        assert_eq!(shown, [("a", vec![host("a.test"), host("x.a.test")]), ("g", vec![host("*.test")])]);
        assert!(is_covered(&table, &host("b.test")), "by the platform's");
        assert!(!is_covered(&table, &host("*.a.test")));
    }

    #[test]
    fn valid_goes_before_expired_and_given_before_got() {
        let hosts = BTreeMap::from([(app("a"), vec![host("a.test")])]);
        let acme = |number| Place::Acme(app("a"), Slot::Main(number));
        let kept = Kept::from([
            (Place::App(app("a")), stored("given", &["a.test"], 10)),
            (acme(0), stored("short", &["a.test"], 20)),
            (acme(1), stored("long", &["a.test"], 30)),
        ]);
        let order = |now| {
            let table = table(&hosts, &kept, &Challenges::default(), false, now);
            table.certificates.into_iter().map(|one| one.chain_pem).collect::<Vec<_>>()
        };
        assert_eq!(order(5), ["given", "long", "short"]);
        assert_eq!(order(15), ["long", "short", "given"]);
    }
}
