//! Reports: `=====> app ps information` and one line a key, or one value with `--key`.
//!
//! In: keys, labels, values. Out: Dokku's shape, JSON, or a single value.

use crate::error::{CliError, Result};
use crate::output::Output;
use serde_json::Value;

/// One report about one app.
pub(crate) struct Report {
    title: String,
    rows: Vec<(String, String)>,
}

impl Report {
    /// A report titled `app kind information`.
    pub(crate) fn new(app: &str, kind: &str) -> Self {
        Self { title: format!("{app} {kind} information"), rows: Vec::new() }
    }

    /// Adds a line. Its flag is the label in lower case with hyphens: `Ps restart policy` is `--ps-restart-policy`.
    pub(crate) fn row(mut self, label: &str, value: impl Into<String>) -> Self {
        self.rows.push((label.to_owned(), value.into()));
        self
    }

    /// Shows all of it, or the one value that was asked for.
    pub(crate) fn show(&self, out: Output, field: Option<&str>) -> Result<()> {
        if let Some(field) = field {
            let wanted = self.rows.iter().find(|(label, _)| flag(label) == field);
            let (_, value) = wanted.ok_or_else(|| {
                let known: Vec<String> =
                    self.rows.iter().map(|(label, _)| format!("--{}", flag(label))).collect();
                CliError::Misuse(format!("Invalid flag passed, valid flags: {}", known.join(", ")))
            })?;
            return if out.json { out.json(value) } else { out.value(value) };
        }
        if out.json {
            let object: serde_json::Map<String, Value> =
                self.rows.iter().map(|(label, value)| (flag(label), Value::from(value.as_str()))).collect();
            return out.json(&object);
        }
        out.header(&self.title)?;
        let width = self.rows.iter().map(|(label, _)| label.len() + 1).max().unwrap_or(0).max(30);
        for (label, value) in &self.rows {
            out.line(format!("       {:width$} {value}", format!("{label}:")).trim_end())?;
        }
        Ok(())
    }
}

fn flag(label: &str) -> String {
    label.to_lowercase().replace([' ', '.', '_'], "-")
}
