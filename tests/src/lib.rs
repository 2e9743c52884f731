//! A whole Berth, driven as its users drive it: the real binary, real `git`, real HTTP.
//!
//! In: the `berth` binary beside the test's own (or `BERTH_BIN`), the stack tars of `BERTH_STACK_DIR`.
//! Out: [`Berth`], one running platform with a data directory of its own; [`Repo`], a user's working copy; [`Load`], users
//! that keep asking while something happens; [`Census`], what the platform holds of the kernel; [`Outside`], a machine
//! elsewhere; [`hosts`], many machines; [`etcd`], what several controllers share.
//! Waits are always for a condition with a deadline, never for a time.

mod acme;
mod census;
pub mod etcd;
pub mod hosts;
mod http;
mod load;
mod outside;
mod platform;
mod repo;

pub use acme::{Acme, AcmeOptions};
pub use census::Census;
pub use http::{Reply, Request, once, websocket_echo};
pub use load::{Load, LoadReport};
pub use outside::Outside;
pub use platform::{Berth, Output, Role, binary, free_address, until};
pub use repo::{Files, Repo};
