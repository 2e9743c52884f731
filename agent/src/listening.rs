//! Where a container listens, for the advice a developer gets whose app does not listen where it should.
//!
//! In: the kernel's tables of sockets (`/proc/<pid>/net/tcp`, proc_pid_net(5)). Out: addresses and ports; a sentence.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where processes in the network namespace of `pid` listen.
fn listening(pid: u32) -> BTreeSet<(IpAddr, u16)> {
    let tables = ["tcp", "tcp6"].map(|name| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")));
    tables.iter().flatten().flat_map(|table| table.lines().filter_map(parse)).collect()
}

/// One line of a table, if it is a listening socket (state `0A`). Addresses are in words of the machine's byte order.
fn parse(line: &str) -> Option<(IpAddr, u16)> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let is_listening = fields.nth(1)? == "0A";
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    is_listening.then_some((address, u16::from_str_radix(port, 16).ok()?))
}

/// What to tell people when nothing accepts connections on `port`.
pub(crate) fn advice(pid: u32, port: u16) -> String {
    words(port, &listening(pid))
}

fn words(port: u16, found: &BTreeSet<(IpAddr, u16)>) -> String {
    if let Some((address, _)) = found.iter().find(|(_, at)| *at == port) {
        return format!(
            "it listens on {address} only, where requests do not reach it; make it listen on 0.0.0.0 and port $PORT ({port})"
        );
    }
    let others: BTreeSet<String> = found.iter().map(|(_, at)| at.to_string()).collect();
    if others.is_empty() {
        return format!(
            "nothing listens on $PORT ({port}) yet; requests are answered with 502 until something does"
        );
    }
    let others = others.into_iter().collect::<Vec<_>>().join(", ");
    format!(
        "it listens on port {others}, not on $PORT ({port}); requests are answered with 502 until it does"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found_in_the_kernels_tables() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
                     0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
                     1: 0100007F:1389 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0\n\
                     2: 00000000000000000000000000000000:0BB8 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0\n\
                     3: nonsense\n";
        let found: Vec<_> = table.lines().filter_map(parse).collect();
        let expected: Vec<(IpAddr, u16)> =
            vec![(Ipv4Addr::LOCALHOST.into(), 5000), (Ipv6Addr::UNSPECIFIED.into(), 3000)];
        assert_eq!(found, expected);
    }

    #[test]
    fn this_process_is_seen_listening() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        assert!(listening(std::process::id()).contains(&(address.ip(), address.port())));
    }

    #[test]
    fn the_advice_says_what_is_wrong() {
        let at = |port| (IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        assert!(words(5000, &[at(5000)].into()).contains("127.0.0.1 only"));
        assert!(words(5000, &[at(3000)].into()).contains("listens on port 3000, not on $PORT (5000)"));
        assert!(words(5000, &BTreeSet::new()).contains("nothing listens"));
    }
}
