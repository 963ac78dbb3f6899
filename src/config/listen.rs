//! `[listen]`, `[http]`, `[log]` and the settings at the top of the file.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::rates::rate;
use super::reader::{Item, Section};
use super::secrets::{Surroundings, warn_if_readable_by_all};
use super::{Http, Listen, ListenTls, Log, LogFormat};

pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

/// Replaces a default where the file holds something valid.
pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

pub(super) fn listen(section: Section, around: &Surroundings) -> Listen {
    let mut listen = Listen::default();
    set(&mut listen.addresses, section.get("address").and_then(|item| addresses(&item)));
    listen.unix_socket_dir = section.get("unix_socket_dir").and_then(|item| Some(around.base.join(item.name()?)));
    listen.tls = section.get("tls").and_then(|item| tls(item.section()?, around));
    let max_clients = section.get("max_clients");
    set(&mut listen.max_clients, max_clients.as_ref().and_then(|item| item.count(1..=1_000_000)));
    // A lower ceiling on all lowers the default of the narrower one with it.
    listen.max_unauthenticated = listen.max_unauthenticated.min(listen.max_clients);
    if let Some(item) = section.get("max_unauthenticated") {
        set(&mut listen.max_unauthenticated, item.count(1..=1_000_000));
        if listen.max_unauthenticated > listen.max_clients {
            item.expected::<()>(format!("at most `max_clients`, which is {}", listen.max_clients));
        }
    }
    set(&mut listen.startup_timeout, section.get("startup_timeout").and_then(|item| item.duration(MILLISECOND..=DAY)));
    set(&mut listen.max_startup_packet, section.get("max_startup_packet").and_then(|item| item.size(512..=1 << 20)));
    let keepalive = Duration::from_secs(1)..=DAY;
    set(&mut listen.tcp_keepalive, section.get("tcp_keepalive").and_then(|item| item.duration(keepalive)));
    if let Some(limits) = section.get("login_limits").and_then(|item| item.section()) {
        listen.login_limits.per_address = limits.get("per_address").and_then(|item| rate(&item));
        listen.login_limits.per_user = limits.get("per_user").and_then(|item| rate(&item));
        limits.finish();
    }
    section.finish();
    listen
}

pub(super) fn http(section: Section) -> Option<Http> {
    let address = section.require("address", "an address and port such as \"127.0.0.1:9127\"");
    section.finish();
    Some(Http { address: address_of(&address?)? })
}

pub(super) fn log(section: Section) -> Log {
    let mut log = Log::default();
    set(&mut log.level, section.get("level").and_then(|item| level(&item)));
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    set(&mut log.format, section.get("format").and_then(|item| item.choice(&formats)));
    set(&mut log.statements, section.get("statements").and_then(|item| item.boolean()));
    section.finish();
    log
}

/// An IP address with a port; `localhost` is 127.0.0.1, since nothing is looked up here.
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// A file that exists and that we may read.
pub(super) fn readable_file(item: &Item, around: &Surroundings) -> Option<PathBuf> {
    let path = around.base.join(item.name()?);
    match is_readable(&path) {
        Ok(()) => Some(path),
        Err(error) => {
            item.error(format!("cannot read {}: {error}", path.display()));
            None
        }
    }
}

/// Fails for a folder too, which can be opened but not read.
pub(super) fn is_readable(path: &Path) -> io::Result<()> {
    let metadata = File::open(path)?.metadata()?;
    if metadata.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
}

fn addresses(item: &Item) -> Option<Vec<SocketAddr>> {
    let items = item.list_or_one();
    if items.is_empty() {
        return item.expected("at least one address");
    }
    let addresses: Vec<_> = items.iter().filter_map(address_of).collect();
    (addresses.len() == items.len()).then_some(addresses)
}

fn address_of(item: &Item) -> Option<SocketAddr> {
    match parse_address(item.string()?) {
        Some(address) => Some(address),
        None => item.expected("an IP address and a port such as \"0.0.0.0:6432\" or \"[::]:6432\""),
    }
}

fn tls(section: Section, around: &Surroundings) -> Option<ListenTls> {
    let certificate = section.require("certificate", "the path of a PEM file");
    let certificate = certificate.and_then(|item| readable_file(&item, around));
    let key = section.require("key", "the path of a PEM file");
    let key = key.and_then(|item| {
        let path = readable_file(&item, around)?;
        warn_if_readable_by_all(&item, &path, "the private key");
        Some(path)
    });
    let client_ca = section.get("client_ca").and_then(|item| readable_file(&item, around));
    let required = section.get("required").and_then(|item| item.boolean()).unwrap_or(false);
    section.finish();
    Some(ListenTls { certificate: certificate?, key: key?, client_ca, required })
}

fn level(item: &Item) -> Option<String> {
    let text = item.string()?;
    match EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Some(text.to_owned()),
        _ => item.expected("error, warn, info, debug, trace, or a filter such as \"info,pgweir::pool=debug\""),
    }
}
