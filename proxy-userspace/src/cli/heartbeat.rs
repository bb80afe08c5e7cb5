//! Notes every few seconds that the agent lives, for the plugin's STATUS after it has ended.
//!
//! Must not know what the plugin makes of it.

use std::path::{Path, PathBuf};

use cni::agent;
use tokio::time::{self, MissedTickBehavior};
use tracing::warn;

/// Says when the agent ended: what was said last is some seconds old.
pub(super) fn last(run_dir: &Path) {
    // Who could hear of a failure would be gone.
    drop(agent::sign_of_life(run_dir));
}

/// Does so until the agent ends.
pub(super) async fn beat(run_dir: PathBuf) {
    let mut ticks = time::interval(agent::HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complained = false;
    loop {
        ticks.tick().await;
        match agent::sign_of_life(&run_dir) {
            Ok(()) => complained = false,
            Err(error) if !complained => {
                complained = true;
                let folder = run_dir.display();
                warn!(%error, "cannot set the time of agent.lock in {folder}: without an agent the node is not ready at once");
            }
            Err(_) => {}
        }
    }
}
