//! The real `berth` binary against a platform that is not there.

mod commands;
mod hook;
mod session;
mod support;
