//! Short ways to say an [`ApiError`]: what happened, to what, what next.

use berth_model::api::{ApiError, ErrorCode};
use berth_wire::WireError;

fn error(code: ErrorCode, message: impl Into<String>) -> ApiError {
    ApiError { code, message: message.into() }
}

/// The input is wrong.
pub fn invalid(message: impl Into<String>) -> ApiError {
    error(ErrorCode::Invalid, message)
}

/// It exists already, or another operation is under way.
pub fn conflict(message: impl Into<String>) -> ApiError {
    error(ErrorCode::Conflict, message)
}

/// There is no such thing in the app or platform.
pub fn not_found(message: impl Into<String>) -> ApiError {
    error(ErrorCode::NotFound, message)
}

/// The operation was tried and did not work.
pub fn failed(message: impl Into<String>) -> ApiError {
    error(ErrorCode::Failed, message)
}

/// Known, but not allowed.
pub fn forbidden(message: impl Into<String>) -> ApiError {
    error(ErrorCode::Forbidden, message)
}

/// A part that is needed does not answer.
pub fn unavailable(message: impl Into<String>) -> ApiError {
    error(ErrorCode::Unavailable, message)
}

/// An error with all that caused it.
pub(crate) fn with_causes(cause: &dyn std::error::Error) -> String {
    let mut chain = cause.to_string();
    let mut next = cause.source();
    while let Some(source) = next {
        chain.push_str(": ");
        chain.push_str(&source.to_string());
        next = source.source();
    }
    chain
}

/// Berth's own fault; what happened is in the log, with the whole chain of causes.
pub fn internal(context: &str, cause: &dyn std::error::Error) -> ApiError {
    let chain = with_causes(cause);
    tracing::error!(cause = %chain, "{context}");
    error(ErrorCode::Internal, format!("{context}: {chain}"))
}

/// What a call to the agent came to: its own refusal as it is, anything else as "unavailable".
#[must_use]
pub fn from_agent(cause: WireError) -> ApiError {
    match cause {
        WireError::Refused { body, .. } => body,
        WireError::Connect { .. } => {
            unavailable(format!("the node's agent does not answer ({cause}); is `berth agent` running?"))
        }
        other => unavailable(format!("the node's agent broke off: {other}")),
    }
}
