//! Sees when a node leads again after the leader was hit.
//!
//! Each node is asked how it is by a task of its own, so that one that is frozen does not keep the
//! others from being seen: each 20 ms while somebody wants to know, each 100 ms otherwise.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::RunClock;
use crate::field::{Field, Probe, Sight};

/// Between two looks while somebody wants to know.
const CLOSELY: Duration = Duration::from_millis(20);

/// Between two looks while nobody does.
const LOOSELY: Duration = Duration::from_millis(100);

/// What a look may take.
const ANSWER_IN: Duration = Duration::from_millis(500);

/// A leader that says so later than this after all is healed has never stopped to lead: longer than
/// it trusts itself without the database.
const TRUST_MAX: Duration = Duration::from_secs(2);

/// Looks at the nodes of a field until it is dropped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    _looking: JoinSet<()>,
}

struct Shared {
    clock: RunClock,
    searches: Mutex<Vec<Arc<Search>>>,
    /// How many searches there are.
    wanted: watch::Sender<usize>,
}

/// A search for who leads again.
pub(super) struct Search {
    shared: Arc<Shared>,
    start_ns: u64,
    /// Who led.
    victim: u8,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// The leader of before was seen not to lead.
    is_deposed: bool,
    healed_ns: Option<u64>,
    /// `Some(0)`: it has led all the time.
    led_again_ns: Option<u64>,
}

impl Watch {
    /// Begins to look.
    pub(super) fn of(field: &Field, clock: RunClock) -> Self {
        let (wanted, _) = watch::channel(0);
        let shared = Arc::new(Shared { clock, searches: Mutex::default(), wanted });
        let mut looking = JoinSet::new();
        for number in field.numbers() {
            let Ok(node) = field.node(number) else { continue };
            looking.spawn(look(number, Probe::new(node.http()), Arc::clone(&shared)));
        }
        Self { shared, _looking: looking }
    }

    /// Looks for who leads after `victim`, from now on.
    pub(super) fn search(&self, victim: u8) -> Arc<Search> {
        let shared = Arc::clone(&self.shared);
        let (start_ns, state) = (shared.clock.now_ns(), watch::channel(State::default()).0);
        let search = Arc::new(Search { shared, start_ns, victim, state });
        let mut searches = self.shared.searches.lock();
        searches.push(Arc::clone(&search));
        self.shared.wanted.send_replace(searches.len());
        search
    }
}

async fn look(number: u8, mut probe: Probe, shared: Arc<Shared>) {
    let mut wanted = shared.wanted.subscribe();
    loop {
        let (asked, asked_ns) = (Instant::now(), shared.clock.now_ns());
        let sight = probe.look(ANSWER_IN).await;
        shared.saw(number, asked_ns, sight);
        let pause = if *wanted.borrow_and_update() > 0 { CLOSELY } else { LOOSELY };
        tokio::select! {
            () = tokio::time::sleep_until(asked + pause) => {}
            // It is there as long as we are.
            _ = wanted.changed() => {}
        }
    }
}

impl Shared {
    fn saw(&self, number: u8, asked_ns: u64, sight: Sight) {
        let seen_ns = self.clock.now_ns();
        for search in self.searches.lock().iter() {
            if asked_ns >= search.start_ns {
                search.state.send_if_modified(|state| {
                    state.saw(search.victim == number, asked_ns, seen_ns, sight)
                });
            }
        }
    }
}

impl State {
    /// Whether that is news.
    fn saw(&mut self, is_victim: bool, asked_ns: u64, seen_ns: u64, sight: Sight) -> bool {
        if self.led_again_ns.is_some() {
            return false;
        }
        match sight {
            Sight::Leads if !is_victim || self.is_deposed => self.led_again_ns = Some(seen_ns),
            Sight::Leads => {
                let trust = u64::try_from(TRUST_MAX.as_nanos()).unwrap_or(u64::MAX);
                let is_late = |healed_ns: u64| asked_ns >= healed_ns.saturating_add(trust);
                if self.healed_ns.is_some_and(is_late) {
                    self.led_again_ns = Some(0);
                }
            }
            Sight::Follows | Sight::Gone if is_victim => self.is_deposed = true,
            Sight::Follows | Sight::Gone | Sight::Silent => {}
        }
        self.led_again_ns.is_some()
    }
}

impl Search {
    /// What was done to the leader is over.
    pub(super) fn healed(&self) {
        let now_ns = self.shared.clock.now_ns();
        self.state.send_modify(|state| state.healed_ns = Some(now_ns));
    }

    /// When a node was seen to lead again; 0 if the same one has led all the time, or if nobody did
    /// within that time.
    pub(super) async fn led_again_ns(&self, within: Duration) -> u64 {
        let mut states = self.state.subscribe();
        let found = states.wait_for(|state| state.led_again_ns.is_some());
        let found = tokio::time::timeout(within, found).await;
        found.ok().and_then(Result::ok).and_then(|state| state.led_again_ns).unwrap_or(0)
    }

    /// Nobody wants to know any more.
    pub(super) fn end(self: &Arc<Self>) {
        let mut searches = self.shared.searches.lock();
        searches.retain(|search| !Arc::ptr_eq(search, self));
        self.shared.wanted.send_replace(searches.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// What is found of these sights: of the victim or not, asked at that second, what was seen.
    fn found(healed_at: Option<u64>, sights: &[(bool, u64, Sight)]) -> Option<u64> {
        let healed_ns = healed_at.map(|second| second * SECOND);
        let mut state = State { healed_ns, ..State::default() };
        for (is_victim, second, sight) in sights {
            state.saw(*is_victim, second * SECOND, second * SECOND + 1, *sight);
        }
        state.led_again_ns
    }

    #[test]
    fn another_that_leads_is_found_whatever_the_first_one_says() {
        let sights =
            [(true, 1, Sight::Leads), (false, 2, Sight::Follows), (false, 3, Sight::Leads)];
        assert_eq!(found(None, &sights), Some(3 * SECOND + 1));
    }

    #[test]
    fn the_same_one_is_found_if_it_was_seen_not_to_lead() {
        for between in [Sight::Follows, Sight::Gone] {
            let sights = [(true, 1, Sight::Leads), (true, 2, between), (true, 3, Sight::Leads)];
            assert_eq!(found(None, &sights), Some(3 * SECOND + 1));
        }
        // Silence may be that of one that leads and is slow.
        assert_eq!(found(None, &[(true, 2, Sight::Silent), (true, 3, Sight::Leads)]), None);
    }

    #[test]
    fn who_leads_long_after_all_was_healed_has_led_all_the_time() {
        assert_eq!(found(Some(5), &[(true, 6, Sight::Leads)]), None);
        assert_eq!(found(Some(5), &[(true, 7, Sight::Leads)]), Some(0));
    }
}
