//! What one session has yet to be told of what was heard for it. Bounded: whoever takes nothing out of it is told
//! that he has missed something.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use bytes::Bytes;

use crate::wire::view;

/// Bytes that wait for one session. (The frames themselves are shared by all who hear them.)
const MOST_WAITING: usize = 16 << 20;
/// What a frame costs beyond its own bytes.
const OVERHEAD: usize = 64;

/// Something that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A whole `NotificationResponse`.
    Notification(Bytes),
    /// The session's own token, by number.
    Token(u64),
    /// From here on something may have been missed, and nothing more comes. The reason is for people.
    Lost(String),
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    inbox: Mutex<Inbox>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Inbox {
    heard: VecDeque<Heard>,
    bytes: usize,
    lost: Option<String>,
}

impl Mailbox {
    pub fn notification(&self, frame: &Bytes) {
        let mut inbox = self.inbox();
        inbox.bytes += frame.len() + OVERHEAD;
        if inbox.bytes > MOST_WAITING {
            drop(inbox);
            return self.lose(&format!(
                "notifications of more than {MOST_WAITING} bytes waited for a client that was in a transaction or took none"
            ));
        }
        inbox.push(Heard::Notification(frame.clone()));
        drop(inbox);
        self.waker.wake();
    }

    pub fn token(&self, number: u64) {
        self.inbox().push(Heard::Token(number));
        self.waker.wake();
    }

    /// Nothing comes behind that.
    pub fn lose(&self, reason: &str) {
        let mut inbox = self.inbox();
        if inbox.lost.is_none() {
            inbox.lost = Some(reason.to_owned());
            inbox.heard.push_back(Heard::Lost(reason.to_owned()));
        }
        drop(inbox);
        self.waker.wake();
    }

    /// Why something was lost.
    pub fn lost(&self) -> Option<String> {
        self.inbox().lost.clone()
    }

    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Heard> {
        self.waker.register(cx.waker());
        let mut inbox = self.inbox();
        let Some(heard) = inbox.heard.pop_front() else { return Poll::Pending };
        if let Heard::Notification(frame) = &heard {
            inbox.bytes -= frame.len() + OVERHEAD;
        }
        Poll::Ready(heard)
    }

    pub fn is_empty(&self) -> bool {
        self.inbox().heard.is_empty()
    }

    /// What is there, up to where something was lost. (A token that nobody waits for means nothing.)
    pub fn take_heard(&self) -> Vec<Bytes> {
        let mut inbox = self.inbox();
        let mut taken = Vec::new();
        while let Some(heard) = inbox.heard.pop_front_if(|heard| !matches!(heard, Heard::Lost(_))) {
            if let Heard::Notification(frame) = heard {
                inbox.bytes -= frame.len() + OVERHEAD;
                taken.push(frame);
            }
        }
        taken
    }

    /// Notifications that were taken out and not passed on are the first again.
    pub fn put_back(&self, notifications: Vec<Bytes>) {
        let mut inbox = self.inbox();
        for frame in notifications.into_iter().rev() {
            inbox.bytes += frame.len() + OVERHEAD;
            inbox.heard.push_front(Heard::Notification(frame));
        }
    }

    /// Forgets what was heard on other channels.
    pub fn restrict(&self, to: &BTreeSet<String>) {
        let mut inbox = self.inbox();
        inbox.heard.retain(|heard| match heard {
            Heard::Notification(frame) => view::notification(frame)
                .is_some_and(|(_, channel, _)| to.iter().any(|name| name.as_bytes() == channel)),
            _ => true,
        });
        inbox.bytes = inbox.heard.iter().map(Heard::cost).sum();
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn cost(&self) -> usize {
        match self {
            Self::Notification(frame) => frame.len() + OVERHEAD,
            _ => 0,
        }
    }
}

impl Inbox {
    fn push(&mut self, heard: Heard) {
        if self.lost.is_none() {
            self.heard.push_back(heard);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::cluster::channels::book::tests::frame;

    fn take(mailbox: &Mailbox) -> Option<Heard> {
        match mailbox.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(heard) => Some(heard),
            Poll::Pending => None,
        }
    }

    #[test]
    fn whoever_takes_nothing_out_is_told_so_and_what_he_has_stays() {
        let mailbox = Mailbox::default();
        let frame = frame("c", &"x".repeat(7000));
        let mut fits = 0;
        while mailbox.lost().is_none() {
            mailbox.notification(&frame);
            fits += 1;
        }
        mailbox.token(1);
        mailbox.notification(&frame);
        assert_eq!(fits - 1, MOST_WAITING / (frame.len() + OVERHEAD));
        for _ in 1..fits {
            assert_eq!(take(&mailbox), Some(Heard::Notification(frame.clone())));
        }
        assert!(matches!(take(&mailbox), Some(Heard::Lost(reason)) if reason.contains("16777216 bytes")));
        assert_eq!(take(&mailbox), None);
    }

    #[test]
    fn what_is_there_is_taken_up_to_a_loss() {
        let mailbox = Mailbox::default();
        let [one, two] = [frame("a", "1"), frame("a", "2")];
        assert!(mailbox.is_empty());
        mailbox.notification(&one);
        mailbox.token(1);
        mailbox.notification(&two);
        mailbox.lose("gone");
        assert_eq!(mailbox.take_heard(), [one, two]);
        assert_eq!(mailbox.inbox().bytes, 0);
        assert_eq!(mailbox.take_heard(), Vec::<Bytes>::new());
        assert_eq!(take(&mailbox), Some(Heard::Lost("gone".to_owned())));
    }

    #[test]
    fn what_is_put_back_comes_first_and_other_channels_are_forgotten() {
        let mailbox = Mailbox::default();
        let [one, two, three] = [frame("a", "1"), frame("b", "2"), frame("a", "3")];
        mailbox.notification(&three);
        mailbox.put_back(vec![one.clone(), two]);
        mailbox.restrict(&BTreeSet::from(["a".to_owned()]));
        let heard: Vec<_> = std::iter::from_fn(|| take(&mailbox)).collect();
        assert_eq!(heard, [Heard::Notification(one), Heard::Notification(three)]);
        assert_eq!(mailbox.inbox().bytes, 0);
    }
}
