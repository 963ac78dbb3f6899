//! pgweir: a PostgreSQL proxy. Many client connections share a few server connections, reads go to
//! replicas and everything else to the primary, and every tenant stays inside its own limits.
//!
//! # The life of a query
//!
//! ```text
//! socket ─ listener ─ client (handshake, once) ─ session
//!                                                 │ intake    gather frames up to Query / Sync / Flush
//!                                                 │ router    class of the statement + session → route
//!                                                 │ leasing   lease a server connection on the routed host
//!                                                 │ relay     both ways, until the ledger is settled
//!                                                 └ back to the client's socket; the lease is returned
//! ```
//!
//! To follow one query, read in this order:
//!
//! 1. [`listener`]: accepts, admits, and spawns one task for each client.
//! 2. [`client::accept`]: TLS, startup packet, authentication.
//! 3. [`session::Session::serve`]: greets the client and runs until it leaves. The loop is in
//!    `session/relay.rs`; what the client sends goes through `session/intake.rs` and
//!    `session/sending.rs`, what the server sends through `session/replies.rs`.
//! 4. [`session::ledger`]: what the server still owes. It decides what the client sees, and when a
//!    server connection is free.
//! 5. [`sql::Classifier`] and [`router::route`]: where a batch may run, and why.
//! 6. `session/leasing.rs`: [`cluster::Group::pick_replica`] or the primary, and a [`pool::Lease`]. Who gets one
//!    is decided in `pool/fair.rs` (tenants in a pool), `pool/budget.rs` (pools on a host) and `tenant/gate.rs` (a tenant
//!    in all its pools);
//!    `session/paying.rs` and `session/guarding.rs` hold a batch to its tenant's rates and settings, and where its client
//!    may say whose it is, `session/switching.rs` listens.
//! 7. `session/settling.rs`: what the session has made there, and whether the connection may be handed on.
//!
//! A replication connection has no session: `session/replication.rs` carries its bytes.
//!
//! # Floors
//!
//! A module imports only from lower floors or from its own folder; a test holds that.
//!
//! | floor | modules | hold |
//! |---|---|---|
//! | 9 | [`cli`], [`app`], [`listener`] | commands; the wiring; accept, ceilings, drain |
//! | 8 | [`client`], [`session`] | a client's handshake; its session |
//! | 7 | [`cluster`] | hosts, their health and freshness, catalogs, pools by database and user |
//! | 6 | [`pool`] | server connections shared by sessions: queue, leases, what a connection holds |
//! | 5 | [`server`] | one server connection: connect, login, our own questions, cancel |
//! | 4 | [`router`] | class of a statement and state of a session → route |
//! | 3 | [`auth`], [`sql`], [`tenant`] | proofs of identity; classification; identity and limits |
//! | 2 | [`net`] | streams, TLS, buffers |
//! | 1 | [`config`], [`metrics`] | the checked configuration; metrics |
//! | 0 | [`wire`] | frames, views of messages, messages that we author |
//! | side | [`sandbox`] | throw-away PostgreSQL clusters for the demo, the tests and the benches |
//!
//! # Invariants
//!
//! - **Dropping a lease closes its connection.** Handing it back is an explicit call, made only when the
//!   ledger is settled, the server idle and its session's state known ([`pool::Lease::hand_back`]).
//! - **A server connection's books are true.** [`pool::Conn::settings`] is what the server session has.
//!   Whatever a statement may have done to it, by whatever means, the server is asked
//!   ([`pool::probe`]) before anybody else gets the connection; for all that it holds, unless the statement can only
//!   have made settings whose names it says. Where there may be settings that nothing shows, all are reset
//!   ([`pool::Unlisted`]). What only this connection can have
//!   (a temporary table, an advisory lock …) pins the session to it ([`pool::Held`]).
//! - **A client's names never reach a server connection that others use.** Named statements are shared under names of
//!   ours, and only among those for whom they mean the same ([`pool::Environment`]). For SQL that speaks of prepared
//!   statements they are laid out under the client's own names, and gone before anybody else gets the connection
//!   (`session/own_names.rs`).
//! - **What a driver knows stays true.** What a client was told of a statement must be what each server connection
//!   makes of it ([`pool::Shape`]). Where a change of the schema has made it otherwise it is prepared again unseen
//!   only if nobody was told; else it fails as PostgreSQL lets it fail (`0A000`), for which drivers have their
//!   remedies.
//! - **Time runs forward within a session.** Each batch that is answered moves the moment up that its next read must
//!   show ([`cluster::Wanted`]); only the replica that it has just read from is excused from proving it. What a session
//!   has written it reads by the same clock ([`cluster::Clock`]).
//! - **A cluster has one primary for all its life.** When another server is promoted, a new [`cluster::Cluster`] takes
//!   its place (`app/roles.rs`), as after a reload: sessions go on there, and those at work on the old one end.
//! - **Only a read that nobody has seen an answer to is ever run again**, and a batch that failed as a
//!   whole because a replica could not run it or a plan was out of date. Of reads that were sent together, each by
//!   itself and those behind it (`session/flights.rs`).
//! - **A read-only transaction is on a replica only if its first statement may be** (`session/moving.rs`).
//! - **A batch that ends with `Flush` keeps its server connection only for a portal's sake**: what was merely
//!   prepared and described is ended with a `Sync` of ours.
//! - **A cancel can only strike the statement that it was meant for**: the connection is not handed on
//!   before the cancel's own connection is closed ([`pool::Fence`]).
//! - **A tenant takes no connection that others are about to need.** Who holds its fair share leaves what others have
//!   needed within the last second, and nothing is left unused beyond that; who waits is served by the time that its
//!   tenant has used ([`pool::Member`]).
//! - **A transaction is one tenant's**, and whose it is, is known before anything of it is sent.
//! - **What is over a ceiling ends**: by a cancel, and what goes on in spite of it with its server process
//!   ([`pool::Lease::end`]). Closing a socket ends nothing that runs.
//! - **What is held for a tenant is its own on every connection** ([`config::Tier::settings`]), and nothing that it sends
//!   changes that for longer than one message, or up to the next `Sync`.
//! - **An idle client owns no buffer** ([`net::buffer`]), and a statement costs no timer: the deadlines
//!   behind the server's own are watched for all sessions together ([`session::enforce_ceilings`]).
//! - **Protocol logic does no I/O**: frames, ledger, classifier, router, SCRAM take bytes and return
//!   decisions.
//!
//! Deliberately absent: globals (but one number, [`tenant::changes`]), a lock that all clients share on the way of a query,
//! decoding of what is only passed on, and guesses: what is not known to be safe on a replica goes to the primary.

pub mod app;
pub mod auth;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod listener;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod router;
pub mod sandbox;
pub mod server;
pub mod session;
pub mod sql;
pub mod tenant;
pub mod wire;
