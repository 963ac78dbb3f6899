//! Tells systemd what the process is doing (sd_notify(3), `Type=notify-reload`). Without systemd,
//! nothing happens.

use std::io;
use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tokio::task::JoinHandle;

/// Clients are accepted; also the end of a reload.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// systemd wants to know when the reload began, to tell its end from an earlier one.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => failed(&error),
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the runtime still runs, as often as `WatchdogSec=` asks for. Ends when dropped.
pub(super) struct Watchdog(Option<JoinHandle<()>>);

impl Watchdog {
    pub fn start() -> Self {
        Self(watchdog_enabled().map(|limit| tokio::spawn(beat(limit / 2))))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

async fn beat(pause: Duration) {
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(pause).await;
    }
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = notify(state) {
        failed(&error);
    }
}

fn failed(error: &io::Error) {
    tracing::warn!(%error, "cannot tell systemd what pgweir is doing");
}
