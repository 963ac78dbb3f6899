//! Where secrets come from: `{ env = "NAME" }`, `{ file = "path" }`, or the string itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::Secret;
use super::reader::Item;

/// What files and secrets are looked up in.
pub(super) struct Surroundings<'a> {
    /// Relative paths start here: the folder of the file.
    pub(super) base: &'a Path,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
}

/// The form of a password, told as `CREATE ROLE … PASSWORD` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid.rolpassword`.
    Scram,
    /// `md5` and 32 hexadecimal digits.
    Md5,
}

/// A password of any form. An inline plain one is a warning: whoever reads the file reads it too.
pub(super) fn password(item: &Item, around: &Surroundings) -> Option<(Secret, Form)> {
    let secret = resolve(item, around)?;
    let Some(form) = form(secret.expose()) else {
        item.error(
            "expected a verifier of the form SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, \
             as in pg_authid.rolpassword; this one is damaged",
        );
        return None;
    };
    if form == Form::Plain && item.is_string() {
        item.warn("a plain password stands in the file; { env = \"NAME\" } or { file = \"path\" } keeps it out");
    }
    Some((secret, form))
}

/// A password that we log in with, which must be known in plain.
pub(super) fn plain_password(item: &Item, around: &Surroundings) -> Option<Secret> {
    let (secret, form) = password(item, around)?;
    if form == Form::Scram {
        item.error("expected a plain password: a SCRAM verifier can check a login but cannot make one");
        return None;
    }
    Some(secret)
}

fn resolve(item: &Item, around: &Surroundings) -> Option<Secret> {
    if item.is_string() {
        return checked(item, item.secret_string()?.to_owned(), "the string");
    }
    let section = item.section_or("a string, { env = \"NAME\" } or { file = \"path\" }")?;
    let (env, file) = (section.get("env"), section.get("file"));
    if env.is_some() == file.is_some() {
        section.error("expected either `env` or `file`");
    }
    section.finish();
    match (env, file) {
        (Some(env), None) => from_environment(&env, around),
        (None, Some(file)) => from_file(&file, around),
        _ => None,
    }
}

fn from_environment(item: &Item, around: &Surroundings) -> Option<Secret> {
    let name = item.name()?;
    match (around.env)(&name) {
        Some(value) => checked(item, value, &format!("the environment variable {name}")),
        None => {
            item.error(format!("the environment variable {name} is not set"));
            None
        }
    }
}

fn from_file(item: &Item, around: &Surroundings) -> Option<Secret> {
    let path = around.base.join(item.name()?);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            item.error(format!("cannot read {}: {error}", path.display()));
            return None;
        }
    };
    warn_if_readable_by_all(item, &path, "the secret");
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    checked(item, text.to_owned(), &path.display().to_string())
}

/// PostgreSQL allows neither an empty password nor a NUL in one.
fn checked(item: &Item, value: String, origin: &str) -> Option<Secret> {
    if value.is_empty() || value.contains('\0') {
        item.error(format!("expected a password that is not empty and holds no NUL in {origin}"));
        return None;
    }
    Some(Secret::new(value))
}

/// PostgreSQL, `get_password_type`; `None` for what says that it is a verifier but is none.
fn form(password: &str) -> Option<Form> {
    if let Some(rest) = password.strip_prefix("SCRAM-SHA-256$") {
        return is_verifier(rest).then_some(Form::Scram);
    }
    let digest = password.strip_prefix("md5").filter(|digest| digest.len() == 32);
    let is_digest = digest.is_some_and(|digest| digest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    Some(if is_digest { Form::Md5 } else { Form::Plain })
}

fn is_verifier(rest: &str) -> bool {
    let decode = |text: &str| BASE64_STANDARD.decode(text).ok();
    let is_key = |text: &str| decode(text).is_some_and(|key| key.len() == 32);
    let Some(((iterations, salt), (stored, server))) =
        rest.split_once('$').and_then(|(a, b)| Some((a.split_once(':')?, b.split_once(':')?)))
    else {
        return false;
    };
    iterations.parse::<u32>().is_ok_and(|count| count > 0)
        && decode(salt).is_some_and(|salt| !salt.is_empty())
        && is_key(stored)
        && is_key(server)
}

/// Notes that a file which should be private is not.
pub(super) fn warn_if_readable_by_all(item: &Item, path: &Path, what: &str) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o004 != 0 {
        let path = path.display();
        item.warn(format!("every user of this machine can read {what} in {path} (mode {mode:03o}): chmod o-r {path}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart_as_postgresql_does() {
        let key = BASE64_STANDARD.encode([7; 32]);
        let cases = [
            ("secret".to_owned(), Some(Form::Plain)),
            ("md5short".to_owned(), Some(Form::Plain)),
            (format!("md5{}", "0f".repeat(16)), Some(Form::Md5)),
            (format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}"), Some(Form::Scram)),
            (format!("SCRAM-SHA-256$0:c2FsdA==${key}:{key}"), None),
            (format!("SCRAM-SHA-256$4096:c2FsdA==${key}"), None),
            (format!("SCRAM-SHA-256$4096:c2FsdA==${key}:AAAA"), None),
        ];
        for (password, expected) in cases {
            assert_eq!(form(&password), expected, "{password}");
        }
    }
}
