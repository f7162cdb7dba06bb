//! The election and its fence as a model, small enough to be searched whole.
//!
//! # What of the broker it is
//!
//! | here | in `server/src/store/postgres` |
//! |---|---|
//! | `Belief` | `election.rs`: `stand` is `follow`, `win`, `lead`; whatever fails drops the session |
//! | `Session` | the backend of that session, with the advisory lock that ends with it |
//! | `Sent` to `Written` | `win`: the `UPDATE leader`, which waits for those who hold the row `FOR SHARE` |
//! | `Part` | `duties.rs`, `try_duty`: `fence`, then the work, `AUDIT` and `COMMIT` in `finish_part` |
//! | a part begins | `server/src/duties/mod.rs`, `Frame::run`: only while `Leadership::term` is there |
//! | trust runs out | `leader.rs`: the end of `trusted_until`, whatever the session is like |
//!
//! # What may happen
//!
//! Anything, at any time, in any order: there are no clocks in it. A message that has been sent may
//! arrive now or after all the others, so delays are in it, and cuts; a node of which no step comes
//! next for a while is frozen, and the step after that is its thaw. Trust may run out at any
//! moment, also at once and also never. The database may end any session or transaction, and tell
//! nobody. A node may drop a connection, and the database may not learn of it: what was sent on it
//! may still be carried out. The lock may slip away from a session that lives on.
//!
//! # What makes it finite
//!
//! Terms are told apart by their tokens, and a token matters only as long as somebody has it: so
//! their number is not bounded. What is bounded: of connections that a node has dropped and that
//! the database has not noticed, there is at most one for the election and one for the parts.
//! States that differ in the names of nodes and tokens only are one.

use crate::search::{Model, Step};

/// Which term, as far as it is another than the others. Zero: one that nobody has any more.
type Token = u8;

/// What a node believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Belief {
    /// It has no session.
    Away,
    /// It asks for the lock.
    Following,
    /// It has the lock, and has sent its token.
    Winning(Token),
    /// It leads, and trusts itself.
    Leading(Token),
    /// It led, and its trust has run out.
    Doubting(Token),
}

/// What the database has of a node's session for elections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Session {
    /// Nothing: it never was, or has ended.
    None,
    /// It lives without the lock.
    Bare,
    /// It will ask for the lock.
    Asking,
    /// It has the lock.
    Holding,
    /// It has the lock; the new token is under way to it, or waits for the row.
    Sent(Token),
    /// It has locked the leader's row and not committed.
    Writing(Token),
    /// It has committed; the answer is under way.
    Written(Token),
}

/// What there is of a part of a duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    /// None is under way.
    None,
    /// The fence is asked for.
    Asking(Token),
    /// The fence was there, and is held; the answer is under way.
    Passed(Token),
    /// The work and its commit are under way.
    Sent(Token),
}

/// A node, with what the database has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Node {
    belief: Belief,
    session: Session,
    part: Part,
    /// The node has dropped it, and the database does not know.
    late_session: Session,
    /// The same.
    late_part: Part,
}

/// What a part is guarded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The leader's row by the token of the term, locked `FOR SHARE`: as the broker does it.
    Fence,
    /// The row by the token, read and not locked.
    Read,
    /// Nothing in the database: a look at one's own trust before the work is sent.
    Trust,
}

/// An election among `N` nodes.
#[derive(Debug, Clone, Copy)]
pub struct Election<const N: usize> {
    /// What parts are guarded by.
    pub guard: Guard,
    /// Whether the database ends what a node has dropped without a word.
    pub is_impatient: bool,
    /// Connections of all nodes at most that were dropped and are not noticed.
    pub late_max: usize,
}

/// All that decides what may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State<const N: usize> {
    /// The leader's row, as committed.
    row: Token,
    nodes: [Node; N],
    /// The latest token.
    drawn: Token,
    /// Whose work was committed last.
    worked: Token,
    /// Whose work was committed before that of another.
    is_past: u32,
    is_stale: bool,
    has_returned: bool,
}

const IDLE: Node = Node {
    belief: Belief::Away,
    session: Session::None,
    part: Part::None,
    late_session: Session::None,
    late_part: Part::None,
};

impl Session {
    fn has_lock(self) -> bool {
        !matches!(self, Self::None | Self::Bare | Self::Asking)
    }

    fn token(&mut self) -> Option<&mut Token> {
        match self {
            Self::None | Self::Bare | Self::Asking | Self::Holding => None,
            Self::Sent(token) | Self::Writing(token) | Self::Written(token) => Some(token),
        }
    }
}

impl Part {
    fn token(&mut self) -> Option<&mut Token> {
        match self {
            Self::None => None,
            Self::Asking(token) | Self::Passed(token) | Self::Sent(token) => Some(token),
        }
    }

    fn has_passed(self) -> bool {
        matches!(self, Self::Passed(_) | Self::Sent(_))
    }
}

impl Node {
    /// Every token that it, or what is left of it in the database, still has.
    fn tokens(&mut self) -> impl Iterator<Item = &mut Token> {
        let belief = match &mut self.belief {
            Belief::Away | Belief::Following => None,
            Belief::Winning(token) | Belief::Leading(token) | Belief::Doubting(token) => {
                Some(token)
            }
        };
        [
            belief,
            self.session.token(),
            self.part.token(),
            self.late_session.token(),
            self.late_part.token(),
        ]
        .into_iter()
        .flatten()
    }

    /// What it is like whatever its tokens are called.
    fn shape(mut self, row: Token) -> Self {
        self.tokens().for_each(|token| *token = Token::from(*token == row));
        self
    }

    fn sessions(&self) -> [Session; 2] {
        [self.session, self.late_session]
    }

    fn parts(&self) -> [Part; 2] {
        [self.part, self.late_part]
    }
}

impl<const N: usize> State<N> {
    /// Work was committed under a token that was not the leader's row's any more.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Work was committed under one token, then under another, then under the first again.
    pub fn has_returned(&self) -> bool {
        self.has_returned
    }

    /// How many nodes trust themselves to lead.
    pub fn leaders(&self) -> usize {
        self.nodes.iter().filter(|node| matches!(node.belief, Belief::Leading(_))).count()
    }

    /// How many of them could have their work committed.
    pub fn leaders_in_effect(&self) -> usize {
        self.nodes.iter().filter(|node| node.belief == Belief::Leading(self.row)).count()
    }

    /// A node leads as it should: trusted, with the lock and with its token in the row.
    pub fn is_led(&self) -> bool {
        let leads = |node: &Node| {
            node.belief == Belief::Leading(self.row) && node.session == Session::Holding
        };
        self.nodes.iter().any(leads)
    }

    fn is_locked(&self) -> bool {
        self.nodes.iter().flat_map(Node::sessions).any(Session::has_lock)
    }

    fn is_being_written(&self) -> bool {
        let is_writing = |session| matches!(session, Session::Writing(_));
        self.nodes.iter().flat_map(Node::sessions).any(is_writing)
    }

    fn late_count(&self) -> usize {
        let late = |node: &Node| {
            usize::from(node.late_session != Session::None)
                + usize::from(node.late_part != Part::None)
        };
        self.nodes.iter().map(late).sum()
    }

    /// A part is committed.
    fn audit(&mut self, token: Token) {
        self.is_stale |= token != self.row;
        if self.worked != token {
            self.has_returned |= self.is_past & (1 << token) != 0;
            self.is_past |= 1 << self.worked;
            self.worked = token;
        }
    }
}

/// One of the two that a node may have in the database: the one it uses, or the one it dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Own,
    Late,
}

/// Collects the steps of one node in one state.
struct Steps<'a, const N: usize> {
    election: &'a Election<N>,
    state: &'a State<N>,
    at: usize,
    next: &'a mut dyn FnMut(Step, State<N>),
}

impl<const N: usize> Steps<'_, N> {
    fn node(&self) -> Node {
        self.state.nodes[self.at]
    }

    fn add(&mut self, what: &'static str, change: impl FnOnce(&mut State<N>)) {
        let mut state = *self.state;
        change(&mut state);
        (self.next)((self.at, what), state);
    }

    fn change(&mut self, what: &'static str, change: impl FnOnce(&mut Node)) {
        let at = self.at;
        self.add(what, |state| change(&mut state.nodes[at]));
    }

    /// What the node's election does, or what happens to it.
    fn of_belief(&mut self) {
        let node = self.node();
        match (node.belief, node.session) {
            (Belief::Away, _) => self.change("connects, and asks for the lock", |node| {
                (node.belief, node.session) = (Belief::Following, Session::Asking);
            }),
            (Belief::Following, Session::Holding) => {
                let (at, token) = (self.at, self.state.drawn + 1);
                self.add("learns that it has the lock, and sends a new token", |state| {
                    state.drawn = token;
                    state.nodes[at].belief = Belief::Winning(token);
                    state.nodes[at].session = Session::Sent(token);
                });
            }
            (Belief::Winning(token), Session::Written(_)) => {
                self.change("learns that its token is written: it leads", |node| {
                    (node.belief, node.session) = (Belief::Leading(token), Session::Holding);
                });
            }
            (Belief::Leading(token), _) => {
                self.change("trusts itself no longer", |node| {
                    node.belief = Belief::Doubting(token);
                });
            }
            _ => {}
        }
        if node.belief != Belief::Away {
            self.drop_session();
        }
    }

    fn drop_session(&mut self) {
        let what = "drops its session";
        self.change(what, |node| {
            (node.belief, node.session) = (Belief::Away, Session::None);
        });
        let node = self.node();
        let has_room = self.state.late_count() < self.election.late_max;
        if node.session != Session::None && node.late_session == Session::None && has_room {
            self.change("drops its session, and the database does not learn of it", |node| {
                node.late_session = match node.session {
                    // Nobody is there to be told.
                    Session::Written(_) => Session::Holding,
                    other => other,
                };
                (node.belief, node.session) = (Belief::Away, Session::None);
            });
        }
    }

    /// What the database does in a session.
    fn of_session(&mut self, which: Which) {
        let node = self.node();
        let session = match which {
            Which::Own => node.session,
            Which::Late => node.late_session,
        };
        let is_late = which == Which::Late;
        match session {
            Session::None => return,
            Session::Asking if self.state.is_locked() => {}
            Session::Asking => self.set_session(which, "is given the lock", Session::Holding),
            Session::Holding if node.belief == Belief::Following && !is_late => {}
            Session::Holding if !is_late => {
                self.set_session(which, "loses the lock, but not its session", Session::Bare)
            }
            Session::Sent(token) => {
                if !self.state.is_being_written() && !self.is_held_for_share() {
                    self.set_session(
                        which,
                        "has the leader's row to itself",
                        Session::Writing(token),
                    );
                }
            }
            Session::Writing(token) => self.write(which, token),
            Session::Bare | Session::Holding | Session::Written(_) => {}
        }
        if self.election.is_impatient {
            self.set_session(which, "its session is ended by the database", Session::None);
        }
    }

    fn set_session(&mut self, which: Which, what: &'static str, session: Session) {
        self.change(what, |node| match which {
            Which::Own => node.session = session,
            Which::Late => node.late_session = session,
        });
    }

    /// Whether a part holds the leader's row.
    fn is_held_for_share(&self) -> bool {
        let mut parts = self.state.nodes.iter().flat_map(Node::parts);
        self.election.guard == Guard::Fence && parts.any(Part::has_passed)
    }

    fn write(&mut self, which: Which, token: Token) {
        let at = self.at;
        self.add("its token is committed", |state| {
            state.row = token;
            match which {
                Which::Own => state.nodes[at].session = Session::Written(token),
                Which::Late => state.nodes[at].late_session = Session::Holding,
            }
        });
    }

    /// What the node does to a duty.
    fn of_duty(&mut self) {
        let node = self.node();
        match (node.belief, node.part) {
            (Belief::Leading(token), Part::None) => match self.election.guard {
                Guard::Fence | Guard::Read => {
                    self.change("begins a part, and asks for the fence", |node| {
                        node.part = Part::Asking(token);
                    });
                }
                Guard::Trust => self.change("trusts itself, and sends work", |node| {
                    node.part = Part::Sent(token);
                }),
            },
            (_, Part::Passed(token)) => {
                self.change("has passed the fence, and sends work", |node| {
                    node.part = Part::Sent(token);
                });
            }
            _ => {}
        }
        if node.part != Part::None {
            self.drop_part();
        }
    }

    fn drop_part(&mut self) {
        let has_room = self.state.late_count() < self.election.late_max;
        if self.node().late_part == Part::None && has_room {
            self.change("drops its part, and the database does not learn of it", |node| {
                node.late_part = std::mem::replace(&mut node.part, Part::None);
            });
        }
    }

    /// What the database does to a part.
    fn of_part(&mut self, which: Which) {
        let part = match which {
            Which::Own => self.node().part,
            Which::Late => self.node().late_part,
        };
        let put = |node: &mut Node, part| match which {
            Which::Own => node.part = part,
            Which::Late => node.late_part = part,
        };
        match part {
            Part::None => return,
            // Who wants the row while it is written to waits, and then looks at what was written.
            Part::Asking(_)
                if self.election.guard == Guard::Fence && self.state.is_being_written() => {}
            Part::Asking(token) if token == self.state.row => {
                self.change("finds its token in the leader's row", |node| {
                    put(node, Part::Passed(token));
                });
            }
            Part::Asking(_) | Part::Passed(_) => {}
            Part::Sent(token) => {
                let at = self.at;
                self.add("its work is committed", |state| {
                    state.audit(token);
                    put(&mut state.nodes[at], Part::None);
                });
            }
        }
        if which == Which::Own || self.election.is_impatient {
            self.change("its part is undone by the database", |node| put(node, Part::None));
        }
    }
}

impl<const N: usize> Model for Election<N> {
    type State = State<N>;

    fn start(&self) -> State<N> {
        State {
            row: 1,
            nodes: [IDLE; N],
            drawn: 1,
            worked: 0,
            is_past: 0,
            is_stale: false,
            has_returned: false,
        }
    }

    fn steps(&self, state: &State<N>, next: &mut dyn FnMut(Step, State<N>)) {
        for at in 0..N {
            let mut steps = Steps { election: self, state, at, next };
            steps.of_belief();
            steps.of_duty();
            for which in [Which::Own, Which::Late] {
                steps.of_session(which);
                steps.of_part(which);
            }
        }
    }

    /// Nodes by what they are like, tokens in the order in which they come up.
    fn plain(&self, state: &State<N>) -> State<N> {
        let mut plain = *state;
        let row = plain.row;
        let mut shaped = plain.nodes.map(|node| (node.shape(row), node));
        shaped.sort_unstable();
        plain.nodes = shaped.map(|(_, node)| node);
        let mut names = [0; 32];
        let mut count = 0;
        let mut rename = |token: &mut Token| {
            let name = &mut names[usize::from(*token)];
            if *name == 0 {
                count += 1;
                *name = count;
            }
            *token = *name;
        };
        rename(&mut plain.row);
        plain.nodes.iter_mut().flat_map(Node::tokens).for_each(&mut rename);
        plain.drawn = count;
        // What nobody has any more can not come back.
        plain.worked = names[usize::from(state.worked)];
        let past = (1..).zip(&names[1..]).filter(|(token, _)| state.is_past & (1 << token) != 0);
        plain.is_past = past.filter(|(_, name)| **name != 0).map(|(_, name)| 1 << name).sum();
        plain
    }
}
