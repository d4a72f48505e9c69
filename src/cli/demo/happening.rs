//! What the demo shows, one thing at a time: a sentence for people, an object for programs.

use serde::Serialize;

use crate::cli::exit::Failure;
use crate::cli::output::{Output, printable};

/// One thing that happened, seen and not supposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "happening", rename_all = "snake_case")]
pub enum Happening {
    /// The hub listens.
    HubStarted {
        /// URL of the public listener.
        public: String,
        /// URL of the admin listener.
        admin: String,
        /// Its directory.
        data_dir: String,
        /// Whether the directory stays when the demo ends.
        kept: bool,
    },
    /// The local receiver listens.
    ReceiverStarted {
        /// Its URL.
        url: String,
    },
    /// A webhook was made.
    WebhookCreated {
        /// Its id.
        id: String,
        /// Its endpoint.
        url: String,
        /// What it asks for.
        event_types: String,
    },
    /// A handler inside this process was registered.
    HandlerRegistered {
        /// Its consumer.
        consumer: String,
        /// What it asks for.
        event_types: String,
    },
    /// The hub answered that the event is durable.
    EventPublished {
        /// The event's id.
        id: String,
        /// Its type.
        event_type: String,
        /// Its position in the log.
        seq: u64,
    },
    /// The endpoint got a delivery whose signature fits, and answered 200.
    WebhookDelivered {
        /// The event's id.
        event_id: String,
        /// The event's type.
        event_type: String,
        /// Whether the signature was checked and fits.
        signature_verified: bool,
    },
    /// The failing endpoint got an attempt and answered 500.
    AttemptFailed {
        /// The event's id.
        event_id: String,
        /// The event's type.
        event_type: String,
        /// Which attempt at this event, from 1.
        attempt: u32,
        /// Whether the signature was checked and fits.
        signature_verified: bool,
    },
    /// The receiver got a delivery that it would not trust.
    SignatureRefused {
        /// The event's id, as the delivery has it.
        event_id: String,
        /// What does not fit.
        reason: String,
    },
    /// The handler took the event.
    HandlerCalled {
        /// The event's id.
        event_id: String,
        /// The event's type.
        event_type: String,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// The hub gave a delivery up and keeps it as a dead letter.
    DeadLettered {
        /// The dead letter's id.
        id: String,
        /// The webhook.
        consumer: String,
        /// The event's id.
        event_id: String,
        /// Attempts made.
        attempts: u64,
        /// What the last one ended with.
        error: String,
    },
    /// Everything was shown, and the hub is there to be used.
    Ready {
        /// URL of the public listener.
        public: String,
        /// URL of the admin listener.
        admin: String,
        /// An API key of the demo's org.
        key: String,
        /// Publishes one more event.
        publish: String,
        /// Shows the dead letter over HTTP.
        dead_letter: String,
        /// Shows dead letters on the command line.
        dead_letters: String,
    },
}

impl Happening {
    /// Writes it as one object a line, or as a sentence.
    ///
    /// # Errors
    /// When the output is closed.
    pub fn tell(&self, output: Output) -> Result<(), Failure> {
        match output {
            Output::Json => output.line(&serde_json::to_string(self).map_err(anyhow::Error::from)?),
            Output::Human => output.line(&self.words()),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::HubStarted { public, admin, data_dir, kept } => {
                let end = if *kept { "" } else { ", removed at the end" };
                format!("hub       runs: public {public}, admin {admin}, data in {data_dir}{end}")
            }
            Self::ReceiverStarted { url } => format!("receiver  listens: {url}"),
            Self::WebhookCreated { id, url, event_types } => format!("webhook   {id} posts {event_types} to {url}"),
            Self::HandlerRegistered { consumer, event_types } => {
                format!("handler   {consumer} takes {event_types} inside this process")
            }
            Self::EventPublished { id, event_type, seq } => {
                format!("published {event_type} {id}: durable at position {seq}")
            }
            Self::WebhookDelivered { event_id, event_type, signature_verified } => {
                format!(
                    "webhook   got {} {}, {}",
                    printable(event_type),
                    printable(event_id),
                    trust(*signature_verified)
                )
            }
            Self::AttemptFailed { event_id, event_type, attempt, signature_verified } => format!(
                "failing   got {} {}, {}, answered 500 to attempt {attempt}",
                printable(event_type),
                printable(event_id),
                trust(*signature_verified)
            ),
            Self::SignatureRefused { event_id, reason } => {
                format!("receiver  refused {}: {reason}", printable(event_id))
            }
            Self::HandlerCalled { event_id, event_type, attempt } => {
                format!("handler   got {} {}, attempt {attempt}", printable(event_type), printable(event_id))
            }
            Self::DeadLettered { id, consumer, event_id, attempts, error } => format!(
                "gave up   {event_id} for {consumer} after {attempts} attempts ({}): dead letter {id}",
                printable(error)
            ),
            Self::Ready { public, admin, key, publish, dead_letter, dead_letters } => format!(
                "\nEverything above was seen to happen. The hub runs on:\n  public   {public}\n  admin    {admin}\n  \
                 API key  {key}\n\nPublish one more event:\n  {publish}\n\nSee the dead letter:\n  {dead_letter}\n  {dead_letters}\n"
            ),
        }
    }
}

fn trust(verified: bool) -> &'static str {
    if verified { "signature verified" } else { "signature not verified" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_happening_is_a_sentence_or_an_object_that_names_itself() {
        let happening = Happening::AttemptFailed {
            event_id: "e-1\u{1b}".to_owned(),
            event_type: "order.paid".to_owned(),
            attempt: 2,
            signature_verified: true,
        };
        assert_eq!(
            happening.words(),
            "failing   got order.paid e-1\\u{1b}, signature verified, answered 500 to attempt 2"
        );
        let object = serde_json::to_value(&happening).expect("JSON");
        assert_eq!((&object["happening"], &object["attempt"]), (&"attempt_failed".into(), &2.into()));
    }
}
