//! The operating-system user that the servers run as: PostgreSQL refuses to run as root.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::error::{Doing, SandboxError};

/// Who runs the servers and owns their files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Account {
    /// An ordinary user started us: everything is theirs.
    Own,
    /// We are root: programs are started as this user.
    Other { uid: u32, gid: u32 },
}

/// In this order. `nobody` exists on every system and is good enough for data that lives for minutes.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

impl Account {
    /// The account for the user that runs this process.
    ///
    /// # Errors
    /// [`SandboxError::NoUnprivilegedUser`] for root where neither `postgres` nor `nobody` exists.
    pub fn for_this_process() -> Result<Self, SandboxError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let passwd = fs::read_to_string("/etc/passwd").doing(|| "read /etc/passwd".to_owned())?;
        UNPRIVILEGED
            .iter()
            .find_map(|name| user_in(&passwd, name))
            .map(|(uid, gid)| Self::Other { uid, gid })
            .ok_or_else(|| SandboxError::NoUnprivilegedUser { tried: UNPRIVILEGED.join(" or ") })
    }

    /// Makes the command run as this account. Supplementary groups of root are dropped by the
    /// standard library when it sets the user id.
    pub fn run(self, command: &mut Command) {
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid);
        }
    }

    /// Makes a directory that belongs to the account and that nobody else but root can enter.
    pub fn make_directory(self, path: &Path) -> Result<(), SandboxError> {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
            .and_then(|()| self.own(path))
            .doing(|| format!("make the directory {}", path.display()))
    }

    /// Lets the account pass through a directory that is ours, and nobody else.
    pub fn let_through(self, path: &Path) -> Result<(), SandboxError> {
        let Self::Other { gid, .. } = self else { return Ok(()) };
        chown(path, None, Some(gid))
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o710)))
            .doing(|| format!("open {} to the servers' user", path.display()))
    }

    /// Writes a file that belongs to the account and that only it can read (PostgreSQL demands that
    /// of private keys: "Secure TCP/IP Connections with SSL").
    pub fn write(self, path: &Path, content: &str) -> Result<(), SandboxError> {
        fs::write(path, content)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
            .and_then(|()| self.own(path))
            .doing(|| format!("write {}", path.display()))
    }

    fn own(self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }
}

/// The user and group id of `name` in the text of a passwd file (passwd(5)).
fn user_in(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres2:x:7:7::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(user_in(passwd, "postgres"), Some((101, 104)));
        assert_eq!(user_in(passwd, "nobody"), None);
    }
}
