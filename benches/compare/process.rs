//! What the kernel says about a process (proc(5)), and our own limits.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::Result;

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// Resident: everything mapped that is in memory.
    pub rss: u64,
    /// Proportional: shared pages divided by those who share them.
    pub pss: u64,
}

/// User and system time that all threads of the process have used so far. The kernel's granularity is
/// a tick, most often 10 ms.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("could not read {path}: {error}"))?;
    let ticks = ticks(&stat).ok_or_else(|| format!("{path} has no processor times: {stat}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// User and system time that the threads which the process has now have used, to the nanosecond. Those of threads that have
/// ended are not in it, so it is for two looks between which none ends.
#[allow(dead_code)]
pub fn threads_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/task");
    let mut nanoseconds = 0;
    for thread in fs::read_dir(&path).map_err(|error| format!("could not read {path}: {error}"))? {
        let path = thread?.path().join("schedstat");
        let statistics =
            fs::read_to_string(&path).map_err(|error| format!("could not read {}: {error}", path.display()))?;
        let used: Option<u64> = statistics.split_ascii_whitespace().next().and_then(|used| used.parse().ok());
        nanoseconds += used.ok_or_else(|| format!("{} has no processor time: {statistics}", path.display()))?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// What the process occupies now.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = fs::read_to_string(&path).map_err(|error| format!("could not read {path}: {error}"))?;
    let field = |label| bytes_after(&rollup, label).ok_or_else(|| format!("{path} has no {label}"));
    Ok(Memory { rss: field("Rss:")?, pss: field("Pss:")? })
}

/// Raises this process's limit on open files, which the proxies inherit, to the most that is allowed.
///
/// # Errors
/// When that does not suffice for so many clients: a proxy may need two files for each.
pub fn raise_file_limit(clients: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let needed = clients as u64 * 2 + 1000;
    match limit.maximum {
        Some(maximum) if maximum < needed => Err(format!(
            "{clients} idle clients need a limit of {needed} open files, and it cannot be raised beyond {maximum}: \
             raise the hard limit (ulimit -Hn) or ask for fewer clients (--idle)"
        )
        .into()),
        _ => Ok(()),
    }
}

/// `utime` and `stime`, fields 14 and 15. The second field is the program's name in parentheses and may
/// itself hold spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The number in a line such as `Rss:     1234 kB`.
fn bytes_after(rollup: &str, label: &str) -> Option<u64> {
    let value = rollup.lines().find_map(|line| line.strip_prefix(label))?;
    let kilobytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}
