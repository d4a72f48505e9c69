//! The router: the one reader of the log's tail, which finds the subscriptions that each event matches.

pub mod index;
