//! Where statements run: every test asks the servers themselves, through their logs or their names,
//! and takes nobody else's word for it.

mod balance;
mod cases;
mod failover;
mod fixture;
mod freshness;
mod history;
mod lexing;
mod pipelines;
mod prepared;
mod roles;
mod scenarios;
mod talk;
mod transactions;
