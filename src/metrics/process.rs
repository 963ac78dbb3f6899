//! The process itself, from `/proc`, under the names that all Prometheus clients use.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::families::VALID;

#[derive(Clone)]
pub(super) struct ProcessCollector {
    descriptions: Vec<Desc>,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        let gauges = FAMILIES.iter().map(|(name, help, _)| gauge(name, help));
        let mut descriptions: Vec<Desc> =
            gauges.flat_map(|gauge| gauge.desc().into_iter().cloned().collect::<Vec<_>>()).collect();
        descriptions.extend(cpu_counter().desc().into_iter().cloned());
        Self { descriptions }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    /// A value that cannot be read is left out.
    fn collect(&self) -> Vec<MetricFamily> {
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text)).unwrap_or_default();
        let gauge_of = |(name, help, read): &Family| {
            let gauge = gauge(name, help);
            gauge.set(read(&stat)?);
            Some(gauge.collect())
        };
        let mut families: Vec<MetricFamily> = FAMILIES.iter().filter_map(gauge_of).flatten().collect();
        if let Some(seconds) = stat.cpu_seconds {
            let cpu = cpu_counter();
            cpu.inc_by(seconds);
            families.extend(cpu.collect());
        }
        families
    }
}

type Family = (&'static str, &'static str, fn(&Stat) -> Option<f64>);

const FAMILIES: [Family; 5] = [
    ("process_resident_memory_bytes", "Resident memory.", |stat| stat.resident_bytes),
    ("process_virtual_memory_bytes", "Virtual memory.", |stat| stat.virtual_bytes),
    ("process_start_time_seconds", "Start of the process, since the epoch.", |stat| {
        Some(boot_time()? + stat.started_after_seconds?)
    }),
    ("process_open_fds", "Open file descriptors.", |_| Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64)),
    ("process_max_fds", "The limit on open file descriptors.", |_| Some(getrlimit(Resource::Nofile).current? as f64)),
];

fn gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect(VALID)
}

fn cpu_counter() -> Counter {
    Counter::new("process_cpu_seconds_total", "Processor time, user and system.").expect(VALID)
}

/// What `/proc/self/stat` says (proc(5)).
#[derive(Debug, Default, PartialEq)]
struct Stat {
    cpu_seconds: Option<f64>,
    /// Since the machine's start.
    started_after_seconds: Option<f64>,
    virtual_bytes: Option<f64>,
    resident_bytes: Option<f64>,
}

impl Stat {
    /// The name of the program stands in brackets and may hold any character, so fields count from the last bracket.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // The first field after the name is number 3 of proc(5).
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
        let ticks = clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks),
            started_after_seconds: field(22).map(|start| start / ticks),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page_size() as f64),
        })
    }
}

/// Seconds since the epoch.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_shifts_no_field() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 250 50 16 17 18 19 20 21 700 4096 3 24";
        let stat = Stat::parse(&format!("42 (a) b (c) {rest}")).unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu_seconds, Some(300.0 / ticks));
        assert_eq!(stat.started_after_seconds, Some(700.0 / ticks));
        assert_eq!(stat.virtual_bytes, Some(4096.0));
        assert_eq!(stat.resident_bytes, Some(3.0 * page_size() as f64));
        assert_eq!(Stat::parse("nonsense"), None);
        assert_eq!(Stat::parse("1 (x)"), Some(Stat::default()));
    }

    #[test]
    fn this_process_has_all_values() {
        let families = ProcessCollector::new().collect();
        assert_eq!(families.len(), FAMILIES.len() + 1);
        assert!(families.iter().all(|family| family.name().starts_with("process_")));
    }
}
