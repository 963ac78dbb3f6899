//! pgweir as it would be run, with a configuration like PgBouncer's.

use std::fmt::Write;
use std::process::Command;

use crate::Result;
use crate::contender::Recipe;
use crate::options::Options;
use crate::setup::{IDLE_USER, LOAD_USER, Setup};

/// How to start it on a port, with or without the standbys.
pub fn recipe(port: u16, replicas: bool, options: &Options, setup: &Setup) -> Result<Recipe> {
    let file = setup.sandbox.directory().join(format!("pgweir-{port}.toml"));
    std::fs::write(&file, configuration(port, replicas, options, setup)?)?;
    let mut command = Command::new(&options.pgweir);
    command.arg("run").arg("--config").arg(file);
    command.env_remove("RUST_LOG");
    Ok(Recipe { command, version: env!("CARGO_PKG_VERSION").to_owned(), prepares: true })
}

fn configuration(port: u16, replicas: bool, options: &Options, setup: &Setup) -> Result<String> {
    let mut toml = options.workers.map(|workers| format!("workers = {workers}\n")).unwrap_or_default();
    write!(
        toml,
        "[listen]\n\
         address = \"127.0.0.1:{port}\"\n\
         max_clients = {clients}\n\
         [log]\n\
         level = \"error\"\n\
         [pool]\n\
         size = {pool}\n\
         [clusters.main]\n\
         primary = \"postgres://127.0.0.1:{server}\"\n",
        clients = options.most_idle_clients() + 1000,
        pool = options.pool,
        server = setup.sandbox.primary().port,
    )?;
    if replicas {
        let urls = setup.sandbox.replicas().iter().map(|replica| format!("\"postgres://127.0.0.1:{}\"", replica.port));
        writeln!(toml, "replicas = [{}]", urls.collect::<Vec<_>>().join(", "))?;
    }
    writeln!(toml, "[[users]]\nname = \"{LOAD_USER}\"\nauth = \"trust\"")?;
    writeln!(toml, "[[users]]\nname = \"{IDLE_USER}\"\npassword = \"{}\"", setup.password)?;
    Ok(toml)
}
