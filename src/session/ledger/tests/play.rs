//! Plays a conversation twice: to a server directly, and through a ledger with messages injected,
//! answered locally and refused on the way, the replies delivered at any moment. What the client
//! sees must be the same.

use std::collections::VecDeque;

use super::model::{Frame, Message, Outcome, Server};
use super::{Awaits, Fate, Ledger, PgError, Status, Synthetic, Verdict};

/// A conversation and what happens on the way.
#[derive(Debug, Clone)]
pub struct Plan {
    pub script: Vec<Message>,
    /// What the proxy makes of each message.
    pub handling: Vec<Handling>,
    /// In which order messages and replies come by; when it ends, all messages and then all replies.
    pub schedule: Vec<Event>,
    /// The script is one that a driver may send: nothing excuses a ledger that loses count.
    pub polite: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    Plain,
    /// Where it can be, it is answered without the server, or refused with an error of our own.
    Spared,
    /// Something of ours goes before it, where that can be.
    AfterParse,
    AfterClose,
    AfterQuery,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The client's next message is passed on.
    Message,
    /// The server's next reply arrives.
    Reply,
    /// Something arrives that the server sends when it likes.
    Notice,
    ParameterStatus,
    Notification,
}

/// Numbers of messages of ours.
const OURS: usize = usize::MAX;

/// Plays it and panics where a promise of the ledger is broken.
pub fn play(plan: &Plan) {
    let mut play = Play { polite: plan.polite, ..Play::default() };
    let mut messages = plan.script.iter().enumerate();
    let mut schedule = plan.schedule.iter();
    loop {
        let event = *schedule.next().unwrap_or(if messages.len() > 0 { &Event::Message } else { &Event::Reply });
        let gone_on = match event {
            Event::Message => messages.next().is_some_and(|(number, message)| {
                let handling = plan.handling.get(number).copied().unwrap_or(Handling::Plain);
                play.pass(number, message, handling);
                true
            }),
            Event::Reply => play.replies.pop_front().is_some_and(|frame| play.deliver(frame)),
            Event::Notice => play.deliver_unasked(b'N'),
            Event::ParameterStatus => play.deliver_unasked(b'S'),
            Event::Notification => play.deliver_unasked(b'A'),
        };
        if play.lost_count {
            assert!(play.is_excused(), "a reply is not what the ledger takes it for: {play:#?}");
            return;
        }
        play.check();
        let over = messages.len() == 0 && schedule.len() == 0;
        if play.direct.has_ended() || (over && !gone_on && play.replies.is_empty()) {
            break;
        }
    }
    play.end();
}

#[derive(Debug, Default)]
struct Play {
    /// Each change is the number of its message.
    ledger: Ledger<usize>,
    /// The server as it would be without the proxy, and as it is.
    direct: Server,
    server: Server,
    /// On their way from the server.
    replies: VecDeque<Frame>,
    /// Tags and status bytes that the client would have seen, and does see.
    expected: Vec<(u8, u8)>,
    seen: Vec<(u8, u8)>,
    /// As of the last `ReadyForQuery` that was delivered.
    status: Option<u8>,
    /// By number: whether the message changes the books.
    changes: Vec<bool>,
    /// Numbers of messages that changed the books: those not carried out, those that were undone.
    not_carried_out: Vec<usize>,
    undone: Vec<usize>,
    was_ambiguous: bool,
    lost_count: bool,
    polite: bool,
}

impl Play {
    fn pass(&mut self, number: usize, message: &Message, handling: Handling) {
        let before = (self.direct.takes_commands(), self.direct.is_settled(), self.direct.has_nothing_unnamed());
        let status = self.direct.status();
        let (frames, outcome) = self.direct.read(number, message);
        self.expected.extend(frames.iter().map(|frame| (frame.tag, frame.status)));
        if self.direct.has_ended() {
            return;
        }
        match (handling, before) {
            (Handling::AfterParse, (true, ..)) if changes_books(message) && status != b'E' => {
                self.send(OURS, &Message::ParseOther, Fate::Swallow);
            }
            (Handling::AfterClose, (true, ..)) if changes_books(message) => {
                self.send(OURS, &Message::CloseOther, Fate::Swallow)
            }
            (Handling::AfterQuery, (true, true, true)) if awaits(message).is_some() && status != b'E' => {
                self.send(OURS, &Message::Query(Vec::new()), Fate::Swallow);
            }
            _ => {}
        }
        self.changes.push(changes_books(message));
        let failed = frames.iter().filter(|frame| frame.tag == b'E').map(|frame| frame.answers);
        let lost = failed.chain((outcome == Outcome::Skipped).then_some(number));
        self.not_carried_out.extend(lost.filter(|number| self.changes[*number]));
        match (handling, message) {
            (Handling::Spared, Message::ParseOther | Message::CloseOther) if outcome != Outcome::Failed => {
                let awaits = awaits(message).unwrap();
                self.ledger.push(awaits, Fate::Synthesise, Some(number));
            }
            (Handling::Spared, Message::ExecuteNowhere) => {
                let error = Box::new(PgError::error("0A000", "refused"));
                self.send(number, message, Fate::Replace(error));
            }
            _ => self.send(number, message, Fate::Forward),
        }
        self.author();
    }

    /// Sends a message to the server, which answers at once; the answer is under way.
    fn send(&mut self, number: usize, message: &Message, fate: Fate) {
        let change = (number != OURS && changes_books(message)).then_some(number);
        match awaits(message) {
            Some(awaits) => self.ledger.push(awaits, fate, change),
            None if matches!(message, Message::CopyDone | Message::CopyFail) => self.ledger.copy_ended(),
            None => {}
        }
        self.replies.extend(self.server.read(number, message).0);
    }

    fn deliver(&mut self, frame: Frame) -> bool {
        let ours = frame.answers == OURS;
        match self.ledger.reply(frame.tag, frame.status) {
            Verdict::Forward if !ours => self.seen.push((frame.tag, frame.status)),
            Verdict::Swallow if ours => {}
            Verdict::Replace(error) if !ours => {
                assert_eq!((frame.tag, &*error.message), (b'E', "refused"));
                self.seen.push((b'E', 0));
            }
            _ => self.lost_count = true,
        }
        self.status = if frame.tag == b'Z' { Some(frame.status) } else { self.status };
        self.was_ambiguous |= self.ledger.ambiguous();
        self.take_undone();
        self.author();
        true
    }

    fn take_undone(&mut self) {
        let taken: Vec<_> = self.ledger.take_undone().collect();
        assert!(taken.is_sorted_by(|newer, older| newer > older), "newest first: {taken:?}");
        self.undone.extend(taken);
    }

    /// It changes nothing, and only those that a message of ours may have caused are kept back.
    fn deliver_unasked(&mut self, tag: u8) -> bool {
        let settled = self.ledger.settled();
        let ours = self.replies.front().is_some_and(|frame| frame.answers == OURS);
        let expected = if ours && tag != b'A' { Verdict::Swallow } else { Verdict::Forward };
        let verdict = self.ledger.reply(tag, b'x');
        assert!(verdict == expected || self.was_ambiguous, "{verdict:?} of {:?}: {self:#?}", char::from(tag));
        assert_eq!(self.ledger.settled(), settled);
        true
    }

    fn author(&mut self) {
        while let Some(reply) = self.ledger.synthetic() {
            // Where the ledger is not sure what else may come, the order is not either.
            if !self.was_ambiguous {
                let tag = if reply == Synthetic::ParseComplete { b'1' } else { b'3' };
                self.seen.push((tag, 0));
            }
        }
    }

    /// A client that sends on after a `Sync` inside a `COPY` that fails cannot know either which of its
    /// messages are answered.
    fn is_excused(&self) -> bool {
        self.was_ambiguous && !self.polite
    }

    fn check(&self) {
        let truth = self.direct.is_settled() && self.server.is_settled() && self.replies.is_empty();
        if truth && !self.is_excused() {
            assert!(self.ledger.settled(), "all is answered: {self:#?}");
            assert_eq!(Some(self.ledger.status()), Status::from_byte(self.server.status()), "{self:#?}");
        }
        if !self.was_ambiguous {
            assert_eq!(self.ledger.settled(), truth, "{self:#?}");
        }
        assert!(!self.ledger.returnable() || truth || self.is_excused(), "{self:#?}");
        if let Some(status) = self.status {
            assert_eq!(Some(self.ledger.status()), Status::from_byte(status));
        }
        let seen = self.seen.len().min(self.expected.len());
        if !self.was_ambiguous {
            assert_eq!(self.seen, self.expected[..seen], "{self:#?}");
        }
    }

    fn end(mut self) {
        self.take_undone();
        if self.direct.has_ended() {
            self.ledger.abandon();
            assert!(self.ledger.returnable(), "nothing is left of it");
            return;
        }
        if self.was_ambiguous {
            return self.resolve();
        }
        assert_eq!(self.seen, self.expected, "{self:#?}");
        self.undone.sort_unstable();
        self.not_carried_out.sort_unstable();
        assert_eq!(self.undone, self.not_carried_out, "{self:#?}");
    }

    /// An empty query shows what has become of a `Sync` that `COPY` may have read.
    fn resolve(mut self) {
        if !self.polite || !self.server.is_settled() {
            return;
        }
        self.send(OURS, &Message::Query(Vec::new()), Fate::Swallow);
        while let Some(frame) = self.replies.pop_front() {
            self.deliver(frame);
        }
        assert!(self.ledger.settled() && !self.ledger.ambiguous() && !self.lost_count, "{self:#?}");
    }
}

fn changes_books(message: &Message) -> bool {
    !matches!(awaits(message), None | Some(Awaits::Query | Awaits::FunctionCall | Awaits::Sync))
}

fn awaits(message: &Message) -> Option<Awaits> {
    Some(match message {
        Message::Query(_) => Awaits::Query,
        Message::FunctionCall(_) => Awaits::FunctionCall,
        Message::Sync => Awaits::Sync,
        Message::Parse(_) | Message::ParseOther => Awaits::Parse,
        Message::Bind => Awaits::Bind,
        Message::DescribeStatement | Message::DescribePortal => Awaits::Describe,
        Message::Execute(_) | Message::ExecuteNowhere => Awaits::Execute,
        Message::CloseOther | Message::CloseStatement | Message::ClosePortal => Awaits::Close,
        _ => return None,
    })
}
