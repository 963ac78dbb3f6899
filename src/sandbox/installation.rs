//! Where PostgreSQL's programs are on this machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::SandboxError;

/// A directory that holds a whole PostgreSQL server installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    bindir: PathBuf,
}

/// Without these, no cluster with a standby can be made and asked.
const REQUIRED: [&str; 4] = ["initdb", "postgres", "pg_basebackup", "psql"];

/// Where Debian keeps one directory for each major version.
const DEBIAN: &str = "/usr/lib/postgresql";

impl Installation {
    /// The first whole installation of: the directory of the `initdb` on PATH (links followed),
    /// `pg_config --bindir`, and the newest under `/usr/lib/postgresql/*/bin`.
    pub fn find() -> Result<Self, SandboxError> {
        let mut searched = Vec::new();
        for (place, bindir) in candidates() {
            match Self::at(&bindir) {
                Ok(installation) => return Ok(installation),
                Err(missing) => searched.push(format!("{} ({place}) has no {missing}", bindir.display())),
            }
        }
        if searched.is_empty() {
            searched.push(format!("no `initdb` and no `pg_config` on PATH, nothing in {DEBIAN}/*/bin"));
        }
        Err(SandboxError::NotInstalled { searched: searched.join("; ") })
    }

    /// The path of one of the installation's programs.
    ///
    /// # Errors
    /// [`SandboxError::MissingProgram`]; never for the programs that every installation here has:
    /// `initdb`, `postgres`, `pg_basebackup`, `psql`.
    pub fn program(&self, name: &str) -> Result<PathBuf, SandboxError> {
        let path = self.bindir.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(SandboxError::MissingProgram { program: name.to_owned(), bindir: self.bindir.display().to_string() })
    }

    /// The directory of the programs.
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// Checks one directory; the error is the name of a program that it lacks.
    fn at(bindir: &Path) -> Result<Self, &'static str> {
        match REQUIRED.iter().find(|program| !bindir.join(program).is_file()) {
            Some(missing) => Err(missing),
            None => Ok(Self { bindir: bindir.to_owned() }),
        }
    }
}

/// Directories worth a look, best first, each with how we came to it.
fn candidates() -> Vec<(&'static str, PathBuf)> {
    let mut found = Vec::new();
    // A bare link in /usr/local/bin stands for the installation that it points into.
    if let Some(initdb) = on_path("initdb").and_then(|initdb| initdb.canonicalize().ok()) {
        found.extend(initdb.parent().map(|bindir| ("the initdb on PATH", bindir.to_owned())));
    }
    found.extend(pg_config_bindir().map(|bindir| ("pg_config --bindir", bindir)));
    found.extend(newest_first(Path::new(DEBIAN)).into_iter().map(|bindir| ("Debian's place", bindir)));
    found
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output().ok()?;
    let bindir = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !bindir.trim().is_empty()).then(|| PathBuf::from(bindir.trim()))
}

/// `<root>/<version>/bin` by version number: 9 comes after 15, not before it.
fn newest_first(root: &Path) -> Vec<PathBuf> {
    let version = |name: &OsStr| name.to_str().and_then(|name| name.parse::<f32>().ok());
    let mut versions: Vec<_> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok())
        .filter_map(|entry| Some((version(&entry.file_name())?, entry.path().join("bin"))))
        .collect();
    versions.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    versions.into_iter().map(|(_, bindir)| bindir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_every_required_program_is_no_installation() {
        let directory = tempfile::tempdir().unwrap();
        for program in ["initdb", "postgres", "pg_basebackup"] {
            std::fs::write(directory.path().join(program), "").unwrap();
        }
        assert_eq!(Installation::at(directory.path()), Err("psql"));
        std::fs::write(directory.path().join("psql"), "").unwrap();
        let installation = Installation::at(directory.path()).unwrap();
        assert_eq!(installation.program("psql").unwrap(), directory.path().join("psql"));
        let missing = installation.program("pgbench").unwrap_err().to_string();
        assert!(missing.contains("pgbench is not part of"), "{missing}");
    }

    #[test]
    fn the_newest_version_comes_first_by_number() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9.6", "15", "17", "common"] {
            std::fs::create_dir(root.path().join(version)).unwrap();
        }
        let order: Vec<_> = ["17", "15", "9.6"].map(|version| root.path().join(version).join("bin")).into();
        assert_eq!(newest_first(root.path()), order);
    }
}
