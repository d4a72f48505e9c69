//! The log lines of hubs that run in this process, by the application they are about.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

/// One line: its level, its sentence, its fields.
#[derive(Clone, Debug)]
pub struct Line {
    pub level: tracing::Level,
    pub message: String,
    pub fields: BTreeMap<String, Value>,
}

impl Line {
    /// A field; null when it is not there.
    pub fn field(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }
}

type Kept = Arc<Mutex<Vec<Line>>>;

/// Keeps lines that name an application; the other tests of the process write many that do not.
struct Keeper(Kept);

#[derive(Default)]
struct Reader(BTreeMap<String, Value>);

impl Visit for Reader {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }
}

impl<S: Subscriber> Layer<S> for Keeper {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let named = ["app", "breaker"].iter().any(|name| event.metadata().fields().field(name).is_some());
        if !named {
            return;
        }
        let mut reader = Reader::default();
        event.record(&mut reader);
        let message = reader.0.remove("message").and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default();
        self.0.lock().push(Line { level: *event.metadata().level(), message, fields: reader.0 });
    }
}

fn kept() -> &'static Kept {
    static KEPT: OnceLock<Kept> = OnceLock::new();
    KEPT.get_or_init(|| {
        let kept = Kept::default();
        let filter = tracing_subscriber::filter::Targets::new().with_target("tidegate", tracing::Level::DEBUG);
        let subscriber = tracing_subscriber::registry().with(Keeper(kept.clone()).with_filter(filter));
        // The process has one; nothing else of the tests installs any.
        tracing::subscriber::set_global_default(subscriber).unwrap();
        kept
    })
}

/// Keeps lines from now on.
pub fn keep() {
    kept();
}

/// The lines about this application so far.
pub fn of(app: &str) -> Vec<Line> {
    kept()
        .lock()
        .iter()
        .filter(|line| [line.field("app"), line.field("breaker")].contains(&&Value::from(app)))
        .cloned()
        .collect()
}
