//! The ledger against the model of PostgreSQL that its tests have (`src/session/ledger/tests`): any
//! conversation, any handling of its messages by the proxy, any order of messages and replies.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use pgweir::session::ledger::{Awaits, Fate, Ledger, Status, Synthetic, Verdict};
use pgweir::wire::error::PgError;

#[path = "../../src/session/ledger/tests/model.rs"]
mod model;
#[path = "../../src/session/ledger/tests/play.rs"]
mod play;

use model::{Message, Statement};
use play::{Event, Handling, Plan};

/// Longer conversations find nothing that shorter ones do not.
const LONGEST: usize = 64;

fuzz_target!(|conversation: Conversation| play::play(&conversation.0));

#[derive(Debug)]
struct Conversation(Plan);

impl Arbitrary<'_> for Conversation {
    fn arbitrary(bytes: &mut Unstructured<'_>) -> Result<Self> {
        let mut plan = Plan { script: Vec::new(), handling: Vec::new(), schedule: Vec::new(), polite: false };
        while !bytes.is_empty() && plan.script.len() < LONGEST {
            plan.script.push(message(bytes)?);
            plan.handling.push(handling(bytes)?);
            let events = bytes.int_in_range(0..=3)?;
            plan.schedule.push(Event::Message);
            for _ in 0..events {
                plan.schedule.push(event(bytes)?);
            }
        }
        Ok(Self(plan))
    }
}

fn message(bytes: &mut Unstructured<'_>) -> Result<Message> {
    Ok(match bytes.int_in_range(0..=17)? {
        0 => {
            let count = bytes.int_in_range(1..=3)?;
            Message::Query((0..count).map(|_| statement(bytes)).collect::<Result<_>>()?)
        }
        1 => Message::FunctionCall(bytes.arbitrary()?),
        2 | 3 => Message::Parse(statement(bytes)?),
        4 => Message::Bind,
        5 => Message::DescribeStatement,
        6 => Message::DescribePortal,
        7 => Message::Execute(bytes.int_in_range(0..=3)?),
        8 => Message::ExecuteNowhere,
        9 => Message::ParseOther,
        10 => Message::CloseOther,
        11 => Message::CloseStatement,
        12 => Message::ClosePortal,
        13 => Message::Flush,
        14 => Message::Sync,
        15 => Message::CopyData(bytes.arbitrary()?),
        16 => Message::CopyDone,
        _ => Message::CopyFail,
    })
}

fn statement(bytes: &mut Unstructured<'_>) -> Result<Statement> {
    bytes.choose(&Statement::ALL).copied()
}

fn handling(bytes: &mut Unstructured<'_>) -> Result<Handling> {
    use Handling::*;
    bytes.choose(&[Plain, Plain, Spared, AfterParse, AfterClose, AfterQuery]).copied()
}

fn event(bytes: &mut Unstructured<'_>) -> Result<Event> {
    use Event::*;
    bytes.choose(&[Reply, Reply, Reply, Notice, ParameterStatus, Notification]).copied()
}
