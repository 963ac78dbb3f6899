//! The command line: one file per command, each with its arguments and its `main`.

pub mod check;
pub mod demo;
pub mod logging;
pub mod route;
pub mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, ConfigErrors};

/// A PostgreSQL proxy: pools connections, sends reads to replicas, and holds every tenant to its limits
#[derive(Debug, Parser)]
#[command(name = "pgweir", version, after_long_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Route(route::RouteArgs),
    Demo(demo::DemoArgs),
}

const AFTER_HELP: &str = "\
Where the configuration comes from:
  --config FILE          a TOML file; config/pgweir.toml shows every setting
  otherwise the environment:
  DATABASE_URL           the primary with its login: postgres://user:password@host:5432/database
  DATABASE_REPLICA_URLS  standbys, separated by commas or spaces
  PGWEIR_LISTEN          where clients connect (127.0.0.1:6432)
  PGWEIR_HTTP            where metrics and health are served (nowhere)

Other environment variables:
  RUST_LOG               what is logged, such as \"debug\" or \"info,pgweir::pool=trace\"; wins over the file
  NO_COLOR               no colours in the log

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments.";

impl Cli {
    /// Runs the command that was asked for.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(args) => run::main(&args),
            Command::Check(args) => check::main(&args),
            Command::Route(args) => route::main(&args),
            Command::Demo(args) => demo::main(&args),
        }
    }
}

/// Where a command finds its configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration file; without it, the environment (DATABASE_URL …) is the configuration
    #[arg(long, short, value_name = "FILE", env = "PGWEIR_CONFIG")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads and checks the file, or the environment where there is none.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        // A variable that is not UTF-8 is as good as unset: neither a URL nor a password can be that.
        let env = |name: &str| std::env::var(name).ok();
        match &self.config {
            Some(path) => config::load(path, &env),
            None => config::from_env(&env),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        source: ConfigArgs,
    }

    #[test]
    fn a_file_can_be_named_in_two_ways() {
        for option in ["--config", "-c"] {
            let only = Only::try_parse_from(["pgweir", option, "x.toml"]).unwrap();
            assert_eq!(only.source.config, Some(PathBuf::from("x.toml")));
        }
    }

    /// The long help of every command shows how it ends, and where its configuration comes from if it has one.
    #[test]
    fn help_is_worth_reading() {
        let mut texts = vec![("pgweir".to_owned(), Cli::command().render_long_help().to_string())];
        for command in Cli::command().get_subcommands_mut() {
            texts.push((command.get_name().to_owned(), command.render_long_help().to_string()));
        }
        assert_eq!(texts.len(), 5);
        for (name, text) in texts {
            assert!(text.contains("Exit codes:"), "{text}");
            assert_eq!(text.contains("--config "), name != "demo", "{text}");
        }
    }
}
