//! The built binary, seen from outside: every test starts a hub of its own on free ports over its own directory and talks
//! to it over HTTP alone, with receivers that answer by script.
//!
//! - [`support`]: the hub process, the scripted receiver, the client, waiting for conditions
//! - one file an area

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first thing that is not as it says")]

mod access;
mod admin;
mod bench;
mod bulk;
mod bulk_catalog;
mod bulk_round_trip;
mod catalog;
mod catalog_crash;
mod catalog_policy;
mod cdc;
mod cli_integrations;
mod cloud_events;
mod consumers;
mod crash;
mod crash_schedule;
mod customer_bridge;
mod dead_letters;
mod deliveries;
mod demo;
mod embed;
mod explain;
mod explain_by_clock;
mod filters;
mod formats;
mod idempotency;
mod idempotency_crash;
mod idle;
mod ingest;
mod isolation;
mod jobs;
mod key_rates;
mod lifecycles;
mod links;
mod listen;
mod lookup;
mod openapi;
mod ordering;
mod outage;
mod overload;
mod owners;
mod panics;
mod pause;
mod publishes;
mod pull_crash;
mod push;
mod rates;
mod redactions;
mod replay;
mod replay_more;
mod reserved;
mod retention;
mod schedule;
mod secrets;
mod settings;
mod shutdown;
mod signing;
mod sources;
mod spec_rows;
mod store;
mod support;
mod token_leaks;
mod traces;
mod upstreams;
mod upstreams_by_clock;
mod verify;
mod webhooks;
