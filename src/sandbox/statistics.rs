//! What ran where, by the servers' own account.
//!
//! By `pg_stat_statements` and not by the transaction counts of `pg_stat_database`: a backend hands
//! in the latter only at times (up to ten seconds late while its connection stays open, as a pool's do),
//! and they count transactions where the question is about statements.

use super::error::SandboxError;
use super::server::Server;
use super::sql::literal;
use super::{SUPERUSER, Sandbox};

/// How often one server ran a statement. Constants are replaced by `$1`, `$2` …, so this stands for
/// all statements of the same form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementCount {
    /// On one line.
    pub statement: String,
    pub calls: u64,
}

impl Sandbox {
    /// Forgets what the servers have counted so far. Needs [`super::SandboxOptions::statement_statistics`].
    pub async fn reset_statistics(&self) -> Result<(), SandboxError> {
        for server in self.servers() {
            server.psql("SELECT pg_stat_statements_reset()").await?;
        }
        Ok(())
    }
}

impl Server {
    /// The statements that this server finished in a database since the statistics were reset, most
    /// frequent first; those of the superuser (the sandbox itself, `pgweir`'s monitors in the demo) and
    /// those inside of functions left out. Needs [`super::SandboxOptions::statement_statistics`].
    pub async fn statement_counts(&self, database: &str) -> Result<Vec<StatementCount>, SandboxError> {
        let question = format!(
            "SELECT sum(calls), regexp_replace(query, '\\s+', ' ', 'g') AS statement FROM pg_stat_statements
             WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = {})
               AND userid <> (SELECT oid FROM pg_roles WHERE rolname = {})
             GROUP BY 2 ORDER BY 1 DESC, 2",
            literal(database),
            literal(SUPERUSER),
        );
        let rows = self.psql(&question).await?;
        Ok(rows.lines().filter_map(row).collect())
    }
}

/// `calls|statement`; the statement may hold more of the separator.
fn row(line: &str) -> Option<StatementCount> {
    let (calls, statement) = line.split_once('|')?;
    Some(StatementCount { statement: statement.to_owned(), calls: calls.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_the_separators_of_its_statement() {
        let expected = StatementCount { statement: "SELECT a || b".to_owned(), calls: 12 };
        assert_eq!(row("12|SELECT a || b"), Some(expected));
        assert_eq!(row("nonsense"), None);
    }
}
