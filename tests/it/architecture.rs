//! The layering of the crate: a file imports only from lower floors or from its own folder. Held by
//! reading the sources, because the compiler lets every module of a crate use every other.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the top down. Modules of one floor do not know each other, save on the topmost,
/// where the parts are wired together.
const FLOORS: [&[&str]; 10] = [
    &["main", "cli", "app", "listener"],
    &["client", "session"],
    &["cluster"],
    &["pool"],
    &["server"],
    &["router"],
    &["auth", "sql", "tenant"],
    &["net"],
    &["config", "metrics"],
    &["wire"],
];

/// Beside the floors: throw-away servers for the commands and the tests, not for the proxy.
const SIDE: &str = "sandbox";
const SIDE_USES: [&str; 2] = ["config", "wire"];
const USES_SIDE: [&str; 1] = ["cli"];

/// Declares the modules and holds nothing else.
const ROOT: &str = "lib";

#[test]
fn files_import_only_from_lower_floors_or_their_own_folder() {
    let violations: Vec<_> = sources().iter().flat_map(|(path, source)| violations(path, source)).collect();
    assert!(violations.is_empty(), "imports against the floors:\n{}", violations.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let without: Vec<_> = sources().into_iter().map(|(path, _)| path).filter(|path| !known(module_of(path))).collect();
    assert!(without.is_empty(), "give these a floor in {}:\n{}", file!(), without.join("\n"));
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, source)| !source.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "no `//!` at the top of:\n{}", silent.join("\n"));
}

/// One line for each import of `source` that its floor does not allow. `path` is relative to `src/`.
fn violations(path: &str, source: &str) -> Vec<String> {
    let module = module_of(path);
    imports(path, source)
        .into_iter()
        .filter(|import| !allowed(module, &import.module))
        .map(|import| format!("src/{path}:{}: `{}` uses `{}`", import.line, module, import.module))
        .collect()
}

fn allowed(from: &str, to: &str) -> bool {
    if from == to || from == ROOT {
        return true;
    }
    if from == SIDE {
        return SIDE_USES.contains(&to);
    }
    if to == SIDE {
        return USES_SIDE.contains(&from);
    }
    match (floor(from), floor(to)) {
        (Some(0), Some(_)) => true,
        (Some(from), Some(to)) => to > from,
        // A name at the root of the crate is nobody's floor.
        _ => false,
    }
}

/// Counted from the top, as in [`FLOORS`].
fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn known(module: &str) -> bool {
    floor(module).is_some() || module == SIDE || module == ROOT
}

/// `net` for `net/tls.rs`, `app` for `app.rs`.
fn module_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// A module at the root of the crate that is named somewhere in a file.
struct Import {
    line: usize,
    module: String,
}

/// Every `crate::module`, each name of `crate::{…}`, and every chain of `super::` that climbs out of
/// the folder; in `use` lines as well as in code. The binary says `pgweir::` for `crate::`.
fn imports(path: &str, source: &str) -> Vec<Import> {
    let code = without_comments_and_literals(source);
    let mut found = Vec::new();
    for (start, _) in code.match_indices("::") {
        let head = &code[..start];
        let rest = &code[start + 2..];
        if !reaches_root(path, head) || rest.trim_start().starts_with("super::") {
            continue;
        }
        let line = head.matches('\n').count() + 1;
        found.extend(first_names(rest).into_iter().map(|module| Import { line, module }));
    }
    found
}

/// Whether the path that `head` ends with is the root of the crate.
fn reaches_root(path: &str, head: &str) -> bool {
    let start = head.rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).map_or(0, |at| at + 1);
    let prefix = head[start..].trim_start_matches(':');
    if prefix == "crate" || prefix == "pgweir" {
        return true;
    }
    let climbs = prefix.split("::").filter(|&name| name == "super").count();
    let only_climbs = prefix.split("::").all(|name| name == "super" || name == "self");
    // `mod tests { use super::*; }`: inside an inline module the first `super` is the file itself.
    let inline = usize::from(head.lines().any(|line| {
        let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
        line.starts_with("mod ") && line.ends_with('{')
    }));
    only_climbs && climbs > 0 && climbs >= depth(path) + inline
}

/// How many `super::` lead from a file's own module to the root of the crate.
fn depth(path: &str) -> usize {
    let components = path.split('/').count();
    if path.ends_with("/mod.rs") { components - 1 } else { components }
}

/// The first name of a path, or those of each branch of `{a::b, c}`.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.trim_start().strip_prefix('{') else { return vec![name(rest.trim_start())] };
    let (mut names, mut level, mut expected) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level == 0 => break,
            '}' => level -= 1,
            ',' if level == 0 => expected = true,
            c if expected && !c.is_whitespace() => {
                names.push(name(&group[at..]));
                expected = false;
            }
            _ => {}
        }
    }
    names
}

/// The same text with comments, strings and character literals blanked, so that lines keep their numbers.
fn without_comments_and_literals(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let after_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' if !after_name || code.ends_with('b') => raw_string_length(rest),
            '\'' => character_length(rest),
            _ => 0,
        };
        let (blank, remaining) = rest.split_at(skipped);
        code.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = remaining;
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// 0 when `text` is a name that begins with `r`, or a raw identifier.
fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|&c| c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let body = hashes + 2;
    text[body..].find(&close).map_or(text.len(), |end| body + end + close.len())
}

/// 0 when it is a lifetime.
fn character_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(text.len(), |end| 3 + end + 1),
        _ => characters.next().filter(|&(_, c)| c == '\'').map_or(0, |(at, _)| at + 1),
    }
}

/// Every file under `src/`, by its path there, with its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 10, "the sources are under {}", root.display());
    files.sort();
    let relative = |file: &PathBuf| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|file| (relative(file), fs::read_to_string(file).unwrap())).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

mod the_checker {
    use super::*;

    fn found(path: &str, source: &str) -> Vec<String> {
        violations(path, source)
    }

    #[test]
    fn lower_floors_and_the_own_folder_are_free() {
        assert!(found("pool/queue.rs", "use crate::pool::Lease;\nuse crate::{wire, server::Server};\n").is_empty());
        assert!(found("app.rs", "use crate::listener;\nuse crate::cli::Run;\n").is_empty());
        assert!(found("cli/demo.rs", "use crate::sandbox::Sandbox;\n").is_empty());
    }

    #[test]
    fn what_is_higher_or_beside_is_named_with_its_line() {
        assert_eq!(found("net/tls.rs", "\nuse crate::pool::Lease;\n"), ["src/net/tls.rs:2: `net` uses `pool`"]);
        assert_eq!(
            found("session/mod.rs", "use crate::client::X;\n"),
            ["src/session/mod.rs:1: `session` uses `client`"]
        );
        assert_eq!(found("app.rs", "use crate::sandbox::X;\n"), ["src/app.rs:1: `app` uses `sandbox`"]);
        assert_eq!(found("sandbox/mod.rs", "use crate::net::X;\n"), ["src/sandbox/mod.rs:1: `sandbox` uses `net`"]);
    }

    #[test]
    fn every_way_to_write_an_import_is_seen() {
        let group = "use crate::{\n    wire::{a, b},\n    session,\n};\n";
        assert_eq!(found("net/a.rs", group), ["src/net/a.rs:1: `net` uses `session`"]);
        assert_eq!(found("net/a.rs", "fn f() { crate::cli::g() }"), ["src/net/a.rs:1: `net` uses `cli`"]);
        assert_eq!(found("net/a.rs", "use super::super::cli;"), ["src/net/a.rs:1: `net` uses `cli`"]);
        assert_eq!(found("net/mod.rs", "use super::cli;"), ["src/net/mod.rs:1: `net` uses `cli`"]);
    }

    #[test]
    fn what_only_looks_like_an_import_is_not() {
        assert!(
            found("net/a.rs", "//! [`crate::cli`]\n/* crate::cli */ let s = (\"crate::cli\", r#\"crate::cli\"#);")
                .is_empty()
        );
        assert!(found("net/a.rs", "let quote = '\"'; let l: &'a str = x; use super::cli;").is_empty());
        assert!(found("net/mod.rs", "mod tests {\n    use super::cli;\n}").is_empty());
        assert_eq!(found("net/a.rs", "let q = '\"';\ncrate::cli::f();").len(), 1);
    }
}
