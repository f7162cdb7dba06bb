//! What is broken when, and breaking it.
//!
//! A [`Profile`] says how many faults of which kind there are to be, a [`Plan`] when and how, by a
//! seed alone; a [`Nemesis`] carries it out on a field. The same seed makes the same plan; what
//! comes of it depends on who leads, and on how fast all is.
//!
//! # What a fault's record says
//!
//! * `node` is 0 for faults of the database and of all nodes at once.
//! * `was_leader`: the leader was hit. With node 0 that somebody led: who leads loses the session
//!   of its lock, unless only sessions of work were ended. A node on its embedded database is not
//!   said to lead: nobody replaces it.
//! * `led_again_ns` is when a node *said* that it leads, at most some 20 ms after it did: another
//!   one, or the same one after it was seen not to lead, or not to be there. 0 if the same one has
//!   led at each look: then it was not replaced, as after a cut that was shorter than its trust, or
//!   it was elected again within 20 ms, as when an administrator has ended its session. Also 0 for
//!   what is done to clients.
//! * `end_ns` is when the way was opened, the process went on or was started again; nobody need be
//!   ready at that time.
//! * A rolling restart is one record for each node.

mod act;
mod kind;
mod plan;
mod profile;
mod watch;

pub use act::{Nemesis, NemesisError};
pub use kind::Kind;
pub use plan::{Begins, Deed, Plan, Step, Target};
pub use profile::{LeftOut, Profile};
