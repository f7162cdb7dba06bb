//! Who may do what: one table of operations and roles for both transports.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::Error;

/// What a token may be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Hand jobs in.
    Produce,
    /// Work on jobs.
    Consume,
    /// Look.
    Observe,
    /// All of it, and change what waits.
    Admin,
}

impl Role {
    const ALL: [Self; 4] = [Self::Produce, Self::Consume, Self::Observe, Self::Admin];

    /// The word for it in settings and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Observe => "observe",
            Self::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it; the broker's methods explain it")]
pub enum Operation {
    Push,
    Pull,
    Settle,
    WaitJob,
    GetJob,
    ListJobs,
    GetTimeline,
    ExplainJob,
    ListQueues,
    ListWorkers,
    GetStats,
    GetMetrics,
    ListenEvents,
    ListWebhooks,
    ChangeWebhook,
    PauseQueue,
    ResumeQueue,
    RetryJob,
    ReplayJob,
    ReplayDead,
    CancelJob,
    PromoteJob,
    EditJob,
    DeleteJob,
    Bulk,
    SetSettings,
    ListKeys,
    ListDecisions,
    ListSchedules,
    ChangeSchedule,
    GetCluster,
    DrainNode,
    ReadValues,
    ChangeValues,
    /// A sign of life, and what is open to everybody: health, the API's description.
    Greet,
}

impl Operation {
    /// Who may do it: any one of these roles is enough. `None`: everybody who may connect.
    ///
    /// This is the table. There is no wildcard: a new operation does not compile until someone
    /// has decided who may do it.
    const fn roles(self) -> Option<&'static [Role]> {
        use Role::{Admin, Consume, Observe, Produce};
        match self {
            Self::Greet => None,
            Self::Push => Some(&[Produce, Admin]),
            Self::Pull | Self::Settle => Some(&[Consume, Admin]),
            // What producers and workers share beside jobs.
            Self::ChangeValues => Some(&[Produce, Consume, Admin]),
            Self::ReadValues => Some(&[Produce, Consume, Observe, Admin]),
            // Who pushed a job may wait for its end.
            Self::WaitJob => Some(&[Produce, Observe, Admin]),
            Self::GetJob
            | Self::ListJobs
            | Self::GetTimeline
            | Self::ExplainJob
            | Self::ListQueues
            | Self::ListKeys
            | Self::ListDecisions
            | Self::ListSchedules
            | Self::ListWorkers
            | Self::GetStats
            | Self::GetMetrics
            | Self::ListenEvents
            | Self::GetCluster => Some(&[Observe, Admin]),
            Self::PauseQueue
            | Self::ResumeQueue
            | Self::RetryJob
            | Self::ReplayJob
            | Self::ReplayDead
            | Self::CancelJob
            | Self::PromoteJob
            | Self::EditJob
            | Self::DeleteJob
            | Self::Bulk
            | Self::SetSettings
            | Self::ChangeSchedule
            | Self::ListWebhooks
            | Self::ChangeWebhook
            | Self::DrainNode => Some(&[Admin]),
        }
    }

    /// The word for it in errors, logs and the API's description.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Settle => "settle",
            Self::WaitJob => "wait",
            Self::GetJob => "get job",
            Self::ListJobs => "list jobs",
            Self::GetTimeline => "get timeline",
            Self::ExplainJob => "explain job",
            Self::ListQueues => "list queues",
            Self::ListWorkers => "list workers",
            Self::GetStats => "get stats",
            Self::GetMetrics => "get metrics",
            Self::ListenEvents => "listen to events",
            Self::ListWebhooks => "list webhooks",
            Self::ChangeWebhook => "change webhook",
            Self::PauseQueue => "pause queue",
            Self::ResumeQueue => "resume queue",
            Self::RetryJob => "retry job",
            Self::ReplayJob => "replay job",
            Self::ReplayDead => "replay dead jobs",
            Self::CancelJob => "cancel job",
            Self::PromoteJob => "promote job",
            Self::EditJob => "edit job",
            Self::DeleteJob => "delete job",
            Self::Bulk => "change many jobs",
            Self::SetSettings => "set settings",
            Self::ListKeys => "list keys",
            Self::ListDecisions => "list decisions",
            Self::ListSchedules => "list schedules",
            Self::ChangeSchedule => "change schedule",
            Self::GetCluster => "get cluster",
            Self::DrainNode => "drain node",
            Self::ReadValues => "read values",
            Self::ChangeValues => "change values",
            Self::Greet => "greet",
        }
    }

    /// The least role that allows it; `None`: none is needed.
    pub fn role(self) -> Option<Role> {
        self.roles().and_then(|roles| roles.first().copied())
    }
}

/// What a client has shown that it may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    roles: u8,
}

impl Principal {
    /// Its roles, in words.
    pub fn name(self) -> String {
        if self.roles == u8::MAX {
            return "anyone".into();
        }
        let names = Role::ALL.into_iter().filter(|role| self.roles & role.bit() != 0);
        names.map(Role::name).collect::<Vec<_>>().join("+")
    }

    /// # Errors
    ///
    /// [`Error::Forbidden`], naming the role that would do.
    pub fn check(self, operation: Operation) -> Result<(), Error> {
        let Some(roles) = operation.roles() else { return Ok(()) };
        if roles.iter().any(|role| self.roles & role.bit() != 0) {
            return Ok(());
        }
        let role = operation.role().map_or("", Role::name);
        Err(Error::Forbidden { operation: operation.name(), role })
    }
}

/// The tokens of this node. Kept as digests: a dump of the memory shows none.
#[derive(Clone)]
pub struct Access {
    /// Empty: everybody may do everything.
    tokens: Vec<([u8; 32], Principal)>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("tokens", &self.tokens.len()).finish()
    }
}

impl Access {
    /// No tokens: everybody who can connect may do everything.
    pub fn open() -> Self {
        Self { tokens: Vec::new() }
    }

    /// Reads `TOKEN:ROLE[+ROLE…]`, separated by commas or line ends; lines that begin with `#` are
    /// left out.
    ///
    /// # Errors
    ///
    /// What is wrong, without showing a token.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let entries = lines.flat_map(|line| line.split(',')).map(str::trim);
        let tokens: Vec<_> = entries
            .filter(|entry| !entry.is_empty())
            .enumerate()
            .map(|(place, entry)| {
                parse_entry(entry).map_err(|what| format!("entry {}: {what}", place + 1))
            })
            .collect::<Result<_, _>>()?;
        match tokens.is_empty() {
            true => Err("there is no token in it".into()),
            false => Ok(Self { tokens }),
        }
    }

    /// How many tokens there are.
    pub fn count(&self) -> usize {
        self.tokens.len()
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }

    /// What somebody with this token may do. Takes the same time for every token.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`].
    pub fn authenticate(&self, token: Option<&str>) -> Result<Principal, Error> {
        if self.is_open() {
            return Ok(Principal { roles: u8::MAX });
        }
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Err(Error::Unauthenticated("a token is needed"));
        };
        let digest = digest(token);
        let mut found = None;
        for (known, principal) in &self.tokens {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(*principal);
            }
        }
        found.ok_or(Error::Unauthenticated("the token is not valid"))
    }
}

fn parse_entry(entry: &str) -> Result<([u8; 32], Principal), String> {
    let (token, names) = entry.rsplit_once(':').ok_or("must be TOKEN:ROLE[+ROLE…]")?;
    if token.is_empty() || token.len() > 1024 || token.chars().any(char::is_whitespace) {
        return Err("the token must have 1 to 1024 characters and no blanks".into());
    }
    let mut roles = 0;
    for name in names.split('+') {
        let role = Role::ALL.into_iter().find(|role| role.name() == name.trim());
        roles |= role.ok_or("a role must be produce, consume, observe or admin")?.bit();
    }
    Ok((digest(token), Principal { roles }))
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access::parse("p:produce, c:consume\n# note\no:observe,a:admin,w:ith:produce+consume")
            .unwrap()
    }

    #[test]
    fn each_role_may_do_its_part() {
        for (token, operation, allowed) in [
            ("p", Operation::Push, true),
            ("p", Operation::Pull, false),
            ("p", Operation::WaitJob, true),
            ("p", Operation::GetJob, false),
            ("c", Operation::Pull, true),
            ("c", Operation::Settle, true),
            ("c", Operation::Push, false),
            ("o", Operation::GetStats, true),
            ("o", Operation::PauseQueue, false),
            ("a", Operation::Push, true),
            ("a", Operation::PauseQueue, true),
            ("w:ith", Operation::Push, true),
            ("w:ith", Operation::Pull, true),
            ("w:ith", Operation::GetStats, false),
            ("c", Operation::Greet, true),
        ] {
            let principal = access().authenticate(Some(token)).unwrap();
            assert_eq!(principal.check(operation).is_ok(), allowed, "{token} {operation:?}");
        }
    }

    #[test]
    fn no_token_and_a_wrong_one_are_refused() {
        for token in [None, Some(""), Some("x"), Some("p:produce")] {
            assert!(matches!(access().authenticate(token), Err(Error::Unauthenticated(_))));
        }
        assert!(Access::open().authenticate(None).is_ok());
    }

    #[test]
    fn bad_settings_are_refused_without_showing_the_token() {
        for bad in ["s3cret", "s3cret:", "s3cret:root", ":admin", "s3 cret:admin", "", "# only"] {
            let refused = Access::parse(bad).unwrap_err();
            assert!(!refused.contains("s3"), "{refused}");
        }
    }
}
