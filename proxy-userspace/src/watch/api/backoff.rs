//! Pauses between attempts: exponential, with jitter and a cap.
//!
//! Must not know what is attempted.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// Short enough that an agent follows a restarted API server within seconds, long enough for thousands of agents.
const CAP: Duration = Duration::from_secs(15);

/// The next pause.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// It worked: the next failure is the first again.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// How long to wait now: half of the current step and a random part of the other half.
    pub(super) fn pause(&mut self) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(CAP);
        half + half.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_cap_stay_within_half_a_step_and_start_again_after_success() {
        let mut backoff = Backoff::new();
        for step in [200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000] {
            let step = Duration::from_millis(step);
            let pause = backoff.pause();
            assert!(pause >= step / 2 && pause <= step, "{pause:?} of {step:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }

    #[test]
    fn two_agents_that_fail_together_do_not_return_together() {
        let pauses: Vec<_> = (0..20).map(|_| Backoff::new().pause()).collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
