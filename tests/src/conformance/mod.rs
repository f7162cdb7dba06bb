//! The contract of a store, rule by rule.
//!
//! Each topic is a file; each rule is a function that is given an empty store. A rule that is
//! written is run: the macro that defines it lists it too.

mod cancel;
mod claim;
mod cron;
mod custom_ids;
mod delayed;
mod durable;
mod duties;
mod events;
mod flow;
mod given;
mod guards;
mod handover;
mod inspect;
mod kept;
mod kv;
mod leases;
mod line;
mod logs;
mod needs;
mod notes;
mod people;
mod push;
mod retried;
mod settle;
mod standing;
mod together;
mod unique;
mod webhooks;

pub use given::Given;

use std::future::Future;
use std::pin::Pin;

use crate::stores::Maker;

/// One rule, for one kind of store.
#[derive(Clone)]
pub struct Rule {
    /// Store, topic and rule.
    pub name: String,
    /// Fails by panicking.
    pub check: fn() -> Pin<Box<dyn Future<Output = ()>>>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// All rules, for one kind of store.
pub fn all<M: Maker + 'static>() -> Vec<Rule> {
    [
        push::rules::<M>(),
        unique::rules::<M>(),
        custom_ids::rules::<M>(),
        flow::rules::<M>(),
        guards::rules::<M>(),
        handover::rules::<M>(),
        kept::rules::<M>(),
        needs::rules::<M>(),
        cancel::rules::<M>(),
        cron::rules::<M>(),
        claim::rules::<M>(),
        line::rules::<M>(),
        delayed::rules::<M>(),
        retried::rules::<M>(),
        settle::rules::<M>(),
        leases::rules::<M>(),
        duties::rules::<M>(),
        durable::rules::<M>(),
        events::rules::<M>(),
        people::rules::<M>(),
        inspect::rules::<M>(),
        webhooks::rules::<M>(),
        standing::rules::<M>(),
        together::rules::<M>(),
        notes::rules::<M>(),
        kv::rules::<M>(),
        logs::rules::<M>(),
    ]
    .concat()
}

/// Defines rules and lists them.
macro_rules! rules {
    ($(async fn $name:ident($given:ident: Given<M>) $body:block)*) => {
        $(
            async fn $name<M: crate::stores::Maker>($given: crate::conformance::Given<M>) $body
        )*

        pub(super) fn rules<M: crate::stores::Maker + 'static>() -> Vec<crate::conformance::Rule> {
            let topic = module_path!().rsplit("::").next().unwrap_or_default();
            vec![$(
                crate::conformance::Rule {
                    name: format!("{}::{topic}::{}", M::NAME, stringify!($name)),
                    check: || Box::pin(async {
                        $name::<M>(crate::conformance::Given::empty().await).await;
                    }),
                },
            )*]
        }
    };
}
pub(crate) use rules;
