//! What a tenant is refused by, or cut off by.

/// A limit of a tenant's, or of its pool's, that something came up against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    MaxClients,
    MaxPinned,
    MaxServerConnections,
    QueueLength,
    /// No server connection was to be had in time, or at all.
    ServerConnection,
    RateLimit,
    Paused,
    GuardedSetting,
    Replication,
    TransactionTimeout,
    IdleInTransactionTimeout,
}

impl Limit {
    /// In the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::MaxClients,
        Self::MaxPinned,
        Self::MaxServerConnections,
        Self::QueueLength,
        Self::ServerConnection,
        Self::RateLimit,
        Self::Paused,
        Self::GuardedSetting,
        Self::Replication,
        Self::TransactionTimeout,
        Self::IdleInTransactionTimeout,
    ];

    /// As metrics and audit lines have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxClients => "max_clients",
            Self::MaxPinned => "max_pinned",
            Self::MaxServerConnections => "max_server_connections",
            Self::QueueLength => "queue_length",
            Self::ServerConnection => "server_connection",
            Self::RateLimit => "rate_limit",
            Self::Paused => "paused",
            Self::GuardedSetting => "guarded_setting",
            Self::Replication => "replication",
            Self::TransactionTimeout => "transaction_timeout",
            Self::IdleInTransactionTimeout => "idle_in_transaction_timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_number() {
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, number, "{limit:?}");
        }
    }
}
