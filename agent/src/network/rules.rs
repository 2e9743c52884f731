//! The node's packet rules: one generated text, applied whole in one nftables transaction.
//!
//! In: bridge, subnet, published ports. Out: text for `nft -f -`, and its application.
//!
//! What they promise: a container sends only from its own address (pinned to its port of the bridge); it reaches the
//! world but no other container, no address of the node itself and no link-local address (cloud metadata); nobody
//! reaches it from outside except through a published port. The node's own processes (the proxy) may reach it.
//!
//! Every address of the subnet is pinned to its port from the start, so starting a container changes no rule.

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
    /// Whether the node answers DNS queries of containers on the gateway address.
    pub resolver: bool,
    /// (protocol, port of the node) → (address, port of the container).
    pub published: &'a BTreeMap<(Protocol, u16), (Ipv4Addr, u16)>,
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

/// The whole of the rules; replaces whatever this instance had before.
#[must_use]
pub fn text(facts: &Facts<'_>) -> String {
    let Facts { instance, subnet, resolver, published } = facts;
    let bridge = bridge_name(instance);
    let mut out = removal(instance);
    let dns = if *resolver {
        let gateway = subnet.gateway();
        format!("ip daddr {gateway} udp dport 53 accept\n    ip daddr {gateway} tcp dport 53 accept")
    } else {
        String::new()
    };
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
  chain early {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" meta nfproto ipv6 drop
  }}
  chain to_node {{
    type filter hook input priority filter - 5; policy accept;
    iifname != "{bridge}" accept
    ct state established,related accept
    {dns}
    reject with icmpx admin-prohibited
  }}
  chain through {{
    type filter hook forward priority filter - 5; policy accept;
    iifname != "{bridge}" oifname != "{bridge}" accept
    ct state established,related accept
    iifname "{bridge}" oifname "bth*" reject with icmpx admin-prohibited
    iifname "{bridge}" ip daddr 169.254.0.0/16 reject with icmpx admin-prohibited
    iifname "{bridge}" accept
    ct status dnat accept
    reject with icmpx admin-prohibited
  }}
  chain ports {{
{dnat}  }}
  chain published {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname != "{bridge}" fib daddr type local jump ports
  }}
  chain published_here {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump ports
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
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
            resolver: true,
            published: &published,
        };
        insta::assert_snapshot!(text(&facts));
    }
}
