//! The kinds of faults.

/// A kind of fault. Its details, as the direction of a cut, are up to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A node is killed, as by a power cut, and started again.
    Kill,
    /// A node is there and does nothing for a while.
    Freeze,
    /// A node and the database are cut off from each other, or one from the other.
    Partition,
    /// What passes between a node and the database takes long.
    DatabaseDelay,
    /// Clients and a node are cut off from each other, or one from the other.
    ClientPartition,
    /// What passes between clients and a node takes long.
    ClientDelay,
    /// The connections of clients to a node are reset.
    ClientReset,
    /// The connections of clients to a node are closed in one direction.
    ClientHalfClose,
    /// Each connection of clients to a node ends somewhere amid what is sent.
    ClientCut,
    /// The process of one database session is killed, which ends all sessions.
    BackendKill,
    /// The database is stopped and started again.
    PostgresRestart,
    /// The first process of the database is killed, and it is started again.
    PostmasterKill,
    /// An administrator ends the session that holds the leader's lock.
    LeaderTerminate,
    /// An administrator ends sessions in which nodes work, again and again.
    PoolChurn,
    /// Each node in turn is told to stop, and started again.
    RollingRestart,
    /// A node is started again with a time of day that is far off, and later with the right one.
    ClockOffset,
    /// A node that is not ours is told over the API to leave. Somebody starts it again.
    Drain,
    /// Somebody's transaction holds the rows of jobs that are ready, so that claims pass them over.
    RowLock,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Kill,
        Self::Freeze,
        Self::Partition,
        Self::DatabaseDelay,
        Self::ClientPartition,
        Self::ClientDelay,
        Self::ClientReset,
        Self::ClientHalfClose,
        Self::ClientCut,
        Self::BackendKill,
        Self::PostgresRestart,
        Self::PostmasterKill,
        Self::LeaderTerminate,
        Self::PoolChurn,
        Self::RollingRestart,
        Self::ClockOffset,
        Self::Drain,
        Self::RowLock,
    ];

    /// What it is called. In a history the direction may follow, as in `partition_in`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Partition => "partition",
            Self::DatabaseDelay => "database_delay",
            Self::ClientPartition => "client_partition",
            Self::ClientDelay => "client_delay",
            Self::ClientReset => "client_reset",
            Self::ClientHalfClose => "client_half_close",
            Self::ClientCut => "client_cut",
            Self::BackendKill => "backend_kill",
            Self::PostgresRestart => "postgres_restart",
            Self::PostmasterKill => "postmaster_kill",
            Self::LeaderTerminate => "leader_terminate",
            Self::PoolChurn => "pool_churn",
            Self::RollingRestart => "rolling_restart",
            Self::ClockOffset => "clock_offset",
            Self::Drain => "drain",
            Self::RowLock => "row_lock",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| format!("write one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
