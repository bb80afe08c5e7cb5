//! Every step failing, any two of them, and a plugin that is killed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;

use super::*;

#[test]
fn an_add_that_fails_at_any_step_leaves_nothing() {
    let steps = steps_of_an_add();
    assert!(steps.iter().any(|step| step == "serve_ports") && steps.iter().any(|step| step == "ipam ADD"));
    for (at, name) in (1..).zip(&steps) {
        let world = Doubles::ready();
        with_plugin(&world);
        world.failing.borrow_mut().insert(at);
        let outcome = run(&world, Verb::Add, &delegating());
        assert!(!outcome.success, "{name}");
        assert!(refused(&outcome).1.contains(name.as_str()), "{name}: {outcome:?}");
        assert_eq!(world.left_over(), Vec::<String>::new(), "{name}");
    }
}

/// Names of the steps of an ADD with everything.
fn steps_of_an_add() -> Vec<String> {
    let world = Doubles::ready();
    with_plugin(&world);
    added(&world, &delegating());
    world.steps()
}

#[test]
fn whichever_two_steps_fail_no_address_is_free_while_a_device_has_it_and_del_leaves_nothing() {
    let most = steps_of_an_add().len() + 4;
    for (first, second) in (1..=most).flat_map(|first| (first..=most).map(move |second| (first, second))) {
        let world = Doubles::ready();
        with_plugin(&world);
        world.failing.borrow_mut().extend([first, second]);
        run(&world, Verb::Add, &delegating());
        let steps = world.steps();
        let state = world.state.borrow();
        let held = !state.records.is_empty() && !state.leases.is_empty();
        assert!(state.devices.is_empty() || held, "{first} and {second} of {steps:?}");
        drop(state);
        world.mend();
        silent(&run(&world, Verb::Del, &delegating()));
        assert_eq!(world.left_over(), Vec::<String>::new(), "{first} and {second} of {steps:?}");
    }
}

#[test]
fn killed_at_any_step_an_add_leaves_what_del_removes_and_the_next_add_replaces() {
    for (at, name) in (1..).zip(steps_of_an_add()) {
        for verb in [Verb::Del, Verb::Add] {
            let world = Doubles::ready();
            with_plugin(&world);
            world.deadly.set(Some(at));
            let killed = catch_unwind(AssertUnwindSafe(|| run(&world, Verb::Add, &delegating())));
            assert!(killed.is_err(), "{name}");
            world.mend();
            let next = run(&world, verb, &delegating());
            assert!(next.success, "{verb} after {name}: {next:?}");
            silent(&run(&world, Verb::Del, &delegating()));
            assert_eq!(world.left_over(), Vec::<String>::new(), "{verb} after {name}");
        }
    }
}

#[test]
fn killed_at_any_step_a_del_is_finished_by_the_next() {
    for at in 1..=5 {
        let world = Doubles::ready();
        with_plugin(&world);
        added(&world, &delegating());
        world.deadly.set(Some(world.steps().len() + at));
        let killed = catch_unwind(AssertUnwindSafe(|| run(&world, Verb::Del, &delegating())));
        assert!(killed.is_err(), "step {at}");
        world.mend();
        silent(&run(&world, Verb::Del, &delegating()));
        assert_eq!(world.left_over(), Vec::<String>::new(), "step {at}");
    }
}

#[test]
fn what_cannot_be_undone_keeps_its_record_and_its_addresses_for_del() {
    let world = Doubles::ready();
    with_plugin(&world);
    world.break_step("commit");
    world.break_step("disconnect");
    let outcome = run(&world, Verb::Add, &delegating());
    assert_eq!(outcome.document.unwrap()["details"], "disconnect broke");
    assert_eq!(record(&world).stage, Stage::Reserved);
    assert_eq!(world.left_over().len(), 3, "{:?}", world.left_over());
    world.mend();
    silent(&run_in(&world, Verb::Del, "", &delegating()));
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[test]
fn wiring_that_cannot_undo_itself_keeps_its_record_for_del() {
    let world = Doubles::ready();
    world.change(|state| state.connect_leaves = true);
    world.break_step("connect");
    assert_eq!(refused(&run(&world, Verb::Add, &config(json!({})))).1, "connect broke");
    assert_eq!(record(&world).stage, Stage::Reserved);
    silent(&run(&world, Verb::Del, &config(json!({}))));
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[test]
fn what_a_killed_add_left_is_removed_before_the_next_one_begins() {
    let world = Doubles::ready();
    added(&world, &config(json!({})));
    world.change(|state| state.records.get_mut(&id()).unwrap().stage = Stage::Reserved);
    added(&world, &config(json!({})));
    assert_eq!(record(&world).stage, Stage::Wired);
}

#[test]
fn a_del_that_failed_anywhere_succeeds_when_it_is_called_again() {
    let steps = 5;
    for at in 1..=steps {
        let world = Doubles::ready();
        with_plugin(&world);
        added(&world, &delegating());
        let done = world.steps().len();
        world.failing.borrow_mut().insert(done + at);
        let first = run(&world, Verb::Del, &delegating());
        let name = world.steps()[done + at - 1].clone();
        // Without facts, or with a record that cannot be read, everything is removed all the same.
        assert_eq!(first.success, matches!(name.as_str(), "facts" | "get"), "{name}");
        silent(&run(&world, Verb::Del, &delegating()));
        assert_eq!(world.left_over(), Vec::<String>::new(), "{name}");
    }
}
