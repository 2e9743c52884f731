//! The real `berth` binary against a platform that is not there.

mod commands;
mod everything;
mod guides;
mod hook;
mod routes;
mod session;
mod support;
