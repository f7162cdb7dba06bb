//! Webhooks: who wants to be told, and how far that has come.

use batonq_server::job::{QueueName, WebhookName};
use batonq_server::store::events::EVENTS_KEPT;
use batonq_server::store::{
    Duty, EventKind, EventsWanted, PutWebhook, Secret, Webhook, WebhookFormat, WebhookSpec,
};

use super::given::{Given, SECOND, job, named, queue};
use super::rules;
use crate::stores::Maker;

fn name(name: &str) -> WebhookName {
    WebhookName::parse(name).expect("a name")
}

fn secret(text: &str) -> Secret {
    Secret::parse(text, WebhookFormat::Batonq).expect("it is long enough")
}

fn spec(queues: &[QueueName]) -> WebhookSpec {
    let url = "https://example.com/".into();
    let (kinds, format) = (vec![EventKind::Pushed], WebhookFormat::Batonq);
    WebhookSpec { url, queues: queues.to_vec(), kinds, format }
}

impl<M: Maker> Given<M> {
    async fn put_webhook(&self, spec: WebhookSpec, secret: Option<Secret>) -> PutWebhook {
        self.store.put_webhook(name("w"), spec, secret).await.expect("it works")
    }

    async fn webhook(&self) -> Webhook {
        let webhooks = self.store.webhooks().await.expect("it works");
        webhooks.into_iter().next().expect("it is there")
    }

    /// How many events a webhook has not seen.
    async fn unseen(&self) -> usize {
        let all = self.store.watch(Some(named("nothing")), SECOND).await.expect("it works").now;
        let mut upto = 0;
        while upto < all {
            upto = self.store.event_head().await.expect("it works");
        }
        let after = self.webhook().await.seen;
        let wanted = EventsWanted { queue: None, after, upto, limit: 1000 };
        self.store.events(wanted).await.expect("it works").events.len()
    }
}

rules! {
    async fn a_webhook_stays_as_it_was_put(given: Given<M>) {
        let first = secret("the first of its secrets");
        assert_eq!(given.put_webhook(spec(&[]), None).await, PutWebhook::NoSecret);
        assert_eq!(given.put_webhook(spec(&[]), Some(first.clone())).await, PutWebhook::Created);
        let made = given.webhook().await;
        assert_eq!((made.spec, made.secret, made.created_at), (spec(&[]), Some(first.clone()), given.now()));
        given.pass(SECOND);
        assert_eq!(given.put_webhook(spec(&[queue()]), None).await, PutWebhook::Updated);
        let changed = given.webhook().await;
        assert_eq!((changed.spec, changed.secret), (spec(&[queue()]), Some(first)));
        assert_eq!((changed.created_at, changed.seen), (made.created_at, made.seen));
        let second = secret("the second of its secrets");
        given.put_webhook(spec(&[]), Some(second.clone())).await;
        assert_eq!(given.webhook().await.secret, Some(second));
    }

    async fn only_a_webhook_of_the_format_of_flashq_can_be_without_a_secret(given: Given<M>) {
        let flashq = WebhookSpec { format: WebhookFormat::Flashq, ..spec(&[]) };
        assert_eq!(given.put_webhook(flashq.clone(), None).await, PutWebhook::Created);
        let given = given.reopened().await;
        let made = given.webhook().await;
        assert_eq!((made.spec, made.secret), (flashq.clone(), None));
        assert_eq!(given.put_webhook(spec(&[]), None).await, PutWebhook::NoSecret);
        assert_eq!(given.webhook().await.spec, flashq);
        let secret = Secret::parse("short", WebhookFormat::Flashq).expect("it may be short");
        given.put_webhook(flashq.clone(), Some(secret.clone())).await;
        given.put_webhook(flashq, None).await;
        assert_eq!(given.webhook().await.secret, Some(secret));
    }

    async fn webhooks_are_listed_by_name_and_deleted(given: Given<M>) {
        for one in ["b", "a"] {
            let secret = Some(secret("a secret of some length"));
            given.store.put_webhook(name(one), spec(&[]), secret).await.unwrap();
        }
        let names: Vec<WebhookName> =
            given.store.webhooks().await.unwrap().into_iter().map(|one| one.name).collect();
        assert_eq!(names, [name("a"), name("b")]);
        assert!(given.store.delete_webhook(name("a")).await.unwrap());
        assert!(!given.store.delete_webhook(name("a")).await.unwrap());
        assert_eq!(given.store.webhooks().await.unwrap().len(), 1);
    }

    async fn what_a_webhook_wants_is_recorded_as_long_as_it_is_there(given: Given<M>) {
        given.push(job()).await;
        given.put_webhook(spec(&[queue()]), Some(secret("a secret of some length"))).await;
        given.push(job()).await;
        assert_eq!(given.unseen().await, 1);
        let given = given.reopened().await;
        given.pass(EVENTS_KEPT / 2);
        given.duty(Duty::Retention).await;
        given.push(job()).await;
        assert_eq!(given.unseen().await, 2);
        given.put_webhook(spec(&[named("other")]), None).await;
        given.push(job()).await;
        assert_eq!(given.unseen().await, 2);
    }

    async fn what_a_webhook_has_not_seen_is_not_forgotten(given: Given<M>) {
        given.put_webhook(spec(&[]), Some(secret("a secret of some length"))).await;
        given.ready_jobs(2).await;
        given.pass(2 * EVENTS_KEPT);
        given.duty(Duty::Retention).await;
        assert_eq!(given.unseen().await, 2);
        let head = given.store.event_head().await.unwrap();
        given.store.advance_webhook(name("w"), head).await.unwrap();
        given.store.advance_webhook(name("w"), 1).await.unwrap();
        assert_eq!(given.webhook().await.seen, head);
        given.duty(Duty::Retention).await;
        let wanted = EventsWanted { queue: None, after: 0, upto: head, limit: 1000 };
        assert_eq!(given.store.events(wanted).await.unwrap().events, []);
    }

    async fn a_number_for_a_webhook_that_is_gone_is_passed_over(given: Given<M>) {
        given.store.advance_webhook(name("w"), 7).await.unwrap();
        assert_eq!(given.store.webhooks().await.unwrap(), []);
    }
}
