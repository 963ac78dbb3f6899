//! `pgweir run`: the arguments.

use std::net::SocketAddr;

use clap::Args;

use super::ConfigArgs;
use crate::config::parse_address;

/// Run the proxy
///
/// Listens for clients until SIGTERM or SIGINT. Then it accepts no more, lets running transactions
/// finish for `shutdown_timeout`, and exits. SIGHUP reads the file again without dropping a client; a
/// file with mistakes changes nothing.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct RunArgs {
    #[command(flatten)]
    pub source: ConfigArgs,

    /// Listen here instead of where the configuration says
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub listen: Option<SocketAddr>,
}

const AFTER_HELP: &str = "\
Examples:
  pgweir run --config /etc/pgweir/pgweir.toml
  pgweir run --config pgweir.toml --listen 0.0.0.0:6432
  DATABASE_URL=postgres://app:secret@10.0.0.1/shop pgweir run
  DATABASE_URL=… DATABASE_REPLICA_URLS=postgres://10.0.0.2,postgres://10.0.0.3 pgweir run

Exit codes: 0 stopped by a signal, 1 could not start or failed (the reason is on standard error), 2 wrong arguments.";

fn address(text: &str) -> Result<SocketAddr, String> {
    parse_address(text).ok_or_else(|| "expected an IP address and a port such as 0.0.0.0:6432 or [::]:6432".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    #[test]
    fn an_address_is_checked_before_anything_starts() {
        let parse = |address: &str| {
            let command = RunArgs::augment_args(Command::new("run"));
            let matches = command.try_get_matches_from(["run", "--listen", address])?;
            RunArgs::from_arg_matches(&matches)
        };
        assert_eq!(parse("[::]:7000").unwrap().listen, Some("[::]:7000".parse().unwrap()));
        assert_eq!(parse("localhost:7000").unwrap().listen, Some("127.0.0.1:7000".parse().unwrap()));
        let error = parse("7000").unwrap_err().to_string();
        assert!(error.contains("expected an IP address and a port such as 0.0.0.0:6432"), "{error}");
    }
}
