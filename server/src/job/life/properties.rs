//! What holds of every life, whatever happens in it.

use proptest::prelude::*;

use super::*;

/// The longest delay that is drawn here, in ms.
const DELAY_MAX: u64 = 100_000;

fn delays() -> impl Strategy<Value = Duration> {
    (0..=DELAY_MAX).prop_map(Duration::from_millis)
}

fn endings() -> impl Strategy<Value = Ending> {
    prop_oneof![
        Just(Ending::Completed),
        proptest::option::of(delays()).prop_map(|retry_in| Ending::Failed { retry_in }),
        Just(Ending::Rejected),
        Just(Ending::TimedOut),
        Just(Ending::Released),
        delays().prop_map(Ending::Snoozed),
        Just(Ending::Cancelled),
        Just(Ending::Crashed),
        Just(Ending::Expired),
        Just(Ending::NodeLost),
    ]
}

fn backoffs() -> impl Strategy<Value = Backoff> {
    let exponential = (delays(), delays(), 0.0..=1.0)
        .prop_map(|(base, max, jitter)| Backoff::Exponential { base, max, jitter });
    prop_oneof![
        exponential,
        delays().prop_map(Backoff::Fixed),
        proptest::collection::vec(delays(), 1..5).prop_map(Backoff::List),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    let expires_at = proptest::option::of((0_i64..2_000_000).prop_map(Timestamp));
    (1_u32..6, 1_u32..6, backoffs(), expires_at, any::<bool>()).prop_map(
        |(max_attempts, crashes_max, backoff, expires_at, is_cancelled)| Rules {
            max_attempts,
            crashes_max,
            backoff,
            expires_at,
            is_cancelled,
        },
    )
}

fn charges() -> impl Strategy<Value = Charges> {
    (0_u32..8, 0_u32..8).prop_map(|(attempts, crashes)| Charges { attempts, crashes })
}

fn times() -> impl Strategy<Value = Timestamp> {
    (0_i64..2_000_000).prop_map(Timestamp)
}

/// Whether the job will be delivered again, and when at the earliest.
fn again(next: Next, now: Timestamp) -> Option<Timestamp> {
    match next {
        Next::Ready => Some(now),
        Next::Scheduled(run_at) => Some(run_at),
        Next::Completed | Next::Dead(_) | Next::Cancelled => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn at_most_one_thing_is_charged_and_nothing_is_forgiven(
        ending in endings(), before in charges(), rules in rules(), now in times(), chance in 0.0..1.0
    ) {
        let (_, after) = after(ending, before, &rules, now, chance);
        let of_worker = matches!(
            ending,
            Ending::Failed { .. } | Ending::Rejected | Ending::TimedOut
        );
        let of_loss = matches!(ending, Ending::Crashed | Ending::Expired);
        prop_assert_eq!(after.attempts, before.attempts + u32::from(of_worker));
        prop_assert_eq!(after.crashes, before.crashes + u32::from(of_loss));
    }

    #[test]
    fn done_is_done(before in charges(), rules in rules(), now in times(), chance in 0.0..1.0) {
        prop_assert_eq!(after(Ending::Completed, before, &rules, now, chance), (Next::Completed, before));
    }

    #[test]
    fn what_goes_round_again_may(
        ending in endings(), before in charges(), rules in rules(), now in times(), chance in 0.0..1.0
    ) {
        let (next, after) = after(ending, before, &rules, now, chance);
        let Some(delivered_at) = again(next, now) else { return Ok(()) };
        prop_assert!(!rules.is_cancelled, "somebody had asked for its end");
        prop_assert!(delivered_at >= now);
        prop_assert!(rules.expires_at.is_none_or(|over| delivered_at < over));
        match ending {
            Ending::Failed { .. } | Ending::TimedOut => prop_assert!(after.attempts < rules.max_attempts),
            Ending::Crashed | Ending::Expired => prop_assert!(after.crashes < rules.crashes_max),
            Ending::Released | Ending::Snoozed(_) | Ending::NodeLost => {}
            Ending::Completed | Ending::Rejected | Ending::Cancelled => {
                prop_assert!(false, "{ending:?} ends a job");
            }
        }
    }

    #[test]
    fn a_retry_waits_as_long_as_the_worker_says_or_at_most_as_the_rules_say(
        ending in endings(), before in charges(), rules in rules(), now in times(), chance in 0.0..1.0
    ) {
        let (next, _) = after(ending, before, &rules, now, chance);
        let Next::Scheduled(run_at) = next else { return Ok(()) };
        match ending {
            Ending::Failed { retry_in: Some(delay) } | Ending::Snoozed(delay) => {
                prop_assert_eq!(run_at, now + delay);
            }
            _ => prop_assert!(run_at <= now + Duration::from_millis(DELAY_MAX)),
        }
    }

    #[test]
    fn what_is_given_to_bad_workers_only_comes_to_an_end(
        rules in rules(),
        endings in proptest::collection::vec(
            prop_oneof![
                Just(Ending::Failed { retry_in: None }),
                Just(Ending::TimedOut),
                Just(Ending::Crashed),
                Just(Ending::Expired),
            ],
            12,
        )
    ) {
        let deliveries_max = rules.max_attempts + rules.crashes_max - 1;
        let (mut charges, mut now) = (Charges::default(), Timestamp(0));
        for (delivery, ending) in (1..).zip(endings) {
            let (next, charged) = after(ending, charges, &rules, now, 0.5);
            let Some(again_at) = again(next, now) else { return Ok(()) };
            prop_assert!(delivery < deliveries_max, "{delivery} deliveries under {rules:?}");
            (charges, now) = (charged, again_at);
        }
    }
}
