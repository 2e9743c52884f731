//! Manifests and configs of the OCI image specification, as far as Berth reads and writes them.

use super::error::ImageError;
use berth_model::image::architecture;
use berth_model::image::{Healthcheck, Image, ImageConfig, ImageRef, Process};
use berth_model::{Digest, EnvName, ProcessType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Every manifest type that may be answered to a pull.
pub(crate) const ACCEPTED: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// Label with the model's image (without its reference) as JSON.
pub(crate) const LABEL: &str = "sh.berth.image";
/// Most layers: overlayfs takes 500.
const MAX_LAYERS: usize = 500;
/// Most process types of an image.
const MAX_PROCESSES: usize = 100;
/// Longest command in bytes.
const MAX_COMMAND: usize = 128 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) config: Option<Execution>,
    pub(crate) rootfs: RootFs,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Execution {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exposed_ports: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) volumes: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shell: Option<Vec<String>>,
}

/// `{}`, as configs write sets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Empty {}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) diff_ids: Vec<Digest>,
}

/// The label's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    pub(crate) builder: String,
    pub(crate) processes: BTreeMap<ProcessType, Process>,
    #[serde(default)]
    pub(crate) exposed_ports: Vec<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<Healthcheck>,
}

impl Label {
    /// Whether its processes can be started at all.
    fn is_sane(&self) -> bool {
        let can_start = |process: &Process| match process {
            Process::Static(site) => site.root.starts_with('/') && site.root.len() <= 4096,
            Process::Command { argv } => {
                let length: usize = argv.iter().map(String::len).sum();
                !argv.is_empty() && length <= MAX_COMMAND && argv.iter().all(|word| !word.contains('\0'))
            }
        };
        self.processes.len() <= MAX_PROCESSES && self.processes.values().all(can_start)
    }

    /// What it says, of the image `reference`.
    pub(crate) fn image(self, reference: ImageRef) -> Image {
        let Self { builder, processes, exposed_ports, healthcheck } = self;
        Image { reference, builder, processes, exposed_ports, healthcheck }
    }
}

/// An image's layers, bottom first, with what is in its config. This is what the node remembers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) repository: String,
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: ImageConfig,
    pub(crate) image: Option<Image>,
}

/// One layer, by both of its digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// Of the tar.
    pub(crate) diff_id: Digest,
    /// Of the compressed blob.
    pub(crate) blob: Descriptor,
}

/// Reads a manifest.
pub(crate) fn parse_manifest(image: &Digest, bytes: &[u8]) -> Result<Manifest, ImageError> {
    let invalid = |rule: String| ImageError::Invalid { image: image.clone(), rule };
    let manifest: Manifest = serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("its manifest is not an image manifest: {error}")))?;
    if manifest.schema_version != 2 {
        return Err(invalid("its manifest's schemaVersion is not 2".to_owned()));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(invalid(format!(
            "it has {} layers, and at most {MAX_LAYERS} can be mounted",
            manifest.layers.len()
        )));
    }
    Ok(manifest)
}

/// Reads a config beside its manifest.
pub(crate) fn describe(
    reference: &ImageRef,
    manifest: Manifest,
    bytes: &[u8],
) -> Result<Described, ImageError> {
    let invalid = |rule: String| ImageError::Invalid { image: reference.digest.clone(), rule };
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("its config is malformed: {error}")))?;
    let other = |found: &str, own: &str| !found.is_empty() && found != own;
    if other(&config.os, "linux") || other(&config.architecture, architecture()) {
        return Err(invalid(format!(
            "it is made for {}/{}, and this machine is linux/{}",
            config.os,
            config.architecture,
            architecture()
        )));
    }
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(invalid("its config and its manifest name different numbers of layers".to_owned()));
    }
    let pairs = config.rootfs.diff_ids.into_iter().zip(manifest.layers);
    let layers = pairs.map(|(diff_id, blob)| Layer { diff_id, blob }).collect();
    let execution = config.config.unwrap_or_default();
    let label = execution.labels.as_ref().and_then(|labels| labels.get(LABEL));
    let image = match label.map(|text| serde_json::from_str::<Label>(text)).transpose() {
        // Whoever pushed the image may have written it.
        Ok(Some(label)) if !label.is_sane() => {
            return Err(invalid(format!("its label {LABEL} names a process that cannot be started")));
        }
        Ok(label) => label.map(|label| label.image(reference.clone())),
        Err(error) => return Err(invalid(format!("its label {LABEL} is malformed: {error}"))),
    };
    let config = image_config(execution).map_err(invalid)?;
    Ok(Described { repository: reference.repository.clone(), layers, config, image })
}

fn image_config(execution: Execution) -> Result<ImageConfig, String> {
    let mut env = BTreeMap::new();
    for variable in execution.env.unwrap_or_default() {
        let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
        if value.contains('\0') {
            return Err(format!("its variable {name:?} has a NUL byte in it"));
        }
        match EnvName::parse(name) {
            Ok(name) => drop(env.insert(name, value.to_owned())),
            Err(error) => tracing::debug!(%error, "a variable of an image is left out"),
        }
    }
    let user = execution.user.unwrap_or_default();
    let word = |text: &str| {
        !text.is_empty()
            && text.len() <= 64
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
            && !text.contains("..")
    };
    if !user.is_empty() && !user.splitn(2, ':').all(word) {
        return Err(format!(
            "its user {user:?} is neither a name nor a number, nor two of them joined by ':'"
        ));
    }
    let working_dir = execution.working_dir.unwrap_or_default();
    if !working_dir.is_empty() && (!working_dir.starts_with('/') || working_dir.contains('\0')) {
        return Err(format!("its working directory {working_dir:?} is not absolute"));
    }
    let (entrypoint, cmd) = (execution.entrypoint.unwrap_or_default(), execution.cmd.unwrap_or_default());
    let words: usize = entrypoint.iter().chain(&cmd).map(String::len).sum();
    if words > MAX_COMMAND || entrypoint.iter().chain(&cmd).any(|word| word.contains('\0')) {
        return Err("its command is longer than 128 KiB or has a NUL byte in it".to_owned());
    }
    let mut exposed: Vec<String> = execution.exposed_ports.unwrap_or_default().into_keys().collect();
    exposed.sort_by_key(|port| port.split('/').next().and_then(|number| number.parse::<u16>().ok()));
    let mut labels = execution.labels.unwrap_or_default();
    labels.remove(LABEL);
    Ok(ImageConfig {
        env,
        user,
        working_dir,
        entrypoint,
        cmd,
        exposed,
        labels,
        volumes: execution.volumes.unwrap_or_default().into_keys().collect(),
        stop_signal: execution.stop_signal.unwrap_or_default(),
        healthcheck: execution.healthcheck,
        on_build: execution.on_build.unwrap_or_default(),
        shell: execution.shell.unwrap_or_default(),
    })
}

/// A config and a manifest of these layers, as bytes. Nothing in them depends on the time: same layers, same digests.
pub(crate) fn render(
    layers: &[Layer],
    config: &ImageConfig,
    label: Option<&Label>,
) -> serde_json::Result<(Vec<u8>, Vec<u8>)> {
    let some = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut labels = config.labels.clone();
    if let Some(json) = label.map(serde_json::to_string).transpose()? {
        labels.insert(LABEL.to_owned(), json);
    }
    let set = |names: &[String]| {
        (!names.is_empty()).then(|| names.iter().map(|name| (name.clone(), Empty {})).collect())
    };
    let document = Config {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config: Some(Execution {
            user: text(&config.user),
            env: Some(config.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            entrypoint: some(&config.entrypoint),
            cmd: some(&config.cmd),
            working_dir: text(&config.working_dir),
            labels: (!labels.is_empty()).then_some(labels),
            exposed_ports: set(&config.exposed),
            volumes: set(&config.volumes),
            stop_signal: text(&config.stop_signal),
            healthcheck: config.healthcheck.clone(),
            on_build: some(&config.on_build),
            shell: some(&config.shell),
        }),
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        },
    };
    let config = serde_json::to_vec(&document)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST_TYPE.to_owned()),
        config: Descriptor {
            media_type: CONFIG_TYPE.to_owned(),
            digest: Digest::of(&config),
            size: config.len() as u64,
        },
        layers: layers.iter().map(|layer| layer.blob.clone()).collect(),
    };
    Ok((config, serde_json::to_vec(&manifest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_somebody_else_wrote_starts_nothing_odd() {
        let label = |process: &str| {
            let text = format!(r#"{{"builder":"x","processes":{{"web":{process}}}}}"#);
            serde_json::from_str::<Label>(&text).map(|label| label.is_sane()).unwrap_or(false)
        };
        assert!(label(r#"{"kind":"command","argv":["x"]}"#));
        assert!(label(r#"{"kind":"static","root":"/app"}"#));
        for bad in [
            r#"{"kind":"command","argv":[]}"#,
            r#"{"kind":"command","argv":["a\u0000b"]}"#,
            r#"{"kind":"static","root":"app"}"#,
            r#"{"kind":"other"}"#,
        ] {
            assert!(!label(bad), "{bad}");
        }
    }
}
