//! What a node may write besides its usual: the one stack or image that the controller has it import just now.
//!
//! In: the node that a call went to and the repository it is to fill. Out: whether a request of that node is a part of it. A grant ends
//! with the call; none outlives the controller.

use crate::Platform;
use berth_model::NodeName;
use http::Method;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who may write where: each pair once for each call.
#[derive(Debug, Default)]
pub(crate) struct Grants(Mutex<Vec<(NodeName, String)>>);

impl Grants {
    fn pairs(&self) -> MutexGuard<'_, Vec<(NodeName, String)>> {
        // Every change is one push or removal: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `node` may do this because it was told to.
    pub(super) fn allow(&self, node: &NodeName, method: &Method, path: &str) -> bool {
        let within = |repository: &str| {
            let rest = path.strip_prefix("/v2/").and_then(|rest| rest.strip_prefix(repository));
            rest.is_some_and(|rest| rest.starts_with("/blobs/") || rest.starts_with("/manifests/"))
        };
        matches!(*method, Method::POST | Method::PUT | Method::PATCH)
            && self.pairs().iter().any(|(name, repository)| name == node && within(repository))
    }
}

/// A call that imports into `repository`: whichever node takes it may write there until this is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Import(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    platform: Platform,
    repository: String,
    node: Mutex<Option<NodeName>>,
}

impl Import {
    pub(crate) fn new(platform: &Platform, repository: &str) -> Self {
        let (platform, repository) = (platform.clone(), repository.to_owned());
        Self(Arc::new(Inner { platform, repository, node: Mutex::default() }))
    }

    /// `node` takes it, and whoever had it before does not.
    pub(super) fn taken_by(&self, node: &NodeName) {
        self.0.give_back();
        *self.0.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node.clone());
        self.0.platform.cluster().grants().pairs().push((node.clone(), self.0.repository.clone()));
    }
}

impl Inner {
    fn give_back(&self) {
        let Some(node) = self.node.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let mut pairs = self.platform.cluster().grants().pairs();
        if let Some(at) = pairs.iter().position(|(name, to)| *name == node && *to == self.repository) {
            pairs.remove(at);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_for_one_node_and_one_repository() {
        let node = |name: &str| NodeName::parse(name).expect("valid");
        let grants = Grants(Mutex::new(vec![(node("a"), "stacks/debian-12-run".to_owned())]));
        let may = |name: &str, method: Method, path: &str| grants.allow(&node(name), &method, path);
        assert!(may("a", Method::POST, "/v2/stacks/debian-12-run/blobs/uploads/"));
        assert!(may("a", Method::PUT, "/v2/stacks/debian-12-run/manifests/latest"));
        assert!(!may("b", Method::POST, "/v2/stacks/debian-12-run/blobs/uploads/"), "another node");
        assert!(!may("a", Method::DELETE, "/v2/stacks/debian-12-run/manifests/latest"));
        for elsewhere in [
            "/v2/stacks/debian-12-run-2/blobs/uploads/",
            "/v2/stacks/debian-12-build/blobs/uploads/",
            "/v2/stacks/debian-12-run",
            "/v2/stacks/debian-12-run/more/blobs/uploads/",
            "/v1/stacks/debian-12-run/blobs/",
        ] {
            assert!(!may("a", Method::POST, elsewhere), "{elsewhere}");
        }
    }
}
