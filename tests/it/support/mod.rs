//! What the tests share: a hub process, a scripted receiver, a client, and waiting for conditions instead of for time.

mod api;
mod crash;
mod hub;
pub mod lines;
mod load;
mod receiver;
mod signature;

use std::future::Future;
use std::time::Duration;

pub use api::{Answer, Api};
pub use crash::{Kill, Kills, Prey};
pub use hub::Hub;
pub use load::{Load, assert_stored, key_of};
pub use receiver::{Delivery, Receiver, Reply};
pub use signature::assert_signed;

use serde_json::{Value, json};

/// How long a condition may take to come true before the test fails. Generous: it bounds a hang, it measures nothing.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition that cannot be waited for is looked at.
const POLL: Duration = Duration::from_millis(15);

/// Asks again and again until `look` answers something, and gives that.
pub async fn until<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let found = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(POLL).await;
        }
    });
    match found.await {
        Ok(found) => found,
        Err(_) => panic!("waited {DEADLINE:?} in vain for: {what}"),
    }
}

/// A retry override with these waits and no jitter.
pub fn retry(delays_ms: &[u64]) -> Value {
    json!({"kind": "fixed", "delays_ms": delays_ms, "jitter": 0})
}

/// The first value under this name, at any depth.
pub fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.get(name).or_else(|| members.values().find_map(|member| find(member, name))),
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// The `items` of a page, or its `events`.
pub fn items(page: &Value) -> &Vec<Value> {
    page["items"].as_array().or_else(|| page["events"].as_array()).unwrap_or_else(|| panic!("a page has items: {page}"))
}

/// The value of the one sample of this name whose labels contain all these texts.
pub fn sample(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let fits = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{'])) && labels.iter().all(|label| line.contains(label))
    };
    metrics.lines().find(fits)?.rsplit(' ').next()?.parse().ok()
}
