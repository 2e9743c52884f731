//! Serves `site.txt` with a small Perl program: one layer that is cached, variables for the start, a process, an SBOM.

use libcnb::build::{BuildContext, BuildResult, BuildResultBuilder};
use libcnb::data::build_plan::BuildPlanBuilder;
use libcnb::data::launch::{LaunchBuilder, ProcessBuilder};
use libcnb::data::layer_name;
use libcnb::data::process_type;
use libcnb::data::sbom::SbomFormat;
use libcnb::detect::{DetectContext, DetectResult, DetectResultBuilder};
use libcnb::generic::{GenericMetadata, GenericPlatform};
use libcnb::layer::{CachedLayerDefinition, InvalidMetadataAction, LayerState, RestoredLayerAction};
use libcnb::layer_env::{LayerEnv, ModificationBehavior, Scope};
use libcnb::sbom::Sbom;
use libcnb::{Buildpack, Error, Platform, buildpack_main};
use serde::{Deserialize, Serialize};

struct Site;

#[derive(Clone, Deserialize, Serialize)]
struct Server {
    version: String,
}

const VERSION: &str = "1";
const SERVER: &str = r#"use strict; use Socket;
socket(my $s, PF_INET, SOCK_STREAM, getprotobyname('tcp')) or die; setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
bind($s, sockaddr_in($ENV{PORT}, INADDR_ANY)) or die; listen($s, 16) or die;
while (accept(my $c, $s)) {
  sysread($c, my $r, 4096);
  open(my $f, '<', 'site.txt') or die; local $/; my $b = <$f> . "by $ENV{SERVED_BY}\n";
  syswrite($c, "HTTP/1.1 200 OK\r\nContent-Length: " . length($b) . "\r\nConnection: close\r\n\r\n" . $b); close($c);
}
"#;

impl Buildpack for Site {
    type Platform = GenericPlatform;
    type Metadata = GenericMetadata;
    type Error = std::io::Error;

    fn detect(&self, context: DetectContext<Self>) -> libcnb::Result<DetectResult, Self::Error> {
        if !context.app_dir.join("site.txt").exists() {
            return DetectResultBuilder::fail().build();
        }
        let plan = BuildPlanBuilder::new().provides("site").requires("site").build();
        DetectResultBuilder::pass().build_plan(plan).build()
    }

    fn build(&self, context: BuildContext<Self>) -> libcnb::Result<BuildResult, Self::Error> {
        println!("libcnb: {} {}, secret {:?}", context.target.os, context.target.arch, context.platform.env().get("SECRET"));
        let layer = context.cached_layer(layer_name!("server"), CachedLayerDefinition {
            build: false,
            launch: true,
            invalid_metadata_action: &|_| InvalidMetadataAction::DeleteLayer,
            restored_layer_action: &|server: &Server, _| match server.version == VERSION {
                true => RestoredLayerAction::KeepLayer,
                false => RestoredLayerAction::DeleteLayer,
            },
        })?;
        match layer.state {
            LayerState::Restored { .. } => println!("libcnb: the server is there"),
            LayerState::Empty { .. } => {
                println!("libcnb: writing the server");
                std::fs::write(layer.path().join("server.pl"), SERVER).map_err(Error::BuildpackError)?;
                layer.write_env(LayerEnv::new().chainable_insert(
                    Scope::Launch,
                    ModificationBehavior::Override,
                    "SERVED_BY",
                    "libcnb",
                ))?;
                layer.write_metadata(Server { version: VERSION.to_owned() })?;
            }
        }
        let program = layer.path().join("server.pl").to_string_lossy().into_owned();
        let process = ProcessBuilder::new(process_type!("web"), ["perl", program.as_str()]).default(true).build();
        let sbom = r#"{"bomFormat":"CycloneDX","specVersion":"1.5","components":[]}"#;
        BuildResultBuilder::new()
            .launch(LaunchBuilder::new().process(process).build())
            .launch_sbom(Sbom::from_bytes(SbomFormat::CycloneDxJson, sbom))
            .build()
    }
}

buildpack_main!(Site);
