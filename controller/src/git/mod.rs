//! Git: pushes over SSH and HTTP become source trees, builds and deploys; clones are served.
//!
//! In: connections of people with a key or token. Out: `git receive-pack` and `git upload-pack` on bare repositories that
//! only Berth configures, and the platform's own commands over SSH. The build happens inside the push: git's pre-receive
//! hook asks the controller ([`hook`]), whose answer is the push's output and its verdict. What comes as an archive or lies
//! in another repository becomes a commit first ([`import`]), and so does an image ([`from_image`]).

pub mod archive;
mod commit;
pub(crate) mod from_image;
pub mod hook;
pub mod http;
pub(crate) mod import;
pub mod lfs;
pub mod lfs_http;
pub mod lfs_transfer;
mod process;
mod pty;
pub mod push;
pub mod refs;
pub mod repository;
mod session;
pub mod ssh;
pub(crate) mod submodules;
pub mod tree;

pub use push::Pushes;
pub use tree::Source;
