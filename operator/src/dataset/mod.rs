//! Dataset (being filled in).
use std::sync::Arc;
use crate::Context;

/// Runs the controller until the context is stopped.
pub async fn controller(_ctx: Arc<Context>) {}
