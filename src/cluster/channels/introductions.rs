//! How those who listen know who speaks. A notification names its sender by process id ("Asynchronous Notification"), and
//! clients compare that with their own and each other's `BackendKeyData`; but a server process serves many. So a session
//! *introduces* itself, by a notification on a channel that listening connections alone listen to: what comes from that
//! process behind it comes from that session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::TOKENS;
use crate::pool::{Speaker, literal, quoted};

/// Of one database.
#[derive(Debug)]
pub struct Introductions {
    pub(super) channel: String,
    /// Listening connections that hear them.
    hearing: AtomicUsize,
    /// How many there have been: each knows only those who have introduced themselves since it came. (Or has forgotten
    /// them.)
    ever: AtomicU64,
}

impl Default for Introductions {
    fn default() -> Self {
        let channel = format!("{TOKENS}from_{:032x}", rand::random::<u128>());
        Self { channel, hearing: AtomicUsize::new(0), ever: AtomicU64::new(0) }
    }
}

impl Introductions {
    /// How a session of this process id is known, once it has introduced itself, to all who listen now; `None` where
    /// nobody does.
    pub fn known_as(&self, session: i32) -> Option<Speaker> {
        let somebody = self.hearing.load(Ordering::Acquire) > 0;
        somebody.then(|| Speaker { session, to: self.ever.load(Ordering::Acquire) })
    }

    /// The statement by which a session introduces itself.
    pub fn introduce(&self, session: i32) -> String {
        format!("NOTIFY {}, {}", quoted(&self.channel), literal(&session.to_string()))
    }

    /// Those who listen have forgotten who is who.
    pub(super) fn again(&self) {
        self.ever.fetch_add(1, Ordering::AcqRel);
    }

    /// From now on a listening connection hears them, until the value is dropped.
    pub(super) fn heard(self: Arc<Self>) -> HearsThem {
        self.ever.fetch_add(1, Ordering::AcqRel);
        self.hearing.fetch_add(1, Ordering::AcqRel);
        HearsThem(self)
    }
}

#[derive(Debug)]
pub(super) struct HearsThem(Arc<Introductions>);

impl Drop for HearsThem {
    fn drop(&mut self) {
        self.0.hearing.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_to_listen_knows_nobody_yet() {
        let introductions = Arc::<Introductions>::default();
        assert_eq!(introductions.known_as(5), None);
        let first = introductions.clone().heard();
        let known = introductions.known_as(5);
        assert!(known.is_some() && known == introductions.known_as(5) && known != introductions.known_as(6));
        let second = introductions.clone().heard();
        assert_ne!(introductions.known_as(5), known);
        let known = introductions.known_as(5);
        introductions.again();
        assert_ne!(introductions.known_as(5), known);
        drop((first, second));
        assert_eq!(introductions.known_as(5), None);
        assert!(introductions.introduce(5).ends_with("'5'"), "{}", introductions.introduce(5));
    }
}
