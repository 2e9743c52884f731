//! A real etcd of several members, for controllers to keep their state in.
//!
//! In: where its members are; `etcd` of Debian's etcd-server. Out: the lines that start them, the URL for `--store`, and what its
//! JSON gateway says (etcd's documentation, "gRPC gateway").

use crate::http::{Reply, Request, once};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where one member is.
#[derive(Clone, Debug)]
pub struct EtcdMember {
    /// Where it is asked.
    pub client: SocketAddr,
    /// Where the others find it.
    pub peer: SocketAddr,
    /// Where its data is.
    pub data: PathBuf,
}

/// Certificates of an etcd that wants one of whoever asks (PEM).
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// Who signed them.
    pub ca: PathBuf,
    /// The members' own, also good for clients: the gateway shows it to etcd.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// What starts one of the members.
#[must_use]
pub fn etcd_line(members: &[EtcdMember], index: usize, tls: Option<&EtcdTls>) -> Vec<String> {
    let client = |member: &EtcdMember| match tls {
        Some(_) => format!("https://{}", member.client),
        None => format!("http://{}", member.client),
    };
    let peer = |member: &EtcdMember| format!("http://{}", member.peer);
    let all = members.iter().enumerate().map(|(number, member)| format!("m{number}={}", peer(member)));
    let all = all.collect::<Vec<_>>().join(",");
    let (member, name) = (&members[index], format!("m{index}"));
    let mut line = vec!["etcd".to_owned()];
    let options = [
        ("--name", name),
        ("--initial-cluster", all),
        ("--data-dir", path(&member.data)),
        ("--listen-client-urls", client(member)),
        ("--advertise-client-urls", client(member)),
        ("--listen-peer-urls", peer(member)),
        ("--initial-advertise-peer-urls", peer(member)),
    ];
    line.extend(options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
    if let Some(tls) = tls {
        let files =
            [("--trusted-ca-file", &tls.ca), ("--cert-file", &tls.certificate), ("--key-file", &tls.key)];
        line.extend(files.into_iter().flat_map(|(option, file)| [option.to_owned(), path(file)]));
        line.push("--client-cert-auth".to_owned());
    }
    line
}

/// What controllers are told.
#[must_use]
pub fn store_url(members: &[EtcdMember], name: &str) -> String {
    let members: Vec<_> = members.iter().map(|member| member.client.to_string()).collect();
    format!("etcd://{}/{name}", members.join(","))
}

/// Asks a member, in the clear.
pub fn etcd_call(member: SocketAddr, call: &str, body: &Value) -> Result<Value> {
    let path = format!("/v3/{call}");
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    let body = Some(body.to_string().into_bytes());
    let request = Request { method: "POST", host: "etcd", path: &path, headers, body };
    let reply: Reply = once(member, &request)?;
    ensure!(reply.status == 200, "etcd's {call}: {} {}", reply.status, reply.text());
    serde_json::from_str(&reply.text()).context("etcd answered something else than JSON")
}

fn leader_and_self(member: SocketAddr) -> Result<(String, String)> {
    let status = etcd_call(member, "maintenance/status", &json!({}))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let leader = text(&status["leader"]).filter(|leader| leader != "0").context("etcd has no leader")?;
    Ok((leader, text(&status["header"]["member_id"]).context("a member without an id")?))
}

/// Which of those members leads the others.
pub fn etcd_leader(members: &[EtcdMember]) -> Result<usize> {
    let leads = |member: &EtcdMember| leader_and_self(member.client).is_ok_and(|(leader, own)| leader == own);
    members.iter().position(leads).context("no member of etcd leads")
}

/// Has another member lead.
pub fn etcd_hand_over(members: &[EtcdMember], to: usize) -> Result<()> {
    let leader = etcd_leader(members)?;
    if leader == to {
        return Ok(());
    }
    let (_, id) = leader_and_self(members[to].client)?;
    etcd_call(members[leader].client, "maintenance/transfer-leadership", &json!({ "targetID": id })).map(drop)
}
