//! The node's packet rules: one generated text, applied whole in one nftables transaction.
//!
//! In: bridge, subnet, published ports, the ports of the overlay. Out: text for `nft -f -`, and its application.
//!
//! What they promise: a container sends only from its own address (pinned to its port of the bridge); it reaches the
//! world and the containers it shares a network with ([`reach`](super::reach)), but no other container, no address of this node
//! or another and no link-local address (cloud metadata); nobody reaches it from outside except through a published port.
//! The nodes' own processes (the proxies) may reach it. The overlay takes packets from other nodes only, and of each only
//! such as come from its own subnet: from those spoken with in the clear by the rules, from the others by WireGuard itself.
//!
//! Every address of the subnet is pinned to its port from the start, so starting a container changes no rule; what changes with
//! apps and nodes are elements of sets.

use super::subnet::Subnet;
use berth_model::container::Protocol;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use tokio::io::AsyncWriteExt;

/// What the rules are made from.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Six hexadecimal digits that name all of this instance's host objects.
    pub instance: &'a str,
    /// The containers' addresses.
    pub subnet: Subnet,
    /// Who answers DNS queries of containers while nobody listens on the gateway address; `None` where there is no such server,
    /// or a kernel that cannot tell.
    pub stand_in: Option<Ipv4Addr>,
    /// (protocol, port of the node) → (address, port of the container).
    pub published: &'a BTreeMap<(Protocol, u16), (Ipv4Addr, u16)>,
    /// The UDP port at which packets of containers of other nodes arrive in the clear; `None` as long as there are none.
    pub vxlan: Option<u16>,
    /// The same, encrypted.
    pub wireguard: Option<u16>,
}

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The program is missing or cannot run.
    #[error("cannot run nft to set the node's packet rules; is the package nftables installed?")]
    Spawn(#[source] std::io::Error),
    /// The kernel or nft refused them.
    #[error("nft refused the node's packet rules: {0}")]
    Refused(String),
}

/// The name of the port of the bridge whose container has the address at `offset`.
#[must_use]
pub fn port_name(instance: &str, offset: u32) -> String {
    format!("v{instance}{offset}")
}

/// The name of the bridge.
#[must_use]
pub fn bridge_name(instance: &str) -> String {
    format!("bth{instance}")
}

/// Sets that [`reach`](super::reach) fills, and what is done with a packet between two containers. `tunnels` are the nodes that are
/// spoken with in the clear, and no others; `elsewhere` are other nodes' subnets, to which no packet goes but through the overlay,
/// not even while there is no way through it. `@th,336,32` is the source
/// address inside a VXLAN packet: behind UDP (8 bytes), VXLAN (8, RFC 7348 §5), Ethernet (14) and 12 bytes of IPv4; `@th,224,16`
/// is the type of the Ethernet frame. A container's membership is mutual, so that both directions of a connection pass without
/// being remembered, and an end of it ends them. No packet of a container has a mark of its own.
const SETS: &str = "\
  set tunnels {
    typeof ip saddr . @th,336,32
    flags interval
  }
  set nodes {
    type ipv4_addr
  }
  set gateways {
    type ipv4_addr
  }
  set elsewhere {
    type ipv4_addr
    flags interval
  }
  map groups {
    type ipv4_addr : mark
  }
  set reach {
    type mark . ipv4_addr
  }
  chain linked {
    meta mark set 0
    meta mark set ip saddr map @groups
    meta mark . ip daddr @reach meta mark set 0 accept
    meta mark set 0
  }
";

/// The whole of the rules, with empty sets; replaces whatever this instance had before.
#[must_use]
pub fn text(facts: &Facts<'_>) -> String {
    let Facts { instance, subnet, stand_in, published, vxlan, wireguard } = facts;
    let bridge = bridge_name(instance);
    let tunnel = super::overlay::vxlan_name(instance);
    let secure = super::overlay::wireguard_name(instance);
    let mut out = removal(instance);
    let gateway = subnet.gateway();
    let mut dns = String::new();
    if let Some(server) = stand_in {
        for protocol in ["udp", "tcp"] {
            // A socket of the gateway address alone is the agent's.
            let query = format!("iifname \"{bridge}\" ip daddr {gateway} {protocol} dport 53");
            let _ = writeln!(dns, "    {query} socket wildcard 0 accept\n    {query} dnat ip to {server}");
        }
    }
    let mut wire = String::new();
    if let Some(port) = vxlan {
        let _ =
            writeln!(wire, "    udp dport {port} @th,224,16 0x0800 ip saddr . @th,336,32 @tunnels accept");
        let _ = writeln!(wire, "    udp dport {port} drop");
    }
    if let Some(port) = wireguard {
        let _ = writeln!(wire, "    udp dport {port} ip saddr @nodes accept");
        let _ = writeln!(wire, "    udp dport {port} drop");
    }
    if !wire.is_empty() {
        let chain = "type filter hook input priority filter - 6; policy accept;";
        wire = format!("  chain from_nodes {{\n    {chain}\n{wire}  }}\n");
    }
    let mut dnat = String::new();
    for ((protocol, port), (address, container_port)) in published.iter() {
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let _ = writeln!(dnat, "    {protocol} dport {port} dnat ip to {address}:{container_port}");
    }
    let _ = write!(
        out,
        r#"table inet berth_{instance} {{
{SETS}  chain early {{
    type filter hook prerouting priority raw; policy accept;
    iifname {{ "{bridge}", "{tunnel}", "{secure}" }} ip daddr 127.0.0.0/8 drop
    iifname {{ "{bridge}", "{tunnel}", "{secure}" }} meta nfproto ipv6 drop
  }}
{wire}
  chain to_node {{
    type filter hook input priority filter - 5; policy accept;
    iifname != {{ "{bridge}", "{tunnel}", "{secure}" }} accept
    ct state established,related accept
    iifname {{ "{tunnel}", "{secure}" }} drop
    ip daddr {gateway} udp dport 53 accept
    ip daddr {gateway} tcp dport 53 accept
    reject with icmpx admin-prohibited
  }}
  chain through {{
    type filter hook forward priority filter - 5; policy accept;
    iifname != {{ "{bridge}", "{tunnel}", "{secure}" }} oifname != {{ "{bridge}", "{tunnel}", "{secure}" }} accept
    iifname "{bridge}" oifname {{ "{bridge}", "{tunnel}", "{secure}" }} jump linked
    iifname "{bridge}" oifname {{ "{tunnel}", "{secure}" }} ip daddr @gateways ct state established,related accept
    iifname {{ "{tunnel}", "{secure}" }} oifname "{bridge}" ip saddr @gateways accept
    iifname {{ "{tunnel}", "{secure}" }} oifname "{bridge}" jump linked
    iifname {{ "{tunnel}", "{secure}" }} drop
    iifname "{bridge}" oifname "bth*" reject with icmpx admin-prohibited
    iifname "{bridge}" oifname "btx*" reject with icmpx admin-prohibited
    iifname "{bridge}" oifname "btw*" reject with icmpx admin-prohibited
    iifname "{bridge}" ip daddr @elsewhere drop
    ct state established,related accept
    iifname "{bridge}" ip daddr @nodes reject with icmpx admin-prohibited
    iifname "{bridge}" ip daddr 169.254.0.0/16 reject with icmpx admin-prohibited
    iifname "{bridge}" accept
    ct status dnat accept
    reject with icmpx admin-prohibited
  }}
  chain only_there {{
    oifname "lo" accept
    oifname "bth*" accept
    oifname "btx*" accept
    oifname "btw*" accept
    drop
  }}
  chain from_node {{
    type filter hook output priority filter - 5; policy accept;
    ip daddr @elsewhere jump only_there
  }}
  chain ports {{
{dnat}  }}
  chain published {{
    type nat hook prerouting priority dstnat; policy accept;
{dns}    iifname != "{bridge}" fib daddr type local jump ports
  }}
  chain published_here {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump ports
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != {{ "{bridge}", "{tunnel}", "{secure}" }} masquerade
    ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
  }}
}}
table bridge berth_{instance} {{
  set pinned {{
    type ifname . ipv4_addr
    elements = {{ "#
    );
    for (index, offset) in subnet.offsets().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(out, "{comma}\"{}\" . {}", port_name(instance, offset), subnet.at(offset));
    }
    let _ = write!(
        out,
        r#" }}
  }}
  chain from_ports {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "v{instance}*" accept
    iifname . ip saddr @pinned accept
    ether type arp iifname . arp saddr ip @pinned accept
    drop
  }}
}}
"#
    );
    out
}

/// Text that removes all rules of the instance, whether there are any or not.
#[must_use]
pub fn removal(instance: &str) -> String {
    let mut out = String::new();
    for family in ["inet", "bridge"] {
        let _ = writeln!(out, "table {family} berth_{instance}\ndelete table {family} berth_{instance}");
    }
    out
}

/// Applies `rules` in one transaction: all or nothing.
pub async fn apply(rules: &str) -> Result<(), RulesError> {
    let mut child = tokio::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(RulesError::Spawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that gave up early says why on stderr: that is the better message than EPIPE.
        let _ = stdin.write_all(rules.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(RulesError::Spawn)?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).chars().take(500).collect();
    Err(RulesError::Refused(said.trim().to_owned()))
}

/// Docker sets the policy of the forward chain to drop, which our `accept` cannot overrule. It leaves `DOCKER-USER` for
/// exactly this: there, traffic of our bridge is handed back to our own rules' verdict. Does nothing without Docker.
pub async fn pass_docker(instance: &str, present: bool) {
    let run = |args: Vec<String>| async move {
        let status = tokio::process::Command::new("iptables")
            .arg("-w")
            .args(args)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .await;
        status.is_ok_and(|status| status.success())
    };
    let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    if !run(words("-S DOCKER-USER".into())).await {
        return;
    }
    let bridge = bridge_name(instance);
    for side in ["-i", "-o"] {
        let rule = format!("DOCKER-USER {side} {bridge} -j ACCEPT");
        let there = run(words(format!("-C {rule}"))).await;
        let wanted = match (present, there) {
            (true, false) => "-I",
            (false, true) => "-D",
            _ => continue,
        };
        if !run(words(format!("{wanted} {rule}"))).await {
            tracing::warn!(%bridge, "cannot change Docker's chain DOCKER-USER; containers may not reach the network");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_read_as_reviewed() {
        let published = BTreeMap::from([((Protocol::Tcp, 30_000), (Ipv4Addr::new(10, 0, 0, 2), 5000))]);
        let facts = Facts {
            instance: "a1b2c3",
            subnet: "10.0.0.0/29".parse().expect("a subnet"),
            stand_in: Some(Ipv4Addr::new(192, 0, 2, 53)),
            published: &published,
            vxlan: Some(4790),
            wireguard: Some(51821),
        };
        let both = text(&facts);
        insta::assert_snapshot!(both);
        // No port is open, and no more closed, than there are devices.
        let chain =
            |vxlan, wireguard| text(&Facts { vxlan, wireguard, ..facts.clone() }).contains("from_nodes");
        assert!(chain(Some(4790), None) && chain(None, Some(51821)) && !chain(None, None));
    }
}
