//! `pgweir route`: the arguments.

use clap::Args;

use super::ConfigArgs;

/// Tell where a statement would go, and why
///
/// Runs nothing of the statement: it is classified as it would be for a client outside of a
/// transaction, with the catalog of the database.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct RouteArgs {
    #[command(flatten)]
    pub source: ConfigArgs,

    /// The database as clients name it; may be left out where the configuration names only one
    #[arg(long, short, value_name = "NAME")]
    pub database: Option<String>,

    /// The statement, or several separated by semicolons
    #[arg(value_name = "SQL")]
    pub sql: String,
}

const AFTER_HELP: &str = "\
Examples:
  pgweir route --config pgweir.toml \"SELECT * FROM orders WHERE id = 1\"
  pgweir route --config pgweir.toml --database shop \"SELECT next_invoice_number()\"

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments.";
