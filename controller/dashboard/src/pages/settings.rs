//! Not written yet.

use crate::Ui;
use axum::Router;

pub(crate) fn router() -> Router<Ui> {
    Router::new()
}
