//! Runs a plan; when a step fails, undoes those before it, the last first.
//!
//! Must not know what a step does.

use super::{
    WireError,
    plan::{Step, Undo},
};

/// Who makes and undoes steps.
pub(super) trait Effects {
    /// Makes a step, all of it or nothing. Gives how to undo it, if there is something to undo.
    fn perform(&mut self, step: &Step) -> Result<Option<Undo>, WireError>;

    /// Undoes a step.
    fn undo(&mut self, undo: &Undo) -> Result<(), WireError>;
}

/// Runs the plan.
pub(super) fn run(steps: &[Step], effects: &mut impl Effects) -> Result<(), WireError> {
    let mut done = Vec::new();
    for step in steps {
        match effects.perform(step) {
            Ok(undo) => done.extend(undo),
            Err(cause) => return Err(undo_all(cause, &done, effects)),
        }
    }
    Ok(())
}

/// Makes what it can of a network that is there, and undoes nothing: that would take away what the pod still has. The first
/// failure is told.
pub(super) fn mend(steps: &[Step], effects: &mut impl Effects) -> Result<(), WireError> {
    steps.iter().map(|step| effects.perform(step).map(drop)).fold(Ok(()), Result::and)
}

fn undo_all(cause: WireError, done: &[Undo], effects: &mut impl Effects) -> WireError {
    let results = done.iter().rev().map(|undo| effects.undo(undo));
    let left: Vec<String> = results.filter_map(Result::err).map(|error| error.to_string()).collect();
    if left.is_empty() { cause } else { WireError::NotUndone { cause: Box::new(cause), left } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::Attachment,
        wire::{
            plan::{Place, plan},
            sample,
        },
    };

    /// Fails at one step and, if wanted, at undoing.
    #[derive(Default)]
    struct Double {
        fails_at: usize,
        undo_fails: bool,
        performed: usize,
        undone: Vec<Undo>,
    }

    fn undo_of(step: &Step) -> Option<Undo> {
        match step {
            Step::Pair(_) => Some(Undo::Pair),
            Step::Settings(place, _) => Some(Undo::Settings(*place, Vec::new())),
            Step::Endpoint(_) => Some(Undo::Endpoint),
            Step::PacketOnly(cookie) => Some(Undo::PacketOnly(*cookie)),
            Step::Loopback => Some(Undo::Loopback),
            Step::Up(Place::Host) => Some(Undo::Down),
            _ => None,
        }
    }

    impl Effects for Double {
        fn perform(&mut self, step: &Step) -> Result<Option<Undo>, WireError> {
            if self.performed == self.fails_at {
                return Err(WireError::Exists { ifname: format!("{step:?}") });
            }
            self.performed += 1;
            Ok(undo_of(step))
        }

        fn undo(&mut self, undo: &Undo) -> Result<(), WireError> {
            self.undone.push(undo.clone());
            if self.undo_fails { Err(WireError::Exists { ifname: "stuck".into() }) } else { Ok(()) }
        }
    }

    fn steps() -> Vec<Step> {
        plan(&Attachment { socket_lb_off: true, ..sample::dual_stack() }).unwrap()
    }

    #[test]
    fn a_failure_at_any_step_undoes_those_before_it_the_last_first() {
        let steps = steps();
        for fails_at in 0..steps.len() {
            let mut double = Double { fails_at, ..Double::default() };
            assert!(run(&steps, &mut double).is_err());
            let mut expected: Vec<Undo> = steps[..fails_at].iter().filter_map(undo_of).collect();
            expected.reverse();
            assert_eq!(double.undone, expected, "{fails_at}");
        }
    }

    #[test]
    fn nothing_is_undone_of_what_went_well() {
        let steps = steps();
        let mut double = Double { fails_at: steps.len(), ..Double::default() };
        run(&steps, &mut double).unwrap();
        assert_eq!((double.performed, double.undone), (steps.len(), Vec::new()));
    }

    #[test]
    fn what_cannot_be_undone_is_said_and_the_rest_is_undone_all_the_same() {
        let steps = [Step::Pair(sample::pair()), Step::Loopback, Step::Up(Place::Host)];
        let mut double = Double { fails_at: 2, undo_fails: true, ..Double::default() };
        let text = run(&steps, &mut double).unwrap_err().to_string();
        assert_eq!(double.undone, [Undo::Loopback, Undo::Pair]);
        assert!(text.contains("Up(Host)") && text.contains("could not be undone"), "{text}");
    }
}
