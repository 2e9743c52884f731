//! Names of containers: `web.myapp.internal`, `1.web.myapp.internal`, `myapp.internal`, and Dokku's `myapp.web` and `myapp.web.1`.
//!
//! In: who asks, a DNS query (RFC 1035 §4). Out: the addresses it leads to, or that there is no such name, or that it is none of
//! ours. Pure. Only apps that share a network with the caller's have names; to everybody else they do not exist.

use berth_model::AppName;
use berth_model::network::{Named, NetworkTable};
use std::net::Ipv4Addr;

/// Addresses in one answer at most: they fit into 512 bytes (RFC 1035 §4.2.1) under the longest of our names.
const MOST: usize = 12;
/// Seconds that an answer may be kept.
const TTL: u32 = 2;
/// Top of all names that are ours alone (reserved for private use by ICANN, resolution 2024.07.29.06).
const TOP: &str = "internal";

const A: u16 = 1;
const ANY: u16 = 255;
const IN: u16 = 1;
const NAME_ERROR: u8 = 3;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// These containers; never empty.
    Found(Vec<Ipv4Addr>),
    /// Nothing: there is no such name for this caller.
    Nobody,
    /// Another server knows.
    Elsewhere,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    header: [u8; 12],
    /// The question section as it came.
    question: &'a [u8],
    /// The name in lower case, without the last dot.
    pub(super) name: String,
    kind: u16,
    class: u16,
}

impl<'a> Query<'a> {
    /// A standard query with one question; `None` for everything else.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let header: [u8; 12] = message.get(..12)?.try_into().ok()?;
        let (is_answer, opcode) = (header[2] & 0x80 != 0, header[2] >> 3 & 0xf);
        if is_answer || opcode != 0 || header[4..6] != [0, 1] {
            return None;
        }
        let body = &message[12..];
        let (mut at, mut labels) = (0, Vec::new());
        loop {
            let length = usize::from(*body.get(at)?);
            at += 1;
            match length {
                0 => break,
                1..=63 => {
                    let label = std::str::from_utf8(body.get(at..at + length)?).ok()?;
                    // A dot inside a label would read like two.
                    if label.contains('.') {
                        return None;
                    }
                    labels.push(label.to_ascii_lowercase());
                    at += length;
                }
                _ => return None, // pointers have no place in a question
            }
            if at > 255 {
                return None;
            }
        }
        let rest = body.get(at..at + 4)?;
        let (kind, class) = (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
        Some(Self { header, question: &body[..at + 4], name: labels.join("."), kind, class })
    }

    /// The answer: `None` if another server is to be asked.
    pub(super) fn answer(&self, lookup: &Lookup) -> Option<Vec<u8>> {
        let (code, addresses) = match lookup {
            Lookup::Elsewhere => return None,
            Lookup::Nobody => (NAME_ERROR, &[][..]),
            Lookup::Found(addresses) if [A, ANY].contains(&self.kind) && self.class == IN => {
                (0, &addresses[..])
            }
            // The name is there, but has nothing of the kind, such as IPv6 addresses.
            Lookup::Found(_) => (0, &[][..]),
        };
        let count = addresses.len().min(MOST);
        let mut out = self.header[..2].to_vec();
        // An answer, with authority; whether recursion was desired, as it came; recursion is available.
        out.extend([0x84 | (self.header[2] & 0x01), 0x80 | code, 0, 1, 0]);
        out.push(u8::try_from(count).unwrap_or_default());
        out.extend([0; 4]);
        out.extend(self.question);
        // Each query begins elsewhere, so that callers who take the first spread.
        let start = usize::from(u16::from_be_bytes([self.header[0], self.header[1]]));
        for index in 0..count {
            let address = addresses[(start + index) % addresses.len()];
            out.extend([0xc0, 12]); // the name of the question
            out.extend(A.to_be_bytes());
            out.extend(IN.to_be_bytes());
            out.extend(TTL.to_be_bytes());
            out.extend(4_u16.to_be_bytes());
            out.extend(address.octets());
        }
        Some(out)
    }
}

/// What `name` means to a container of `caller`; `None` is somebody who is no container's.
pub(super) fn lookup(table: &NetworkTable, caller: Option<&AppName>, name: &str) -> Lookup {
    let own = name == TOP || name.strip_suffix(TOP).is_some_and(|rest| rest.ends_with('.'));
    let none = if own { Lookup::Nobody } else { Lookup::Elsewhere };
    let Some(networks) = caller.and_then(|caller| table.apps.get(caller)) else { return none };
    let reachable = |app: &AppName| table.apps.get(app).is_some_and(|other| !other.is_disjoint(networks));
    let wanted = match name.strip_suffix(TOP).and_then(|rest| rest.strip_suffix('.')) {
        Some(rest) => readings(rest),
        None if own => return none,
        None => dokku(name),
    };
    for (app, process, ordinal) in wanted {
        let fits = |named: &&Named| {
            named.app.as_str() == app
                && named.process.as_str().eq_ignore_ascii_case(process)
                && ordinal.is_none_or(|ordinal| named.ordinal == ordinal)
        };
        let mut found: Vec<Ipv4Addr> = table
            .named
            .values()
            .filter(fits)
            .filter(|named| reachable(&named.app))
            .map(|named| named.address)
            .collect();
        if !found.is_empty() {
            found.sort_unstable();
            found.dedup();
            return Lookup::Found(found);
        }
    }
    none
}

/// App, process type, and which one of it.
type Reading<'a> = (&'a str, &'a str, Option<u32>);

/// What comes before `.internal` may be a process type and an app, a number before that, or an app alone; an app's name may
/// have dots itself. The first reading that leads somewhere counts.
fn readings(rest: &str) -> Vec<Reading<'_>> {
    let mut all = Vec::new();
    if let Some((first, more)) = rest.split_once('.') {
        all.push((more, first, None));
        if let (Ok(ordinal), Some((process, app))) = (first.parse::<u32>(), more.split_once('.')) {
            all.push((app, process, Some(ordinal)));
        }
    }
    all.push((rest, "web", None));
    all
}

/// `myapp.web`, `myapp.web.1`.
fn dokku(name: &str) -> Vec<Reading<'_>> {
    let Some((before, last)) = name.rsplit_once('.') else { return Vec::new() };
    let mut all = vec![(before, last, None)];
    if let (Ok(ordinal), Some((app, process))) = (last.parse::<u32>(), before.rsplit_once('.')) {
        all.push((app, process, Some(ordinal)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_model::names::NetworkName;
    use berth_model::{ContainerId, ProcessType};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a name")
    }

    fn table() -> NetworkTable {
        let on = |name: &str| BTreeSet::from([NetworkName::parse(name).expect("a name")]);
        let named = |name: &str, process: &str, ordinal: u32, last: u8| {
            let id = ContainerId::parse(&format!("{name}.{process}.{ordinal}.x")).expect("an id");
            let process = ProcessType::parse(process).expect("a type");
            (id, Named { app: app(name), process, ordinal, address: [10, 0, 0, last].into() })
        };
        NetworkTable {
            apps: BTreeMap::from([
                (app("shop"), on("back")),
                (app("cache"), on("back")),
                (app("a.b"), on("back")),
                (app("other"), on("front")),
            ]),
            named: BTreeMap::from([
                named("cache", "web", 1, 1),
                named("cache", "web", 2, 2),
                named("cache", "Side_Car", 1, 3),
                named("a.b", "web", 1, 4),
                named("other", "web", 1, 5),
                named("shop", "web", 1, 6),
            ]),
            ..NetworkTable::default()
        }
    }

    #[test]
    fn names_lead_to_whom_the_caller_may_reach() {
        let table = table();
        let ask = |caller: &str, name: &str| match lookup(&table, Some(&app(caller)), name) {
            Lookup::Found(found) => {
                found.iter().map(|at| at.octets()[3].to_string()).collect::<Vec<_>>().join(" ")
            }
            Lookup::Nobody => "nobody".to_owned(),
            Lookup::Elsewhere => "elsewhere".to_owned(),
        };
        for (name, found) in [
            ("cache.internal", "1 2"),
            ("web.cache.internal", "1 2"),
            ("2.web.cache.internal", "2"),
            ("cache.web", "1 2"),
            ("cache.web.2", "2"),
            ("side_car.cache.internal", "3"),
            ("a.b.internal", "4"),
            ("web.a.b.internal", "4"),
            ("1.web.a.b.internal", "4"),
            ("a.b.web", "4"),
            ("shop.internal", "6"),
            ("3.web.cache.internal", "nobody"),
            ("worker.cache.internal", "nobody"),
            ("other.internal", "nobody"),
            ("metadata.google.internal", "nobody"),
            ("internal", "nobody"),
            ("other.web", "elsewhere"),
            ("example.com", "elsewhere"),
            ("notinternal", "elsewhere"),
            ("", "elsewhere"),
        ] {
            assert_eq!(ask("shop", name), found, "{name}");
        }
        assert_eq!(ask("other", "cache.internal"), "nobody");
        assert_eq!(ask("stranger", "cache.internal"), "nobody");
        assert_eq!(ask("stranger", "cache.web"), "elsewhere");
        assert_eq!(lookup(&table, None, "cache.internal"), Lookup::Nobody);
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            out.push(u8::try_from(label.len()).expect("short"));
            out.extend(label.as_bytes());
        }
        out.extend([0]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out
    }

    #[test]
    fn answers_are_what_rfc_1035_says() {
        let message = query("Web.Cache.INTERNAL", A);
        let asked = Query::parse(&message).expect("a query");
        assert_eq!(asked.name, "web.cache.internal");
        let found = Lookup::Found(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]);
        let answer = asked.answer(&found).expect("ours");
        assert_eq!(answer[..12], [0, 1, 0x85, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert_eq!(answer[12..message.len()], message[12..], "the question, as it was written");
        assert_eq!(answer[message.len()..][..16], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 2, 0, 4, 10, 0, 0, 2]);
        assert_eq!(asked.answer(&Lookup::Nobody).expect("ours")[3], 0x83);
        assert_eq!(asked.answer(&Lookup::Elsewhere), None);
        let message = query("cache.internal", 28);
        let empty = Query::parse(&message).expect("a query").answer(&found).expect("ours");
        assert_eq!((empty[3], empty[7]), (0x80, 0), "no IPv6, and no such name is something else");
        let many = Lookup::Found((0..200).map(|last| [10, 0, 0, last].into()).collect());
        let longest = format!("{0}.{0}.{0}.internal", "x".repeat(63));
        let message = query(&longest, A);
        assert!(Query::parse(&message).expect("a query").answer(&many).expect("ours").len() <= 512);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_is_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(asked) = Query::parse(&bytes) {
                let found = lookup(&table(), Some(&app("shop")), &asked.name);
                if let Some(answer) = asked.answer(&found) {
                    prop_assert!(answer.len() <= 12 + bytes.len() + 16 * MOST);
                }
            }
        }
    }
}
