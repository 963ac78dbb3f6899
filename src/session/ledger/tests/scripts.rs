//! Random conversations, from those that drivers hold to those that no driver would.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::model::{Message, Statement};

/// A client's messages. Most are in the order that drivers use, some are strewn in at random.
pub fn script() -> impl Strategy<Value = Vec<Message>> {
    vec(prop_oneof![4 => phrase(), 1 => any_message().prop_map(|message| vec![message])], 1..12)
        .prop_map(|phrases| phrases.concat())
}

/// A client's messages, all in an order that drivers use.
#[allow(dead_code)] // Not every test that includes this wants them.
pub fn polite_script() -> impl Strategy<Value = Vec<Message>> {
    vec(phrase(), 1..12).prop_map(|phrases| phrases.concat())
}

/// What a driver sends in one go.
fn phrase() -> impl Strategy<Value = Vec<Message>> {
    prop_oneof![
        3 => simple(),
        6 => extended(),
        2 => copy_simple(),
        3 => copy_extended(),
    ]
}

fn simple() -> impl Strategy<Value = Vec<Message>> {
    prop_oneof![
        9 => vec(select(&Statement::ALL[..12]), 1..4).prop_map(Message::Query),
        1 => any::<bool>().prop_map(Message::FunctionCall),
    ]
    .prop_map(|message| vec![message])
}

/// Any number of statements, mostly up to a `Sync`.
fn extended() -> impl Strategy<Value = Vec<Message>> {
    let aside =
        select(vec![None, None, Some(Message::ParseOther), Some(Message::CloseOther), Some(Message::ExecuteNowhere)]);
    let end = prop_oneof![6 => Just(vec![Message::Sync]), 1 => Just(vec![Message::Flush]), 1 => Just(vec![])];
    (vec(one_statement(), 1..3), aside, one_statement(), end).prop_map(|(statements, aside, last, end)| {
        let aside = aside.map(|message| [vec![message], last].concat()).unwrap_or_default();
        [statements.concat(), aside, end].concat()
    })
}

fn one_statement() -> impl Strategy<Value = Vec<Message>> {
    let describe = select(vec![None, Some(Message::DescribeStatement), Some(Message::DescribePortal)]);
    (select(&Statement::ALL[..12]), describe, vec(0u8..4, 0..3)).prop_map(|(statement, describe, limits)| {
        let head = [Message::Parse(statement), Message::Bind];
        let executes = limits.into_iter().map(Message::Execute);
        head.into_iter().chain(describe).chain(executes).collect()
    })
}

fn copy_simple() -> impl Strategy<Value = Vec<Message>> {
    let before = vec(select(&Statement::ALL[..9]), 0..2);
    let after = vec(select(&Statement::ALL[..9]), 0..2);
    (before, copy_statement(), after, data()).prop_map(|(before, copy, after, data)| {
        let query = Message::Query([before, vec![copy], after].concat());
        [vec![query], data].concat()
    })
}

/// As libpq and tokio-postgres do it: a `Sync` at once, which `COPY` ignores, and another at the end.
fn copy_extended() -> impl Strategy<Value = Vec<Message>> {
    let early = any::<bool>().prop_map(|early| if early { vec![Message::Sync] } else { vec![] });
    (copy_statement(), early, data()).prop_map(|(copy, early, data)| {
        let head = vec![Message::Parse(copy), Message::Bind, Message::DescribePortal, Message::Execute(0)];
        [head, early, data, vec![Message::Sync]].concat()
    })
}

fn copy_statement() -> impl Strategy<Value = Statement> {
    select(&Statement::ALL[12..])
}

fn data() -> impl Strategy<Value = Vec<Message>> {
    let row = prop_oneof![6 => Just(true), 1 => Just(false)].prop_map(Message::CopyData);
    let end = prop_oneof![3 => Just(Message::CopyDone), 1 => Just(Message::CopyFail)];
    (vec(row, 0..4), end).prop_map(|(mut data, end)| {
        data.push(end);
        data
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        vec(select(&Statement::ALL[..]), 1..4).prop_map(Message::Query),
        any::<bool>().prop_map(Message::FunctionCall),
        select(&Statement::ALL[..]).prop_map(Message::Parse),
        (0u8..4).prop_map(Message::Execute),
        any::<bool>().prop_map(Message::CopyData),
        select(vec![
            Message::Bind,
            Message::DescribeStatement,
            Message::DescribePortal,
            Message::ExecuteNowhere,
            Message::ParseOther,
            Message::CloseOther,
            Message::CloseStatement,
            Message::ClosePortal,
            Message::Flush,
            Message::Sync,
            Message::Sync,
            Message::Sync,
            Message::CopyDone,
            Message::CopyFail,
        ]),
    ]
}
