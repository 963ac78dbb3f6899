//! The front door and the back door: clients' handshakes with us and our logins to servers, over
//! real sockets, with a real PostgreSQL and its own client.

mod certificates;
mod clients;
mod door;
mod handshake;
mod login;
mod postgres;
