//! `tidegate pause` and `tidegate resume`: whether the hub delivers at all.

use super::client::{Body, Client, Door, Method, Query, Target};
use super::exit::Failure;
use super::output::Output;

/// What the hub is told.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Deliver nothing.
    Pause,
    /// Go on.
    Resume,
}

/// Performs the command.
///
/// # Errors
/// When no hub answers, or it refuses.
pub async fn run(target: &Target, output: Output, order: Order) -> Result<(), Failure> {
    let client = Client::new(target, Door::Admin)?;
    let (path, told) = match order {
        Order::Pause => ("/v1/admin/pause", "paused: events are taken, nothing is delivered"),
        Order::Resume => ("/v1/admin/resume", "resumed: what waits is delivered"),
    };
    let answer = client.call(Method::POST, path, &Query::none(), Body::None).await?;
    match output {
        Output::Human => output.line(told),
        Output::Json => output.thing(&answer),
    }
}
