//! The guard on devices: pinned for the plugin, repaired and exchanged by the agent.
