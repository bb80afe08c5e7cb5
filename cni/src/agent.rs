//! The few words that the plugin and a running agent exchange.
//!
//! Must not know what the agent does with them.

use std::path::Path;

use crate::record::AttachmentId;

/// Whether an agent runs: it holds a lock on `<run_dir>/agent.lock` as long as it lives.
pub fn is_running(_run_dir: &Path) -> bool {
    false
}

/// Has the agent serve the host ports of an attachment, and waits until it does, at most 2 s. On the control socket
/// `<run_dir>/control.sock`: a line `{"ask":"pod-ports","containerId":"...","ifname":"..."}`, answered by the line
/// `"done"` or `{"error":"..."}`.
///
/// # Errors
/// A sentence for people.
pub fn serve_ports(_run_dir: &Path, _id: &AttachmentId) -> Result<(), String> {
    Ok(())
}
