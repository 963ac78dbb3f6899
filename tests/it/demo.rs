//! `pgweir demo` as a process. The load itself takes too long for a test; what it must never do is leave
//! servers or files behind.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

#[test]
fn ctrl_c_in_the_middle_leaves_nothing_behind() {
    // Servers that run as another user have to get through to their files.
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_pgweir"))
        .arg("demo")
        .env("TMPDIR", directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(demo.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("Running pgbench") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the demo ended before its load");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "the servers' files are here");
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Stopping the servers and removing their files"), "{rest}");
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
