//! The `pgweir` command.

use std::process::ExitCode;

use clap::Parser;
use pgweir::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
