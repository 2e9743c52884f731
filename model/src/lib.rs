//! Berth's words: names, ids, states and the types that cross a process boundary.
//!
//! In: text and JSON from users, files and peers. Out: values that are right by construction.
//! Nothing here reads a clock, a file or a socket; everyone may depend on this crate and it depends on no other room.

pub mod alerts;
pub mod amount;
pub mod apart;
pub mod api;
pub mod app_json;
pub mod build;
pub mod certs;
pub mod check;
pub mod checks_file;
pub mod cluster;
pub mod config_api;
pub mod container;
pub mod cron;
pub mod deploy;
pub mod digest;
pub mod envfile;
pub mod events;
pub mod image;
pub mod image_name;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod network;
pub mod node;
pub mod placing;
pub mod policy;
pub mod ports;
pub mod processes;
pub mod procfile;
pub mod proxy_api;
pub mod proxy_settings;
pub mod registry;
pub mod release;
pub mod route;
pub mod run;
pub mod secrets;
pub mod site;
pub mod tls;
pub mod traffic;

pub use digest::Digest;
pub use image_name::ImageName;
pub use names::{
    AppName, BuildId, ContainerId, EnvName, HostPattern, NameError, NetworkName, NodeName, ProcessType,
    ReleaseVersion,
};
pub use registry::{RegistryLogin, RegistryServer};
