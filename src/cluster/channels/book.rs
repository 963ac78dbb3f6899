//! Who listens to which channel, and what the listening connection has to be told for that. No I/O.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;

use super::mailbox::Mailbox;
use crate::pool::quoted;
use crate::wire::{author, view};

/// As many speakers are known at most: an entry has 8 bytes.
const MOST_SPEAKERS: usize = 65_536;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// A task holds a listening connection, or is about to.
    running: bool,
    next: u64,
    subscribers: HashMap<u64, Subscriber>,
    channels: HashMap<String, Channel>,
    /// Who speaks by which server process, of those who have introduced themselves: both by process id.
    speakers: HashMap<i32, i32>,
    /// Questions asked so far.
    questions: u64,
    /// What the server was told to listen to and has not answered yet, by the number of the question.
    asked: VecDeque<(u64, Vec<String>)>,
}

#[derive(Debug)]
struct Subscriber {
    mailbox: Arc<Mailbox>,
    /// It hears nothing before its first token.
    deaf: bool,
}

#[derive(Debug, Default)]
struct Channel {
    listeners: Vec<u64>,
    hearing: Hearing,
}

/// What the listening connection does about a channel.
#[derive(Debug, Default, PartialEq, Eq)]
enum Hearing {
    #[default]
    Wanted,
    /// By the question of this number.
    Asked(u64),
    Heard,
}

impl Book {
    /// The new subscriber's number and mailbox.
    pub fn add(&mut self, channels: &BTreeSet<String>, deaf: bool) -> (u64, Arc<Mailbox>) {
        self.next += 1;
        let id = self.next;
        for channel in channels {
            self.channels.entry(channel.clone()).or_default().listeners.push(id);
        }
        let mailbox = Arc::<Mailbox>::default();
        self.subscribers.insert(id, Subscriber { mailbox: mailbox.clone(), deaf });
        (id, mailbox)
    }

    /// A task has to begin to listen, since none does.
    pub fn begins(&mut self) -> bool {
        !std::mem::replace(&mut self.running, true)
    }

    pub fn remove(&mut self, id: u64) {
        self.subscribers.remove(&id);
        self.restrict(id, &BTreeSet::new());
    }

    /// One subscriber listens to other channels than these no more.
    pub fn restrict(&mut self, id: u64, to: &BTreeSet<String>) {
        for (_, channel) in self.channels.iter_mut().filter(|(name, _)| !to.contains(*name)) {
            channel.listeners.retain(|listener| *listener != id);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// Does the server listen to all of these?
    pub fn hears(&self, channels: &BTreeSet<String>) -> bool {
        let heard = |name| self.channels.get(name).is_some_and(|channel: &Channel| channel.hearing == Hearing::Heard);
        channels.iter().all(heard)
    }

    /// What the server has to be told next; each answer is to be told by [`Self::answered`].
    pub fn next_question(&mut self) -> Option<String> {
        let mut sql = String::new();
        self.channels.retain(|name, channel| {
            if channel.listeners.is_empty() && channel.hearing != Hearing::Wanted {
                sql += &format!("UNLISTEN {};", quoted(name));
            }
            !channel.listeners.is_empty()
        });
        let wanted = self.channels.iter_mut().filter(|(_, channel)| channel.hearing == Hearing::Wanted);
        let number = self.questions + 1;
        let mut names = Vec::new();
        for (name, channel) in wanted {
            channel.hearing = Hearing::Asked(number);
            sql += &format!("LISTEN {};", quoted(name));
            names.push(name.clone());
        }
        if sql.is_empty() {
            return None;
        }
        self.questions = number;
        self.asked.push_back((number, names));
        Some(sql)
    }

    /// The server has done what it was told first of what it has not answered yet.
    pub fn answered(&mut self) {
        let Some((number, names)) = self.asked.pop_front() else { return };
        for name in names {
            // It may have been unlistened since, and asked for again.
            let asked = |channel: &&mut Channel| channel.hearing == Hearing::Asked(number);
            if let Some(channel) = self.channels.get_mut(&name).filter(asked) {
                channel.hearing = Hearing::Heard;
            }
        }
    }

    /// Something was heard, a whole frame: tokens on channel `sync`, and on channel `introductions` who speaks. False when
    /// everybody has to introduce himself again.
    #[must_use]
    pub fn hear(&mut self, frame: &[u8], sync: &str, introductions: &str) -> bool {
        let Some((process, name, payload)) = view::notification(frame) else { return true };
        match str::from_utf8(name) {
            Ok(name) if name == sync => self.hear_token(payload),
            Ok(name) if name == introductions => return self.hear_introduction(process, payload),
            Ok(name) => self.pass_on(process, name, frame),
            Err(_) => {}
        }
        true
    }

    fn hear_introduction(&mut self, process: i32, payload: &[u8]) -> bool {
        // Anybody may notify on the channel: he speaks for himself alone.
        let session = str::from_utf8(payload).ok().and_then(|payload| payload.parse().ok());
        let has_room = self.speakers.len() < MOST_SPEAKERS || self.speakers.contains_key(&process);
        if !has_room {
            self.speakers.clear();
        }
        self.speakers.extend(session.map(|session| (process, session)));
        has_room
    }

    fn pass_on(&self, process: i32, name: &str, frame: &[u8]) {
        let Some(channel) = self.channels.get(name) else { return };
        let mut heard = BytesMut::from(frame);
        self.speakers.get(&process).iter().for_each(|session| author::notified_by(&mut heard, **session));
        let frame = &heard.freeze();
        let awake = |id| self.subscribers.get(id).filter(|subscriber| !subscriber.deaf);
        channel.listeners.iter().filter_map(awake).for_each(|subscriber| subscriber.mailbox.notification(frame));
    }

    fn hear_token(&mut self, payload: &[u8]) {
        let token = str::from_utf8(payload).ok().and_then(|payload| {
            let (id, number) = payload.split_once(' ')?;
            Some((id.parse().ok()?, number.parse().ok()?))
        });
        // Anybody may notify on the channel: what is no token of ours means nothing.
        let Some((id, number)) = token else { return };
        if let Some(subscriber) = self.subscribers.get_mut::<u64>(&id) {
            subscriber.deaf = false;
            subscriber.mailbox.token(number);
        }
    }

    /// The connection is lost or closed, and with it every subscription.
    pub fn lose(&mut self, reason: &str) {
        self.subscribers.values().for_each(|subscriber| subscriber.mailbox.lose(reason));
        *self = Self { next: self.next, ..Self::default() };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::task::{Context, Poll, Waker};

    use bytes::{BufMut, Bytes};

    use super::super::mailbox::Heard;
    use super::*;
    use crate::wire::author;

    pub fn frame(channel: &str, payload: &str) -> Bytes {
        let mut body = BytesMut::new();
        body.put_i32(7);
        for text in [channel, payload] {
            body.put_slice(text.as_bytes());
            body.put_u8(0);
        }
        let mut frame = BytesMut::new();
        author::passed_on(&mut frame, b'A', &body);
        frame.freeze()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn heard(mailbox: &Mailbox) -> Vec<Heard> {
        let mut cx = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match mailbox.poll_take(&mut cx) {
            Poll::Ready(heard) => Some(heard),
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn the_server_is_told_what_is_wanted_once_and_what_is_wanted_no_more() {
        let mut book = Book::default();
        let (one, _) = book.add(&set(&["a", "o\"dd"]), false);
        let (two, _) = book.add(&set(&["a"]), false);
        let sql = book.next_question().unwrap();
        assert!(sql.contains("LISTEN \"a\";") && sql.contains("LISTEN \"o\"\"dd\";"), "{sql}");
        assert_eq!(book.next_question(), None);
        assert!(!book.hears(&set(&["a"])));
        let (three, _) = book.add(&set(&["b"]), false);
        assert_eq!(book.next_question().as_deref(), Some("LISTEN \"b\";"));
        book.answered();
        assert!(book.hears(&set(&["a", "o\"dd"])) && !book.hears(&set(&["a", "b"])));
        book.answered();
        assert!(book.hears(&set(&["a", "b"])));

        book.remove(one);
        assert_eq!(book.next_question().as_deref(), Some("UNLISTEN \"o\"\"dd\";"));
        book.answered();
        book.restrict(two, &set(&[]));
        // Before the server is told, somebody wants it again.
        let (four, _) = book.add(&set(&["a"]), false);
        assert_eq!(book.next_question(), None);
        assert!(book.hears(&set(&["a"])));
        [two, three, four].into_iter().for_each(|id| book.remove(id));
        assert!(book.is_empty());
        let sql = book.next_question().unwrap();
        assert!(sql.contains("UNLISTEN \"a\";") && sql.contains("UNLISTEN \"b\";"), "{sql}");
    }

    #[test]
    fn a_channel_that_is_unlistened_and_wanted_again_is_not_heard_before_it_is_asked_for_again() {
        let mut book = Book::default();
        let (one, _) = book.add(&set(&["a"]), false);
        book.next_question().unwrap();
        book.remove(one);
        assert_eq!(book.next_question().as_deref(), Some("UNLISTEN \"a\";"));
        book.add(&set(&["a"]), false);
        assert_eq!(book.next_question().as_deref(), Some("LISTEN \"a\";"));
        // The first answer is to the first LISTEN, which was taken back.
        for heard in [false, false, true] {
            book.answered();
            assert_eq!(book.hears(&set(&["a"])), heard, "{book:?}");
        }
    }

    #[test]
    fn whoever_has_introduced_himself_is_named_from_then_on() {
        let mut book = Book::default();
        let (_, mailbox) = book.add(&set(&["a"]), false);
        let named = |process: i32| {
            let mut named = frame("a", "x").to_vec();
            named[5..9].copy_from_slice(&process.to_be_bytes());
            Heard::Notification(named.into())
        };
        for (channel, payload) in
            [("a", "x"), ("who", "900"), ("a", "x"), ("who", "?"), ("a", "x"), ("who", "901"), ("a", "x")]
        {
            assert!(book.hear(&frame(channel, payload), "sync", "who"));
        }
        assert_eq!(heard(&mailbox), [named(7), named(900), named(900), named(901)]);
        // Another listening connection has heard of nobody.
        book.lose("gone");
        let (_, mailbox) = book.add(&set(&["a"]), false);
        assert!(book.hear(&frame("a", "x"), "sync", "who"));
        assert_eq!(heard(&mailbox), [named(7)]);
    }

    #[test]
    fn there_is_an_end_to_those_who_are_known() {
        let mut book = Book::default();
        let by = |process: usize| {
            let mut frame = frame("who", "9").to_vec();
            frame[5..9].copy_from_slice(&(process as i32).to_be_bytes());
            frame
        };
        for process in 0..MOST_SPEAKERS {
            assert!(book.hear(&by(process), "sync", "who"));
        }
        assert!(book.hear(&by(1), "sync", "who"), "one that is known already");
        assert!(!book.hear(&by(MOST_SPEAKERS), "sync", "who"));
        assert_eq!(book.speakers.keys().collect::<Vec<_>>(), [&(MOST_SPEAKERS as i32)]);
    }

    #[test]
    fn each_hears_its_channels_from_its_first_token_on() {
        let mut book = Book::default();
        let (_, awake) = book.add(&set(&["a"]), false);
        let (deaf, late) = book.add(&set(&["a", "b"]), true);
        let hear = |book: &mut Book, channel, payload: &str| {
            let frame = frame(channel, payload);
            assert!(book.hear(&frame, "sync", "who"));
            Heard::Notification(frame)
        };
        let first = hear(&mut book, "a", "1");
        hear(&mut book, "b", "2");
        for no_token in ["", "x y", "1", &format!("{} 1", deaf + 1)] {
            hear(&mut book, "sync", no_token);
        }
        assert_eq!(heard(&late), []);
        hear(&mut book, "sync", &format!("{deaf} 1"));
        let [second, third] = [hear(&mut book, "b", "3"), hear(&mut book, "a", "4")];
        assert_eq!(heard(&awake), [first, third.clone()]);
        assert_eq!(heard(&late), [Heard::Token(1), second, third]);
        book.lose("gone");
        assert_eq!(heard(&late), [Heard::Lost("gone".to_owned())]);
        assert!(book.is_empty());
        assert!(book.add(&set(&["a"]), false).0 > deaf);
    }
}
