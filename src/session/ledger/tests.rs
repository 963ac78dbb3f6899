//! The ledger's rules one by one, and then all at once against a model of PostgreSQL.

mod model;
mod play;
mod scripts;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::Awaits::*;
use super::*;
use play::{Event, Handling, Plan, play};

type Changes = Ledger<&'static str>;

/// A ledger into which all these were pushed, to be forwarded.
fn ledger(awaited: &[Awaits]) -> Changes {
    let mut ledger = Ledger::default();
    send(&mut ledger, awaited);
    ledger
}

fn send(ledger: &mut Changes, awaited: &[Awaits]) {
    for &awaits in awaited {
        match awaits {
            CopyEnd => ledger.copy_ended(),
            _ => ledger.push(awaits, Fate::Forward, None),
        }
    }
}

/// Judges replies: a tag each, `Z` followed by its status. The verdicts as letters: forward, swallow,
/// replace, injection failed, unexpected; and the replies of our own where they come, in brackets.
fn receive(ledger: &mut Changes, replies: &str) -> String {
    let mut verdicts = String::new();
    let author = |ledger: &mut Changes| {
        let own = std::iter::from_fn(|| ledger.synthetic());
        own.map(|reply| if reply == Synthetic::ParseComplete { "[1]" } else { "[3]" }).collect::<String>()
    };
    verdicts += &author(ledger);
    let mut bytes = replies.bytes();
    while let Some(tag) = bytes.next() {
        let status = if tag == b'Z' { bytes.next().unwrap_or(0) } else { 0 };
        verdicts.push(match ledger.reply(tag, status) {
            Verdict::Forward => 'f',
            Verdict::Swallow => 's',
            Verdict::Replace(_) => 'r',
            Verdict::InjectionFailed => 'i',
            Verdict::Unexpected => 'u',
        });
        verdicts += &author(ledger);
    }
    verdicts
}

fn undone(ledger: &mut Changes) -> Vec<&'static str> {
    ledger.take_undone().collect()
}

/// All these replies are forwarded, and then nothing is owed.
#[track_caller]
fn settles(ledger: &mut Changes, replies: &str) {
    forwards(ledger, replies);
    assert!(ledger.settled() && ledger.is_empty(), "{ledger:?}");
}

#[track_caller]
fn forwards(ledger: &mut Changes, replies: &str) {
    let verdicts = receive(ledger, replies);
    assert_eq!(verdicts, "f".repeat(verdicts.len()), "{ledger:?}");
}

#[test]
fn a_simple_query_is_answered_up_to_its_ready() {
    let mut ledger = ledger(&[Query]);
    assert!(!ledger.settled() && !ledger.is_unsynced() && ledger.reaches_back());
    forwards(&mut ledger, "TDDC");
    assert!(!ledger.settled());
    settles(&mut ledger, "ZI");
    assert!(ledger.returnable());
}

#[test]
fn a_query_of_several_statements_has_one_ready() {
    settles(&mut ledger(&[Query]), "TDCCTDDCHdddcCE ZI".replace(' ', "").as_str());
    settles(&mut ledger(&[Query]), "IZI");
}

#[test]
fn nothing_can_be_returned_inside_a_transaction() {
    for (status, expected) in [("ZT", Status::Transaction), ("ZE", Status::Failed)] {
        let mut ledger = ledger(&[Query]);
        settles(&mut ledger, &format!("C{status}"));
        assert_eq!(ledger.status(), expected);
        assert!(!ledger.returnable());
    }
}

#[test]
fn an_extended_batch_settles_at_its_sync() {
    let mut ledger = ledger(&[Parse, Describe, Bind, Describe, Execute, Close, Sync]);
    forwards(&mut ledger, "1tT2nDDC3");
    assert!(!ledger.settled());
    settles(&mut ledger, "ZI");
}

#[test]
fn after_a_flush_nothing_is_awaited_and_nothing_is_settled() {
    let mut ledger = ledger(&[Parse, Bind, Execute]);
    forwards(&mut ledger, "12DC");
    assert!(ledger.is_empty() && ledger.is_unsynced() && !ledger.settled() && !ledger.reaches_back());
    send(&mut ledger, &[Sync]);
    settles(&mut ledger, "ZI");
}

#[test]
fn what_was_carried_out_may_have_begun_a_transaction() {
    let mut ledger = ledger(&[Parse, Bind]);
    forwards(&mut ledger, "12");
    assert!(!ledger.may_be_in_transaction());
    send(&mut ledger, &[Execute, Bind]);
    forwards(&mut ledger, "C");
    assert!(ledger.may_be_in_transaction());
    forwards(&mut ledger, "2");
    // Whatever comes instead of a `Sync`.
    send(&mut ledger, &[Query]);
    assert!(ledger.may_be_in_transaction());
    settles(&mut ledger, "CZI");
    assert!(!ledger.may_be_in_transaction());
    send(&mut ledger, &[Query]);
    settles(&mut ledger, "CZT");
    assert!(ledger.may_be_in_transaction());
}

#[test]
fn a_simple_query_ends_an_unsynced_batch() {
    let mut ledger = ledger(&[Parse, Query]);
    settles(&mut ledger, "1CZI");
    assert!(!ledger.is_unsynced());
}

#[test]
fn a_portal_is_executed_in_parts() {
    settles(&mut ledger(&[Execute, Execute, Execute, Sync]), "DDsDsCZI");
    settles(&mut ledger(&[Execute, Sync]), "IZI");
}

#[test]
fn a_function_call_is_its_own_sync() {
    settles(&mut ledger(&[FunctionCall]), "VZI");
    settles(&mut ledger(&[FunctionCall, Query]), "EZICZI");
}

#[test]
fn an_error_skips_to_the_sync_and_undoes_newest_first() {
    let mut ledger = Changes::default();
    for change in ["a", "b", "c"] {
        ledger.push(Parse, Fate::Forward, Some(change));
    }
    ledger.push(Query, Fate::Forward, Some("skipped as well"));
    ledger.push(Sync, Fate::Forward, None);
    ledger.push(Parse, Fate::Forward, Some("of the next batch"));
    forwards(&mut ledger, "1E");
    assert!(ledger.has_undone());
    assert_eq!(undone(&mut ledger), ["skipped as well", "c", "b"]);
    assert!(!ledger.has_undone());
    forwards(&mut ledger, "ZI1");
    assert!(!ledger.settled(), "the next batch has no Sync");
}

#[test]
fn what_is_sent_while_the_server_skips_is_undone_newest_first() {
    let mut ledger = Changes::default();
    ledger.push(Parse, Fate::Forward, Some("a"));
    forwards(&mut ledger, "E");
    for change in ["b", "c"] {
        ledger.push(Parse, Fate::Forward, Some(change));
    }
    send(&mut ledger, &[Query, FunctionCall]);
    assert_eq!(undone(&mut ledger), ["c", "b", "a"]);
    assert!(ledger.is_empty() && !ledger.settled());
    send(&mut ledger, &[Sync]);
    settles(&mut ledger, "ZI");
}

#[test]
fn a_sync_may_fail_itself() {
    let mut ledger = ledger(&[Parse, Bind, Execute, Sync, Query]);
    forwards(&mut ledger, "12CE");
    assert!(!ledger.has_undone());
    settles(&mut ledger, "ZICZI");
}

#[test]
fn an_error_in_a_simple_query_skips_nothing() {
    settles(&mut ledger(&[Query, Parse, Sync]), "TDEZI1ZI");
}

#[test]
fn an_error_of_a_message_without_reply_skips_too() {
    // A Flush with something in its body.
    let mut ledger = ledger(&[Parse]);
    forwards(&mut ledger, "1E");
    send(&mut ledger, &[Bind, Execute]);
    assert!(ledger.is_empty() && !ledger.settled());
    send(&mut ledger, &[Sync]);
    settles(&mut ledger, "ZI");
}

#[test]
fn replies_to_what_we_inject_are_swallowed() {
    let mut ledger = Changes::default();
    ledger.push(Query, Fate::Swallow, None);
    ledger.push(Close, Fate::Swallow, None);
    ledger.push(Parse, Fate::Swallow, None);
    send(&mut ledger, &[Bind, Execute, Sync]);
    assert_eq!(receive(&mut ledger, "SNTDCZI31N2DCZI"), "ssssssssfffff");
    assert!(ledger.settled());
}

#[test]
fn an_injected_parse_that_fails_is_the_clients_error() {
    let mut ledger = Changes::default();
    ledger.push(Parse, Fate::Swallow, Some("prepared"));
    send(&mut ledger, &[Bind, Execute, Sync]);
    forwards(&mut ledger, "E");
    assert_eq!(undone(&mut ledger), ["prepared"]);
    settles(&mut ledger, "ZI");
}

#[test]
fn an_injected_query_that_fails_is_told() {
    let mut ledger = Changes::default();
    ledger.push(Query, Fate::Swallow, None);
    send(&mut ledger, &[Query]);
    assert_eq!(receive(&mut ledger, "E"), "i");
}

#[test]
fn nobody_minds_a_try_that_fails() {
    let mut ledger = Changes::default();
    let dance = |ledger: &mut Changes| {
        for (awaits, change) in [(Query, None), (Close, None), (Parse, Some("tried")), (Sync, None), (Query, None)] {
            ledger.push(awaits, Fate::Try, change);
        }
        assert!(!ledger.reaches_back());
    };
    dance(&mut ledger);
    send(&mut ledger, &[Query]);
    assert_eq!(receive(&mut ledger, "CZT31ZTCCZT"), "ssssssss");
    assert!(undone(&mut ledger).is_empty());
    settles(&mut ledger, "CZT");
    dance(&mut ledger);
    assert_eq!(receive(&mut ledger, "CZT3EZECCZT"), "ssssssss");
    assert_eq!((undone(&mut ledger), ledger.status(), ledger.settled()), (vec!["tried"], Status::Transaction, true));
}

#[test]
fn an_injected_message_alone_opens_an_implicit_transaction() {
    let mut ledger = Changes::default();
    ledger.push(Parse, Fate::Swallow, None);
    assert_eq!(receive(&mut ledger, "1"), "s");
    assert!(!ledger.returnable());
}

#[test]
fn replies_of_our_own_come_in_their_turn() {
    let mut ledger = Changes::default();
    ledger.push(Parse, Fate::Synthesise, None);
    send(&mut ledger, &[Bind, Execute]);
    ledger.push(Close, Fate::Synthesise, None);
    ledger.push(Parse, Fate::Synthesise, None);
    send(&mut ledger, &[Bind, Sync]);
    assert_eq!(receive(&mut ledger, ""), "[1]");
    assert_eq!(receive(&mut ledger, "2DC2ZI"), "fff[3][1]ff");
}

#[test]
fn a_reply_of_our_own_after_an_error_is_skipped() {
    let mut ledger = Changes::default();
    send(&mut ledger, &[Bind]);
    ledger.push(Parse, Fate::Synthesise, Some("name"));
    send(&mut ledger, &[Sync]);
    ledger.push(Close, Fate::Synthesise, None);
    assert_eq!(receive(&mut ledger, "EZI"), "ff[3]");
    assert_eq!(undone(&mut ledger), ["name"]);
    assert!(ledger.is_empty() && ledger.is_unsynced());
}

#[test]
fn an_error_is_replaced_by_ours() {
    let mut ledger = Changes::default();
    send(&mut ledger, &[Parse]);
    ledger.push(Execute, Fate::Replace(Box::new(PgError::error("26000", "ours"))), None);
    send(&mut ledger, &[Execute, Sync]);
    assert_eq!(receive(&mut ledger, "1EZI"), "frf");
    assert!(ledger.settled());
}

#[test]
fn what_comes_unasked_settles_nothing() {
    let mut ledger = Changes::default();
    forwards(&mut ledger, "NSA");
    send(&mut ledger, &[Query]);
    forwards(&mut ledger, "NSATNSADNSACNSA");
    settles(&mut ledger, "ZI");
    ledger.push(Query, Fate::Swallow, None);
    assert_eq!(receive(&mut ledger, "A"), "f", "a notification is the client's");
}

#[test]
fn a_notice_after_a_stray_end_of_data_belongs_to_the_message_behind_it() {
    let mut ledger = ledger(&[Parse, CopyEnd]);
    ledger.push(Close, Fate::Swallow, None);
    assert_eq!(receive(&mut ledger, "1N3"), "fss");
}

#[test]
fn an_error_between_messages_ends_the_connection() {
    let mut ledger = Changes::default();
    forwards(&mut ledger, "E");
    assert!(!ledger.returnable());
}

#[test]
fn replies_that_nobody_asked_for_are_unexpected() {
    for reply in ["ZI", "1", "D", "C", "T", "G"] {
        assert_eq!(receive(&mut Changes::default(), reply), "u", "{reply}");
    }
    for (awaits, reply) in [(Parse, "2"), (Bind, "1"), (Execute, "T"), (Sync, "C"), (Query, "1"), (Describe, "D")] {
        assert_eq!(receive(&mut ledger(&[awaits]), reply), "u", "{awaits:?} {reply}");
    }
    assert_eq!(receive(&mut ledger(&[Query]), "CZ?"), "fu");
    assert_eq!(receive(&mut ledger(&[Parse, Sync]), "ZI"), "u");
}

#[test]
fn copy_in_by_a_simple_query() {
    let mut ledger = ledger(&[Query]);
    forwards(&mut ledger, "G");
    send(&mut ledger, &[CopyEnd]);
    assert!(!ledger.settled());
    settles(&mut ledger, "CZI");
}

#[test]
fn a_query_may_copy_in_more_than_once() {
    settles(&mut ledger(&[Query, CopyEnd, CopyEnd, Query]), "GCGCZICZI");
}

#[test]
fn copy_in_by_execute() {
    let mut ledger = ledger(&[Parse, Bind, Execute]);
    forwards(&mut ledger, "12G");
    send(&mut ledger, &[CopyEnd, Sync]);
    settles(&mut ledger, "CZI");
}

#[test]
fn copy_eats_the_syncs_before_its_end() {
    // As libpq sends it: the first Sync before it knows of the COPY.
    let mut ledger = ledger(&[Parse, Bind, Describe, Execute, Sync]);
    forwards(&mut ledger, "12nG");
    send(&mut ledger, &[Sync, CopyEnd]);
    forwards(&mut ledger, "C");
    assert!(ledger.is_unsynced() && !ledger.settled());
    send(&mut ledger, &[Sync]);
    settles(&mut ledger, "ZI");
    assert!(!ledger.ambiguous());
}

#[test]
fn the_end_of_the_data_may_be_sent_before_the_server_asks_for_any() {
    settles(&mut ledger(&[Parse, Bind, Execute, Sync, CopyEnd, Sync, Query]), "12GCZICZI");
    settles(&mut ledger(&[Query, Sync, CopyEnd, Query]), "GCZICZI");
}

#[test]
fn a_copy_that_fails_before_it_begins_eats_nothing() {
    let mut ledger = ledger(&[Parse, Bind, Execute, Sync, CopyEnd, Sync]);
    settles(&mut ledger, "12EZIZI");
    assert!(!ledger.ambiguous());
    settles(&mut self::ledger(&[Query, CopyEnd]), "EZI");
}

#[test]
fn a_copy_that_fails_for_its_data_is_skipped_to_the_sync() {
    let mut ledger = ledger(&[Execute]);
    forwards(&mut ledger, "GE");
    send(&mut ledger, &[CopyEnd]);
    assert!(!ledger.settled());
    send(&mut ledger, &[Sync]);
    settles(&mut ledger, "ZI");
    assert!(ledger.returnable());
}

#[test]
fn a_copy_that_fails_after_its_end_is_skipped_to_the_sync() {
    let mut ledger = ledger(&[Execute]);
    forwards(&mut ledger, "G");
    send(&mut ledger, &[CopyEnd, Sync, Query]);
    settles(&mut ledger, "EZICZI");
    assert!(ledger.returnable());
}

#[test]
fn a_sync_that_a_failed_copy_may_have_eaten_makes_the_ledger_unsure() {
    let mut ledger = ledger(&[Execute, Sync]);
    forwards(&mut ledger, "GE");
    assert!(ledger.ambiguous() && !ledger.settled());
    send(&mut ledger, &[CopyEnd, Sync]);
    settles(&mut ledger, "ZI");
    assert!(ledger.ambiguous() && !ledger.returnable());
}

#[test]
fn a_sync_that_a_failed_copy_has_not_eaten_is_answered() {
    // As for COPY to a view, which fails before it reads anything.
    let mut ledger = ledger(&[Execute, Sync]);
    forwards(&mut ledger, "GE");
    settles(&mut ledger, "ZI");
    assert!(ledger.returnable(), "its answer leaves no doubt");
    send(&mut ledger, &[CopyEnd, Sync]);
    settles(&mut ledger, "ZI");
}

#[test]
fn a_late_answer_to_a_sync_is_not_taken_for_the_next_messages() {
    for (next, replies) in [(&[Query][..], "TDCZI"), (&[Parse, Sync], "1ZI"), (&[FunctionCall], "VZI")] {
        let mut ledger = ledger(&[Execute, Sync, CopyEnd, Sync]);
        forwards(&mut ledger, "GEZE");
        send(&mut ledger, next);
        forwards(&mut ledger, "ZE");
        settles(&mut ledger, replies);
        assert!(!ledger.ambiguous());
    }
}

#[test]
fn the_next_reply_shows_that_a_sync_was_eaten() {
    let mut ledger = ledger(&[Execute, Sync, CopyEnd, Sync, Query]);
    forwards(&mut ledger, "GEZI");
    assert!(ledger.ambiguous());
    settles(&mut ledger, "CZI");
    assert!(ledger.returnable());
}

#[test]
fn a_sync_inside_a_failed_copy_of_a_simple_query_may_be_answered() {
    for replies in ["GEZI", "GEZIZI"] {
        let mut ledger = ledger(&[Query, Sync]);
        settles(&mut ledger, replies);
        assert_eq!(ledger.ambiguous(), replies == "GEZI");
    }
}

#[test]
fn a_command_behind_a_sync_shows_that_copy_has_not_read_it() {
    // COPY that reads a Parse breaks the connection: this one failed before.
    let mut ledger = ledger(&[Execute, Sync, Parse, Sync]);
    forwards(&mut ledger, "GE");
    assert!(ledger.ambiguous(), "unless rows lie between");
    settles(&mut ledger, "ZI1ZI");
    assert!(ledger.returnable());
}

#[test]
fn any_sync_in_a_failed_copy_may_be_eaten() {
    // Rows that the ledger does not see may lie before, between and behind them, and fail the COPY there.
    for eaten in 0..=3 {
        let mut ledger = ledger(&[Query, Sync, Sync, Sync, Query]);
        forwards(&mut ledger, "GEZI");
        assert!(ledger.ambiguous());
        forwards(&mut ledger, &"ZI".repeat(3 - eaten));
        settles(&mut ledger, "CZI");
        assert!(ledger.returnable());
    }
}

#[test]
fn an_error_of_the_next_message_shows_that_a_sync_was_eaten() {
    let mut ledger = ledger(&[Query, Sync, Parse, Sync]);
    forwards(&mut ledger, "GEZIE");
    assert!(!ledger.ambiguous());
    settles(&mut ledger, "ZI");
}

#[test]
fn data_that_comes_too_late_is_ignored() {
    let mut ledger = ledger(&[Query, Query]);
    forwards(&mut ledger, "GEZI");
    send(&mut ledger, &[CopyEnd]);
    settles(&mut ledger, "CZI");
    send(&mut ledger, &[CopyEnd]);
    assert!(ledger.is_empty() && ledger.settled());
}

#[test]
fn copy_out_ends_like_any_statement() {
    settles(&mut ledger(&[Query, Execute, Sync]), "HddcCZIHddcCZI");
    settles(&mut ledger(&[Execute, Sync]), "HdEZI");
}

#[test]
fn muted_the_client_sees_nothing_until_all_is_settled() {
    let mut ledger = Changes::default();
    ledger.push(Parse, Fate::Synthesise, None);
    send(&mut ledger, &[Bind, Execute, Sync]);
    ledger.push(Close, Fate::Synthesise, None);
    send(&mut ledger, &[Query]);
    ledger.mute();
    assert!(ledger.muted());
    assert_eq!(receive(&mut ledger, "2NSDAEZICZI"), "ssssfssss");
    assert!(!ledger.muted() && ledger.settled());
    send(&mut ledger, &[Query]);
    settles(&mut ledger, "CZI");
}

#[test]
fn a_lost_connection_leaves_nothing_but_what_is_to_be_undone() {
    let mut ledger = Changes::default();
    ledger.push(Parse, Fate::Forward, Some("a"));
    ledger.push(Parse, Fate::Forward, Some("b"));
    ledger.push(Sync, Fate::Forward, None);
    ledger.push(Parse, Fate::Forward, Some("c"));
    forwards(&mut ledger, "1E");
    ledger.mute();
    ledger.abandon();
    assert_eq!(undone(&mut ledger), ["c", "b"]);
    assert!(ledger.returnable() && !ledger.muted());
}

#[test]
fn a_fatal_error_is_passed_on_wherever_it_comes() {
    for awaited in [&[][..], &[Query], &[Parse, Bind, Sync], &[Sync]] {
        forwards(&mut ledger(awaited), "E");
    }
}

fn plan(polite: bool) -> impl Strategy<Value = Plan> {
    let script = if polite { scripts::polite_script().boxed() } else { scripts::script().boxed() };
    let handling = select(vec![
        Handling::Plain,
        Handling::Plain,
        Handling::Spared,
        Handling::AfterParse,
        Handling::AfterClose,
        Handling::AfterQuery,
    ]);
    let event = prop_oneof![
        12 => Just(Event::Message),
        12 => Just(Event::Reply),
        1 => select(vec![Event::Notice, Event::ParameterStatus, Event::Notification]),
    ];
    (script, vec(handling, 0..80), vec(event, 0..200)).prop_map(move |(script, handling, schedule)| Plan {
        script,
        handling,
        schedule,
        polite,
    })
}

proptest! {
    #[test]
    fn the_client_sees_what_the_server_would_have_told_it(plan in plan(true)) {
        play(&plan);
    }

    #[test]
    fn no_order_of_messages_confuses_it(plan in plan(false)) {
        play(&plan);
    }
}
