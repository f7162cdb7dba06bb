//! At most one leader's work takes effect, whatever happens, because of the fence; and there can
//! always be a leader again. Every state that the model of the election can get into is looked at,
//! and for each thing that is left out a way is found to what it is there for.

#![allow(
    clippy::print_stdout,
    reason = "ways and numbers are for people: cargo test -- --nocapture"
)]

use batonq_tests::election::{Election, Guard, State};
use batonq_tests::search::{Step, find, told};

/// As the broker does it: two nodes, each of which may have dropped something unnoticed.
const TWO: Election<2> = Election { guard: Guard::Fence, is_impatient: true, late_max: 2 };

/// Three, all of whose connections end on both sides.
const THREE: Election<3> = Election { guard: Guard::Fence, is_impatient: true, late_max: 0 };

/// With `BATONQ_LONG=1`, which takes minutes, more is left behind unnoticed.
fn late_more(late_max: usize) -> usize {
    late_max + usize::from(std::env::var_os("BATONQ_LONG").is_some())
}

fn every_state_is_safe_and_leads_to_a_leader<const N: usize>(election: Election<N>) {
    let election = Election { late_max: late_more(election.late_max), ..election };
    let is_unsafe = |state: &State<N>| {
        state.is_stale() || state.has_returned() || state.leaders_in_effect() > 1
    };
    let space = match find(&election, is_unsafe) {
        Err(space) => space,
        Ok(way) => panic!("two leaders' work took effect:\n{}", told(&way)),
    };
    println!("{election:?}: {} states, {} steps", space.states().len(), space.steps());
    if let Some(way) = space.stuck(&election, State::is_led) {
        panic!("nobody can lead any more:\n{}", told(&way));
    }
    // The lock alone does not see to it: that is what the fence is for.
    assert!(space.states().iter().any(|state| state.leaders() == N));
}

#[test]
fn of_two_nodes_one_leaders_work_takes_effect_and_there_can_always_be_another() {
    every_state_is_safe_and_leads_to_a_leader(TWO);
}

#[test]
fn of_three_nodes_one_leaders_work_takes_effect_and_there_can_always_be_another() {
    every_state_is_safe_and_leads_to_a_leader(THREE);
}

/// A shortest way to such a state, which there must be.
fn way_to(what: &str, election: &Election<2>, is_wanted: fn(&State<2>) -> bool) -> Vec<Step> {
    let way = find(election, is_wanted).unwrap_or_else(|space| {
        panic!("{what}: in none of {} states of {election:?}", space.states().len())
    });
    println!("{what}, {:?} as the guard:\n{}", election.guard, told(&way));
    way
}

fn is_unsafe_without_the_fence(guard: Guard) {
    let election = Election { guard, late_max: 0, ..TWO };
    let way = way_to("work of a leader that was deposed takes effect", &election, State::is_stale);
    assert_eq!(way.last().map(|(_, what)| *what), Some("its work is committed"));
    way_to("A works, B works, A works", &election, State::has_returned);
}

#[test]
fn a_fence_that_is_read_and_not_locked_lets_a_deposed_leader_work() {
    is_unsafe_without_the_fence(Guard::Read);
}

#[test]
fn a_look_at_ones_own_trust_lets_a_deposed_leader_work() {
    is_unsafe_without_the_fence(Guard::Trust);
}

#[test]
fn a_database_that_bears_silence_for_ever_may_never_have_a_leader_again() {
    let election = Election { is_impatient: false, late_max: 1, ..TWO };
    let space = find(&election, |_| false).expect_err("all states are looked at");
    let way = space.stuck(&election, State::is_led).expect("a lock that nobody gives back");
    println!("nobody leads any more:\n{}", told(&way));
}
