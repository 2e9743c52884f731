//! Apps that bring all they need besides the stack: a Procfile and programs or scripts.
//!
//! In: a tree with a Procfile. Out: one layer with the app's files.

use crate::PlanError;
use crate::draft::{Draft, Outcome, image_config};

pub(crate) fn plan(draft: &mut Draft<'_>) -> Result<Outcome, PlanError> {
    if draft.procfile.0.is_empty() {
        return Err(PlanError::NothingToStart {
            language: "plain",
            looked: "process types in the Procfile",
            example: "./server",
        });
    }
    draft.source(vec!["the commands of the Procfile run on the stack as it is, with bash and without a language runtime".to_owned()], &[]);
    Ok(Outcome { processes: draft.processes(None), config: image_config(&[], &[]) })
}
