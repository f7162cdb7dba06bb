//! Every state that a model can get into, and how it gets there.
//!
//! Breadth first, so that the way to a state is a shortest one. All states are kept, with what
//! leads to what: so it can also be asked from where something can no longer be reached, which is
//! how a cluster that is stuck for ever is found.

use std::collections::hash_map::Entry;
use std::hash::Hash;

use rustc_hash::FxHashMap;

/// Something that goes from state to state by steps of which any may be next.
pub trait Model {
    /// All that decides what may happen.
    type State: Clone + Eq + Hash;

    /// Where it begins.
    fn start(&self) -> Self::State;

    /// Each step that may be next: what happens, and the state after it.
    fn steps(&self, state: &Self::State, next: &mut dyn FnMut(Step, Self::State));

    /// The one state that stands for all that differ from this one in names only.
    fn plain(&self, state: &Self::State) -> Self::State;
}

/// What happens: to whom, and what.
pub type Step = (usize, &'static str);

/// All states, the first of them the start.
#[derive(Debug)]
pub struct Space<S> {
    states: Vec<S>,
    /// The state before each on a shortest way.
    from: Vec<usize>,
    /// From each state to those that are one step behind it.
    before: Vec<Vec<u32>>,
    steps: usize,
}

/// Looks at every state until one is as `is_wanted`.
///
/// # Errors
///
/// All states, if none of them is.
pub fn find<M: Model>(
    model: &M,
    is_wanted: impl Fn(&M::State) -> bool,
) -> Result<Vec<Step>, Space<M::State>> {
    let start = model.plain(&model.start());
    let mut places = FxHashMap::from_iter([(start.clone(), 0)]);
    let mut space =
        Space { states: vec![start], from: vec![0], before: vec![Vec::new()], steps: 0 };
    let mut place = 0;
    while let Some(state) = space.states.get(place).cloned() {
        if is_wanted(&state) {
            return Ok(space.way(model, place));
        }
        model.steps(&state, &mut |_, next| space.add(&mut places, place, model.plain(&next)));
        place += 1;
    }
    Err(space)
}

impl<S: Clone + Eq + Hash> Space<S> {
    fn add(&mut self, places: &mut FxHashMap<S, usize>, from: usize, state: S) {
        self.steps += 1;
        let place = match places.entry(state) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.states.push(new.key().clone());
                self.from.push(from);
                self.before.push(Vec::new());
                *new.insert(self.states.len() - 1)
            }
        };
        self.before[place].push(u32::try_from(from).expect("that many do not fit in memory"));
    }

    /// All states.
    pub fn states(&self) -> &[S] {
        &self.states
    }

    /// How many steps there are between them.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// A shortest way to a state from which no state that is as `is_wanted` can be reached.
    pub fn stuck<M: Model<State = S>>(
        &self,
        model: &M,
        is_wanted: impl Fn(&S) -> bool,
    ) -> Option<Vec<Step>> {
        let mut reaches: Vec<bool> = self.states.iter().map(is_wanted).collect();
        let mut open: Vec<usize> = (0..reaches.len()).filter(|place| reaches[*place]).collect();
        while let Some(place) = open.pop() {
            for before in &self.before[place] {
                let before = *before as usize;
                if !std::mem::replace(&mut reaches[before], true) {
                    open.push(before);
                }
            }
        }
        reaches.iter().position(|reaches| !reaches).map(|place| self.way(model, place))
    }

    /// How a state is reached, in names that stay the same all the way.
    fn way<M: Model<State = S>>(&self, model: &M, mut place: usize) -> Vec<Step> {
        let mut ahead = vec![place];
        while place != 0 {
            place = self.from[place];
            ahead.push(place);
        }
        let mut way = Vec::new();
        let mut state = model.start();
        for place in ahead.into_iter().rev().skip(1) {
            let mut found = None;
            model.steps(&state, &mut |step, next| {
                if found.is_none() && model.plain(&next) == self.states[place] {
                    found = Some((step, next));
                }
            });
            let (step, next) = found.expect("states that differ in names only have the same steps");
            way.push(step);
            state = next;
        }
        way
    }
}

/// A way as lines of text.
pub fn told(way: &[Step]) -> String {
    let line = |(number, (who, what)): (usize, &Step)| {
        format!("{:>3}  node {}: {what}\n", number + 1, ["A", "B", "C", "D"][*who % 4])
    };
    way.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is raised by one or two, and stays where it is at seven; nine is a trap.
    struct Counter;

    impl Model for Counter {
        type State = u32;

        fn start(&self) -> u32 {
            0
        }

        fn steps(&self, state: &u32, next: &mut dyn FnMut(Step, u32)) {
            match *state {
                7 | 9 => {}
                5 => {
                    next((0, "one"), 6);
                    next((0, "trap"), 9);
                }
                other => {
                    next((0, "one"), other + 1);
                    next((0, "two"), (other + 2).min(7));
                }
            }
        }

        fn plain(&self, state: &u32) -> u32 {
            *state
        }
    }

    #[test]
    fn the_way_to_a_state_is_a_shortest_one() {
        let way = find(&Counter, |state| *state == 4).unwrap();
        assert_eq!(way, [(0, "two"), (0, "two")]);
    }

    #[test]
    fn what_is_nowhere_is_looked_for_everywhere() {
        let space = find(&Counter, |state| *state == 8).unwrap_err();
        assert_eq!(space.states().len(), 9);
    }

    #[test]
    fn a_state_that_leads_nowhere_is_found() {
        let space = find(&Counter, |_| false).unwrap_err();
        let way = space.stuck(&Counter, |state| *state == 7).unwrap();
        assert_eq!(way.last(), Some(&(0, "trap")));
        assert_eq!(space.stuck(&Counter, |state| [7, 9].contains(state)), None);
    }
}
