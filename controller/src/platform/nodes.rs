//! The machines of the platform, as the store keeps them: `nodes/<name>`.
//!
//! In: names, changes. Out: [`NodeRecord`]s. Whether a node is alive is not here: the fleet knows.

use super::{Platform, PlatformError};
use crate::store::{Compare, Write};
use berth_model::NodeName;
use berth_model::node::NodeRecord;

const NODES: &str = "nodes/";

pub(crate) fn key(node: &NodeName) -> String {
    format!("{NODES}{node}")
}

impl Platform {
    /// Every machine, by name.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, PlatformError> {
        Ok(self.load_all(NODES).await?.into_iter().map(|(_, record)| record).collect())
    }

    /// One machine.
    pub async fn node(&self, node: &NodeName) -> Result<Option<NodeRecord>, PlatformError> {
        Ok(self.load(&key(node)).await?.map(|(record, _)| record))
    }

    /// Changes the record of a machine as it is now: `change` is given `None` if there is none, and what it gives is written.
    /// It may be called again when somebody else wrote in between.
    pub async fn change_node<E: From<PlatformError>>(
        &self,
        node: &NodeName,
        change: impl Fn(Option<NodeRecord>) -> Result<NodeRecord, E>,
    ) -> Result<NodeRecord, E> {
        loop {
            let known = self.load::<NodeRecord>(&key(node)).await?;
            let revision = known.as_ref().map(|(_, revision)| *revision);
            let record = change(known.map(|(record, _)| record))?;
            let unchanged = Compare::unchanged(key(node), revision);
            let write = Write::Put(key(node), super::json(&record));
            if self.txn(vec![unchanged], vec![write]).await?.is_some() {
                return Ok(record);
            }
        }
    }

    /// Writes the record of a machine that was `before` when it was read, together with `then`, if `compare` holds too. Gives whether
    /// it did.
    pub(crate) async fn put_node(
        &self,
        record: &NodeRecord,
        before: Option<&NodeRecord>,
        mut compare: Vec<Compare>,
        mut then: Vec<Write>,
    ) -> Result<bool, PlatformError> {
        let key = key(&record.name);
        let known = self.load::<NodeRecord>(&key).await?;
        if known.as_ref().map(|(known, _)| known) != before {
            return Ok(false);
        }
        compare.push(Compare::unchanged(key.clone(), known.map(|(_, revision)| revision)));
        then.push(Write::Put(key, super::json(record)));
        Ok(self.txn(compare, then).await?.is_some())
    }

    /// Keeps what the agent of the controller's own machine says of its subnet, and where other nodes reach it, as long as nothing
    /// else is known of that. A name that a machine joined under is refused.
    pub(crate) async fn note_local(
        &self,
        node: &NodeName,
        subnet: Option<&str>,
    ) -> Result<(), PlatformError> {
        let known = self.node(node).await?;
        if known.as_ref().is_some_and(NodeRecord::is_joined) {
            return Err(PlatformError::Conflict(format!(
                "another machine joined as {node}; start this machine's agent with another name (--node)"
            )));
        }
        let reached = self.cluster().reached();
        let same = |known: NodeRecord| {
            (subnet.is_none() || known.subnet.as_deref() == subnet)
                && (reached.is_none() || known.address.is_some())
        };
        if known.is_some_and(same) {
            return Ok(());
        }
        let noted = self.change_node(node, |record| {
            let mut record = record.unwrap_or_else(|| NodeRecord::new(node.clone(), super::now_ms()));
            record.subnet = subnet.map(str::to_owned).or(record.subnet);
            record.address = record.address.or(reached);
            Ok::<_, PlatformError>(record)
        });
        noted.await.map(drop)
    }

    /// Forgets a machine: its certificate opens nothing from now on.
    pub async fn forget_node(&self, node: &NodeName) -> Result<(), PlatformError> {
        self.remove(&key(node)).await
    }
}
